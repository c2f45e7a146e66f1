//! What a PodSpec's author is warned of, for upstream takes it and it hardly means what it says.

mod paths;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use api::quantity::Quantity;
use api::validation::{Path, cause, names};
use api::value::{Map, Value};

use super::text;

/// Labels of nodes that have other names now.
const NODE_LABELS: [(&str, &str); 8] = [
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
];
/// Annotations that do nothing any more.
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const NO_SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
/// Volumes whose drivers are gone.
const VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
/// Amounts of bytes.
const BYTES: [&str; 2] = ["memory", "ephemeral-storage"];

/// The warnings of a pod (`base` none) or of the template at `base`, in upstream's order.
pub(in crate::strategy) fn all(pod: &Value, base: Option<&Path>) -> Vec<String> {
    let empty = Value::object();
    let spec = pod.get("spec").unwrap_or(&empty);
    let place = |member: &str| base.map_or_else(|| Path::root(member), |base| base.child(member));
    let (path, annotations) = (place("spec"), place("metadata").child("annotations"));
    let annotated = pod.at(&["metadata", "annotations"]).and_then(Value::as_object);
    let mut out = Vec::new();
    node_labels(spec, &path, &mut out);
    for (key, words) in ANNOTATIONS {
        if annotated.is_some_and(|all| all.contains_key(key)) {
            out.push(format!("{}: {words}", annotations.key(key)));
        }
    }
    for (index, volume) in spec.array_at(&["volumes"]).iter().enumerate() {
        for (kind, words) in VOLUMES.iter().filter(|(kind, _)| present(volume, kind)) {
            out.push(format!("{}: {words}", path.child("volumes").index(index).child(kind)));
        }
    }
    paths::overlapping(spec, &mut out);
    doubles(spec, &path, &mut out);
    fractions(spec.get("overhead"), &path.child("overhead"), &BYTES, &mut out);
    let secure =
        |owner: &Value| owner.at(&["securityContext", "seccompProfile"]).is_some_and(|p| !p.is_null());
    if !secure(spec) && annotated.is_some_and(|all| all.contains_key(SECCOMP_POD)) {
        out.push(format!("{}: {NO_SECCOMP}", annotations.key(SECCOMP_POD)));
    }
    for (container, path) in containers(spec, &path) {
        let key = format!("{SECCOMP_CONTAINER}{}", text(container, "name"));
        if !secure(container) && annotated.is_some_and(|all| all.contains_key(&key)) {
            out.push(format!("{}: {NO_SECCOMP}", annotations.key(&key)));
        }
        for resource in BYTES {
            for side in ["limits", "requests"] {
                let path = path.child("resources").child(side);
                fractions(container.at(&["resources", side]), &path, &[resource], &mut out);
            }
        }
        variables(container, &path.child("env"), &mut out);
    }
    ports(spec, &path, &mut out);
    if spec.int_at(&["terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0) {
        let path = path.child("terminationGracePeriodSeconds");
        out.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    affinities(spec, &path.child("affinity"), &mut out);
    let servers = spec.array_at(&["dnsConfig", "nameservers"]);
    for (index, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        out.extend(address(server, &path.child("dnsConfig").child("nameservers").index(index)));
    }
    for (index, alias) in spec.array_at(&["hostAliases"]).iter().enumerate() {
        out.extend(address(text(alias, "ip"), &path.child("hostAliases").index(index).child("ip")));
    }
    out
}

fn present(value: &Value, key: &str) -> bool {
    value.get(key).is_some_and(|value| !value.is_null())
}

/// All containers in the order in which they come to run.
fn containers<'a>(spec: &'a Value, path: &Path) -> Vec<(&'a Value, Path)> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let of = |list: &'static str| {
        let path = path.child(list);
        spec.array_at(&[list]).iter().enumerate().map(move |(index, each)| (each, path.index(index)))
    };
    lists.into_iter().flat_map(of).collect()
}

/// What is said of an address that is not in canonical form. The older forms of IPv4 are refused before.
pub(in crate::strategy) fn address(text: &str, path: &Path) -> Option<String> {
    let canonical = text.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6)?.to_string();
    (canonical != text).then(|| {
        format!(
            "{path}: IPv6 address {} should be in RFC 5952 canonical format ({})",
            cause::quoted(text),
            cause::quoted(&canonical)
        )
    })
}

fn old_label(key: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(label, _)| *label == key).map(|(_, words)| *words)
}

