//! The ports at which balancers ask whether this node serves a Service with `externalTrafficPolicy: Local`: what
//! kube-proxy's service health server does.
//!
//! Answered is on the node's own addresses and on 127.0.0.1, as node ports are.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base::{Clock, Stop, Stopper, Tasks};
use control::mirror::Key;
use http::{HeaderName, HeaderValue, StatusCode, header};
use wire::serve::{Limits, Server};
use wire::{Body, Response};

/// Connections to one such port at once; balancers are few.
const CONNECTIONS: usize = 64;
/// How long a question that has begun may take to be answered when the port closes.
const DRAIN: Duration = Duration::from_secs(1);
/// How many endpoints there are, for balancers that weigh nodes.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// What is asked of one Service's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// The port.
    pub port: u16,
    /// How many endpoints on this node are ready.
    pub endpoints: usize,
}

/// The ports that are open. Owned by one task.
pub(super) struct HealthPorts {
    addresses: Vec<IpAddr>,
    tasks: Tasks,
    clock: Clock,
    stop: Stop,
    /// Whether the rules in the kernel are what they should be.
    healthy: Arc<AtomicBool>,
    open: BTreeMap<Key, Open>,
}

struct Open {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    stopper: Stopper,
}

impl HealthPorts {
    /// None is open yet.
    pub(super) fn new(addresses: Vec<IpAddr>, tasks: Tasks, clock: Clock, stop: Stop) -> Self {
        Self { addresses, tasks, clock, stop, healthy: Arc::default(), open: BTreeMap::new() }
    }

    /// Opens, closes and updates ports. `healthy` says whether the rules took. Returns those that cannot be opened, with
    /// the reason; the next call tries them again.
    pub(super) fn apply(&mut self, wanted: &BTreeMap<Key, Check>, healthy: bool) -> Vec<(Key, String)> {
        self.healthy.store(healthy, Ordering::Relaxed);
        self.open.retain(|key, open| {
            let keep = wanted.get(key).is_some_and(|check| check.port == open.port);
            if !keep {
                open.stopper.stop();
            }
            keep
        });
        let mut failed = Vec::new();
        for (key, check) in wanted {
            if let Some(open) = self.open.get(key) {
                open.endpoints.store(check.endpoints, Ordering::Relaxed);
                continue;
            }
            match self.listen(key, check) {
                Ok(open) => _ = self.open.insert(key.clone(), open),
                Err(why) => failed.push((key.clone(), why)),
            }
        }
        failed
    }

    fn listen(&self, key: &Key, check: &Check) -> Result<Open, String> {
        let addresses: Vec<SocketAddr> =
            self.addresses.iter().map(|address| SocketAddr::new(*address, check.port)).collect();
        let server =
            Server::bind(&addresses, self.clock.clone()).map_err(|error| base::with_causes(&error))?;
        let server = server.with_limits(Limits { connections: CONNECTIONS, ..Limits::default() });
        let endpoints = Arc::new(AtomicUsize::new(check.endpoints));
        let stopper = Stopper::child(&self.stop);
        let (key, count, healthy) = (key.clone(), endpoints.clone(), self.healthy.clone());
        let service = move |_request, _connection| {
            let reply = answer(&key, count.load(Ordering::Relaxed), healthy.load(Ordering::Relaxed));
            async move { reply }
        };
        let stop = stopper.signal();
        self.tasks.spawn("health port", async move { _ = server.run(service, stop, DRAIN).await });
        Ok(Open { port: check.port, endpoints, stopper })
    }
}

/// What kube-proxy answers, to the letter.
fn answer(key: &Key, endpoints: usize, healthy: bool) -> Response {
    let text = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\t\"localEndpoints\": \
         {endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}",
        key.namespace, key.name
    );
    let mut response = Response::new(Body::from(text));
    let serves = endpoints > 0 && healthy;
    *response.status_mut() = if serves { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(WEIGHT, HeaderValue::from(endpoints));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(port: u16) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn balancers_hear_how_many_endpoints_this_node_has() {
        let (tasks, stopper) = (Tasks::new(), Stopper::new());
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("bound").port();
        let mut ports =
            HealthPorts::new(vec![[127, 0, 0, 1].into()], tasks.clone(), Clock::system(), stopper.signal());
        let key = Key::new("shop", "web");
        let wanted = |endpoints| BTreeMap::from([(key.clone(), Check { port, endpoints })]);
        let failed = ports.apply(&wanted(2), true);
        assert!(failed.len() == 1 && failed[0].1.contains(&port.to_string()), "{failed:?}");
        drop(free);
        assert!(ports.apply(&wanted(2), true).is_empty());
        let told = ask(port).await.expect("answered");
        assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
        let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert!(told.ends_with(body), "{told}");
        assert!(told.contains("x-load-balancing-endpoint-weight: 2\r\n"), "{told}");
        for (endpoints, healthy) in [(0, true), (2, false)] {
            assert!(ports.apply(&wanted(endpoints), healthy).is_empty());
            assert!(ask(port).await.expect("answered").starts_with("HTTP/1.1 503 "));
        }
        assert!(ports.apply(&BTreeMap::new(), true).is_empty());
        stopper.stop();
        assert!(tasks.join(Duration::from_secs(5)).await);
        assert!(ask(port).await.is_err(), "the port is closed");
    }
}
