//! Who answers for a Service: EndpointSlices, the older Endpoints, and slices mirrored from Endpoints that users
//! write by hand.

mod backends;
mod legacy;
mod mirroring;
mod slices;

use api::names::SERVICES;
use api::object::Object;
use api::selector::label::Selector;
use control::mirror::{Change, Key};
use control::world::World;

pub use legacy::Endpoints;
pub use mirroring::Mirroring;
pub use slices::Slices;

/// Label that leads from a slice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label that says which controller a slice belongs to.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label of what belongs to a Service without an address of its own.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Annotation by which users keep Endpoints from being mirrored.
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Label that upstream's leader election puts on Endpoints that are no endpoints.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// A pod leads to the Services that select it, as it was and as it is.
fn services_of_pod(world: &World, change: &Change) -> Vec<Key> {
    let Some(namespace) = change.either().map(Object::namespace) else { return Vec::new() };
    let services = world.list(&SERVICES, namespace);
    let selecting = services.iter().filter(|service| {
        let tree = service.to_tree();
        let Some(selector) = tree.at(&["spec", "selector"]).and_then(|s| s.as_object()) else { return false };
        let selector = Selector::from_map(selector);
        change.sides().any(|pod| selector.matches(pod.labels()))
    });
    selecting.map(|service| Key::of(service)).collect()
}
