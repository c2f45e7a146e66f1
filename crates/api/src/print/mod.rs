//! Objects as rows of a table (`meta.k8s.io/v1` Table), cell by cell as upstream's printers write them.
//!
//! Columns are facts of the kind; how their cells are filled is one small function a kind, all named in [`cells`].
//! Reading goes through trees, for what is printed is read by a person and need not be fast.

mod duration;
mod heading;
mod network;
pub mod ordered;
mod pod;
mod policy;
mod storage;
mod view;
mod workload;

use jiff::Timestamp;

use crate::table::KindFacts;
use crate::value::{Map, Value};

pub use duration::human;

use view::View;

/// How much of each object goes beside its row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The metadata, as a PartialObjectMetadata.
    #[default]
    Metadata,
    /// The object.
    Object,
}

impl IncludeObject {
    /// The parameter `includeObject`; `None` if it is no such word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// A table of objects. `list_metadata` is the list's (or the single object's resource version); `headers` is false
/// for all events of a watch but the first, as upstream.
pub fn table(
    kind: &KindFacts,
    objects: &[Value],
    list_metadata: Map,
    include: IncludeObject,
    headers: bool,
    now: Timestamp,
) -> Value {
    let default_class = storage::default_class(kind, objects);
    let rows: Vec<Value> =
        objects.iter().map(|object| row(kind, object, include, default_class.as_deref(), now)).collect();
    let mut table = crate::json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1"});
    table.set(&["metadata"], list_metadata);
    table.set(&["columnDefinitions"], if headers { columns(kind) } else { Value::Null });
    // Upstream's printer of kinds that have none of their own makes nothing of nothing.
    let has_own = kind.columns.iter().all(|column| column.name != "Created At");
    table.set(&["rows"], if rows.is_empty() && !has_own { Value::Null } else { rows.into() });
    table
}

fn columns(kind: &KindFacts) -> Value {
    let column = |column: &crate::table::Column| {
        let mut value = crate::json!({});
        value.set(&["description"], heading::description(kind, column));
        value.set(&["name"], column.name);
        value.set(&["type"], column.ty);
        value.set(&["format"], if column.format == "-" { "" } else { column.format });
        value.set(&["priority"], i64::from(column.priority));
        value
    };
    Value::Array(kind.columns.iter().map(column).collect())
}

fn row(
    kind: &KindFacts,
    object: &Value,
    include: IncludeObject,
    default_class: Option<&str>,
    now: Timestamp,
) -> Value {
    let view = View { object, now };
    let mut cells = cells(kind, view);
    if default_class.is_some_and(|name| name == view.name()) {
        cells[0] = format!("{} (default)", view.name()).into();
    }
    let mut row = Value::object();
    row.set(&["cells"], Value::Array(cells));
    if kind.group.is_empty()
        && kind.kind == "Pod"
        && let Some(condition) = pod::condition(view)
    {
        row.set(&["conditions"], vec![condition]);
    }
    let beside = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Object => object.clone(),
        IncludeObject::Metadata => {
            let mut partial = crate::json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"});
            partial.set(&["metadata"], object.get("metadata").cloned().unwrap_or_else(Value::object));
            workload::hide_inner(kind, &mut partial);
            partial
        }
    };
    row.set(&["object"], beside);
    row
}

/// The cells of an object's row, in the order of the kind's columns, wide ones included.
pub fn cells_of(kind: &KindFacts, object: &Value, now: Timestamp) -> Vec<Value> {
    cells(kind, View { object, now })
}

