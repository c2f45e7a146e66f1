//! `serviceaccounts/token`: a token for an account, which lives and dies with what it is bound to.

use std::sync::Arc;

use api::fields::managed::{self, Write};
use api::fields::set::FieldSet;
use api::interface::{Answer, Target, WriteOptions};
use api::names::{self, GroupVersionKind};
use api::object::Object;
use api::status::{Cause, Status};
use api::value::{Str, Value};

use crate::authn::{Binding, Request};
use crate::caller::Caller;
use crate::codec;
use crate::gate::Gate;
use crate::kinds::Kind;
use crate::limits;
use crate::lookups::Lookups as _;
use crate::verbs::Outcome;

/// Gives a token.
pub(super) fn create(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    body: &[u8],
    options: &WriteOptions,
) -> Result<Outcome, Status> {
    let gvk = GroupVersionKind::parse("authentication.k8s.io/v1", "TokenRequest");
    let mut tree = codec::decode_as(&gvk, codec::type_of(&gvk)?, body, options, caller)?;
    let write = Write {
        manager: caller.manager(&options.field_manager),
        api_version: "authentication.k8s.io/v1",
        subresource: "token",
        now: gate.now(),
        ty: codec::type_of(&gvk)?,
        reset: &FieldSet::default(),
    };
    managed::update(&Value::object(), &mut tree, &write, &|_, _| None);
    let account = gate.storage().require(kind, &target.namespace, &target.name)?;
    let mut audiences: Vec<String> = tree
        .array_at(&["spec", "audiences"])
        .iter()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    let Bound { bindings, pod } = bound(gate, target, &tree)?;
    if let Some(node) = caller.identity.node_name() {
        let uid = tree.str_at(&["spec", "boundObjectRef", "uid"]).unwrap_or_default();
        check_node(node, uid, &bindings)
            .map_err(str::to_owned)
            .and_then(|()| check_audience(node, &audiences, &pod))
            .map_err(|why| Status::forbidden(&kind.group_resource, &target.name, &why))?;
    }
    if audiences.is_empty() {
        audiences = gate.authenticator().audiences().to_vec();
    }
    let seconds = tree.int_at(&["spec", "expirationSeconds"]).unwrap_or(limits::TOKEN_DEFAULT_SECONDS);
    check_seconds(seconds)?;
    let request = Request {
        namespace: &target.namespace,
        name: &target.name,
        uid: account.uid(),
        audiences: &audiences,
        seconds,
        bindings: &bindings,
    };
    let now = gate.now();
    let token = gate.authenticator().issue(&request, now, &gate.random().uuid())?;
    let expires = api::time::seconds(now + jiff::SignedDuration::from_secs(seconds));
    tree.set(&["metadata", "name"], target.name.clone());
    tree.set(&["metadata", "namespace"], target.namespace.clone());
    tree.set(&["metadata", "creationTimestamp"], api::time::seconds(now));
    tree.set(&["metadata", "uid"], account.uid());
    tree.set(&["spec", "audiences"], audiences);
    tree.set(&["spec", "expirationSeconds"], seconds);
    if tree.at(&["spec", "boundObjectRef"]).is_none() {
        tree.set(&["spec", "boundObjectRef"], Value::Null);
    }
    tree.set(&["status", "token"], token);
    tree.set(&["status", "expirationTimestamp"], expires);
    let object = Object::from_tree(&tree).map_err(Status::internal)?;
    Ok(Outcome::created(Answer::Object(Arc::new(object))))
}

/// A node gets tokens for its own pods alone, and says which pod it means.
fn check_node(node: &str, uid: &str, bindings: &[Binding]) -> Result<(), &'static str> {
    let bound = |kind: &str| bindings.iter().find(|binding| binding.kind == kind);
    match (bound("pod"), bound("node")) {
        (None, _) => Err("node requested token not bound to a pod"),
        (Some(_), _) if uid.is_empty() => Err("node requested token with a pod binding without a uid"),
        (Some(_), Some(own)) if own.name == node => Ok(()),
        _ => Err("node requested token bound to a pod scheduled on a different node"),
    }
}

/// A node gets tokens for those audiences alone that its pod mounts one for; none named is our own.
fn check_audience(node: &str, audiences: &[String], pod: &Value) -> Result<(), String> {
    let wanted = match audiences {
        [] => "",
        [audience] => audience,
        _ => return Err("node may only request 0 or 1 audiences".to_owned()),
    };
    let mounts = |source: &Value| {
        let token = source.get("serviceAccountToken");
        token.is_some_and(|token| token.str_at(&["audience"]).unwrap_or_default() == wanted)
    };
    let volumes = pod.array_at(&["spec", "volumes"]).iter();
    if volumes.flat_map(|volume| volume.array_at(&["projected", "sources"])).any(mounts) {
        return Ok(());
    }
    Err(format!("system:node:{node} is not authorized to request tokens for audience {wanted:?}"))
}

