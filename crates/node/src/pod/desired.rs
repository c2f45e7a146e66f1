//! What a pod is to be, as the agent last heard of it.

use std::sync::Arc;
use std::time::Duration;

use api::object::Object;
use k8s_openapi::api::core::v1 as core;

use crate::pod::machine::{Container, Restart, Role, Wanted};

/// Time for the containers of a pod whose object has vanished.
const VANISHED_GRACE: Duration = Duration::from_secs(2);

/// One pod, as the agent last heard of it.
#[derive(Clone)]
pub struct Desired {
    /// As stored.
    pub object: Arc<Object>,
    /// As read.
    pub pod: Arc<core::Pod>,
    /// The object is there no more.
    pub vanished: bool,
}

/// What the pod is to be.
pub fn wanted(desired: &Desired) -> Wanted {
    let Some(spec) = &desired.pod.spec else { return Wanted::default() };
    let policy = match spec.restart_policy.as_deref() {
        Some("Never") => Restart::Never,
        Some("OnFailure") => Restart::OnFailure,
        _ => Restart::Always,
    };
    let inits = spec.init_containers.iter().flatten().map(|init| {
        let sidecar = init.restart_policy.as_deref() == Some("Always");
        let (role, restart) = match (sidecar, policy) {
            (true, _) => (Role::Sidecar, Restart::Always),
            // An init container runs to success; only `Never` makes its failure the pod's.
            (false, Restart::Never) => (Role::Init, Restart::Never),
            (false, _) => (Role::Init, Restart::OnFailure),
        };
        Container { name: init.name.clone(), role, restart }
    });
    let mains = spec.containers.iter().map(|main| Container {
        name: main.name.clone(),
        role: Role::Main,
        restart: policy,
    });
    let ending = if desired.vanished {
        Some(VANISHED_GRACE)
    } else if desired.object.is_deleting() {
        let grace = desired.pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
        Some(Duration::from_secs(grace.max(1).unsigned_abs()))
    } else {
        None
    };
    Wanted { containers: inits.chain(mains).collect(), ending }
}

/// The time that the containers of a pod have when it ends for a reason of the node's.
pub(super) fn termination_grace(desired: &Desired) -> Duration {
    let grace = desired.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    Duration::from_secs(grace.unwrap_or(30).max(1).unsigned_abs())
}

/// The container of a name, init containers included.
pub fn find<'a>(desired: &'a Desired, name: &str) -> Option<&'a core::Container> {
    let spec = desired.pod.spec.as_ref()?;
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.find(|container| container.name == name)
}
