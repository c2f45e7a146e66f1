//! Services and their IPAddress objects, which must speak of each other.
//!
//! The API server makes and removes both together; what is seen here is left over from a crash, or somebody's edit.
//! So nothing is repaired before it has had the time to be finished, and a Service whose address is somebody
//! else's is only told: taking the address away would break the connections of both.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::interface::{DeleteOptions, Target};
use api::json;
use api::names::{IP_ADDRESSES, SERVICE_CIDRS, SERVICES};
use api::object::Object;
use api::value::Value;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::recorder::Note;
use control::world::World;
use jiff::Timestamp;

use crate::service_cidr::cidrs_of;
use crate::{condition, guard};

/// Label that says who made an IPAddress, and its value for those of Services.
pub const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// Who makes those of Services.
pub const MANAGER: &str = "ipallocator.k8s.io";
/// Label with the family of an address.
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
/// An address may be without its Service for so long, as the API server's own deadline of a request.
const ADDRESS_GRACE: Duration = Duration::from_secs(60);
/// A Service may be without its address for so long.
const SERVICE_GRACE: Duration = Duration::from_secs(5);

/// Looks from Services to addresses.
pub struct ServiceRepair;

/// Looks from addresses to Services.
pub struct AddressRepair;

impl Controller for ServiceRepair {
    fn name(&self) -> &'static str {
        "ipallocator-repair-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![
            Watches::itself(&SERVICES),
            Watches::mapped(&IP_ADDRESSES, service_of_address),
            Watches::looked_up(&SERVICE_CIDRS),
        ]
    }

    fn plan(&self, world: &World, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let ranges = world.list(&SERVICE_CIDRS, "");
        let service = world.get(&SERVICES, &key.namespace, &key.name);
        let Some(service) = service.filter(|service| !service.is_deleting() && !ranges.is_empty()) else {
            return plan;
        };
        let tree = service.to_tree();
        if let Some(left) = grace_left(&tree, SERVICE_GRACE, now) {
            plan.again_after(left);
            return plan;
        }
        for address in cluster_addresses(&tree) {
            if ranges.iter().flat_map(|range| cidrs_of(range)).any(|cidr| cidr.contains(address)) {
                repair(&mut plan, world, &service, address);
            } else {
                let words = format!(
                    "Cluster IP [{}]: {address} is not within any configured Service CIDR; please recreate service",
                    family(address)
                );
                plan.note(Note::warning(&service, "ClusterIPOutOfRange", words));
            }
        }
        plan
    }
}

/// Makes sure that one address of a Service has its object.
fn repair(plan: &mut Plan, world: &World, service: &Object, address: IpAddr) {
    let ip = format!("[{}]: {address}", family(address));
    let Some(object) = world.get(&IP_ADDRESSES, "", &address.to_string()) else {
        let words = format!("Cluster IP {ip} is not allocated; repairing");
        let note = Note::warning(service, "ClusterIPNotAllocated", words);
        require_service(plan, service);
        plan.write(create(service, address).telling(Some(note), None));
        return;
    };
    let tree = object.to_tree();
    if let Some(owner) = parent(&tree) {
        if owner == Key::of(service) {
            if object.label(FAMILY) != Some(family(address)) || object.label(MANAGED_BY) != Some(MANAGER) {
                recreate(plan, service, &object, address, None);
            }
            return;
        }
        let other = world.get(&SERVICES, &owner.namespace, &owner.name);
        if other.is_some_and(|other| cluster_addresses(&other.to_tree()).contains(&address)) {
            let words = format!(
                "Cluster IP {ip} was assigned to multiple services, also to {owner}; please recreate service"
            );
            plan.note(Note::warning(service, "ClusterIPAlreadyAllocated", words));
            return;
        }
    }
    let words = format!("The cluster IP {ip} has a wrong reference; repairing");
    recreate(plan, service, &object, address, Some(Note::warning(service, "ClusterIPNotAllocated", words)));
}

fn recreate(plan: &mut Plan, service: &Object, old: &Object, address: IpAddr, note: Option<Note>) {
    require_service(plan, service);
    plan.write(Write::delete(&IP_ADDRESSES, old, DeleteOptions::default()));
    plan.then();
    plan.write(create(service, address).telling(note, None));
}

