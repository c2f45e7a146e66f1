//! ServiceCIDRs: ready while they are there, and kept until no Service's address depends on them.

use std::net::IpAddr;
use std::time::Duration;

use api::interface::{PatchKind, Target};
use api::json;
use api::names::{IP_ADDRESSES, SERVICE_CIDRS};
use api::object::Object;
use api::validation::address::Cidr;
use api::value::Value;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::world::World;
use jiff::Timestamp;

use crate::condition;
use crate::node_addresses::overlap;
use crate::service_repair::{MANAGED_BY, MANAGER};

/// By this we keep a network until it may go.
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// From the wish to delete until it is done, so that nobody takes an address from it meanwhile.
const DELETION_GRACE: Duration = Duration::from_secs(10);

/// The controller of ServiceCIDRs.
pub struct ServiceCidrs;

impl Controller for ServiceCidrs {
    fn name(&self) -> &'static str {
        "service-cidr-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![Watches::mapped(&SERVICE_CIDRS, all), Watches::mapped(&IP_ADDRESSES, waiting)]
    }

    fn plan(&self, world: &World, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(object) = world.get(&SERVICE_CIDRS, "", &key.name) else { return plan };
        let tree = object.to_tree();
        let finalizers = tree.array_at(&["metadata", "finalizers"]);
        let has_ours = finalizers.iter().any(|finalizer| finalizer.as_str() == Some(FINALIZER));
        if !object.is_deleting() {
            if !has_ours {
                plan.write(set_finalizers(&object, json!({"finalizers": [FINALIZER]})));
                plan.then();
            }
            set_ready(&mut plan, &object, &tree, "True", "", "Kubernetes Service CIDR is ready", now);
        } else if is_needed(world, &object) {
            let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or \
                           create a new ServiceCIDR";
            set_ready(&mut plan, &object, &tree, "False", "Terminating", message, now);
        } else if has_ours {
            let since = condition::read_time(tree.at(&["metadata", "deletionTimestamp"]));
            let passed = since.map(|since| Duration::try_from(now.duration_since(since)).unwrap_or_default());
            match passed.and_then(|passed| DELETION_GRACE.checked_sub(passed)).filter(|left| !left.is_zero())
            {
                Some(left) => plan.again_after(left),
                None => {
                    let patch = json!({"$deleteFromPrimitiveList/finalizers": [FINALIZER]});
                    plan.write(set_finalizers(&object, patch));
                }
            }
        }
        plan
    }
}

/// The networks of a ServiceCIDR.
pub fn cidrs_of(object: &Object) -> Vec<Cidr> {
    let tree = object.to_tree();
    tree.array_at(&["spec", "cidrs"]).iter().filter_map(|cidr| Cidr::parse(cidr.as_str()?)).collect()
}

fn set_finalizers(object: &Object, mut metadata: Value) -> Write {
    metadata.set(&["uid"], object.uid());
    let target = Target::new(&SERVICE_CIDRS, "", object.name());
    Write::patch(target, PatchKind::StrategicMerge, &json!({"metadata": metadata}))
}

fn set_ready(
    plan: &mut Plan,
    object: &Object,
    tree: &Value,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let old = condition::find(tree.array_at(&["status", "conditions"]), "Ready");
    let says = |field, text: &str| old.is_some_and(|old| old.str_at(&[field]).unwrap_or_default() == text);
    if says("status", status) && says("reason", reason) && says("message", message) {
        return;
    }
    let conditions = vec![condition::new("Ready", status, reason, message, now)];
    let patch = json!({"metadata": {"uid": (object.uid())}, "status": {"conditions": conditions}});
    let target = Target::new(&SERVICE_CIDRS, "", object.name()).subresource("status");
    plan.write(Write::patch(target, PatchKind::StrategicMerge, &patch));
}

