//! Defaults that depend on a sibling or on the place: what `table/data/conditional.txt` lists.
//!
//! These are rules of types, in one place; a rule that concerns two objects belongs to a strategy.

use crate::quantity::{Format, Quantity};
use crate::table::Type;
use crate::value::{Map, Str, Value};
use crate::{json, value};

type Rule = fn(&mut Map);

/// The rules by type. A rule whose root is not empty holds only in objects of that type.
const RULES: &[(&str, &str, Rule)] = &[
    ("apiextensions/v1.CustomResourceDefinitionNames", "", definition_names),
    ("apps/v1.DaemonSetUpdateStrategy", "", rolling_daemon_set),
    ("apps/v1.DeploymentStrategy", "", rolling_deployment),
    ("apps/v1.StatefulSetSpec", "", claim_templates),
    ("autoscaling/v2.HorizontalPodAutoscalerBehavior", "", scaling_rules),
    ("batch/v1.JobSpec", "batch/v1.Job", job_spec),
    ("core/v1.Container", "", pull_policy_of_image),
    ("core/v1.EphemeralContainer", "", pull_policy_of_image),
    ("core/v1.ImageVolumeSource", "", pull_policy_of_reference),
    ("core/v1.LimitRangeItem", "", limit_range_item),
    ("core/v1.Namespace", "core/v1.Namespace", name_label),
    ("core/v1.NodeStatus", "", allocatable),
    ("core/v1.PersistentVolumeSpec", "core/v1.PersistentVolume", volume_spec),
    ("core/v1.PodSpec", "", service_account),
    ("core/v1.PodSpec", "core/v1.Pod", pod_spec),
    ("core/v1.PodStatus", "", pod_addresses),
    ("core/v1.ReplicationController", "", controller_labels),
    ("core/v1.Secret", "", secret_texts),
    ("core/v1.Service", "", service),
    ("core/v1.ServicePort", "", target_port),
    ("core/v1.Volume", "", empty_volume),
    ("networking/v1.NetworkPolicySpec", "", policy_types),
    ("rbac/v1.Subject", "", subject_group),
    ("resource/v1.DeviceSubRequest", "", device_count),
    ("resource/v1.ExactDeviceRequest", "", device_count),
];

/// Whether a type has rules.
pub(super) fn knows(name: &str) -> bool {
    RULES.iter().any(|(ty, ..)| *ty == name)
}

/// Applies the rules of a type, after its own defaults and before those of its members.
pub(super) fn within(root: &str, ty: &Type, map: &mut Map) {
    let from = RULES.partition_point(|(name, ..)| *name < ty.name);
    for (_, only, rule) in RULES[from..].iter().take_while(|(name, ..)| *name == ty.name) {
        if only.is_empty() || *only == root {
            rule(map);
        }
    }
}

/// Applies what upstream settles before anything else.
pub(super) fn before(root: &str, map: &mut Map) {
    if root == "apps/v1.StatefulSet" {
        stateful_set_strategy(map);
    }
    if root == "batch/v1.Job" {
        job_labels(map);
    }
}

fn text<'a>(map: &'a Map, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn absent(map: &Map, key: &str) -> bool {
    map.get(key).is_none_or(Value::is_null)
}

fn default(map: &mut Map, key: &'static str, value: impl Into<Value>) {
    if absent(map, key) {
        map.insert(Str::const_new(key), value);
    }
}

fn definition_names(map: &mut Map) {
    let kind = text(map, "kind").to_owned();
    if !kind.is_empty() {
        default(map, "singular", kind.to_lowercase());
        default(map, "listKind", format!("{kind}List"));
    }
}

fn rolling_daemon_set(map: &mut Map) {
    if text(map, "type") == "RollingUpdate" {
        default(map, "rollingUpdate", json!({"maxUnavailable": 1, "maxSurge": 0}));
    }
}

fn rolling_deployment(map: &mut Map) {
    if text(map, "type") == "RollingUpdate" {
        default(map, "rollingUpdate", json!({"maxUnavailable": "25%", "maxSurge": "25%"}));
    }
}

/// Only where no type is given does upstream make the member; what is in it comes from the table.
fn stateful_set_strategy(map: &mut Map) {
    let strategy = map.get("spec").and_then(|spec| spec.get("updateStrategy"));
    if strategy.is_none_or(|strategy| strategy.str_at(&["type"]).unwrap_or_default().is_empty()) {
        let spec = map.entry("spec");
        if spec.at(&["updateStrategy", "rollingUpdate"]).is_none() {
            spec.set(&["updateStrategy", "rollingUpdate"], Value::object());
        }
    }
}

/// Upstream's conversion names the kind of the templates.
fn claim_templates(map: &mut Map) {
    let templates = map.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut);
    for template in templates.into_iter().flatten().filter_map(Value::as_object_mut) {
        template.insert("apiVersion", "v1");
        template.insert("kind", "PersistentVolumeClaim");
    }
}

