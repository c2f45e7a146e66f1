//! What a node's agent may do: upstream's Node authorizer and the refusals of its NodeRestriction, in one place.

use api::object::Object;
use api::value::Value;

use super::{Attributes, Graph};

/// Decides for the agent of `node`; the error says why not.
pub(super) fn decide(node: &str, attributes: &Attributes<'_>, graph: &dyn Graph) -> Result<(), String> {
    let Attributes::Resource { verb, group, resource, namespace, name, subresource, field_selector } =
        *attributes
    else {
        return Err(String::new());
    };
    let reads = matches!(verb, "get" | "list" | "watch");
    // A list or watch of one name is about that object, as in upstream's request info.
    let name = if name.is_empty() && reads { selected_name(field_selector) } else { name };
    match (group, resource, subresource) {
        ("", "nodes", "") if reads && name == node => Ok(()),
        ("", "nodes", "") if reads && name.is_empty() => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "nodes", "") if reads => {
            Err(format!("node '{node}' cannot read '{name}', only its own Node object"))
        }
        ("", "nodes", "") if verb == "create" => Ok(()),
        ("", "nodes", "" | "status") if matches!(verb, "update" | "patch") => {
            if name == node {
                Ok(())
            } else {
                Err(format!("node '{node}' cannot modify node '{name}'"))
            }
        }
        ("", "nodes", _) if verb == "get" && name == node => Ok(()),
        ("", "pods", "") if reads => own_pods(node, verb, namespace, name, field_selector, graph),
        ("", "pods", "" | "status" | "eviction")
            if matches!(verb, "update" | "patch" | "delete" | "create") =>
        {
            changes_pod(node, verb, namespace, name, subresource, graph)
        }
        ("", "services", "") | ("discovery.k8s.io", "endpointslices", "") | ("", "namespaces", "")
            if reads =>
        {
            Ok(())
        }
        ("node.k8s.io", "runtimeclasses", "") | ("", "endpoints", "") if reads => Ok(()),
        ("", "events", "") | ("events.k8s.io", "events", "")
            if matches!(verb, "create" | "update" | "patch") =>
        {
            Ok(())
        }
        ("coordination.k8s.io", "leases", "") => lease(node, verb, namespace, name),
        ("", "configmaps" | "secrets", "") => referenced(node, verb, resource, namespace, name, graph),
        ("", "serviceaccounts", _) if matches!((verb, subresource), ("create", "token") | ("get", "")) => {
            let uses = |pod: &Object| pod.namespace() == namespace && service_account(&pod.to_tree()) == name;
            related(node, graph, uses)
        }
        ("authentication.k8s.io", "tokenreviews", "")
        | ("authorization.k8s.io", "subjectaccessreviews", "")
            if verb == "create" =>
        {
            Ok(())
        }
        ("certificates.k8s.io", "certificatesigningrequests", "") if matches!(verb, "create" | "get") => {
            Ok(())
        }
        ("storage.k8s.io", "csidrivers", "") if reads => Ok(()),
        ("", "persistentvolumeclaims", "") if verb == "get" => {
            let claims = |pod: &Object| pod.namespace() == namespace && claims(&pod.to_tree(), name);
            related(node, graph, claims)
        }
        // No pod of ours has a volume of these yet, so no node has to do with any.
        ("", "persistentvolumes", "") | ("storage.k8s.io", "volumeattachments", "") if verb == "get" => {
            related(node, graph, |_| false)
        }
        _ => Err(String::new()),
    }
}

/// Whether a pod of the node has to do with what is asked for.
fn related(node: &str, graph: &dyn Graph, has_to_do: impl Fn(&Object) -> bool) -> Result<(), String> {
    if graph.pods_on(node).iter().any(|pod| has_to_do(pod)) {
        Ok(())
    } else {
        Err(format!("node: no relationship found between node '{node}' and this object"))
    }
}

/// The name that a field selector requires; empty if it requires none.
fn selected_name(field_selector: &str) -> &str {
    let required = field_selector.split(',').filter_map(|part| part.strip_prefix("metadata.name="));
    required.map(|name| name.trim_start_matches('=')).next().unwrap_or_default()
}

fn own_pods(
    node: &str,
    verb: &str,
    namespace: &str,
    name: &str,
    field_selector: &str,
    graph: &dyn Graph,
) -> Result<(), String> {
    let selector = format!("spec.nodeName={node}");
    let selects_own = field_selector
        .split(',')
        .any(|part| part == selector || part.strip_prefix("spec.nodeName==") == Some(node));
    if verb != "get" && selects_own {
        return Ok(());
    }
    if !name.is_empty() && is_own(node, namespace, name, graph) {
        return Ok(());
    }
    if verb == "get" {
        related(node, graph, |_| false)
    } else {
        Err(format!("can only list/watch pods with spec.nodeName field selector; use {selector}"))
    }
}

