//! Who answers for a Service: EndpointSlices, the older Endpoints, and slices mirrored from Endpoints that users
//! write by hand.

mod backends;
mod legacy;
mod mirroring;
mod slices;
mod trigger;

use std::collections::BTreeMap;

use api::names::SERVICES;
use api::object::Object;
use api::value::Str;
use control::mirror::{Change, Key};
use control::world::{World, part};
use serde::Deserialize;

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

/// What says which pods a Service selects: it is asked for every change of every pod.
#[derive(Deserialize)]
struct Selecting {
    #[serde(default)]
    spec: SelectingSpec,
}

#[derive(Default, Deserialize)]
struct SelectingSpec {
    #[serde(default)]
    selector: Option<BTreeMap<Str, Str>>,
}

/// A pod leads to the Services that select it, as it was and as it is.
fn services_of_pod(world: &World, change: &Change) -> Vec<Key> {
    let Some(namespace) = change.either().map(Object::namespace) else { return Vec::new() };
    let services = world.list(&SERVICES, namespace);
    let selecting = services.iter().filter(|service| {
        let Some(selector) = part::<Selecting>(service).and_then(|service| service.spec.selector) else {
            return false;
        };
        let selects =
            |pod: &Object| selector.iter().all(|(key, value)| pod.label(key) == Some(value.as_str()));
        change.sides().any(selects)
    });
    selecting.map(|service| Key::of(service)).collect()
}
