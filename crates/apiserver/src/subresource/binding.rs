//! `pods/binding`: the scheduler's word, which gives a pod its node once and for all.

use api::interface::{Target, WriteOptions};
use api::json;
use api::names::{GroupVersionKind, PODS};
use api::status::{Reason, Status};
use api::validation::{cause, names};
use api::value::Value;

use super::success;
use crate::admission::{self, Attributes, Operation};
use crate::caller::Caller;
use crate::codec;
use crate::gate::Gate;
use crate::kinds::Kind;
use crate::storage::{Failure, Record, Storage};
use crate::verbs::Outcome;
use store::{Expectation, Revision, Transaction};

/// Binds a pod.
pub(super) async fn create(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    body: &[u8],
    options: &WriteOptions,
) -> Result<Outcome, Status> {
    let gvk = GroupVersionKind::parse("v1", "Binding");
    let mut binding = codec::decode_as(&gvk, codec::type_of(&gvk)?, body, options, caller)?;
    let name = &target.name;
    if binding.str_at(&["metadata", "name"]).unwrap_or_default() != name.as_str() {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    judge(&binding)?;
    require_name(name)?;
    let storage = gate.storage();
    let namespace = if target.namespace.is_empty() {
        binding.str_at(&["metadata", "namespace"]).unwrap_or_default().to_owned()
    } else {
        target.namespace.to_string()
    };
    let namespace = namespace.as_str();
    admit(caller, namespace, name, &mut binding, options, storage)?;
    let node = binding.str_at(&["target", "name"]).unwrap_or_default();
    let mut turn = None;
    loop {
        let stored = storage.require(kind, namespace, name)?;
        let old = stored.to_tree();
        let mut pod = old.clone();
        assign(&mut pod, &binding, node, &api::time::seconds(gate.now()))
            .map_err(|why| conflict(kind, name, &why))?;
        if options.dry_run {
            return Ok(Outcome::created(success()));
        }
        codec::complete(kind, &mut pod);
        if let Some(generation) = old.int_at(&["metadata", "generation"]) {
            pod.set(&["metadata", "generation"], generation);
        }
        let expect = Expectation::Modified(Revision(stored.revision()));
        let transaction =
            Transaction::new().put(Storage::key(kind, namespace, name), expect, Record::new(kind, &pod));
        match storage.commit(transaction).await {
            Ok(_) => return Ok(Outcome::created(success())),
            Err(Failure::Conflict { .. }) => storage.take_turn(&mut turn, name).await,
            Err(Failure::Status(status)) => return Err(status),
        }
    }
}

/// Asks all plugins, as for every other write.
fn admit(
    caller: &Caller<'_>,
    namespace: &str,
    name: &str,
    binding: &mut Value,
    options: &WriteOptions,
    storage: &Storage,
) -> Result<(), Status> {
    let mut warnings = Vec::new();
    let mut attributes = Attributes {
        identity: caller.identity,
        operation: Operation::Create,
        resource: &PODS,
        kind: &GroupVersionKind::parse("v1", "Binding"),
        namespace,
        name,
        subresource: "binding",
        object: Some(binding),
        old: None,
        stored: None,
        dry_run: options.dry_run,
        warnings: &mut warnings,
    };
    let outcome =
        admission::mutate(&mut attributes, storage).and_then(|()| admission::validate(&attributes, storage));
    warnings.into_iter().for_each(|warning| caller.warn(warning));
    outcome
}

/// What a binding must be. Upstream answers with a bare sentence.
fn judge(binding: &Value) -> Result<(), Status> {
    let target = |key: &str| binding.str_at(&["target", key]).unwrap_or_default();
    let (kind, node) = (target("kind"), target("name"));
    let mut causes = Vec::new();
    let is_node = matches!(kind, "" | "Node");
    if !is_node {
        causes.push(cause::not_supported("target.kind", kind, &["Node", "<empty>"]));
    }
    if node.is_empty() {
        causes.push(cause::required("target.name", ""));
    } else if is_node {
        causes.extend(names::is_subdomain(node).iter().map(|why| cause::invalid("target.name", node, why)));
    }
    let words: Vec<String> = causes.iter().map(ToString::to_string).collect();
    let message = match words.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    Err(Status { code: 500, ..Status::new(Reason::Unknown, message) })
}

/// A name that can be part of a key.
fn require_name(name: &str) -> Result<(), Status> {
    if name.is_empty() {
        return Err(Status::bad_request("Name parameter required."));
    }
    let wrong = names::is_path_segment(name, false);
    if wrong.is_empty() {
        return Ok(());
    }
    let words = format!("Name parameter invalid: {}: {}", cause::quoted(name), wrong.join(";"));
    Err(Status::bad_request(words))
}

fn conflict(kind: &Kind, name: &str, why: &str) -> Status {
    let about = api::names::GroupResource {
        group: kind.group_resource.group.clone(),
        resource: "pods/binding".into(),
    };
    Status::conflict(&about, name, why)
}

/// Gives the pod its node, or says why not. Pure.
fn assign(pod: &mut Value, binding: &Value, node: &str, now: &str) -> Result<(), String> {
    let name = pod.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
    for key in ["uid", "resourceVersion"] {
        let wanted = binding.str_at(&["metadata", key]).unwrap_or_default();
        let present = pod.str_at(&["metadata", key]).unwrap_or_default();
        if !wanted.is_empty() && wanted != present {
            return Err(format!(
                "Precondition failed: {key} in precondition: {wanted}, {key} in object meta: {present}"
            ));
        }
    }
    if pod.at(&["metadata", "deletionTimestamp"]).is_some() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(other) = pod.str_at(&["spec", "nodeName"]).filter(|other| !other.is_empty()) {
        return Err(format!("pod {name} is already assigned to node \"{other}\""));
    }
    if !pod.array_at(&["spec", "schedulingGates"]).is_empty() {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    pod.set(&["spec", "nodeName"], node);
    pod.remove(&["status", "nominatedNodeName"]);
    for member in ["annotations", "labels"] {
        for (key, value) in binding
            .at(&["metadata", member])
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(api::value::Map::iter)
        {
            pod.set(&["metadata", member, key], value.clone());
        }
    }
    let mut conditions = pod.array_at(&["status", "conditions"]).to_vec();
    let scheduled =
        conditions.iter_mut().find(|condition| condition.str_at(&["type"]) == Some("PodScheduled"));
    match scheduled {
        Some(condition) if condition.str_at(&["status"]) == Some("True") => {}
        Some(condition) => {
            *condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
        }
        None => conditions.push(
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now}),
        ),
    }
    pod.set(&["status", "conditions"], conditions);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_bound_once() {
        let mut pod = json!({"metadata": {"name": "p", "uid": "1"}, "spec": {}});
        let binding = json!({"metadata": {"name": "p", "uid": "1"}, "target": {"name": "a"}});
        assign(&mut pod, &binding, "a", "now").unwrap();
        assert_eq!(pod.str_at(&["spec", "nodeName"]), Some("a"));
        let why = assign(&mut pod, &binding, "b", "now").unwrap_err();
        assert_eq!(why, "pod p is already assigned to node \"a\"");
    }

    #[test]
    fn a_binding_names_a_node() {
        let check = |target: Value, expect: &str| {
            let mut binding = json!({});
            binding.set(&["target"], target);
            let told = judge(&binding).err().map(|status| (status.code, status.message)).unwrap_or_default();
            assert!(told.1.starts_with(expect) && told.1.is_empty() == expect.is_empty(), "{told:?}");
        };
        check(json!({"name": "a"}), "");
        check(
            json!({"kind": "Node", "name": "-1"}),
            "target.name: Invalid value: \"-1\": a lowercase RFC 1123",
        );
        check(
            json!({"kind": "X"}),
            "[target.kind: Unsupported value: \"X\": supported values: \"Node\", \"<empty>\", target.name: \
             Required value]",
        );
        assert_eq!(require_name("").unwrap_err().message, "Name parameter required.");
        assert_eq!(
            require_name("a/b").unwrap_err().message,
            "Name parameter invalid: \"a/b\": may not contain '/'"
        );
    }

    #[test]
    fn another_pod_of_the_same_name_is_not_bound() {
        let mut pod = json!({"metadata": {"name": "p", "uid": "2"}, "spec": {}});
        let binding = json!({"metadata": {"name": "p", "uid": "1"}, "target": {"name": "a"}});
        assert!(assign(&mut pod, &binding, "a", "now").unwrap_err().contains("Precondition"));
    }
}
