//! A plain answer for kinds that are stored and nothing more: an Event on the object says so, once.
//!
//! Whoever gives such a kind a life takes its row away.

use api::names::EVENTS;
use api::object::Object;
use control::mirror::Key;
use control::plan::{Controller, Plan, Watches};
use control::recorder::Note;
use control::world::World;
use jiff::Timestamp;

use crate::{every, node_certificates};

/// The Event's reason.
pub const REASON: &str = "NotSupportedYet";

/// What lacks for requests of certificates, unless nodes make them.
const NO_CERTIFICATE: &str = "no certificate is issued by this signer";
/// Group, resource, and what therefore does not happen.
const UNSERVED: &[(&str, &str, &str)] = &[
    ("", "limitranges", "no limit or default of it is applied"),
    ("", "persistentvolumeclaims", "no volume is made or bound for it, and pods that use it cannot start"),
    ("", "persistentvolumes", "no claim is bound to it"),
    ("", "resourcequotas", "nothing is counted or refused for it"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies", "no request is changed by it"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings", "no request is changed by it"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "its webhooks are not called"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", "no request is refused by it"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", "no request is refused by it"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", "its webhooks are not called"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "the kind that it defines is not served"),
    ("apiregistration.k8s.io", "apiservices", "requests for its group are not passed on"),
    ("apps", "daemonsets", "no pods are made for it"),
    ("apps", "statefulsets", "no pods are made for it"),
    ("autoscaling", "horizontalpodautoscalers", "nothing is scaled by it"),
    ("batch", "cronjobs", "no Jobs are made for it"),
    ("batch", "jobs", "no pods are made for it"),
    ("certificates.k8s.io", "certificatesigningrequests", NO_CERTIFICATE),
    ("certificates.k8s.io", "clustertrustbundles", "no pod can mount it"),
    ("certificates.k8s.io", "podcertificaterequests", "no certificate is issued for it"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas", "requests are not sorted by it"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", "requests are not limited by it"),
    ("networking.k8s.io", "ingressclasses", "there is no ingress controller to choose"),
    ("networking.k8s.io", "ingresses", "no requests are routed by it"),
    ("networking.k8s.io", "networkpolicies", "no traffic is held back by it"),
    ("node.k8s.io", "runtimeclasses", "nodes have one runtime, and pods that name it cannot start"),
    ("rbac.authorization.k8s.io", "clusterrolebindings", "no right is given by it"),
    ("rbac.authorization.k8s.io", "clusterroles", "no right is given by it"),
    ("rbac.authorization.k8s.io", "rolebindings", "no right is given by it"),
    ("rbac.authorization.k8s.io", "roles", "no right is given by it"),
    ("resource.k8s.io", "deviceclasses", "no device is chosen by it"),
    ("resource.k8s.io", "devicetaintrules", "no device is tainted by it"),
    ("resource.k8s.io", "resourceclaims", "no device is given for it, and pods that use it cannot start"),
    (
        "resource.k8s.io",
        "resourceclaimtemplates",
        "no claim is made from it, and pods that use it cannot start",
    ),
    ("resource.k8s.io", "resourceslices", "no device of it is given to a pod"),
    ("storage.k8s.io", "csidrivers", "no volume is made or mounted by it"),
    ("storage.k8s.io", "csinodes", "no volume is made or mounted by its drivers"),
    ("storage.k8s.io", "csistoragecapacities", "no pod is placed by it"),
    ("storage.k8s.io", "storageclasses", "no volume is made of it"),
    ("storage.k8s.io", "volumeattachments", "no volume is attached for it"),
    ("storage.k8s.io", "volumeattributesclasses", "no volume is changed by it"),
    ("storagemigration.k8s.io", "storageversionmigrations", "no object is written anew for it"),
];

/// Says of objects of such kinds that nothing acts on them. Its keys name kinds too ([`every::key_of`]).
pub struct Unserved;

impl Controller for Unserved {
    fn name(&self) -> &'static str {
        "unserved-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        let kinds = every::resources().into_iter();
        let unserved = kinds.filter(|kind| what_lacks(kind.group, kind.resource).is_some());
        let unserved = unserved.map(|kind| {
            Watches::mapped(&every::resource(kind), |_, change| {
                // What has been seen before has been told before.
                let new = change.new.as_deref().filter(|_| change.old.is_none());
                new.and_then(every::key_of).into_iter().collect()
            })
        });
        unserved.chain([Watches::looked_up(&EVENTS)]).collect()
    }

    fn plan(&self, world: &World, key: &Key, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some((resource, name)) = every::read_key(key) else { return plan };
        let Some(lack) = what_lacks(&resource.group, &resource.resource) else { return plan };
        let object = world.get(&resource, &key.namespace, name);
        let Some(object) = object.filter(|object| !object.is_deleting()) else { return plan };
        // Of this kind some are served.
        let is_served = lack == NO_CERTIFICATE && node_certificates::is_served(&object.to_tree());
        if !is_served && !is_told(world, &object) {
            let kind = &object.kind().kind;
            let words = format!("Ondol does not serve the kind {kind} yet: the object is stored, but {lack}");
            plan.note(Note::warning(&object, REASON, words));
        }
        plan
    }
}

