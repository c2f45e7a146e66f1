//! What else than pods and nodes decides places: namespaces, disruption budgets, Services and owners of pods.

use api::names::{
    NAMESPACES, POD_DISRUPTION_BUDGETS, REPLICA_SETS, REPLICATION_CONTROLLERS, Resource, SERVICES,
    STATEFUL_SETS,
};
use api::object::Object;
use api::selector::label::Selector;
use control::mirror::Change;
use control::world::view;
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::policy::v1 as policy;

use crate::cluster::{Budget, Cluster};
use crate::selectors::{equal_to, label_selector};

/// Takes in a change; returns whether pods that wait should hear of it.
pub type Take = fn(&mut Cluster, &Change) -> bool;

/// All of them.
pub const ALL: &[(&Resource, Take)] = &[
    (&NAMESPACES, namespace),
    (&POD_DISRUPTION_BUDGETS, budget),
    (&SERVICES, |cluster, change| selecting(cluster, change, "Service", of_service)),
    (&REPLICATION_CONTROLLERS, |cluster, change| {
        selecting(cluster, change, "ReplicationController", of_replication_controller)
    }),
    (&REPLICA_SETS, |cluster, change| selecting(cluster, change, "ReplicaSet", of_replica_set)),
    (&STATEFUL_SETS, |cluster, change| selecting(cluster, change, "StatefulSet", of_stateful_set)),
];

fn namespace(cluster: &mut Cluster, change: &Change) -> bool {
    let Some(object) = change.either() else { return false };
    cluster.put_namespace(object.name(), change.new.as_deref().map(Object::labels))
}

fn budget(cluster: &mut Cluster, change: &Change) -> bool {
    let Some(object) = change.either() else { return false };
    let budget = change.new.as_deref().and_then(view::<policy::PodDisruptionBudget>).map(|budget| {
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        Budget {
            namespace: object.namespace().into(),
            selector: label_selector(selector),
            allowed: status.and_then(|status| status.disruptions_allowed).map_or(0, i64::from),
            disrupted: disrupted.into_iter().flatten().map(|(name, _)| name.as_str().into()).collect(),
        }
    });
    cluster.put_budget(object.namespace(), object.name(), budget);
    false
}

fn selecting(
    cluster: &mut Cluster,
    change: &Change,
    kind: &'static str,
    of: fn(&Object) -> Option<Selector>,
) -> bool {
    let Some(object) = change.either() else { return false };
    let key = (kind, object.namespace().into(), object.name().into());
    cluster.put_selector(key, change.new.as_deref().and_then(of));
    false
}

/// A Service without a selector selects nothing.
fn of_service(object: &Object) -> Option<Selector> {
    view::<core::Service>(object)?.spec.as_ref()?.selector.as_ref().map(equal_to)
}

fn of_replication_controller(object: &Object) -> Option<Selector> {
    view::<core::ReplicationController>(object)?.spec.as_ref()?.selector.as_ref().map(equal_to)
}

fn of_replica_set(object: &Object) -> Option<Selector> {
    let set = view::<apps::ReplicaSet>(object)?;
    Some(label_selector(Some(&set.spec.selector)))
}

fn of_stateful_set(object: &Object) -> Option<Selector> {
    let set = view::<apps::StatefulSet>(object)?;
    Some(label_selector(Some(&set.spec.selector)))
}