/// Whether a Service's address would be in no network if this one went.
fn is_needed(world: &World, object: &Object) -> bool {
    let own = cidrs_of(object);
    let others: Vec<Cidr> = world
        .list(&SERVICE_CIDRS, "")
        .iter()
        .filter(|other| other.name() != object.name())
        .flat_map(|other| cidrs_of(other))
        .collect();
    // A larger network that covers all of it takes all addresses over.
    let covers = |cidr: &Cidr| {
        others.iter().any(|other| other.prefix <= cidr.prefix && other.contains(cidr.network()))
    };
    if own.iter().all(covers) {
        return false;
    }
    world.list(&IP_ADDRESSES, "").iter().any(|address| {
        let ours = address.label(MANAGED_BY) == Some(MANAGER);
        let parsed: Option<IpAddr> = address.name().parse().ok();
        let within = |cidrs: &[Cidr]| parsed.is_some_and(|ip| cidrs.iter().any(|cidr| cidr.contains(ip)));
        ours && within(&own) && !within(&others)
    })
}

/// A network leads to itself and to those that share addresses with it, which may have waited for it.
fn all(world: &World, change: &Change) -> Vec<Key> {
    let Some(object) = change.either() else { return Vec::new() };
    let own = cidrs_of(object);
    let touching = world.list(&SERVICE_CIDRS, "").into_iter().filter(|other| {
        other.name() == object.name()
            || cidrs_of(other).iter().any(|cidr| own.iter().any(|own| overlap(own, cidr)))
    });
    touching.map(|other| Key::of(&other)).collect()
}

/// An address that comes or goes leads to the networks that are to go.
fn waiting(world: &World, change: &Change) -> Vec<Key> {
    if change.old.is_some() && change.new.is_some() {
        return Vec::new();
    }
    let all = world.list(&SERVICE_CIDRS, "");
    all.iter().filter(|cidr| cidr.is_deleting()).map(|cidr| Key::of(cidr)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Stage;

    fn range(name: &str, cidr: &str) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": name, "uid": name, "finalizers": [FINALIZER]},
            "spec": {"cidrs": [cidr]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "message": "Kubernetes Service CIDR is ready"}]}
        })
    }

    fn address(ip: &str) -> Value {
        let mut address =
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": ip}});
        address.set(&["metadata", "labels", MANAGED_BY], MANAGER);
        address
    }

    #[test]
    fn a_new_one_is_made_ready() {
        let stage = Stage::new(ServiceCidrs);
        let mut new = range("a", "10.96.0.0/16");
        new.remove(&["metadata", "finalizers"]);
        new.remove(&["status"]);
        stage.put(&SERVICE_CIDRS, new);
        stage.check(
            "/a",
            &[
                r#"patch servicecidrs /a {"metadata":{"finalizers":["networking.k8s.io/service-cidr-finalizer"],"uid":"a"}}"#,
                r#"patch servicecidrs /a/status {"metadata":{"uid":"a"},"status":{"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"Kubernetes Service CIDR is ready","reason":"","status":"True","type":"Ready"}]}}"#,
            ],
        );
        stage.put(&SERVICE_CIDRS, range("a", "10.96.0.0/16"));
        stage.check("/a", &[]);
    }

    #[test]
    fn one_in_use_stays_until_its_addresses_are_gone_or_covered() {
        let mut stage = Stage::new(ServiceCidrs);
        let mut going = range("a", "10.96.0.0/16");
        going.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
        stage.put(&SERVICE_CIDRS, going);
        stage.put(&IP_ADDRESSES, address("10.96.0.1"));
        let line = crate::stage::spell(&stage.plan("/a")).remove(0);
        assert!(line.contains(r#""reason":"Terminating","status":"False""#), "{line}");
        assert_eq!(stage.keys_of_going(&IP_ADDRESSES, address("10.96.0.1")), ["/a"]);
        assert_eq!(stage.plan("/a").again_after, Some(DELETION_GRACE));
        stage.put(&IP_ADDRESSES, address("10.96.0.1"));
        stage.put(&SERVICE_CIDRS, range("b", "10.0.0.0/8"));
        stage.at("2026-01-01T00:00:10Z");
        stage.check(
            "/a",
            &[
                r#"patch servicecidrs /a {"metadata":{"$deleteFromPrimitiveList/finalizers":["networking.k8s.io/service-cidr-finalizer"],"uid":"a"}}"#,
            ],
        );
    }
}
