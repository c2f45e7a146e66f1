//! Ways through the gate: `pods/proxy`, `services/proxy`, `nodes/proxy`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{Dialer, Stream};
use base::{Clock, Stopper, Tasks};
use futures::future::BoxFuture;
use tokio::net::TcpStream;
use wire::serve::{Server, ServerTls};
use wire::tls::{Authority, Leaf, Presented, Roots, Usage};
use wire::{Body, Request, Response};

use crate::harness::{Client, World};

/// The port at which the other ends speak TLS.
const SECURE_PORT: u16 = 8443;
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Leads every address to two servers on loopback that say what they were asked.
struct Ends {
    plain: SocketAddr,
    secure: SocketAddr,
}

impl Dialer for Ends {
    fn node(&self, node: &str, _: &str, _: u16) -> BoxFuture<'_, io::Result<Stream>> {
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, format!("the agent of {node}"));
        Box::pin(async { Err(refused) })
    }

    fn pod(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Stream>> {
        let end = if address.port() == SECURE_PORT { self.secure } else { self.plain };
        Box::pin(async move { Ok(Box::new(TcpStream::connect(end).await?) as Stream) })
    }
}

/// Serves both ends until `stopper` stops.
fn ends(stopper: &Stopper, tasks: &Tasks) -> Arc<Ends> {
    let clock = Clock::system();
    // An authority that the gate does not know.
    let authority = Authority::create("strange", clock.now()).unwrap();
    let leaf = Leaf {
        common_name: "end".to_owned(),
        organizations: Vec::new(),
        dns_names: vec!["end.example".to_owned()],
        ips: Vec::new(),
        usages: vec![Usage::Server],
        lifetime: Duration::from_secs(3600),
    };
    let pair = authority.issue(&leaf, clock.now()).unwrap();
    let bind = || Server::bind(&["127.0.0.1:0".parse().unwrap()], clock.clone()).unwrap();
    let tls = ServerTls::new(Presented::new(&pair).unwrap(), Roots::none()).unwrap();
    let (plain, secure) = (bind(), bind().with_tls(tls));
    let found = Ends { plain: plain.addresses()[0], secure: secure.addresses()[0] };
    for (server, scheme) in [(plain, "http"), (secure, "https")] {
        let stop = stopper.signal();
        tasks.spawn("end", async move {
            let answer = move |request: Request, _| async move {
                let host = request.headers()["host"].to_str().unwrap_or_default().to_owned();
                let asked = request.headers().contains_key("authorization");
                let mut text = format!("{scheme}://{host}{} {asked}", request.uri());
                if let Some(whom) = request.headers().get("x-whom") {
                    let from = request.headers()["x-forwarded-for"].to_str().unwrap_or_default();
                    text = format!("{} of {from}", whom.to_str().unwrap_or_default());
                }
                let mut response = Response::new(Body::from(text));
                response.headers_mut().insert("proxy-authenticate", "Basic".parse().unwrap());
                response
            };
            server.run(answer, stop, Duration::from_secs(5)).await;
        });
    }
    Arc::new(found)
}

async fn make_pod(admin: &Client, ip: &str) {
    let pod = r#"{"metadata":{"name":"p","labels":{"app":"p"}},"spec":{"containers":[{"name":"c","image":"i",
        "ports":[{"containerPort":9090}]}]}}"#;
    admin.post(PODS, pod).await.expect(201);
    let status = format!(r#"{{"status":{{"podIP":"{ip}","podIPs":[{{"ip":"{ip}"}}]}}}}"#);
    admin.merge(&format!("{PODS}/p/status"), &status).await.expect(200);
}

async fn open() -> (World, Stopper, Tasks) {
    let (stopper, tasks) = (Stopper::new(), Tasks::new());
    (World::reaching(ends(&stopper, &tasks)).await, stopper, tasks)
}

