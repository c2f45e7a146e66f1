//! What the scheduler tells the API: bindings, why pods wait, and whom it sends away.

use std::sync::Arc;

use api::interface::{Api, Call, DeleteOptions, PatchKind, Target, WriteOptions};
use api::json;
use api::names::PODS;
use api::object::Object;
use api::status::Status;
use api::value::Value;
use base::Clock;
use control::mirror::Key;
use control::recorder::{Note, Recorder};
use tracing::{info, warn};

use crate::place::Unschedulable;
use crate::pod::Pod;
use crate::preempt::Preemption;

/// Writes for one scheduler.
pub struct Writes {
    /// The API.
    pub api: Arc<dyn Api>,
    /// Tells the time of conditions.
    pub clock: Clock,
    /// Writes events.
    pub recorder: Recorder,
    /// The scheduler's name.
    pub name: &'static str,
}

impl Writes {
    /// Binds a pod to a node.
    pub async fn bind(&self, object: &Object, node: &str) -> Result<(), Status> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": (object.name()), "namespace": (object.namespace()), "uid": (object.uid())},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}
        });
        let target = Target::new(&PODS, object.namespace(), object.name()).subresource("binding");
        self.api.call(Call::Create(target, binding.to_bytes().into(), WriteOptions::default())).await?;
        info!(pod = %Key::of(object), node, "placed");
        let message = format!("Successfully assigned {}/{} to {node}", object.namespace(), object.name());
        self.recorder.note(Note::normal(object, "Scheduled", message));
        Ok(())
    }

    /// Says on a pod, and by an event, why it has no place.
    pub async fn report(&self, object: &Object, reasons: &Unschedulable) {
        let message = reasons.to_string();
        self.recorder.note(Note::warning(object, "FailedScheduling", message.as_str()));
        let tree = object.to_tree();
        let nominated = match &reasons.preemption {
            Preemption::Helps { node, .. } => Some(Value::from(node.clone())),
            Preemption::Never | Preemption::UnderWay => None,
            Preemption::Unasked | Preemption::Useless(..) => Some(Value::Null),
        };
        let before = tree.str_at(&["status", "nominatedNodeName"]).filter(|node| !node.is_empty());
        let nominated = nominated.filter(|node| node.as_str() != before);
        let condition = self.condition(&tree, &message);
        if condition.is_none() && nominated.is_none() {
            return;
        }
        let mut status = Value::object();
        if let Some(condition) = condition {
            status.set(&["conditions"], json!([condition]));
        }
        if let Some(node) = nominated {
            status.set(&["nominatedNodeName"], node);
        }
        if let Err(error) = self.patch_status(object, status).await {
            warn!(pod = %Key::of(object), %error, "the reason why a pod waits could not be written");
        }
    }

    /// Takes back that a node is being cleared for a pod.
    pub async fn withdraw(&self, pod: &Pod) {
        let patch = json!({
            "metadata": {"uid": (pod.uid.clone())}, "status": {"nominatedNodeName": null}
        });
        let target = Target::new(&PODS, &pod.namespace, &pod.name).subresource("status");
        if let Err(error) = self.api.patch(target, PatchKind::StrategicMerge, &patch).await {
            warn!(pod = %pod.name, %error, "a pod that must find another node could not be told");
        }
    }

    /// Sends a pod away for another one.
    pub async fn evict(&self, victim: &Object, preemptor: &Pod, node: &str) {
        let since = self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let message = format!("{}: preempting to accommodate a higher priority pod", self.name);
        let mut condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": message, "lastProbeTime": null, "lastTransitionTime": since
        });
        observe(&mut condition, &victim.to_tree());
        let options = DeleteOptions { uid: Some(victim.uid().into()), ..DeleteOptions::default() };
        let written = match self.patch_status(victim, json!({"conditions": [condition]})).await {
            Ok(()) => self.api.delete(&PODS, victim.namespace(), victim.name(), options).await.map(|_| ()),
            Err(status) => Err(status),
        };
        match written {
            Ok(()) => {
                let message = format!("Preempted by pod {} on node {node}", preemptor.uid);
                self.recorder.note(Note::normal(victim, "Preempted", message));
            }
            // Gone already is as good.
            Err(status) if status.code == 404 => {}
            Err(error) => warn!(pod = %Key::of(victim), %error, "a pod could not be sent away for another"),
        }
    }

    /// The condition that says why a pod has no place, unless it says so already.
    fn condition(&self, tree: &Value, message: &str) -> Option<Value> {
        let conditions = tree.array_at(&["status", "conditions"]);
        let current = conditions.iter().find(|condition| condition.str_at(&["type"]) == Some("PodScheduled"));
        let said = |field: &str| current.and_then(|condition| condition.str_at(&[field]));
        if said("status") == Some("False")
            && said("reason") == Some("Unschedulable")
            && said("message") == Some(message)
        {
            return None;
        }
        let since = match current.filter(|_| said("status") == Some("False")) {
            Some(condition) => condition.get("lastTransitionTime").cloned().unwrap_or_default(),
            None => Value::from(self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        };
        let mut condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": message, "lastProbeTime": null, "lastTransitionTime": since
        });
        observe(&mut condition, tree);
        Some(condition)
    }

    async fn patch_status(&self, object: &Object, status: Value) -> Result<(), Status> {
        let patch = json!({"metadata": {"uid": (object.uid())}, "status": status});
        let target = Target::new(&PODS, object.namespace(), object.name()).subresource("status");
        self.api.patch(target, PatchKind::StrategicMerge, &patch).await.map(|_| ())
    }
}

/// Says which generation of the pod a condition speaks of.
fn observe(condition: &mut Value, pod: &Value) {
    if let Some(generation) = pod.int_at(&["metadata", "generation"]) {
        condition.set(&["observedGeneration"], generation);
    }
}
