//! The fields that a write through a resource or subresource puts back, so that nobody owns them for trying.

use super::set::FieldSet;

/// The fields that upstream's strategy of `resource` in `group` resets, for the resource itself (an empty
/// `subresource`) or for one of its subresources.
pub fn reset_fields(group: &str, resource: &str, subresource: &str) -> FieldSet {
    const STATUS: &[&str] = &["status"];
    const SPEC: &[&str] = &["spec"];
    const METADATA: &[&str] = &["metadata"];
    let whole_metadata = matches!(
        (group, resource),
        ("flowcontrol.apiserver.k8s.io" | "resource.k8s.io" | "scheduling.k8s.io" | "storage.k8s.io", _)
            | ("networking.k8s.io", "servicecidrs")
            | ("admissionregistration.k8s.io", "validatingadmissionpolicies")
            | ("storagemigration.k8s.io", _)
    );
    let with_status = whole_metadata
        || matches!(
            (group, resource),
            ("apps" | "autoscaling" | "batch" | "policy", _)
                | ("networking.k8s.io", "ingresses")
                | (
                    "",
                    "namespaces"
                        | "nodes"
                        | "persistentvolumes"
                        | "persistentvolumeclaims"
                        | "pods"
                        | "replicationcontrollers"
                        | "resourcequotas"
                        | "services"
                )
        );
    match (group, resource, subresource) {
        ("certificates.k8s.io", "certificatesigningrequests", "") => FieldSet::of(&[SPEC, STATUS]),
        ("certificates.k8s.io", "certificatesigningrequests", "status") => {
            FieldSet::of(&[SPEC, &["status", "conditions"]])
        }
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => {
            FieldSet::of(&[SPEC, &["status", "certificate"]])
        }
        ("", "namespaces", "finalize") => FieldSet::of(&[STATUS]),
        ("", "pods", "status") => {
            FieldSet::of(&[SPEC, &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])
        }
        ("apps", "deployments", "status") => FieldSet::of(&[SPEC, &["metadata", "labels"]]),
        (_, _, "") if with_status => FieldSet::of(&[STATUS]),
        (_, _, "status") if whole_metadata => FieldSet::of(&[SPEC, METADATA]),
        (_, _, "status") if with_status => FieldSet::of(&[SPEC]),
        _ => FieldSet::new(),
    }
}