fn what_lacks(group: &str, resource: &str) -> Option<&'static str> {
    let row = UNSERVED.iter().find(|(of_group, of, _)| *of_group == group && *of == resource);
    row.map(|(_, _, lack)| *lack)
}

/// Whether an Event says it already, as from before this program began.
fn is_told(world: &World, object: &Object) -> bool {
    let namespace = if object.namespace().is_empty() { "default" } else { object.namespace() };
    world.list(&EVENTS, namespace).iter().any(|event| {
        let indexed = (event.field("reason"), event.field("involvedObject.uid"));
        if let (Some(reason), Some(uid)) = indexed {
            return reason == REASON && uid == object.uid();
        }
        let tree = event.to_tree();
        tree.str_at(&["reason"]) == Some(REASON)
            && tree.str_at(&["involvedObject", "uid"]) == Some(object.uid())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::json;
    use api::names::JOBS;
    use api::value::Value;
    use control::mirror::Change;

    use super::*;
    use crate::stage::Stage;

    fn job() -> Value {
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "d", "uid": "u"}})
    }

    #[test]
    fn every_row_names_a_kind_that_is_stored() {
        let stored = every::resources();
        for (group, resource, _) in UNSERVED {
            let found = stored.iter().any(|kind| kind.group == *group && kind.resource == *resource);
            assert!(found, "{resource}.{group}");
        }
    }

    /// Kinds that controllers, scheduler, node or gate act on, and those that are data for their users alone.
    const SERVED: &[(&str, &str)] = &[
        ("", "configmaps"),
        ("", "endpoints"),
        ("", "events"),
        ("", "namespaces"),
        ("", "nodes"),
        ("", "pods"),
        ("", "podtemplates"),
        ("", "replicationcontrollers"),
        ("", "secrets"),
        ("", "serviceaccounts"),
        ("", "services"),
        ("apps", "controllerrevisions"),
        ("apps", "deployments"),
        ("apps", "replicasets"),
        ("coordination.k8s.io", "leases"),
        ("discovery.k8s.io", "endpointslices"),
        ("networking.k8s.io", "ipaddresses"),
        ("networking.k8s.io", "servicecidrs"),
        ("policy", "poddisruptionbudgets"),
        ("scheduling.k8s.io", "priorityclasses"),
    ];

    #[test]
    fn every_kind_is_served_or_told_of() {
        for kind in every::resources() {
            let served = SERVED.contains(&(kind.group, kind.resource));
            let told = what_lacks(kind.group, kind.resource).is_some();
            assert!(served != told, "{}.{}: served {served}, told of {told}", kind.resource, kind.group);
        }
    }

    #[test]
    fn a_new_object_is_told_once() {
        let stage = Stage::new(Unserved);
        stage.put(&JOBS, job());
        let object = Arc::new(Object::from_tree(&job()).unwrap());
        let created = Change { old: None, new: Some(object.clone()) };
        assert_eq!(stage.keys(&JOBS, &created), ["d/jobs.batch/j"]);
        let changed = Change { old: Some(object.clone()), new: Some(object) };
        assert_eq!(stage.keys(&JOBS, &changed), [""; 0]);
        stage.check(
            "d/jobs.batch/j",
            &["Warning NotSupportedYet: Ondol does not serve the kind Job yet: the object is stored, but no pods are made for it"],
        );
        stage.put(
            &EVENTS,
            json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "d"},
                "reason": REASON, "involvedObject": {"uid": "u"}}),
        );
        stage.check("d/jobs.batch/j", &[]);
    }
}
