//! The names of a cluster, as plain data: what the server answers from.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::address::Protocol;

/// How long clients may keep an answer, or the absence of one, in seconds: as CoreDNS' kubernetes plugin has it.
pub const DEFAULT_TTL_S: u32 = 5;

/// The names of one cluster. All names are lower case; a query's case does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// The cluster's domain without dots at its ends: `cluster.local`.
    pub domain: String,
    /// The seconds that answers may be kept for.
    pub ttl_s: u32,
    /// It is what an earlier process knew: names that it lacks may exist by now.
    pub past: bool,
    /// The namespaces that exist: pod records (`10-1-2-3.<namespace>.pod`) are answered for them.
    pub namespaces: BTreeSet<String>,
    /// By namespace, then by name.
    pub services: BTreeMap<(String, String), Service>,
    /// Which names an address has, for reverse lookups; made by [`Zone::index`].
    pub(super) reverse: HashMap<IpAddr, Vec<String>>,
}

/// What a Service's name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Service {
    /// Addresses of its own.
    Cluster {
        /// The ClusterIPs.
        addresses: Vec<IpAddr>,
        /// Its ports, for SRV.
        ports: Vec<Port>,
    },
    /// The addresses of its endpoints.
    Headless {
        /// One entry for each endpoint that may be published.
        endpoints: Vec<HeadlessEndpoint>,
    },
    /// Another name (CNAME).
    ExternalName(String),
}

/// One endpoint of a headless Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadlessEndpoint {
    /// Its name below the Service's; without one, its address with dashes is its name.
    pub hostname: Option<String>,
    /// Its address.
    pub address: IpAddr,
    /// The ports that it serves, for SRV.
    pub ports: Vec<Port>,
}

/// One port, as SRV tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name; a port without one has no SRV record of its own.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

impl HeadlessEndpoint {
    /// The label below the Service's name.
    pub(super) fn label(&self) -> String {
        self.hostname.clone().unwrap_or_else(|| dashed(self.address))
    }
}

/// `10-1-2-3`, `fd00--1`: an address as a label.
pub(super) fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

impl Zone {
    /// A zone that knows no name but its own.
    pub fn new(domain: &str) -> Self {
        Self {
            domain: domain.trim_matches('.').to_ascii_lowercase(),
            ttl_s: DEFAULT_TTL_S,
            past: false,
            namespaces: BTreeSet::new(),
            services: BTreeMap::new(),
            reverse: HashMap::new(),
        }
    }

    /// The same as a later process may answer from until it knows better: clients are to ask again soon.
    #[must_use]
    pub fn of_the_past(self) -> Self {
        Self { past: true, ttl_s: 0, ..self }
    }

    /// The full name of a Service, without the last dot.
    pub(super) fn service_name(&self, namespace: &str, name: &str) -> String {
        format!("{name}.{namespace}.svc.{}", self.domain)
    }

    /// Fills the reverse names from the Services. The server does it for each zone that it is given.
    pub(super) fn index(&mut self) {
        let mut reverse: HashMap<IpAddr, Vec<String>> = HashMap::new();
        for ((namespace, name), service) in &self.services {
            let full = self.service_name(namespace, name);
            match service {
                Service::Cluster { addresses, .. } => {
                    for address in addresses {
                        reverse.entry(*address).or_default().push(full.clone());
                    }
                }
                Service::Headless { endpoints } => {
                    for endpoint in endpoints {
                        let names = reverse.entry(endpoint.address).or_default();
                        let own = format!("{}.{full}", endpoint.label());
                        if !names.contains(&own) {
                            names.push(own);
                        }
                    }
                }
                Service::ExternalName(_) => {}
            }
        }
        self.reverse = reverse;
    }
}
