//! The controllers, one file each. Each is a pure plan over mirrors; `control` runs them.
//!
//! What is deliberately absent: clocks, I/O, caches. A controller that needs to remember something writes it into
//! an object.

use std::sync::Arc;

use control::plan::Controller;

pub mod condition;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod every;
pub mod garbage;
pub mod guard;
pub mod load_balancer;
pub mod namespace;
pub mod node_addresses;
pub mod node_lifecycle;
pub mod node_pods;
pub mod owner;
pub mod pod_garbage;
pub mod pods;
pub mod replicas;
pub mod root_ca;
pub mod service_account;
pub mod settings;
pub mod taint_eviction;
pub mod token;

#[cfg(test)]
mod stage;

use settings::Settings;

/// Every controller of the house. To add one, write its file and name it here.
pub fn all(settings: &Settings) -> Vec<Arc<dyn Controller>> {
    vec![
        Arc::new(deployment::Deployments),
        Arc::new(replicas::Replicas::sets()),
        Arc::new(replicas::Replicas::controllers()),
        Arc::new(endpoints::Slices),
        Arc::new(endpoints::Endpoints),
        Arc::new(endpoints::Mirroring),
        Arc::new(namespace::Namespaces),
        Arc::new(garbage::Garbage),
        Arc::new(service_account::ServiceAccounts),
        Arc::new(root_ca::RootCa::new(&settings.ca_pem)),
        Arc::new(token::Tokens::new(&settings.ca_pem, settings.sign_token.clone())),
        Arc::new(node_addresses::NodeAddresses::new(&settings.pod_networks, &settings.service_cidrs)),
        Arc::new(load_balancer::LoadBalancers::new(&settings.reserved_ports)),
        Arc::new(pod_garbage::PodGarbage::default()),
        Arc::new(node_lifecycle::NodeLifecycle::new(settings.started)),
        Arc::new(taint_eviction::TaintEviction),
        Arc::new(disruption::Disruption),
    ]
}
