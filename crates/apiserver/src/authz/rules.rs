//! The fixed rules that stand in for RBAC: what all authenticated users may do, and our own loops' identities.

use super::Attributes;
use crate::identity::{AUTHENTICATED, Identity};

/// A rule as RBAC would have it. `*` stands for all.
#[derive(Debug)]
pub struct Rule {
    /// Who: a user's or group's name.
    pub subject: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// API groups; empty with `paths`.
    pub groups: &'static [&'static str],
    /// Resources, with subresources as `pods/status`; empty with `paths`.
    pub resources: &'static [&'static str],
    /// Paths that are no resources; a `*` at the end stands for what follows.
    pub paths: &'static [&'static str],
}

const fn resources(
    subject: &'static str,
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
) -> Rule {
    Rule { subject, verbs, groups, resources, paths: &[] }
}

const fn paths(
    subject: &'static str,
    verbs: &'static [&'static str],
    paths: &'static [&'static str],
) -> Rule {
    Rule { subject, verbs, groups: &[], resources: &[], paths }
}

/// The subject that everybody is, with or without credentials.
const EVERYBODY: &str = "*";
const READ: &[&str] = &["get", "list", "watch"];
const CONTROLLERS: &str = "system:kube-controller-manager";
const SCHEDULER: &str = "system:kube-scheduler";
const DNS: &str = "system:kube-dns";
const PROXY: &str = "system:kube-proxy";
const KUBELET_CLIENT: &str = "system:kube-apiserver-kubelet-client";

/// All of them. The first three are upstream's bootstrap roles `system:public-info-viewer`, `system:discovery`
/// and `system:basic-user`.
static RULES: &[Rule] = &[
    paths(EVERYBODY, &["get"], &["/healthz", "/livez", "/readyz", "/version", "/version/"]),
    paths(
        AUTHENTICATED,
        &["get"],
        &[
            "/api",
            "/api/*",
            "/apis",
            "/apis/*",
            "/healthz",
            "/livez",
            "/openapi",
            "/openapi/*",
            "/readyz",
            "/version",
            "/version/",
            "/",
        ],
    ),
    resources(
        AUTHENTICATED,
        &["create"],
        &["authorization.k8s.io", "authentication.k8s.io"],
        &["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"],
    ),
    // The controllers run as one identity: what one of them may do, the process could do anyway.
    resources(CONTROLLERS, &["*"], &["*"], &["*"]),
    resources(
        SCHEDULER,
        READ,
        &["", "apps", "policy", "storage.k8s.io", "resource.k8s.io", "scheduling.k8s.io"],
        &[
            "nodes",
            "pods",
            "services",
            "replicationcontrollers",
            "namespaces",
            "persistentvolumes",
            "persistentvolumeclaims",
            "replicasets",
            "statefulsets",
            "poddisruptionbudgets",
            "storageclasses",
            "csinodes",
            "csidrivers",
            "csistoragecapacities",
            "volumeattachments",
            "deviceclasses",
            "resourceclaims",
            "resourceslices",
            "priorityclasses",
        ],
    ),
    resources(SCHEDULER, &["create"], &[""], &["bindings", "pods/binding"]),
    resources(SCHEDULER, &["patch", "update"], &[""], &["pods/status"]),
    resources(SCHEDULER, &["delete"], &[""], &["pods"]),
    resources(SCHEDULER, &["create", "patch", "update"], &["", "events.k8s.io"], &["events"]),
    resources(SCHEDULER, &["*"], &["coordination.k8s.io"], &["leases"]),
    resources(
        DNS,
        READ,
        &["", "discovery.k8s.io"],
        &["services", "endpoints", "endpointslices", "pods", "namespaces", "nodes"],
    ),
    resources(
        PROXY,
        READ,
        &["", "discovery.k8s.io", "networking.k8s.io"],
        &["services", "endpointslices", "nodes", "servicecidrs"],
    ),
    resources(PROXY, &["create", "patch", "update"], &["", "events.k8s.io"], &["events"]),
    resources(
        KUBELET_CLIENT,
        &["*"],
        &[""],
        &["nodes/proxy", "nodes/log", "nodes/stats", "nodes/metrics", "nodes/spec"],
    ),
    // Issuer discovery, which upstream gives to all ServiceAccounts.
    paths(
        "system:serviceaccounts",
        &["get"],
        &[
            "/.well-known/openid-configuration",
            "/.well-known/openid-configuration/",
            "/openid/v1/jwks",
            "/openid/v1/jwks/",
        ],
    ),
];

/// The rules that hold for somebody.
pub fn rules_for(identity: &Identity) -> impl Iterator<Item = &'static Rule> {
    RULES.iter().filter(move |rule| {
        rule.subject == EVERYBODY || rule.subject == identity.name || identity.is_in(rule.subject)
    })
}

impl Rule {
    /// Whether the rule allows what is asked.
    pub fn covers(&self, attributes: &Attributes<'_>) -> bool {
        let any = |list: &[&str], word: &str| list.iter().any(|entry| *entry == "*" || *entry == word);
        match attributes {
            Attributes::Path { verb, path } => {
                let matches = |entry: &&'static str| match entry.strip_suffix('*') {
                    Some(start) => path.starts_with(start),
                    None => entry == path,
                };
                any(self.verbs, verb) && self.paths.iter().any(matches)
            }
            Attributes::Resource { verb, group, resource, subresource, .. } => {
                let mut full = (*resource).to_owned();
                if !subresource.is_empty() {
                    full.push('/');
                    full.push_str(subresource);
                }
                any(self.verbs, verb) && any(self.groups, group) && any(self.resources, &full)
            }
        }
    }
}
