//! The controllers, one file each. Each is a pure plan over mirrors; `control` runs them.
//!
//! What is deliberately absent: I/O, caches, and asking what time it is. A controller that needs to remember something
//! writes it into an object; only since when something is as it is, where no object says so, some remember themselves
//! as upstream's do (`seen`, `endpoints::trigger`), and begin anew with the process.

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
mod mention;
pub mod namespace;
pub mod node_addresses;
pub mod node_certificates;
pub mod node_lifecycle;
pub mod node_pods;
pub mod owner;
pub mod pod_garbage;
pub mod pods;
pub mod replicas;
pub mod root_ca;
mod seen;
pub mod service_account;
pub mod service_cidr;
pub mod service_repair;
pub mod settings;
pub mod stale_disruption;
pub mod taint_eviction;
pub mod token;
pub mod unserved;

#[cfg(test)]
mod stage;

use settings::Settings;

/// Every controller of the house. To add one, write its file and name it here.
pub fn all(settings: &Settings) -> Vec<Arc<dyn Controller>> {
    vec![
        Arc::new(deployment::Deployments),
        Arc::new(replicas::Replicas::sets()),
        Arc::new(replicas::Replicas::controllers()),
        Arc::new(endpoints::Slices::default()),
        Arc::new(endpoints::Endpoints::default()),
        Arc::new(endpoints::Mirroring),
        Arc::new(namespace::Namespaces),
        Arc::new(garbage::Garbage),
        Arc::new(service_account::ServiceAccounts),
        Arc::new(root_ca::RootCa::new(&settings.ca_pem)),
        Arc::new(token::Tokens::new(&settings.ca_pem, settings.sign_token.clone())),
        Arc::new(node_certificates::NodeCertificates::new(settings.sign_request.clone())),
        Arc::new(node_addresses::NodeAddresses::new(&settings.pod_networks, &settings.service_cidrs)),
        Arc::new(load_balancer::LoadBalancers::new(&settings.reserved_ports)),
        Arc::new(pod_garbage::PodGarbage::new(&settings.clock)),
        Arc::new(node_lifecycle::NodeLifecycle::new(&settings.clock)),
        Arc::new(taint_eviction::TaintEviction::new(&settings.clock)),
        Arc::new(disruption::Disruption),
        Arc::new(stale_disruption::StaleDisruption),
        Arc::new(service_repair::ServiceRepair),
        Arc::new(service_repair::AddressRepair),
        Arc::new(service_cidr::ServiceCidrs),
        Arc::new(unserved::Unserved),
    ]
}

#[cfg(test)]
mod tests {
    use api::interface::WatchEvent;
    use api::json;
    use api::object::Object;
    use api::table::kinds;
    use api::validation::address::Cidr;
    use control::mirror::{Change, Key};
    use control::plan::Watches;
    use control::world::World;
    use jiff::Timestamp;

    use super::*;

    fn settings() -> Settings {
        Settings {
            ca_pem: "PEM".to_owned(),
            sign_token: Arc::new(|_| Ok("token".to_owned())),
            sign_request: Arc::new(|_| Ok("certificate".to_owned())),
            pod_networks: vec![settings::PodNetwork {
                cidr: Cidr::parse("10.244.0.0/16").unwrap(),
                node_prefix: 24,
            }],
            service_cidrs: Vec::new(),
            reserved_ports: Vec::new(),
            clock: base::Clock::system(),
        }
    }

    /// Keys of all the sorts that controllers use: nothing, names, and names of every stored kind.
    fn keys() -> Vec<Key> {
        let stored = every::resources().into_iter();
        let names = stored.map(|kind| format!("{}.{}/x", kind.resource, kind.group));
        let names = names.chain(["".to_owned(), "x".to_owned(), "unknown.example.com/x".to_owned()]);
        names.flat_map(|name| [Key::new("", &name), Key::new("x", &name)]).collect()
    }

    /// Any object of a watched resource: nothing but a name, the least that a mirror may show.
    fn bare(watches: &Watches) -> Arc<Object> {
        let resource = &watches.resource;
        let kind = kinds().iter().find(|kind| {
            (kind.group, kind.version, kind.resource)
                == (resource.group.as_str(), resource.version.as_str(), resource.resource.as_str())
        });
        let kind = kind.unwrap_or_else(|| panic!("{resource} is watched and not in the table"));
        let namespace = if kind.namespaced { "x" } else { "" };
        let tree = json!({
            "apiVersion": (resource.api_version()), "kind": (kind.kind),
            "metadata": {"name": "x", "namespace": namespace, "uid": "u", "deletionTimestamp": null}
        });
        Arc::new(Object::from_tree(&tree).unwrap())
    }

    #[test]
    fn controllers_read_only_what_they_watch_and_bear_every_key() {
        for controller in all(&settings()) {
            let watches = controller.watches();
            let mut world = World::new();
            watches.iter().for_each(|watches| world.ensure(&watches.resource));
            // Reading another mirror panics, and so does the test.
            for key in keys() {
                let plan = controller.plan(&world, &key, Timestamp::UNIX_EPOCH);
                assert!(plan.is_empty(), "{} acts on {key} in an empty world", controller.name());
            }
            for watches in &watches {
                world.mirror(&watches.resource).apply(WatchEvent::Added(bare(watches)));
            }
            let mut touched = keys();
            for watches in &watches {
                let object = Some(bare(watches));
                let changes = [(None, object.clone()), (object.clone(), object.clone()), (object, None)];
                for (old, new) in changes {
                    touched.extend((watches.keys)(&world, &Change { old, new }));
                }
            }
            touched.iter().for_each(|key| drop(controller.plan(&world, key, Timestamp::UNIX_EPOCH)));
        }
    }

    #[test]
    fn no_resource_is_watched_twice_by_one_controller() {
        for controller in all(&settings()) {
            let mut resources: Vec<_> = controller.watches().into_iter().map(|w| w.resource).collect();
            let count = resources.len();
            resources.sort();
            resources.dedup();
            assert_eq!(resources.len(), count, "{}", controller.name());
        }
    }
}