fn scaling_rules(map: &mut Map) {
    let percent = || json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    if let Some(up) = map.get_mut("scaleUp").and_then(Value::as_object_mut) {
        default(up, "stabilizationWindowSeconds", 0);
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        default(up, "policies", vec![pods, percent()]);
    }
    if let Some(down) = map.get_mut("scaleDown").and_then(Value::as_object_mut) {
        default(down, "policies", vec![percent()]);
    }
}

fn job_spec(map: &mut Map) {
    if absent(map, "completions") && absent(map, "parallelism") {
        default(map, "completions", 1);
    }
    default(map, "parallelism", 1);
    let limit = if absent(map, "backoffLimitPerIndex") { 6 } else { i64::from(i32::MAX) };
    default(map, "backoffLimit", limit);
    default(map, "completionMode", "NonIndexed");
    default(map, "suspend", false);
    let policy = if absent(map, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" };
    default(map, "podReplacementPolicy", policy);
    default(map, "manualSelector", false);
}

fn job_labels(map: &mut Map) {
    let labels = map.get("spec").and_then(|spec| spec.at(&["template", "metadata", "labels"])).cloned();
    if let Some(labels) = labels {
        label(map, labels);
    }
}

/// Gives an object without labels those of its template.
fn label(map: &mut Map, labels: Value) {
    let metadata = map.entry("metadata");
    if metadata.get("labels").is_none_or(Value::is_empty) {
        metadata.set(&["labels"], labels);
    }
}

fn controller_labels(map: &mut Map) {
    let Some(spec) = map.get_mut("spec") else { return };
    let Some(labels) = spec.at(&["template", "metadata", "labels"]).cloned() else { return };
    if spec.get("selector").is_none_or(Value::is_empty) {
        spec.set(&["selector"], labels.clone());
    }
    label(map, labels);
}

fn pull_policy_of_image(map: &mut Map) {
    let policy = pull_policy(text(map, "image"));
    default(map, "imagePullPolicy", policy);
}

fn pull_policy_of_reference(map: &mut Map) {
    let policy = pull_policy(text(map, "reference"));
    default(map, "pullPolicy", policy);
}

/// An image that is named by tag `latest`, or by nothing, is pulled always.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let untagged = !last.contains(':') && !last.contains('@');
    let latest = last.ends_with(":latest") || untagged;
    if latest && is_reference(image) { "Always" } else { "IfNotPresent" }
}

/// Whether a reference without tag or digest is well formed; upstream finds no tag in one that is not.
fn is_reference(image: &str) -> bool {
    let (host, path) = match image.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("", image),
    };
    let host_fits = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    let name = path.strip_suffix(":latest").unwrap_or(path);
    host_fits
        && name.split('/').all(|part| {
            let inner =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
            let edge = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            part.bytes().all(inner) && edge(part.bytes().next()) && edge(part.bytes().next_back())
        })
}

fn limit_range_item(map: &mut Map) {
    if text(map, "type") != "Container" {
        return;
    }
    fill(map, "default", "max");
    fill(map, "defaultRequest", "default");
    fill(map, "defaultRequest", "min");
}

/// Copies into the map `to` what it lacks of the map `from`.
fn fill(map: &mut Map, to: &'static str, from: &str) {
    let Some(Value::Object(source)) = map.get(from).cloned() else { return };
    let target = map.entry(to);
    if target.as_object().is_none() {
        *target = Value::object();
    }
    let Value::Object(target) = target else { return };
    for (key, amount) in source {
        if !target.contains_key(&key) {
            target.insert(key, amount);
        }
    }
}

fn name_label(map: &mut Map) {
    let Some(metadata) = map.get_mut("metadata") else { return };
    let Some(name) = metadata.str_at(&["name"]).filter(|name| !name.is_empty()).map(str::to_owned) else {
        return;
    };
    metadata.set(&["labels", "kubernetes.io/metadata.name"], name);
}

/// What is given as text becomes data, as in upstream's conversion, and is never given back.
fn secret_texts(map: &mut Map) {
    let Some(Value::Object(texts)) = map.remove("stringData") else { return };
    for (key, text) in texts {
        let encoded = super::base64::text(text.as_str().unwrap_or_default().as_bytes());
        let data = map.entry("data");
        if data.is_null() {
            *data = Value::object();
        }
        if let Value::Object(data) = data {
            data.insert(key, encoded);
        }
    }
}

fn allocatable(map: &mut Map) {
    if let Some(capacity) = map.get("capacity").cloned() {
        default(map, "allocatable", capacity);
    }
}

fn volume_spec(map: &mut Map) {
    default(map, "persistentVolumeReclaimPolicy", "Retain");
    default(map, "volumeMode", "Filesystem");
}

fn service_account(map: &mut Map) {
    let name = match text(map, "serviceAccountName") {
        "" => text(map, "serviceAccount"),
        name => name,
    }
    .to_owned();
    if !name.is_empty() {
        map.insert("serviceAccountName", name.clone());
        map.insert("serviceAccount", name);
    }
}