fn check_seconds(seconds: i64) -> Result<(), Status> {
    if limits::TOKEN_SECONDS.contains(&seconds) {
        return Ok(());
    }
    let why = if seconds < *limits::TOKEN_SECONDS.start() {
        "may not specify a duration less than 10 minutes"
    } else {
        "may not specify a duration larger than 2^32 seconds"
    };
    Err(Status::invalid(
        "authentication.k8s.io",
        "TokenRequest",
        "",
        vec![Cause {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: {seconds}: {why}"),
            field: "spec.expirationSeconds".into(),
        }],
    ))
}

/// What a token is bound to.
#[derive(Default)]
struct Bound {
    /// A pod (and with it its node), a secret or a node.
    bindings: Vec<Binding>,
    /// The pod, if it is one.
    pod: Value,
}

fn bound(gate: &Gate, target: &Target, tree: &Value) -> Result<Bound, Status> {
    let Some(reference) = tree.at(&["spec", "boundObjectRef"]).filter(|reference| !reference.is_null())
    else {
        return Ok(Bound::default());
    };
    let text = |key: &str| reference.str_at(&[key]).unwrap_or_default();
    let (name, uid) = (text("name"), text("uid"));
    let (kind, resource, namespace) = match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => ("pod", &names::PODS, target.namespace.as_str()),
        ("v1", "Secret") => ("secret", &names::SECRETS, target.namespace.as_str()),
        ("v1", "Node") => ("node", &names::NODES, ""),
        (version, kind) => {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount \"{}\" to object of type {version}, Kind={kind}",
                target.name
            )));
        }
    };
    let object = gate
        .storage()
        .get(resource, namespace, name)
        .ok_or_else(|| Status::not_found(&resource.group_resource(), name))?;
    if !uid.is_empty() && uid != object.uid() {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        );
        return Err(Status::conflict(&resource.group_resource(), name, &why));
    }
    let mut bindings = vec![Binding { kind, name: name.into(), uid: object.uid().into() }];
    let mut pod = Value::Null;
    if kind == "pod" {
        pod = object.to_tree();
        let account = pod.str_at(&["spec", "serviceAccountName"]).unwrap_or_default();
        if account != target.name.as_str() {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                target.name
            )));
        }
        if let Some(node) = pod.str_at(&["spec", "nodeName"]).filter(|node| !node.is_empty()) {
            let uid = gate.storage().get(&names::NODES, "", node).map(|node| Str::from(node.uid()));
            bindings.push(Binding { kind: "node", name: node.into(), uid: uid.unwrap_or_default() });
        }
    }
    Ok(Bound { bindings, pod })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gets_tokens_for_its_own_pods_alone() {
        let binding = |kind, name: &str| Binding { kind, name: name.into(), uid: Str::default() };
        assert!(check_node("a", "u", &[]).is_err());
        assert!(check_node("a", "u", &[binding("pod", "p"), binding("node", "a")]).is_ok());
        assert!(check_node("a", "", &[binding("pod", "p"), binding("node", "a")]).is_err());
        assert!(check_node("a", "u", &[binding("pod", "p"), binding("node", "b")]).is_err());
        assert!(check_node("a", "u", &[binding("pod", "p")]).is_err());
    }

    #[test]
    fn a_node_gets_tokens_for_audiences_that_its_pod_mounts_alone() {
        let pod = api::json!({"spec": {"volumes": [
            {"name": "empty", "emptyDir": {}},
            {"name": "tokens", "projected": {"sources": [{"serviceAccountToken": {"path": "vault", "audience": "vault"}}]}},
        ]}});
        let check = |audiences: &[&str]| {
            let audiences: Vec<String> = audiences.iter().map(|audience| (*audience).to_owned()).collect();
            check_audience("a", &audiences, &pod)
        };
        assert_eq!(check(&["vault"]), Ok(()));
        let refused = "system:node:a is not authorized to request tokens for audience \"evil\"";
        assert_eq!(check(&["evil"]), Err(refused.to_owned()));
        assert!(check(&[]).is_err());
        assert!(check(&["vault", "evil"]).is_err());
    }
}
