//! What upstream does in code for a kind, beyond what its table says: one small file a kind, one line in [`ALL`].
//!
//! Every method has a default, so that a kind without a strategy is served by its table alone. Trees are in the
//! storage version, decoded, pruned and defaulted by the table. Methods are synchronous and pure but for what
//! they read through [`Lookups`].

mod accounts;
mod autoscalers;
mod certificates;
mod configuration;
mod daemon_sets;
mod endpoints;
mod events;
mod fixed;
mod jobs;
mod namespaces;
mod nodes;
mod pod_spec;
mod pods;
mod policy;
mod ranges;
mod revisions;
mod services;
mod storage;
mod templates;
mod words;
mod workloads;

use api::names::{GroupResource, Resource};
use api::status::{Cause, Status};
use api::validation::names::NameRule;
use api::value::{Str, Value};

use crate::identity::Identity;
use crate::lookups::Lookups;

/// What surrounds a write.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Who asks.
    pub identity: &'a Identity,
    /// The present state.
    pub lookups: &'a dyn Lookups,
    /// Empty for the object itself, else as `status` or `ephemeralcontainers`.
    pub subresource: &'a str,
    /// Whether nothing is kept of the write.
    pub dry_run: bool,
}

/// A write that must happen in the same transaction as the object's own, or neither does.
#[derive(Clone, Debug, PartialEq)]
pub enum Companion {
    /// Makes an object; if its name is taken, the whole write begins anew with [`Strategy::allocate`].
    Create {
        /// Its resource, in the version of `object`.
        resource: Resource,
        /// The tree, with name and namespace; uid and creation time are filled in.
        object: Value,
    },
    /// Deletes an object, if it is there.
    Delete {
        /// Its resource.
        resource: Resource,
        /// Empty where the kind has none.
        namespace: Str,
        /// Its name.
        name: Str,
    },
}

/// What upstream does in code for a kind.
pub trait Strategy: Send + Sync {
    /// The kinds that it is for, as group and resource.
    fn resources(&self) -> &'static [(&'static str, &'static str)];

    /// Defaults that depend on other fields. Runs on every decoded object, also on updates, before admission.
    fn default(&self, _object: &mut Value) {}