fn pod_spec(map: &mut Map) {
    default(map, "enableServiceLinks", true);
    if map.get("terminationGracePeriodSeconds").and_then(Value::as_int).is_some_and(|seconds| seconds < 0) {
        map.insert("terminationGracePeriodSeconds", 1);
    }
    let host_network = map.get("hostNetwork").and_then(Value::as_bool).unwrap_or_default();
    for list in ["containers", "initContainers"] {
        let Some(containers) = map.get_mut(list).and_then(Value::as_array_mut) else { continue };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            if let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) {
                fill(resources, "requests", "limits");
            }
            if host_network {
                host_ports(container);
            }
        }
    }
}

fn host_ports(container: &mut Map) {
    let Some(ports) = container.get_mut("ports").and_then(Value::as_array_mut) else { return };
    for port in ports.iter_mut().filter_map(Value::as_object_mut) {
        if let Some(number) = port.get("containerPort").cloned() {
            default(port, "hostPort", number);
        }
    }
}

fn pod_addresses(map: &mut Map) {
    let first = map.get("podIPs").and_then(Value::as_array).and_then(|all| all.first());
    let first = first.and_then(|address| address.str_at(&["ip"])).unwrap_or_default().to_owned();
    let one = text(map, "podIP").to_owned();
    if one.is_empty() && !first.is_empty() {
        map.insert("podIP", first);
    } else if !one.is_empty() && one != first {
        let mut address = Value::object();
        address.set(&["ip"], one);
        map.insert("podIPs", vec![address]);
    }
}

/// Rules about the whole of a service, for status depends on spec.
fn service(map: &mut Map) {
    let spec = map.entry("spec");
    if spec.is_null() {
        *spec = Value::object();
    }
    let Value::Object(spec) = spec else { return };
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    if text(spec, "sessionAffinity") == "None" {
        spec.remove("sessionAffinityConfig");
    } else if text(spec, "sessionAffinity") == "ClientIP" {
        let seconds =
            spec.get("sessionAffinityConfig").and_then(|config| config.at(&["clientIP", "timeoutSeconds"]));
        if seconds.is_none() {
            spec.insert("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
        }
    }
    let kind = text(spec, "type").to_owned();
    let balanced = kind == "LoadBalancer";
    let external = spec.get("externalIPs").is_some_and(|list| !list.is_empty());
    if balanced || kind == "NodePort" || (kind == "ClusterIP" && external) {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if balanced {
        default(spec, "allocateLoadBalancerNodePorts", true);
        let ingress = map.get_mut("status").and_then(|status| status.at_mut(&["loadBalancer", "ingress"]));
        for each in
            ingress.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
        {
            if !text(each, "ip").is_empty() {
                default(each, "ipMode", "VIP");
            }
        }
    }
}

fn target_port(map: &mut Map) {
    if map.get("targetPort").is_none_or(Value::is_empty)
        && let Some(port) = map.get("port").cloned()
    {
        map.insert("targetPort", port);
    }
}

/// A volume without a source is an empty folder.
fn empty_volume(map: &mut Map) {
    if map.keys().all(|key| key == "name") {
        map.insert("emptyDir", Value::object());
    }
}

fn policy_types(map: &mut Map) {
    if map.get("policyTypes").is_none_or(Value::is_empty) {
        let mut policies = vec![Value::from("Ingress")];
        if map.get("egress").is_some_and(|rules| !rules.is_empty()) {
            policies.push("Egress".into());
        }
        map.insert("policyTypes", value::Value::Array(policies));
    }
}

fn subject_group(map: &mut Map) {
    if matches!(text(map, "kind"), "User" | "Group") {
        default(map, "apiGroup", "rbac.authorization.k8s.io");
    }
}

fn device_count(map: &mut Map) {
    if text(map, "allocationMode") == "ExactCount" {
        default(map, "count", 1);
    }
}

/// Amounts of resources are never finer than a thousandth.
pub(super) fn round_up_to_milli(amount: &str) -> Option<String> {
    let quantity = Quantity::parse(amount).ok()?;
    let milli = quantity.milli_value();
    let rounded = Quantity::from_milli(milli, Format::DecimalSi);
    let exact = milli.checked_mul(1_000_000).is_none_or(|nano| nano == quantity.scaled_value(-9));
    (!exact).then(|| rounded.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_sorted_by_type_and_name_types_that_exist() {
        assert!(RULES.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        for (name, root, _) in RULES {
            assert!(crate::table::types().find(name).is_some(), "{name}");
            assert!(root.is_empty() || crate::table::types().find(root).is_some(), "{root}");
        }
    }

    #[test]
    fn the_tag_decides_when_to_pull() {
        let check = |image: &str, expect: &str| assert_eq!(pull_policy(image), expect, "{image}");
        check("nginx", "Always");
        check("nginx:latest", "Always");
        check("localhost:5000/a/b", "Always");
        check("nginx:1", "IfNotPresent");
        check("nginx@sha256:abc", "IfNotPresent");
        check("", "IfNotPresent");
        check("Not A Name", "IfNotPresent");
    }
}
