//! One authority, its servers, and their clients.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Stopper, Tasks};
use wire::connect::{Client, Config};
use wire::serve::{ConnectionInfo, Limits, Server, ServerTls, Service};
use wire::tls::{Authority, KeyPair, Leaf, Presented, Roots, Usage};
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
