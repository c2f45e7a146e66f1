//! Group, version, kind, resource; and the resources that our own loops speak of.

use std::fmt;

use crate::value::Str;

/// A resource in a version: what a URL names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// API group; empty for the core.
    pub group: Str,
    /// API version, as `v1`.
    pub version: Str,
    /// Plural name in lower case, as `pods`.
    pub resource: Str,
}

/// A resource in whatever version: what is stored and authorised, and what messages name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    /// API group; empty for the core.
    pub group: Str,
    /// Plural name in lower case.
    pub resource: Str,
}

/// A kind in a version: what an object says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    /// API group; empty for the core.
    pub group: Str,
    /// API version.
    pub version: Str,
    /// Kind, as `Pod`.
    pub kind: Str,
}

impl Resource {
    /// A name known at compile time.
    pub const fn known(group: &'static str, version: &'static str, resource: &'static str) -> Self {
        Self {
            group: Str::const_new(group),
            version: Str::const_new(version),
            resource: Str::const_new(resource),
        }
    }

    /// Without the version.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource { group: self.group.clone(), resource: self.resource.clone() }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

impl GroupVersionKind {
    /// From an object's `apiVersion` and `kind`.
    pub fn parse(api_version: &str, kind: &str) -> Self {
        let (group, version) = split_api_version(api_version);
        Self { group: group.into(), version: version.into(), kind: kind.into() }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

/// `v1` or `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// The annotation by which a node tells which of its ports are free for load balancers and which other programs hold: a
/// JSON object from `address:port/PROTOCOL` to who holds it, in words; to nothing if it is free.
pub const PORTS_ANNOTATION: &str = "ondol.dev/ports";

/// Group and version of `v1` or `apps/v1`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.resource)
        } else {
            write!(f, "{}.{}", self.resource, self.group)
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.group, self.version, self.resource)
    }
}

macro_rules! known {
    ($($name:ident = $group:literal, $version:literal, $resource:literal;)*) => {
        $(
            #[doc = concat!("`", $resource, "` of `", $group, "/", $version, "`.")]
            pub const $name: Resource = Resource::known($group, $version, $resource);
        )*
    };
}

known! {
    BINDINGS = "", "v1", "bindings";
    CONFIG_MAPS = "", "v1", "configmaps";
    ENDPOINTS = "", "v1", "endpoints";
    EVENTS = "", "v1", "events";
    NAMESPACES = "", "v1", "namespaces";
    NODES = "", "v1", "nodes";
    PERSISTENT_VOLUME_CLAIMS = "", "v1", "persistentvolumeclaims";
    PODS = "", "v1", "pods";
    REPLICATION_CONTROLLERS = "", "v1", "replicationcontrollers";
    SECRETS = "", "v1", "secrets";
    SERVICES = "", "v1", "services";
    SERVICE_ACCOUNTS = "", "v1", "serviceaccounts";
    DAEMON_SETS = "apps", "v1", "daemonsets";
    DEPLOYMENTS = "apps", "v1", "deployments";
    REPLICA_SETS = "apps", "v1", "replicasets";
    STATEFUL_SETS = "apps", "v1", "statefulsets";
    JOBS = "batch", "v1", "jobs";
    CRON_JOBS = "batch", "v1", "cronjobs";
    LEASES = "coordination.k8s.io", "v1", "leases";
    ENDPOINT_SLICES = "discovery.k8s.io", "v1", "endpointslices";
    IP_ADDRESSES = "networking.k8s.io", "v1", "ipaddresses";
    SERVICE_CIDRS = "networking.k8s.io", "v1", "servicecidrs";
    POD_DISRUPTION_BUDGETS = "policy", "v1", "poddisruptionbudgets";
    PRIORITY_CLASSES = "scheduling.k8s.io", "v1", "priorityclasses";
    RUNTIME_CLASSES = "node.k8s.io", "v1", "runtimeclasses";
    TOKEN_REVIEWS = "authentication.k8s.io", "v1", "tokenreviews";
    SUBJECT_ACCESS_REVIEWS = "authorization.k8s.io", "v1", "subjectaccessreviews";
}