fn changes_pod(
    node: &str,
    verb: &str,
    namespace: &str,
    name: &str,
    subresource: &str,
    graph: &dyn Graph,
) -> Result<(), String> {
    // Mirror pods would be created by name in the body; we have no static pods, so nodes make none.
    match (verb, subresource) {
        ("delete", "") | ("update" | "patch", "status") | ("create", "eviction") => {}
        _ => return Err(format!("node '{node}' may not {verb} pods here")),
    }
    if is_own(node, namespace, name, graph) {
        Ok(())
    } else {
        Err(format!("node '{node}' can only {verb} pods with spec.nodeName set to itself"))
    }
}

fn is_own(node: &str, namespace: &str, name: &str, graph: &dyn Graph) -> bool {
    graph.pods_on(node).iter().any(|pod| pod.namespace() == namespace && pod.name() == name)
}

fn lease(node: &str, verb: &str, namespace: &str, name: &str) -> Result<(), String> {
    if namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    match verb {
        // The name of a create is in the body; `may_create` looks at it when it is known.
        "create" => Ok(()),
        "get" | "update" | "patch" | "delete" if name == node => Ok(()),
        "get" | "update" | "patch" | "delete" => {
            Err("can only access node lease with the same name as the requesting node".to_owned())
        }
        _ => Err(String::new()),
    }
}

/// What [`decide`] could not see, because the name of a create is in its body: a node registers itself alone.
pub(super) fn may_create(node: &str, group: &str, resource: &str, name: &str) -> Result<(), String> {
    match (group, resource) {
        ("", "nodes") if name != node => {
            Err(format!("node \"{node}\" is not allowed to modify node \"{name}\""))
        }
        ("coordination.k8s.io", "leases") if name != node => {
            Err("can only access node lease with the same name as the requesting node".to_owned())
        }
        _ => Ok(()),
    }
}

fn referenced(
    node: &str,
    verb: &str,
    resource: &str,
    namespace: &str,
    name: &str,
    graph: &dyn Graph,
) -> Result<(), String> {
    if !matches!(verb, "get" | "list" | "watch") {
        return Err(String::new());
    }
    if name.is_empty() {
        return Err("can only read an individual resource of this type".to_owned());
    }
    related(node, graph, |pod| {
        pod.namespace() == namespace && {
            let tree = pod.to_tree();
            tree.get("spec").is_some_and(|spec| refers_to(spec, resource, name))
        }
    })
}

fn service_account(pod: &Value) -> &str {
    pod.str_at(&["spec", "serviceAccountName"]).unwrap_or("default")
}

/// Whether a pod has the claim of that name among its volumes; one of its own is named after pod and volume.
fn claims(pod: &Value, name: &str) -> bool {
    let own = |volume: &Value| {
        let pod = pod.str_at(&["metadata", "name"]).unwrap_or_default();
        volume.get("ephemeral").is_some()
            && volume.str_at(&["name"]).is_some_and(|volume| format!("{pod}-{volume}") == name)
    };
    let of = |volume: &Value| volume.str_at(&["persistentVolumeClaim", "claimName"]) == Some(name);
    pod.array_at(&["spec", "volumes"]).iter().any(|volume| of(volume) || own(volume))
}

/// Whether a pod's spec names a secret or config map anywhere where upstream's visitor looks.
fn refers_to(spec: &Value, resource: &str, name: &str) -> bool {
    let (by_name, members): (&[&str], &[&str]) = match resource {
        "secrets" => (&["secretName"], &["secret", "secretRef", "secretKeyRef"]),
        _ => (&[], &["configMap", "configMapRef", "configMapKeyRef"]),
    };
    if resource == "secrets"
        && spec.array_at(&["imagePullSecrets"]).iter().any(|secret| secret.str_at(&["name"]) == Some(name))
    {
        return true;
    }
    visit(spec, &mut |key, value| {
        (members.contains(&key) && value.str_at(&["name"]) == Some(name))
            || (members.contains(&key) && by_name.iter().any(|by| value.str_at(&[by]) == Some(name)))
    })
}

fn visit(value: &Value, found: &mut impl FnMut(&str, &Value) -> bool) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, member)| found(key, member) || visit(member, found)),
        Value::Array(elements) => elements.iter().any(|element| visit(element, found)),
        _ => false,
    }
}
