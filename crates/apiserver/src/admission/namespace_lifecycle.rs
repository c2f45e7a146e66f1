//! Nothing comes to be in a namespace that is not there or that is going, and three namespaces never go.

use api::names::NAMESPACES;
use api::status::{Cause, Status};

use super::{Attributes, Operation, Plugin};
use crate::lookups::Lookups;

/// Namespaces that the cluster cannot be without.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle;

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn mutate(&self, attributes: &mut Attributes<'_>, lookups: &dyn Lookups) -> Result<(), Status> {
        let is_namespace =
            attributes.resource.group.is_empty() && attributes.resource.resource == "namespaces";
        if is_namespace {
            let goes = attributes.operation == Operation::Delete && attributes.subresource.is_empty();
            if goes && IMMORTAL.contains(&attributes.name) {
                return Err(attributes.forbidden("this namespace may not be deleted"));
            }
            return Ok(());
        }
        if attributes.namespace.is_empty()
            || !matches!(attributes.operation, Operation::Create | Operation::Update)
            || attributes.resource.group == "authorization.k8s.io"
        {
            return Ok(());
        }
        let Some(namespace) = lookups.get(&NAMESPACES, "", attributes.namespace) else {
            return Err(Status::not_found(&NAMESPACES.group_resource(), attributes.namespace));
        };
        if attributes.operation != Operation::Create || !namespace.is_deleting() {
            return Ok(());
        }
        let name = attributes.namespace;
        let mut status = attributes.forbidden(&format!(
            "unable to create new content in namespace {name} because it is being terminated"
        ));
        if let Some(details) = &mut status.details {
            details.causes.push(Cause {
                reason: "NamespaceTerminating".into(),
                message: format!("namespace {name} is being terminated"),
                field: "metadata.namespace".into(),
            });
        }
        Err(status)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Case;
    use super::*;
    use api::json;

    #[test]
    fn content_needs_a_living_namespace() {
        let check = |namespace: &str, expect: &str| {
            let there = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "there"}});
            let going = json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": "going", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
            let outcome = Case::pod(json!({"metadata": {"name": "p"}}))
                .having(NAMESPACES, there)
                .having(NAMESPACES, going)
                .within(namespace)
                .mutate(&NamespaceLifecycle);
            assert_eq!(outcome.err().map(|status| status.message).unwrap_or_default(), expect);
        };
        check("there", "");
        check("none", "namespaces \"none\" not found");
        check(
            "going",
            "pods \"p\" is forbidden: unable to create new content in namespace going because it is being terminated",
        );
    }
}