fn cells(kind: &KindFacts, view: View<'_>) -> Vec<Value> {
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::pod(view),
        ("", "PodTemplate") => pod::pod_template(view),
        ("", "Node") => pod::node(view),
        ("", "Event") | ("events.k8s.io", "Event") => pod::event(view),
        ("", "Namespace") => vec![view.name().into(), view.text(&["status", "phase"]).into(), view.age()],
        ("", "ConfigMap") => policy::config_map(view),
        ("", "Secret") => policy::secret(view),
        ("", "ResourceQuota") => policy::resource_quota(view),
        ("", "ComponentStatus") => policy::component_status(view),
        ("", "ReplicationController") => workload::replication_controller(view),
        ("apps", "ReplicaSet") => workload::replica_set(view),
        ("apps", "Deployment") => workload::deployment(view),
        ("apps", "StatefulSet") => workload::stateful_set(view),
        ("apps", "DaemonSet") => workload::daemon_set(view),
        ("apps", "ControllerRevision") => workload::controller_revision(view),
        ("batch", "Job") => workload::job(view),
        ("batch", "CronJob") => workload::cron_job(view),
        ("autoscaling", "HorizontalPodAutoscaler") => workload::autoscaler(view),
        ("autoscaling", "Scale") => workload::scale(view),
        ("", "Service") => network::service(view),
        ("", "Endpoints") => network::endpoints(view),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(view),
        ("networking.k8s.io", "Ingress") => network::ingress(view),
        ("networking.k8s.io", "IngressClass") => network::ingress_class(view),
        ("networking.k8s.io", "NetworkPolicy") => network::network_policy(view),
        ("networking.k8s.io", "ServiceCIDR") => network::service_cidr(view),
        ("networking.k8s.io", "IPAddress") => network::ip_address(view),
        ("", "PersistentVolume") => storage::volume(view),
        ("", "PersistentVolumeClaim") => storage::claim(view),
        ("storage.k8s.io", "StorageClass") => storage::class(view),
        ("storage.k8s.io", "VolumeAttachment") => storage::attachment(view),
        ("storage.k8s.io", "VolumeAttributesClass") => {
            vec![view.name().into(), view.text(&["driverName"]).into(), view.age()]
        }
        ("storage.k8s.io", "CSINode") => storage::csi_node(view),
        ("storage.k8s.io", "CSIDriver") => storage::csi_driver(view),
        ("policy", "PodDisruptionBudget") => policy::disruption_budget(view),
        ("scheduling.k8s.io", "PriorityClass") => policy::priority_class(view),
        ("scheduling.k8s.io", "PodGroup") => policy::pod_group(view),
        ("node.k8s.io", "RuntimeClass") => {
            vec![view.name().into(), view.text(&["handler"]).into(), view.age()]
        }
        ("coordination.k8s.io", "Lease") => {
            vec![view.name().into(), view.text(&["spec", "holderIdentity"]).into(), view.age()]
        }
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => {
            vec![view.name().into(), view.text(&["metadata", "creationTimestamp"]).into()]
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => policy::role_binding(view),
        ("certificates.k8s.io", "CertificateSigningRequest") => policy::signing_request(view),
        ("certificates.k8s.io", "ClusterTrustBundle") => {
            vec![view.name().into(), view.text_or(&["spec", "signerName"], "<none>").into()]
        }
        ("certificates.k8s.io", "PodCertificateRequest") => policy::pod_certificate_request(view),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => policy::custom_resource_definition(view),
        ("apiregistration.k8s.io", "APIService") => policy::api_service(view),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => policy::flow_schema(view),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => policy::priority_level(view),
        ("admissionregistration.k8s.io", _) => policy::admission(kind.kind, view),
        ("resource.k8s.io", "ResourceClaim") => policy::resource_claim(view),
        ("resource.k8s.io", "ResourceSlice") => policy::resource_slice(view),
        ("resource.k8s.io", "DeviceTaintRule") => policy::device_taint(view),
        ("storagemigration.k8s.io", "StorageVersionMigration") => policy::storage_migration(view),
        _ => plain(kind, view),
    }
}

/// Name and age; or name and the time of creation, where the columns say so.
fn plain(kind: &KindFacts, view: View<'_>) -> Vec<Value> {
    kind.columns
        .iter()
        .map(|column| match column.name {
            "Name" => view.name().into(),
            "Created At" => view.text(&["metadata", "creationTimestamp"]).into(),
            "Age" => view.age(),
            _ => Value::from(""),
        })
        .collect()
}

#[cfg(test)]
mod tests;
