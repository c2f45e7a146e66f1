//! Our gate with what every server begins with, and its users.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use apiserver::bootstrap;
use wire::{Body, connect};

use crate::exchange::{Answer, HEADERS, Request, USERS};
use crate::served::{self, Nowhere, Served};

/// A served gate and a client for each user.
pub struct World {
    served: Served,
    clients: HashMap<&'static str, connect::Client>,
}

impl World {
    /// Opens a gate with what every server begins with, and serves it.
    pub async fn open() -> Self {
        let served = Served::open(served::keys(), Arc::new(Nowhere));
        let users = USERS.iter().map(|(name, groups)| (*name, served.client(name, groups)));
        let mut clients: HashMap<_, _> = users.collect();
        clients.insert("nobody", served.stranger());
        // What upstream has from its first moment: its service range is that of the recording.
        let begin = bootstrap::Config {
            service_range: api::validation::address::Cidr::parse("10.0.0.0/16").unwrap(),
            api: "198.51.100.10:6443".parse().unwrap(),
            dns: None,
        };
        bootstrap::run(&served.gate, &begin).await.unwrap();
        Self { served, clients }
    }

    /// Sends a request, shows the body as it came, and gives the answer as it is compared.
    pub async fn send(&self, request: &Request, show: impl FnOnce(&[u8])) -> Answer {
        let mut built = http::Request::builder()
            .method(request.method.as_str())
            .uri(format!("{}{}", self.served.base, request.path));
        for (name, value) in &request.headers {
            built = built.header(name, value);
        }
        let client =
            self.clients.get(request.user.as_str()).unwrap_or_else(|| panic!("no user {}", request.user));
        let body = if request.body.is_empty() { Body::Empty } else { Body::from(request.body.clone()) };
        let response = client.send(built.body(body).unwrap()).await;
        let response = response.unwrap_or_else(|error| panic!("{}: {error}", request.name));
        let (parts, body) = response.into_parts();
        let bytes = wire::body::read(body, 64 * 1024 * 1024).await;
        let bytes = bytes.unwrap_or_else(|error| panic!("{}: {error}", request.name));
        show(&bytes);
        let mut headers = BTreeMap::new();
        for name in HEADERS {
            let all: Vec<&str> =
                parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
            if !all.is_empty() {
                headers.insert(name.to_owned(), all.join(", "));
            }
        }
        Answer::new(parts.status.as_u16(), headers, &bytes)
    }

    /// Stops serving; everything must end by itself.
    pub async fn close(self) {
        self.served.close().await;
    }
}
