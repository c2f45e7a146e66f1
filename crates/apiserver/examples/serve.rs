//! A gate alone on loopback, its state in a folder, for trying things with kubectl:
//!
//! `cargo run -p apiserver --example serve -- FOLDER` writes `FOLDER/kubeconfig` and serves until it is interrupted.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver::authn::SigningKeys;
use apiserver::{Config, Gate, NetworkDialer, Record, bootstrap, limits};
use base::{Clock, Random, Stopper};
use base64::Engine as _;
use wire::serve::{Server, ServerTls};
use wire::tls::{Authority, Leaf, Presented, Roots, Usage};

/// That of `ondol` itself, for measurements.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("name the folder for the kubeconfig")?);
    std::fs::create_dir_all(&folder)?;
    let (clock, random, stopper) = (Clock::system(), Random::system(), Stopper::new());
    let authority = Authority::create("example", clock.now())?;
    let leaf = |name: &str, groups: &[&str], usage: Usage| Leaf {
        common_name: name.into(),
        organizations: groups.iter().map(ToString::to_string).collect(),
        dns_names: vec!["localhost".into()],
        ips: vec!["127.0.0.1".parse().expect("an address")],
        usages: vec![usage],
        lifetime: Duration::from_secs(24 * 3600),
    };
    let server_pair = authority.issue(&leaf("server", &[], Usage::Server), clock.now())?;
    let admin = authority.issue(&leaf("admin", &["system:masters"], Usage::Client), clock.now())?;
    let roots = Roots::new(authority.certificate_pem())?;
    let disk = store::Folder::at(folder.join("store"))?;
    let store =
        store::Store::open(store::Options::new(disk, clock.clone(), random.clone()), Record::decode())?;
    let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
    let key = wire::jwt::SigningKey::generate()?;
    let address: SocketAddr = "127.0.0.1:0".parse()?;
    let server = Server::bind(&[address], clock.clone())?
        .with_tls(ServerTls::new(Presented::new(&server_pair)?, Arc::clone(&roots))?)
        .with_refusals(apiserver::refusal);
    let address = server.addresses()[0];
    let gate = Gate::open(Config {
        store,
        clock: clock.clone(),
        random,
        keys: Arc::new(SigningKeys::new(key, clock.clone())),
        audiences: vec![issuer.clone()],
        issuer,
        advertised: address.to_string(),
        dialer: Arc::new(NetworkDialer::new(roots, Presented::new(&admin)?, clock)?),
        stop: stopper.signal(),
        watch_minimum: limits::WATCH_MINIMUM,
    });
    let cluster = bootstrap::Config {
        service_range: api::validation::address::Cidr::parse("10.96.0.0/16").ok_or("a range")?,
        api: "192.0.2.1:6443".parse()?,
        dns: None,
    };
    bootstrap::run(&gate, &cluster).await?;
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let config = api::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "example",
        "clusters": [{"name": "example", "cluster": {
            "server": (format!("https://{address}")), "certificate-authority-data": (base64(authority.certificate_pem()))
        }}],
        "users": [{"name": "example", "user": {
            "client-certificate-data": (base64(&admin.chain_pem)), "client-key-data": (base64(&admin.key_pem))
        }}],
        "contexts": [{"name": "example", "context": {"cluster": "example", "user": "example"}}]
    });
    std::fs::write(folder.join("kubeconfig"), config.to_bytes())?;
    println!("https://{address}");
    let service = move |request, connection| {
        let gate = Arc::clone(&gate);
        async move { gate.handle(request, connection).await }
    };
    let stop = stopper.signal();
    tokio::select! {
        _ = server.run(service, stop, Duration::from_secs(1)) => {}
        _ = tokio::signal::ctrl_c() => stopper.stop(),
    }
    Ok(())
}