fn node_labels(spec: &Value, path: &Path, out: &mut Vec<String>) {
    for key in spec.get("nodeSelector").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        out.extend(old_label(key).map(|words| format!("{}: {words}", path.child("nodeSelector").key(key))));
    }
    let affinity = path.child("affinity").child("nodeAffinity");
    let (required, preferred) =
        ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution");
    let terms = spec.array_at(&["affinity", "nodeAffinity", required, "nodeSelectorTerms"]);
    for (index, term) in terms.iter().enumerate() {
        node_term(term, false, &affinity.child(required).child("nodeSelectorTerms").index(index), out);
    }
    for (index, term) in spec.array_at(&["affinity", "nodeAffinity", preferred]).iter().enumerate() {
        let path = affinity.child(preferred).index(index).child("preference");
        node_term(term.get("preference").unwrap_or(&Value::Null), true, &path, out);
    }
    for (index, each) in spec.array_at(&["topologySpreadConstraints"]).iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(index);
        let key = text(each, "topologyKey");
        out.extend(old_label(key).map(|words| format!("{}: {key} is {words}", path.child("topologyKey"))));
        no_selector(each, &path, out);
    }
}

fn node_term(term: &Value, judges_values: bool, path: &Path, out: &mut Vec<String>) {
    for (index, expression) in term.array_at(&["matchExpressions"]).iter().enumerate() {
        let (key, path) = (text(expression, "key"), path.child("matchExpressions").index(index));
        out.extend(old_label(key).map(|words| format!("{}: {key} is {words}", path.child("key"))));
        let values = expression.array_at(&["values"]).iter().filter_map(Value::as_str).enumerate();
        for (at, value) in values.filter(|_| judges_values) {
            let path = path.child("values").index(at);
            let wrong = names::is_label_value(value);
            out.extend(wrong.iter().map(|why| format!("{path}: {value} is invalid, {why}")));
        }
    }
}

fn no_selector(owner: &Value, path: &Path, out: &mut Vec<String>) {
    if !present(owner, "labelSelector") {
        let path = path.child("labelSelector");
        out.push(format!("{path}: a null labelSelector results in matching no pod"));
    }
}

fn affinities(spec: &Value, path: &Path, out: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (required, preferred) = (
            "requiredDuringSchedulingIgnoredDuringExecution",
            "preferredDuringSchedulingIgnoredDuringExecution",
        );
        for (index, term) in spec.array_at(&["affinity", kind, required]).iter().enumerate() {
            no_selector(term, &path.child(kind).child(required).index(index), out);
        }
        for (index, weighted) in spec.array_at(&["affinity", kind, preferred]).iter().enumerate() {
            let path = path.child(kind).child(preferred).index(index).child("podAffinityTerm");
            no_selector(weighted.get("podAffinityTerm").unwrap_or(&Value::Null), &path, out);
        }
    }
}

/// Addresses and names that are there twice, and names that are none.
fn doubles(spec: &Value, path: &Path, out: &mut Vec<String>) {
    for (list, member, what) in [("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")] {
        let mut seen = HashSet::new();
        for (index, item) in spec.array_at(&[list]).iter().enumerate() {
            let value = text(item, member);
            if !seen.insert(value) {
                let path = path.child(list).index(index).child(member);
                out.push(format!("{path}: duplicate {what} {}", cause::quoted(value)));
            }
        }
    }
    for (index, item) in spec.array_at(&["imagePullSecrets"]).iter().enumerate() {
        if text(item, "name").is_empty() {
            let path = path.child("imagePullSecrets").index(index).child("name");
            out.push(format!("{path}: invalid empty name \"\""));
        }
    }
}

/// Parts of bytes.
fn fractions(amounts: Option<&Value>, path: &Path, resources: &[&str], out: &mut Vec<String>) {
    for resource in resources {
        let Some(text) = amounts.and_then(|amounts| amounts.str_at(&[resource])) else { continue };
        if Quantity::parse(text).is_ok_and(|amount| amount.milli_value() % 1000 != 0) {
            out.push(format!(
                "{}: fractional byte value {} is invalid, must be an integer",
                path.key(resource),
                cause::quoted(text)
            ));
        }
    }
}

/// Variables that are there twice, the later of which does not build on the earlier.
fn variables(container: &Value, path: &Path, out: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (index, variable) in container.array_at(&["env"]).iter().enumerate() {
        let (name, value) = (text(variable, "name"), text(variable, "value"));
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        if present(variable, "valueFrom") || value == reference || !value.contains(&reference) {
            out.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                path.index(index),
                cause::quoted(name)
            ));
        }
    }
}

