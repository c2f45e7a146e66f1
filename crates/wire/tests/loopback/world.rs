//! One authority, its servers, and their clients.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Stopper, Tasks};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use wire::connect::{Client, Config};
use wire::serve::{ConnectionInfo, Limits, Server, ServerTls, Service};
use wire::tls::{Authority, KeyPair, Leaf, Presented, Roots, Usage};
use wire::websocket::UpgradedIo;
use wire::{Body, Request, Response};

pub struct World {
    pub clock: Clock,
    pub authority: Authority,
    pub tasks: Tasks,
    pub stopper: Stopper,
}

impl World {
    pub fn new() -> Self {
        let clock = Clock::system();
        let authority = Authority::create("loopback", clock.now()).unwrap();
        Self { clock, authority, tasks: Tasks::new(), stopper: Stopper::new() }
    }

    pub fn issue(&self, common_name: &str, organization: &str) -> KeyPair {
        let leaf = Leaf {
            common_name: common_name.into(),
            organizations: vec![organization.into()],
            dns_names: vec!["localhost".into()],
            ips: vec!["127.0.0.1".parse().unwrap()],
            usages: vec![Usage::Server, Usage::Client],
            lifetime: Duration::from_secs(3600),
        };
        self.authority.issue(&leaf, self.clock.now()).unwrap()
    }

    pub fn roots(&self) -> Arc<Roots> {
        Roots::new(self.authority.certificate_pem()).unwrap()
    }

    pub fn tls(&self) -> ServerTls {
        ServerTls::new(Presented::new(&self.issue("server", "servers")).unwrap(), self.roots()).unwrap()
    }

    /// Serves over TLS until the world stops.
    pub fn serve(&self, service: impl Service) -> SocketAddr {
        self.serve_with(service, Limits::default(), self.tls())
    }

    pub fn serve_with(&self, service: impl Service, limits: Limits, tls: ServerTls) -> SocketAddr {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::bind(&[any], self.clock.clone()).unwrap().with_tls(tls).with_limits(limits);
        let address = server.addresses()[0];
        let stop = self.stopper.signal();
        self.tasks.spawn("server", async move {
            server.run(service, stop, Duration::from_secs(5)).await;
        });
        address
    }

    pub fn client(&self, http2: bool) -> Client {
        self.client_showing(http2, Presented::none())
    }

    pub fn client_showing(&self, http2: bool, presented: Arc<Presented>) -> Client {
        let config = Config { http2, ..Config::new(self.roots(), presented) };
        Client::new(config, &self.clock, &self.tasks).unwrap()
    }

    /// A TLS stream on which nothing was said yet.
    pub async fn raw(&self, http2: bool, address: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        let pem = self.authority.certificate_pem().as_bytes();
        roots.add(CertificateDer::from_pem_slice(pem).unwrap()).unwrap();
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let stream = TcpStream::connect(address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        soon(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap()
    }
}

/// What a request to upgrade led to.
pub enum Upgrade {
    Switched(Response, UpgradedIo),
    Refused(Response),
}

impl World {
    /// Sends a request to upgrade, over a connection of its own.
    pub async fn upgrade(&self, mut request: Request) -> Upgrade {
        let authority = request.uri().authority().unwrap().to_string();
        let io = TokioIo::new(self.raw(false, authority.parse().unwrap()).await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        self.tasks.spawn("upgrading client", async move { connection.with_upgrades().await.unwrap() });
        request.headers_mut().insert("host", authority.parse().unwrap());
        *request.uri_mut() = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
        let mut response = soon(sender.send_request(request)).await.unwrap();
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            return Upgrade::Refused(response.map(Body::from));
        }
        let io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        Upgrade::Switched(response.map(|_| Body::Empty), io)
    }
}

pub fn get(address: SocketAddr, path: &str) -> Request {
    let mut request = Request::new(Body::Empty);
    *request.uri_mut() = format!("https://{address}{path}").parse().unwrap();
    request
}

pub async fn text(response: Response) -> String {
    String::from_utf8(wire::body::read(response.into_body(), 1 << 24).await.unwrap().to_vec()).unwrap()
}

/// A service from an async closure; helps inference.
pub fn service<F, A>(function: F) -> F
where
    F: Fn(Request, Arc<ConnectionInfo>) -> A + Send + Sync + 'static,
    A: Future<Output = Response> + Send,
{
    function
}

/// Fails a test that hangs.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it hangs")
}