async fn close(world: World, stopper: Stopper, tasks: Tasks) {
    world.close().await;
    stopper.stop();
    assert!(tasks.join(Duration::from_secs(10)).await, "the other ends did not end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_reached_by_port_and_scheme() {
    let (world, stopper, tasks) = open().await;
    let admin = world.admin();
    make_pod(&admin, "10.1.2.3").await;
    let get = async |rest: &str| admin.get(&format!("{PODS}/{rest}")).await.text;
    assert_eq!(get("p/proxy/a/b?c=d").await, "http://10.1.2.3:9090/a/b?c=d false");
    assert_eq!(get("p:81/proxy/").await, "http://10.1.2.3:81/ false");
    assert_eq!(get("http:p:81/proxy/").await, "http://10.1.2.3:81/ false");
    // Nobody vouches for a pod's certificate, and it is not asked for.
    assert_eq!(get("https:p:8443/proxy/x").await, "https://10.1.2.3:8443/x false");
    // The pod is told from where it is asked; what concerns one connection stays there.
    let headers = [("x-whom", "all"), ("x-forwarded-for", "10.9.9.9")];
    let asked = admin.send(http::Method::GET, &format!("{PODS}/p/proxy/"), &headers, "").await;
    assert_eq!(asked.text, "all of 10.9.9.9, 127.0.0.1");
    assert!(!asked.headers.contains_key("proxy-authenticate"));
    let wrong = admin.get(&format!("{PODS}/ftp:p:21/proxy/")).await;
    assert_eq!(wrong.message(400), "invalid pod request \"ftp:p:21\"");
    admin.get(&format!("{PODS}/none/proxy/")).await.expect(404);
    close(world, stopper, tasks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_the_gates_machine_alone_is_not_reached() {
    let (world, stopper, tasks) = open().await;
    let admin = world.admin();
    make_pod(&admin, "127.0.0.1").await;
    assert_eq!(admin.get(&format!("{PODS}/p/proxy/")).await.message(400), "address not allowed");
    close(world, stopper, tasks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_leads_to_its_pods() {
    let (world, stopper, tasks) = open().await;
    let admin = world.admin();
    make_pod(&admin, "10.1.2.3").await;
    let range = r#"{"metadata":{"name":"kubernetes"},"spec":{"cidrs":["10.96.0.0/24"]}}"#;
    admin.post("/apis/networking.k8s.io/v1/servicecidrs", range).await.expect(201);
    let service =
        r#"{"metadata":{"name":"s"},"spec":{"ports":[{"name":"web","port":80},{"name":"tls","port":443}]}}"#;
    admin.post("/api/v1/namespaces/default/services", service).await.expect(201);
    let path = "/api/v1/namespaces/default/services";
    let none = admin.get(&format!("{path}/s:80/proxy/")).await.message(503);
    assert_eq!(none, "no endpoints available for service \"s\"");
    let slice = r#"{"metadata":{"name":"s-1","labels":{"kubernetes.io/service-name":"s"}},"addressType":"IPv4",
        "ports":[{"name":"web","port":8080},{"name":"tls","port":8443}],"endpoints":[
        {"addresses":["10.1.2.3"],"targetRef":{"kind":"Pod","namespace":"default","name":"p"}},
        {"addresses":["10.1.2.4"]}]}"#;
    admin.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await.expect(201);
    let get = async |rest: &str| admin.get(&format!("{path}/{rest}")).await.text;
    assert_eq!(get("s:80/proxy/x").await, "http://10.1.2.3:8080/x false");
    assert_eq!(get("s:web/proxy/").await, "http://10.1.2.3:8080/ false");
    assert_eq!(get("https:s:tls/proxy/").await, "https://10.1.2.3:8443/ false");
    let unknown = admin.get(&format!("{path}/s:81/proxy/")).await.message(503);
    assert_eq!(unknown, "no service port 81 found for service \"s\"");
    close(world, stopper, tasks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_reached_at_its_agent_and_at_other_ports() {
    let (world, stopper, tasks) = open().await;
    let admin = world.admin();
    admin.post("/api/v1/nodes", r#"{"metadata":{"name":"n"}}"#).await.expect(201);
    let status = r#"{"status":{"addresses":[{"type":"InternalIP","address":"10.9.9.9"}],
        "daemonEndpoints":{"kubeletEndpoint":{"Port":10250}}}}"#;
    admin.merge("/api/v1/nodes/n/status", status).await.expect(200);
    for own in ["n", "n:10250", "https:n:10250"] {
        let message = admin.get(&format!("/api/v1/nodes/{own}/proxy/")).await.message(502);
        assert!(message.contains("the agent of n"), "{message}");
    }
    let get = async |rest: &str| admin.get(&format!("/api/v1/nodes/{rest}")).await.text;
    assert_eq!(get("n:9100/proxy/metrics").await, "http://10.9.9.9:9100/metrics false");
    assert_eq!(get("https:n:8443/proxy/").await, "https://10.9.9.9:8443/ false");
    close(world, stopper, tasks).await;
}