/// A Service goes together with its addresses, but the mirror of these may be the first to show it.
fn require_service(plan: &mut Plan, service: &Object) {
    plan.then();
    plan.write(Write::require_present(&SERVICES, service));
    plan.then();
}

fn create(service: &Object, address: IpAddr) -> Write {
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": (address.to_string())},
        "spec": {"parentRef": {"group": "", "resource": "services",
            "namespace": (service.namespace()), "name": (service.name())}}
    });
    object.set(&["metadata", "labels", FAMILY], family(address));
    object.set(&["metadata", "labels", MANAGED_BY], MANAGER);
    Write::create(&IP_ADDRESSES, "", &object)
}

impl Controller for AddressRepair {
    fn name(&self) -> &'static str {
        "ipallocator-repair-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![Watches::itself(&IP_ADDRESSES), Watches::mapped(&SERVICES, addresses_of_service)]
    }

    fn plan(&self, world: &World, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let object = world.get(&IP_ADDRESSES, "", &key.name);
        let ours = |object: &Arc<Object>| object.label(MANAGED_BY) == Some(MANAGER) && !object.is_deleting();
        let Some(object) = object.filter(ours) else { return plan };
        let tree = object.to_tree();
        let Some(owner) = parent(&tree) else {
            let words = format!(
                "IPAddress {} appears to have been modified, not referencing a Service: cleaning up",
                key.name
            );
            remove(&mut plan, &object, words);
            return plan;
        };
        let service = world.get(&SERVICES, &owner.namespace, &owner.name);
        let uses = |service: &Object| {
            cluster_addresses(&service.to_tree()).iter().any(|address| address.to_string() == *key.name)
        };
        if service.as_deref().is_some_and(uses) {
            return plan;
        }
        if let Some(left) = grace_left(&tree, ADDRESS_GRACE, now) {
            plan.again_after(left);
            return plan;
        }
        let words = if service.is_none() {
            plan.write(guard::require_gone(Target::new(&SERVICES, &owner.namespace, &owner.name)));
            plan.then();
            format!("IPAddress: {} for Service {owner} appears to have leaked: cleaning up", key.name)
        } else {
            format!("IPAddress: {} for Service {owner} has a wrong reference; cleaning up", key.name)
        };
        remove(&mut plan, &object, words);
        plan
    }
}

fn remove(plan: &mut Plan, address: &Object, words: String) {
    plan.write(Write::delete(&IP_ADDRESSES, address, DeleteOptions::default()));
    plan.note(Note::warning(address, "IPAddressNotAllocated", words));
}

/// How long an object is still too young to be repaired.
fn grace_left(tree: &Value, grace: Duration, now: Timestamp) -> Option<Duration> {
    let created = condition::read_time(tree.at(&["metadata", "creationTimestamp"]))?;
    let passed = Duration::try_from(now.duration_since(created)).unwrap_or_default();
    grace.checked_sub(passed).filter(|left| !left.is_zero())
}

/// The addresses of a Service; none if it is headless or only a name.
fn cluster_addresses(service: &Value) -> Vec<IpAddr> {
    if service.str_at(&["spec", "type"]) == Some("ExternalName") {
        return Vec::new();
    }
    let several = service.array_at(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str);
    several.filter_map(|text| text.parse().ok()).collect()
}

