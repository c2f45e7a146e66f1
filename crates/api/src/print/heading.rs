//! What the columns of tables say of themselves.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::schema::descriptions::{Descriptions, unpack};
use crate::table::{Column, KindFacts, kinds, types};

/// Words of our own for columns that sum something up, so that no field's words fit: the kind, the column, the words.
/// Upstream's printers have words of theirs there, which are in no dependency. A kind of none is any that has no
/// line of its own.
const SUMMED_UP: &[(&str, &str, &str)] = &[
    ("", "Containers", "Names of the containers in the template."),
    ("", "Images", "Images of the containers in the template."),
    ("", "Webhooks", "How many webhooks the configuration has."),
    ("", "ParamKind", "The kind of the objects that hold parameters of the policy."),
    ("", "ParamRef", "The object that holds the parameters for this binding."),
    ("", "PolicyName", "The policy that is bound."),
    ("", "Role", "The role that is bound."),
    ("", "Users", "Users that the binding names."),
    ("", "Groups", "Groups that the binding names."),
    ("", "ServiceAccounts", "ServiceAccounts that the binding names."),
    ("", "StorageClass", "Name of the storage class."),
    ("", "VolumeAttributesClass", "Name of the class of volume attributes."),
    ("APIService", "Available", "Whether the service answers."),
    ("APIService", "Service", "The Service behind it, or Local."),
    ("CSINode", "Drivers", "How many CSI drivers the node has registered."),
    ("CertificateSigningRequest", "Condition", "Whether it is pending, approved, denied, failed or issued."),
    ("CertificateSigningRequest", "Requestor", "Who has made the request."),
    ("CertificateSigningRequest", "SignerName", "Whom the request asks to sign."),
    ("ComponentStatus", "Error", "The error of the last check."),
    ("ComponentStatus", "Message", "What the last check told."),
    ("ComponentStatus", "Status", "Whether the component is healthy."),
    ("ControllerRevision", "Controller", "The object whose history this is a part of."),
    ("CustomResourceDefinition", "Established", "Whether the kind is served."),
    ("CustomResourceDefinition", "Group", "The API group of the kind."),
    ("CustomResourceDefinition", "Kind", "The kind that is defined."),
    ("CustomResourceDefinition", "Scope", "Whether objects live in namespaces or in the cluster."),
    ("CustomResourceDefinition", "ShortNames", "Short names for command lines."),
    ("CustomResourceDefinition", "Versions", "Versions in which the kind is served."),
    ("Deployment", "Ready", "How many pods are ready, of how many that are wanted."),
    ("DeviceTaintRule", "Effect", "What the taint does to claims that do not tolerate it."),
    ("FlowSchema", "MissingPL", "Whether the priority level that it names is missing."),
    ("Ingress", "Address", "Addresses at which it answers."),
    ("Ingress", "Class", "The IngressClass that is to serve it."),
    ("Ingress", "Hosts", "Hosts that its rules are for."),
    ("Ingress", "Ports", "Ports that are open: 80, and 443 with TLS."),
    ("IngressClass", "Controller", "The controller that serves the class."),
    ("IngressClass", "Parameters", "The object that configures the class further."),
    ("Job", "Duration", "How long it took, or has taken so far."),
    ("Job", "Status", "Whether it runs, is suspended, complete or failed."),
    ("MutatingAdmissionPolicy", "Mutations", "How many mutations the policy has."),
    ("Namespace", "Status", "Whether the namespace is active or on its way out."),
    ("Node", "Roles", "Roles that the node's labels name."),
    ("Node", "Status", "Whether the node is ready, and whether it takes pods."),
    ("PersistentVolume", "StorageClass", "Storage class that the volume is of."),
    ("PersistentVolumeClaim", "StorageClass", "Storage class that the claim asks for."),
    ("Pod", "Ready", "How many containers are ready, of how many there are."),
    ("Pod", "Restarts", "How often containers were started anew, and when last."),
    ("Pod", "Status", "The phase of the pod, or what its containers wait for or ended with."),
    ("PodCertificateRequest", "State", "Whether it is pending, issued, denied or failed."),
    ("PodDisruptionBudget", "Allowed Disruptions", "How many pods may be evicted now."),
    ("PodDisruptionBudget", "Max Unavailable", "How many pods may be missing."),
    ("PodDisruptionBudget", "Min Available", "How many pods must stay."),
    ("PodTemplate", "Pod Labels", "Labels that pods of the template get."),
    ("ResourceClaim", "State", "Whether it is pending, allocated, reserved or being deleted."),
    ("ResourceQuota", "Limit", "What limits of pods are used, of how much there is."),
    ("ResourceQuota", "Request", "What requests and other things are used, of how much there is."),
    ("StatefulSet", "Ready", "How many pods are ready, of how many that are wanted."),
    ("StorageVersionMigration", "Resource", "What is migrated."),
    ("StorageVersionMigration", "Status", "How far the migration is."),
    ("ValidatingAdmissionPolicy", "Validations", "How many rules the policy has."),
];

/// The description of a column: that of the field that it shows, as upstream's, or a few words of our own. Columns of
/// which upstream says nothing have none.
///
/// The words of all columns (some 20 KB) are kept from the first table on; unpacking them for each would cost it
/// milliseconds.
pub(super) fn description(kind: &KindFacts, column: &Column) -> &'static str {
    static WORDS: OnceLock<HashMap<&'static str, Box<str>>> = OnceLock::new();
    if column.field.is_empty() {
        return summed_up(kind.kind, column.name);
    }
    WORDS.get_or_init(words).get(column.field).map_or("", |words| words)
}

fn summed_up(kind: &str, column: &str) -> &'static str {
    let of = |kind: &str| SUMMED_UP.iter().find(|(of, name, _)| *of == kind && *name == column);
    of(kind).or_else(|| of("")).map_or("", |(.., words)| words)
}

fn words() -> HashMap<&'static str, Box<str>> {
    let text = unpack();
    let all = Descriptions::read(&text);
    let columns = kinds().iter().flat_map(|kind| &kind.columns);
    let found = columns.filter_map(|column| {
        let (ty, field) = column.field.rsplit_once('.')?;
        let name = types().openapi_name(types().get(types().find(ty)?));
        Some((column.field, all.of(&name, field)?.into()))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_described() {
        for kind in kinds().iter() {
            for column in &kind.columns {
                // Of a RuntimeClass's handler upstream says nothing.
                let silent = kind.kind == "RuntimeClass" && column.name == "Handler";
                let words = description(kind, column);
                assert_eq!(words.is_empty(), silent, "{}: {}", kind.kind, column.name);
            }
        }
    }

    #[test]
    fn words_of_our_own_are_for_columns_that_there_are() {
        for (of, name, _) in SUMMED_UP {
            let fits = |kind: &&KindFacts| of.is_empty() || kind.kind == *of;
            let mut columns = kinds().iter().filter(fits).flat_map(|kind| &kind.columns);
            assert!(columns.any(|column| column.name == *name && column.field.is_empty()), "{of}: {name}");
        }
    }
}
