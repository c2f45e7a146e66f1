//! Who may do what: a pure decision on data.
//!
//! In upstream's order: `system:masters`, nodes by what their pods need, our own controllers by a fixed table,
//! discovery and self reviews for all who are authenticated, public paths for all. Everybody else is refused until
//! RBAC is there. Nothing here reads the store but through the [`Graph`] that is passed in.

mod node;
mod rules;

use std::sync::Arc;

use api::names::GroupResource;
use api::object::Object;
use api::status::Status;

use crate::identity::{Identity, MASTERS};
pub use rules::{Rule, rules_for};

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub enum Attributes<'a> {
    /// Something of the API's objects.
    Resource {
        /// As `get`.
        verb: &'a str,
        /// Empty for the core.
        group: &'a str,
        /// Plural name.
        resource: &'a str,
        /// Empty for all or none.
        namespace: &'a str,
        /// Empty for collections.
        name: &'a str,
        /// Empty for the object itself.
        subresource: &'a str,
        /// The field selector of a list or watch, as text.
        field_selector: &'a str,
    },
    /// Any other path.
    Path {
        /// The HTTP method in lower case.
        verb: &'a str,
        /// The path.
        path: &'a str,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why, for reviews and messages; may be empty.
    pub reason: String,
}

impl Decision {
    fn allow(reason: &str) -> Self {
        Self { allowed: true, reason: reason.to_owned() }
    }

    fn deny(reason: impl Into<String>) -> Self {
        Self { allowed: false, reason: reason.into() }
    }
}

/// What the node rules must know of the present state.
pub trait Graph {
    /// The pods that are bound to a node.
    fn pods_on(&self, node: &str) -> Vec<Arc<Object>>;
}

/// Decides.
pub fn authorize(identity: &Identity, attributes: &Attributes<'_>, graph: &dyn Graph) -> Decision {
    if identity.is_in(MASTERS) {
        return Decision::allow("");
    }
    let mut reason = String::new();
    if let Some(node) = identity.node_name() {
        match node::decide(node, attributes, graph) {
            Ok(()) => return Decision::allow(""),
            Err(why) => reason = why,
        }
    }
    if rules_for(identity).any(|rule| rule.covers(attributes)) {
        return Decision::allow("a fixed rule of this server");
    }
    Decision::deny(reason)
}

/// Decides again about a create, now that the body has told the name.
pub fn authorize_create(identity: &Identity, resource: &GroupResource, name: &str) -> Result<(), Status> {
    match identity.node_name() {
        Some(node) if !identity.is_in(MASTERS) => {
            node::may_create(node, &resource.group, &resource.resource, name)
                .map_err(|why| Status::forbidden(resource, name, &why))
        }
        _ => Ok(()),
    }
}

/// The error of a refused request, in upstream's words.
pub fn forbidden(identity: &Identity, attributes: &Attributes<'_>, reason: &str) -> Status {
    let mut message = match attributes {
        Attributes::Path { verb, path } => {
            format!("User \"{}\" cannot {verb} path \"{path}\"", identity.name)
        }
        Attributes::Resource { verb, group, resource, namespace, subresource, .. } => {
            let slash = if subresource.is_empty() { "" } else { "/" };
            let place = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace \"{namespace}\"")
            };
            format!(
                "User \"{}\" cannot {verb} resource \"{resource}{slash}{subresource}\" in API group \"{group}\" {place}",
                identity.name
            )
        }
    };
    // Browsers must never take the text for a page.
    message = message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(reason);
    }
    let (resource, name) = match attributes {
        Attributes::Path { .. } => (GroupResource::default(), ""),
        Attributes::Resource { group, resource, name, .. } => {
            (GroupResource { group: (*group).into(), resource: (*resource).into() }, *name)
        }
    };
    Status::forbidden(&resource, name, &message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    struct Pods(Vec<Arc<Object>>);

    impl Graph for Pods {
        fn pods_on(&self, node: &str) -> Vec<Arc<Object>> {
            if node == "a" { self.0.clone() } else { Vec::new() }
        }
    }

    fn graph() -> Pods {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "a", "serviceAccountName": "default",
                "volumes": [{"name": "v", "secret": {"secretName": "s"}},
                    {"name": "w", "projected": {"sources": [{"configMap": {"name": "c"}}]}}],
                "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "e"}}]}]}});
        Pods(vec![Arc::new(Object::from_tree(&pod).unwrap())])
    }

    fn ask<'a>(verb: &'a str, resource: &'a str, namespace: &'a str, name: &'a str) -> Attributes<'a> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes::Resource { verb, group: "", resource, namespace, name, subresource, field_selector: "" }
    }

    fn check(identity: &Identity, attributes: Attributes<'_>, expect: bool) {
        let decision = authorize(identity, &attributes, &graph());
        assert_eq!(decision.allowed, expect, "{} {attributes:?}: {}", identity.name, decision.reason);
    }

    #[test]
    fn masters_may_all_and_strangers_nothing() {
        check(&Identity::admin(), ask("delete", "nodes", "", "x"), true);
        check(&Identity::new("jane", &[]), ask("get", "pods", "n", "p"), false);
        check(&Identity::new("jane", &[]), Attributes::Path { verb: "get", path: "/apis" }, true);
        check(&Identity::anonymous(), Attributes::Path { verb: "get", path: "/apis" }, false);
        check(&Identity::anonymous(), Attributes::Path { verb: "get", path: "/healthz" }, true);
    }

    #[test]
    fn a_node_sees_what_its_pods_need() {
        let node = Identity::node("a");
        check(&node, ask("get", "secrets", "n", "s"), true);
        check(&node, ask("get", "secrets", "n", "other"), false);
        check(&node, ask("get", "configmaps", "n", "c"), true);
        check(&node, ask("get", "configmaps", "n", "e"), true);
        check(&node, ask("list", "secrets", "n", ""), false);
        let selecting = |selector| Attributes::Resource {
            verb: "watch",
            group: "",
            resource: "secrets",
            namespace: "n",
            name: "",
            subresource: "",
            field_selector: selector,
        };
        check(&node, selecting("metadata.name=s"), true);
        check(&node, selecting("metadata.name=other"), false);
        check(&node, selecting("type=x"), false);
        check(&node, ask("create", "serviceaccounts/token", "n", "default"), true);
        check(&node, ask("patch", "nodes/status", "", "a"), true);
        check(&node, ask("patch", "nodes/status", "", "b"), false);
        check(&node, ask("patch", "pods/status", "n", "p"), true);
        check(&node, ask("patch", "pods/status", "n", "q"), false);
        check(&Identity::node("b"), ask("get", "secrets", "n", "s"), false);
    }

    #[test]
    fn a_node_registers_itself_alone() {
        let nodes = GroupResource { group: "".into(), resource: "nodes".into() };
        assert!(authorize_create(&Identity::node("a"), &nodes, "a").is_ok());
        assert_eq!(authorize_create(&Identity::node("a"), &nodes, "b").unwrap_err().code, 403);
        assert!(authorize_create(&Identity::admin(), &nodes, "b").is_ok());
    }

    #[test]
    fn a_refusal_says_it_as_upstream() {
        let status = forbidden(&Identity::new("jane", &[]), &ask("list", "pods", "n", ""), "");
        assert_eq!(
            status.message,
            "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"n\""
        );
    }
}