/// One port of one container, as far as it is compared.
struct Port<'a> {
    path: Path,
    host_ip: &'a str,
    host: i64,
}

fn ports(spec: &Value, path: &Path, out: &mut Vec<String>) {
    let mut known: HashMap<(i64, &str), Vec<Port<'_>>> = HashMap::new();
    let all = containers(spec, path);
    let each = || {
        all.iter().flat_map(|(container, path)| {
            let path = path.child("ports");
            let ports = container.array_at(&["ports"]).iter().enumerate();
            ports.map(move |(index, port)| (port, path.index(index)))
        })
    };
    for (port, path) in each() {
        let number = |key: &str| port.int_at(&[key]).unwrap_or_default();
        let (host_ip, host) = (text(port, "hostIP"), number("hostPort"));
        if !host_ip.is_empty() && host == 0 {
            // Upstream prints its struct.
            out.push(format!(
                "{path}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{host_ip}}}",
                text(port, "name"),
                number("containerPort"),
                text(port, "protocol")
            ));
        }
        let same = known.entry((number("containerPort"), text(port, "protocol"))).or_default();
        for other in same.iter() {
            let how = if host_ip == other.host_ip && host == other.host {
                "duplicate"
            } else if host == 0 || other.host == 0 {
                "overlapping"
            } else if host == other.host && host_ip.is_empty() != other.host_ip.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            out.push(format!("{path}: {how} port definition with {}", other.path));
        }
        same.push(Port { path, host_ip, host });
    }
    let mut named: HashMap<&str, Path> = HashMap::new();
    for (port, path) in each().filter(|(port, _)| !text(port, "name").is_empty()) {
        let name = text(port, "name");
        match named.get(name) {
            Some(first) => out.push(format!(
                "{path}: duplicate port name {} with {first}, services and probes that select ports by name will use {first}",
                cause::quoted(name)
            )),
            None => drop(named.insert(name, path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    fn check(spec: Value, expect: &[&str]) {
        let mut pod = json!({"metadata": {"annotations": {}}});
        pod.set(&["spec"], spec);
        assert_eq!(all(&pod, None), expect, "{pod}");
    }

    #[test]
    fn what_hardly_means_what_it_says_is_told() {
        check(json!({"containers": [{"name": "c"}]}), &[]);
        check(
            json!({"containers": [{"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A"}]}]}),
            &[
                "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
            ],
        );
        check(
            json!({"containers": [{"resources": {"requests": {"memory": "10m", "cpu": "10m"}}}]}),
            &[
                "spec.containers[0].resources.requests[memory]: fractional byte value \"10m\" is invalid, must be an integer",
            ],
        );
        check(
            json!({"hostAliases": [{"ip": "1.2.3.4"}, {"ip": "1.2.3.4"}], "imagePullSecrets": [{}]}),
            &[
                "spec.hostAliases[1].ip: duplicate ip \"1.2.3.4\"",
                "spec.imagePullSecrets[0].name: invalid empty name \"\"",
            ],
        );
        check(
            json!({"dnsConfig": {"nameservers": ["fd00:0::1"]}}),
            &[
                "spec.dnsConfig.nameservers[0]: IPv6 address \"fd00:0::1\" should be in RFC 5952 canonical format (\"fd00::1\")",
            ],
        );
    }

    #[test]
    fn ports_that_meet_are_told_of_by_their_places() {
        check(
            json!({"containers": [
                {"ports": [{"containerPort": 1, "name": "a", "protocol": "TCP"}]},
                {"ports": [{"containerPort": 1, "name": "a", "protocol": "TCP"}, {"containerPort": 1, "hostPort": 2, "protocol": "TCP"}]}
            ]}),
            &[
                "spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]",
                "spec.containers[1].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[1].ports[1]: overlapping port definition with spec.containers[1].ports[0]",
                "spec.containers[1].ports[0]: duplicate port name \"a\" with spec.containers[0].ports[0], services and \
                 probes that select ports by name will use spec.containers[0].ports[0]",
            ],
        );
    }

    #[test]
    fn a_template_is_named_by_its_place() {
        let template = json!({"spec": {"nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "topologySpreadConstraints": [{"topologyKey": "z"}]}});
        let base = Path::root("spec").child("template");
        assert_eq!(
            all(&template, Some(&base)),
            [
                "spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" \
                 instead",
                "spec.template.spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching \
                 no pod",
            ]
        );
    }
}