    /// Clears and sets what a client may not choose. `status` is gone already (see [`Self::keeps_status`]).
    fn prepare_create(&self, _object: &mut Value, _context: &Context<'_>) {}

    /// The same for updates. `status` and the server's metadata are the old object's already. For subresources
    /// with a tree of the same kind (other than `status`) it runs with that subresource in the context.
    fn prepare_update(&self, _new: &mut Value, _old: &Value, _context: &Context<'_>) {}

    /// The same for updates of `status`. All but `status` and metadata are the old object's already.
    fn prepare_status(&self, _new: &mut Value, _old: &Value, _context: &Context<'_>) {}

    /// Rules that the table does not hold. The table's were checked already, and their causes come first.
    fn validate(&self, _object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        Vec::new()
    }

    /// Rules of creations alone. [`Self::validate`] runs too, before this.
    fn validate_create(&self, _object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        Vec::new()
    }

    /// When the metadata of a new object is judged.
    fn metadata_judged(&self) -> MetadataJudged {
        MetadataJudged::First
    }

    /// Rules of updates. [`Self::validate`] runs too, before this.
    fn validate_update(&self, _new: &Value, _old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        Vec::new()
    }

    /// Rules of updates of `status`; neither of the two above runs.
    fn validate_status(&self, _new: &Value, _old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        Vec::new()
    }

    /// What the client is to be warned of.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Gives the object what is scarce (addresses, ports), after validation. Runs on create and update; `old` is
    /// the object before. The companions are committed with the object.
    fn allocate(
        &self,
        _new: &mut Value,
        _old: Option<&Value>,
        _context: &Context<'_>,
    ) -> Result<Vec<Companion>, Status> {
        Ok(Vec::new())
    }

    /// Gives back what was allocated, in the transaction that removes the object.
    fn release(&self, _old: &Value, _context: &Context<'_>) -> Vec<Companion> {
        Vec::new()
    }

    /// Whether [`Self::allocate`] must not run twice at once, because it chooses among what lists show. The gate
    /// then holds a lock from before the lookups to the commit.
    fn is_exclusive(&self) -> bool {
        false
    }

    /// Whether a create keeps the `status` that the client sent (nodes register with one).
    fn keeps_status(&self) -> bool {
        false
    }

    /// Whether an update without a resource version is taken for the newest.
    fn allows_unconditional_update(&self) -> bool {
        true
    }

    /// Whether an update of what is not there creates it.
    fn allows_create_on_update(&self) -> bool {
        false
    }

    /// Seconds that a deletion leaves the object to end by itself: `None` removes it at once. `requested` is the
    /// client's `gracePeriodSeconds`.
    fn grace_seconds(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Whether something in the object, beside finalizers, forbids its removal (a namespace's `spec.finalizers`).
    fn is_held(&self, _object: &Value) -> bool {
        false
    }

    /// Changes what else shows that a deletion has begun (a namespace's phase).
    fn mark_deleting(&self, _object: &mut Value) {}

    /// Whether dependents stay when a deletion does not say.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// What a client is warned of whose deletion does not say what becomes of dependents.
    fn deletion_warning(&self) -> Option<&'static str> {
        None
    }

    /// A last word before a deletion is begun.
    fn validate_delete(&self, _object: &Value, _context: &Context<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// How `metadata.generation` counts.
    fn generation(&self) -> Generation {
        Generation::ByTable
    }
}

/// When the metadata of a new object is judged, which decides what a client is told first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataJudged {
    /// Before all else, as most of upstream's strategies do.
    First,
    /// Before all else, but for the form of its name.
    NameLast,
    /// After the strategy's rules.
    Last,
    /// By upstream's generic code, and only if nothing else is wrong.
    Alone,
}

/// How `metadata.generation` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// By [`counts_generation`]: 1 at first, one more whenever `spec` changes, or never set.
    ByTable,
    /// One more whenever anything but metadata and status changes.
    ByContent,
    /// The strategy's `prepare_*` do it.
    Own,
}

/// The strategy of kinds that need none.
struct Plain;

impl Strategy for Plain {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }
}

/// All strategies but those of [`fixed::ALL`].
pub static ALL: &[&dyn Strategy] = &[
    &accounts::ServiceAccounts,
    &autoscalers::Autoscalers,
    &certificates::SigningRequests,
    &configuration::ConfigMaps,
    &configuration::Secrets,
    &daemon_sets::DaemonSets,
    &endpoints::EndpointSlices,
    &endpoints::Endpoints,
    &events::Events,
    &events::NewEvents,
    &jobs::Jobs,
    &namespaces::Namespaces,
    &nodes::Nodes,
    &pods::Pods,
    &policy::DisruptionBudgets,
    &policy::Leases,
    &policy::PriorityClasses,
    &ranges::Addresses,
    &ranges::ServiceRanges,
    &revisions::ControllerRevisions,
    &services::Services,
    &storage::Claims,
    &storage::CsiNodes,
    &storage::Volumes,
    &workloads::Deployments,
    &workloads::ReplicaSets,
    &workloads::ReplicationControllers,
];

/// The address of a service range at `index`, counted from one.
pub fn address_of_range(range: &api::validation::address::Cidr, index: u128) -> std::net::IpAddr {
    services::addresses::nth(range, index.saturating_sub(1))
}

/// The strategy of a kind.
pub fn of(resource: &GroupResource) -> &'static dyn Strategy {
    ALL.iter()
        .copied()
        .chain(fixed::ALL.iter().map(|strategy| strategy as &dyn Strategy))
        .find(|strategy| {
            strategy
                .resources()
                .iter()
                .any(|(group, name)| resource.group == *group && resource.resource == *name)
        })
        .unwrap_or(&Plain)
}

/// Kinds whose generation counts changes of `spec`, or, where they have no `spec`, of everything but metadata.
/// Upstream sets it in the `PrepareForCreate` of each.
const COUNTED: &[(&str, &str)] = &[
    ("", "pods"),
    ("", "podtemplates"),
    ("", "replicationcontrollers"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("autoscaling", "horizontalpodautoscalers"),
    ("batch", "cronjobs"),
    ("batch", "jobs"),
    ("discovery.k8s.io", "endpointslices"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "networkpolicies"),
    ("policy", "poddisruptionbudgets"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceslices"),
    ("scheduling.k8s.io", "priorityclasses"),
];

/// Whether a kind's `metadata.generation` is kept.
pub fn counts_generation(resource: &GroupResource) -> bool {
    COUNTED.iter().any(|(group, name)| resource.group == *group && resource.resource == *name)
}

/// All that the client is to be warned of: what the strategy says, and what any template of pods gives cause for.
pub fn warnings(
    strategy: &dyn Strategy,
    resource: &GroupResource,
    new: &Value,
    old: Option<&Value>,
) -> Vec<String> {
    let mut out = strategy.warnings(new, old);
    out.extend(templates::warnings(resource, new, old));
    out
}

/// Whether upstream looks at the names of finalizers at updates too, as its code of these kinds does.
pub fn judges_finalizers_again(resource: &GroupResource) -> bool {
    let kinds = ["configmaps", "secrets", "services", "serviceaccounts", "endpoints"];
    resource.group.is_empty() && kinds.contains(&resource.resource.as_str())
}

/// How names of a kind must look.
pub fn name_rule(resource: &GroupResource) -> NameRule {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "namespaces" | "services") => NameRule::Label,
        ("", "events") | ("policy", "poddisruptionbudgets") | ("rbac.authorization.k8s.io", _) => {
            NameRule::PathSegment
        }
        ("networking.k8s.io", "ipaddresses") => NameRule::Address,
        _ => NameRule::Subdomain,
    }
}

/// Kinds that restrict what others may do and are not enforced yet: to take them would be to lie.
const UNENFORCED: &[(&str, &str)] = &[
    ("", "limitranges"),
    ("", "resourcequotas"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("networking.k8s.io", "networkpolicies"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
];

/// Refuses to make what would not be enforced.
pub fn refuse_unenforced(resource: &GroupResource, name: &str) -> Result<(), Status> {
    if UNENFORCED.iter().any(|(group, other)| resource.group == *group && resource.resource == *other) {
        return Err(Status::forbidden(
            resource,
            name,
            "this version of Ondol does not enforce this kind yet, so it does not take it; remove it from your \
             manifests",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_enforced_is_refused_by_name() {
        let gr = GroupResource { group: "networking.k8s.io".into(), resource: "networkpolicies".into() };
        let status = refuse_unenforced(&gr, "deny").unwrap_err();
        assert!(
            status.message.starts_with("networkpolicies.networking.k8s.io \"deny\" is forbidden"),
            "{status}"
        );
        let pods = GroupResource { group: "".into(), resource: "pods".into() };
        assert!(refuse_unenforced(&pods, "a").is_ok());
    }
}
