//! The controllers, one file each. Each is a pure plan over mirrors; `control` runs them.
//!
//! What is deliberately absent: clocks, I/O, caches. A controller that needs to remember something writes it into
//! an object.

use std::sync::Arc;

use control::plan::Controller;

pub mod condition;
pub mod deployment;
pub mod endpoints;
pub mod every;
pub mod garbage;
pub mod namespace;
pub mod owner;
pub mod pods;
pub mod replicas;

/// Every controller of the house. To add one, write its file and name it here.
pub fn all() -> Vec<Arc<dyn Controller>> {
    vec![
        Arc::new(deployment::Deployments),
        Arc::new(replicas::Replicas::sets()),
        Arc::new(replicas::Replicas::controllers()),
        Arc::new(endpoints::Slices),
        Arc::new(endpoints::Endpoints),
        Arc::new(endpoints::Mirroring),
        Arc::new(namespace::Namespaces),
        Arc::new(garbage::Garbage),
    ]
}