/// The Service that an address belongs to; `None` if it names something else.
fn parent(address: &Value) -> Option<Key> {
    let of = |field| address.str_at(&["spec", "parentRef", field]).unwrap_or_default();
    (of("group").is_empty() && of("resource") == "services").then(|| Key::new(of("namespace"), of("name")))
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn service_of_address(_: &World, change: &Change) -> Vec<Key> {
    change.sides().filter_map(|address| parent(&address.to_tree())).collect()
}

/// A Service that goes or changes leads to the addresses that it had.
fn addresses_of_service(_: &World, change: &Change) -> Vec<Key> {
    let of = |side: &Option<Arc<Object>>| {
        side.as_ref().map(|service| cluster_addresses(&service.to_tree())).unwrap_or_default()
    };
    let (old, new) = (of(&change.old), of(&change.new));
    old.iter().filter(|ip| !new.contains(ip)).map(|ip| Key::new("", &ip.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::{Stage, spell};

    fn range<C: Controller>(stage: &Stage<C>) {
        stage.put(
            &SERVICE_CIDRS,
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}),
        );
    }

    fn service(name: &str, ip: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "d", "uid": name,
            "creationTimestamp": "2025-12-31T23:00:00Z"}, "spec": {"type": "ClusterIP", "clusterIPs": [ip]}})
    }

    fn address(ip: &str, service: &str, created: &str) -> Value {
        let mut address = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {"name": ip, "uid": ip, "creationTimestamp": created},
            "spec": {"parentRef": {"resource": "services", "namespace": "d", "name": service}}
        });
        address.set(&["metadata", "labels", FAMILY], "IPv4");
        address.set(&["metadata", "labels", MANAGED_BY], MANAGER);
        address
    }

    const OLD: &str = "2025-12-31T23:00:00Z";

    #[test]
    fn a_service_gets_its_lost_address_back() {
        let stage = Stage::new(ServiceRepair);
        range(&stage);
        stage.put(&SERVICES, service("s", "10.96.0.9"));
        let plan = stage.plan("d/s");
        let write = plan.writes().last().unwrap();
        assert_eq!(write.on_success.as_ref().unwrap().reason, "ClusterIPNotAllocated");
        let lost = address("10.96.0.9", "s", OLD);
        assert_eq!(stage.keys_of_going(&IP_ADDRESSES, lost.clone()), ["d/s"]);
        stage.put(&IP_ADDRESSES, lost);
        stage.check("d/s", &[]);
    }

    #[test]
    fn an_address_that_goes_with_its_service_is_not_made_again() {
        let stage = Stage::new(ServiceRepair);
        range(&stage);
        // The mirror of Services is behind that of addresses.
        stage.put(&SERVICES, service("s", "10.96.0.9"));
        let plan = stage.plan("d/s");
        assert_eq!(spell(&plan)[0], "require present services d/s");
        assert_eq!(plan.stages.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1], "asked before it is made");
    }

    #[test]
    fn a_young_service_is_given_time() {
        let mut stage = Stage::new(ServiceRepair);
        range(&stage);
        stage.put(&SERVICES, service("s", "10.96.0.9"));
        stage.at("2025-12-31T23:00:02Z");
        stage.check("d/s", &[]);
        assert_eq!(stage.plan("d/s").again_after, Some(Duration::from_secs(3)));
    }

    #[test]
    fn wrong_addresses_are_told_or_made_anew() {
        let stage = Stage::new(ServiceRepair);
        range(&stage);
        stage.put(&SERVICES, service("s", "10.97.0.9"));
        assert_eq!(stage.plan("d/s").notes[0].reason, "ClusterIPOutOfRange");
        stage.put(&SERVICES, service("s", "10.96.0.9"));
        stage.put(&IP_ADDRESSES, address("10.96.0.9", "other", OLD));
        assert_eq!(stage.plan("d/s").stages.len(), 3, "the other is not there, so the address is made anew");
        stage.put(&SERVICES, service("other", "10.96.0.9"));
        let plan = stage.plan("d/s");
        assert_eq!((plan.writes().count(), plan.notes[0].reason.as_str()), (0, "ClusterIPAlreadyAllocated"));
    }

    #[test]
    fn an_address_without_a_service_goes_after_a_minute() {
        let mut stage = Stage::new(AddressRepair);
        stage.put(&IP_ADDRESSES, address("10.96.0.9", "s", "2025-12-31T23:59:30Z"));
        stage.check("/10.96.0.9", &[]);
        assert_eq!(stage.plan("/10.96.0.9").again_after, Some(Duration::from_secs(30)));
        stage.at("2026-01-01T00:00:30Z");
        stage.check(
            "/10.96.0.9",
            &[
                "require gone services d/s",
                "delete ipaddresses /10.96.0.9",
                "Warning IPAddressNotAllocated: IPAddress: 10.96.0.9 for Service d/s appears to have leaked: cleaning up",
            ],
        );
        assert_eq!(stage.keys_of_going(&SERVICES, service("s", "10.96.0.9")), ["/10.96.0.9"]);
        stage.put(&SERVICES, service("s", "10.96.0.9"));
        stage.check("/10.96.0.9", &[]);
    }
}
