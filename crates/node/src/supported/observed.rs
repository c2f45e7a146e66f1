//! Shows leaf by leaf that what is called honoured is acted on. A leaf is changed in a pod that sets it, and what the
//! node would tell its hands must be another; or, where the hands are told in the course of time, a test is named
//! that sees it happen. A leaf that is read and dropped fails here.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use api::object::Object;
use image::document::ImageConfig;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::tests::all_leaves;
use super::{Rule, rule};
use crate::context::Settings;
use crate::pod::container::{Parts, hostname, spec};
use crate::pod::environment::{Facts, variables};
use crate::pod::network_files::{hosts, resolv_conf};
use crate::pod::sources::{Data, Missing, Sources};
use crate::probe::Action;
use crate::volume::{Volumes, references, tokens};

/// What is said of a node that does it anyway: every value that is accepted means what happens without it.
const AS_IT_IS: &[&str] = &[
    "containers[].volumeMounts[].recursiveReadOnly",
    "containers[].securityContext.appArmorProfile.type",
    "containers[].livenessProbe.grpc.mode",
    "securityContext.appArmorProfile.type",
    "hostUsers",
    "os.name",
];

const LEAVES: &str = "tests/pods/leaves.rs";
const SECURITY: &str = "tests/pods/security.rs";
const LIMITS: &str = "tests/pods/limits.rs";
const ENDINGS: &str = "tests/pods/endings.rs";
const HOST_PORTS: &str = "src/services/host_ports.rs";

const REQUEST: (&str, &str) = (LEAVES, "a_request_of_a_probe_is_the_one_that_was_asked_for");
const PATIENT: (&str, &str) = (LEAVES, "a_probe_waits_and_counts_as_it_says");
const CONDEMNED: (&str, &str) = (LEAVES, "a_container_that_fails_its_probe_has_the_probes_grace_or_the_pods");
const HOST_PORT: (&str, &str) = (HOST_PORTS, "a_host_port_leads_to_the_pods_own");
const WHO: (&str, &str) = (LEAVES, "a_containers_user_and_groups_come_before_the_pods");
const CONTEXT: (&str, &str) = (SECURITY, "the_context_of_a_container_is_what_it_says");
const SHARED: (&str, &str) = (SECURITY, "namespaces_are_shared_as_the_pod_says");
const SYSCTL: (&str, &str) = (LEAVES, "sysctls_are_those_of_the_pod");
const NAMED: (&str, &str) = (LEAVES, "a_pod_has_the_name_that_it_asks_for");

/// Leaves that are acted on in the course of a pod's life, and the test that sees it: init containers are containers
/// here, and all probes and hooks are one, for one piece of code serves them.
const SEEN: &[(&str, (&str, &str))] = &[
    (
        "containers[].image",
        (
            "tests/pods/changes.rs",
            "a_container_whose_image_is_changed_runs_again_with_the_new_one_whatever_its_policy_says",
        ),
    ),
    ("containers[].imagePullPolicy", (LEAVES, "an_image_that_is_never_pulled_is_not_looked_for")),
    ("containers[].ports[].name", REQUEST),
    ("containers[].ports[].containerPort", HOST_PORT),
    ("containers[].ports[].protocol", HOST_PORT),
    ("containers[].ports[].hostPort", HOST_PORT),
    ("containers[].ports[].hostIP", (HOST_PORTS, "a_host_ip_narrows_where_it_answers")),
    ("containers[].restartPolicy", (ENDINGS, "a_sidecar_that_is_not_up_yet_holds_what_is_behind_it")),
    ("containers[].lifecycle.stopSignal", (LEAVES, "a_container_is_asked_to_end_by_its_own_signal")),
    (
        "containers[].terminationMessagePolicy",
        (ENDINGS, "last_words_come_from_the_file_or_from_the_log_of_a_failure"),
    ),
    ("containers[].securityContext.runAsUser", WHO),
    ("containers[].securityContext.runAsGroup", WHO),
    ("containers[].livenessProbe.httpGet.path", REQUEST),
    ("containers[].livenessProbe.httpGet.port", REQUEST),
    ("containers[].livenessProbe.httpGet.host", REQUEST),
    ("containers[].livenessProbe.httpGet.scheme", ("src/probe/tests.rs", "http_hooks_take_any_answer")),
    ("containers[].livenessProbe.httpGet.httpHeaders[].name", REQUEST),
    ("containers[].livenessProbe.httpGet.httpHeaders[].value", REQUEST),
    ("containers[].livenessProbe.tcpSocket.port", REQUEST),
    ("containers[].livenessProbe.tcpSocket.host", REQUEST),
    ("containers[].livenessProbe.initialDelaySeconds", PATIENT),
    ("containers[].livenessProbe.periodSeconds", PATIENT),
    ("containers[].livenessProbe.successThreshold", PATIENT),
    ("containers[].livenessProbe.failureThreshold", CONDEMNED),
    ("containers[].livenessProbe.terminationGracePeriodSeconds", CONDEMNED),
    (
        "containers[].livenessProbe.timeoutSeconds",
        ("tests/pods/changes.rs", "a_probe_that_hangs_leaves_nothing_and_one_that_says_much_is_heard"),
    ),
    ("restartPolicy", (LEAVES, "a_pod_runs_again_if_its_policy_says_so")),
    ("terminationGracePeriodSeconds", CONDEMNED),
    ("activeDeadlineSeconds", (ENDINGS, "a_pod_fails_at_its_deadline")),
    ("readinessGates[].conditionType", (LEAVES, "a_gate_of_readiness_holds_the_pod_back")),
    ("hostNetwork", SHARED),
    ("hostPID", SHARED),
    ("hostIPC", SHARED),
    ("shareProcessNamespace", SHARED),
    ("hostname", NAMED),
    ("subdomain", NAMED),
    ("enableServiceLinks", (LEAVES, "services_are_variables_unless_the_pod_declines")),
    ("securityContext.runAsUser", CONTEXT),
    ("securityContext.runAsGroup", CONTEXT),
    ("securityContext.supplementalGroups[]", CONTEXT),
    ("securityContext.supplementalGroupsPolicy", WHO),
    ("securityContext.fsGroup", (SECURITY, "the_group_of_files_owns_the_volumes")),
    ("securityContext.sysctls[].name", SYSCTL),
    ("securityContext.sysctls[].value", SYSCTL),
    ("volumes[].emptyDir.medium", (LIMITS, "a_volume_in_memory_holds_what_its_limit_says")),
    ("volumes[].emptyDir.sizeLimit", (LIMITS, "a_volume_in_memory_holds_what_its_limit_says")),
];

/// The leaf as [`SEEN`] and [`AS_IT_IS`] call it.
fn common_name(leaf: &str) -> String {
    let mut name = leaf.replace("initContainers[].", "containers[].");
    for one in ["readinessProbe.", "startupProbe.", "lifecycle.postStart.", "lifecycle.preStop."] {
        name = name.replace(one, "livenessProbe.");
    }
    name
}

fn seen(leaf: &str) -> Option<(&'static str, &'static str)> {
    let name = common_name(leaf);
    SEEN.iter().find(|(known, _)| *known == name).map(|(_, test)| *test)
}

/// Objects called `m` have a key `k`; there are no others.
struct OneOfEach;

impl OneOfEach {
    fn data(kind: &'static str, name: &str) -> Result<Data, Missing> {
        match name {
            "m" => Ok(Data::from([("k".to_owned(), kind.as_bytes().to_vec())])),
            _ => Err(Missing::Object { kind, name: name.to_owned() }),
        }
    }
}

impl Sources for OneOfEach {
    fn config_map_text(&self, _: &str, name: &str) -> Result<Data, Missing> {
        Self::data("ConfigMap", name)
    }

    fn config_map(&self, _: &str, name: &str) -> Result<Data, Missing> {
        Self::data("ConfigMap", name)
    }

    fn secret(&self, _: &str, name: &str) -> Result<Data, Missing> {
        Self::data("Secret", name)
    }
}

/// A container that sets everything, but for what others that it sets would hide.
fn container(name: &str, probe: &Value, hook: &Value, security: &Value) -> Value {
    let key = |name: &str, optional: bool| json!({"name": name, "key": "k", "optional": optional});
    json!({
        "name": name, "command": ["run"], "args": ["fast"], "workingDir": "/w",
        "envFrom": [
            {"prefix": "P_", "configMapRef": {"name": "m", "optional": true}}, {"secretRef": {"name": "m", "optional": true}},
            {"configMapRef": {"name": "gone", "optional": true}}, {"secretRef": {"name": "gone", "optional": true}}
        ],
        "env": [
            {"name": "A", "value": "a"},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}},
            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "D", "valueFrom": {"resourceFieldRef":
                {"containerName": "c", "resource": "limits.cpu", "divisor": "1"}}},
            {"name": "E", "valueFrom": {"configMapKeyRef": (key("m", true))}},
            {"name": "F", "valueFrom": {"configMapKeyRef": (key("gone", true))}},
            {"name": "G", "valueFrom": {"secretKeyRef": (key("m", true))}},
            {"name": "H", "valueFrom": {"secretKeyRef": (key("gone", true))}}
        ],
        "resources": {"limits": {"cpu": "2", "memory": "100000000"}, "requests": {"cpu": "1", "memory": "50000000"}},
        "volumeMounts": [
            {"name": "host", "mountPath": "/h", "readOnly": true, "mountPropagation": "HostToContainer"},
            {"name": "host", "mountPath": "/s", "subPath": "sub"},
            {"name": "host", "mountPath": "/x", "subPathExpr": "$(A)"}
        ],
        "livenessProbe": probe, "readinessProbe": probe, "startupProbe": probe,
        "lifecycle": {"postStart": hook, "preStop": hook},
        "terminationMessagePath": "/dev/words", "securityContext": security,
        "stdin": true, "stdinOnce": true, "tty": true
    })
}

/// Two pods that set every leaf between them. `host` is a folder.
fn pods(host: &Path) -> [Value; 2] {
    let exec = json!({"exec": {"command": ["ask"]}});
    let grpc = json!({"grpc": {"port": 1, "service": "s"}});
    let own = json!({
        "capabilities": {"add": ["NET_ADMIN"], "drop": ["CHOWN"]}, "privileged": false, "runAsNonRoot": false,
        "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "procMount": "Unmasked",
        "seccompProfile": {"type": "RuntimeDefault"}
    });
    let items = json!([{"key": "k", "path": "f", "mode": 0o400}]);
    let fields = json!([
        {"path": "name", "mode": 0o400, "fieldRef": {"fieldPath": "metadata.name"}},
        {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu", "divisor": "1"}}
    ]);
    let volumes = json!([
        {"name": "host", "hostPath": {"path": host, "type": "Directory"}},
        {"name": "map", "configMap": {"name": "m", "defaultMode": 0o600, "optional": true}},
        {"name": "map-items", "configMap": {"name": "m", "items": items}},
        {"name": "map-gone", "configMap": {"name": "gone", "optional": true}},
        {"name": "secret", "secret": {"secretName": "m", "defaultMode": 0o600, "optional": true}},
        {"name": "secret-items", "secret": {"secretName": "m", "items": items}},
        {"name": "secret-gone", "secret": {"secretName": "gone", "optional": true}},
        {"name": "fields", "downwardAPI": {"items": fields, "defaultMode": 0o600}},
        {"name": "all", "projected": {"defaultMode": 0o600, "sources": [
            {"configMap": {"name": "m", "items": [{"key": "k", "path": "map", "mode": 0o400}]}},
            {"configMap": {"name": "gone", "optional": true}},
            {"secret": {"name": "m", "items": [{"key": "k", "path": "secret", "mode": 0o400}]}},
            {"secret": {"name": "gone", "optional": true}},
            {"downwardAPI": {"items": fields}},
            {"serviceAccountToken": {"audience": "somebody", "expirationSeconds": 700, "path": "token"}}
        ]}}
    ]);
    let pod = |containers: Value, inits: Value, security: Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {
                "containers": [containers], "initContainers": [inits], "volumes": volumes, "nodeName": "node",
                "serviceAccountName": "robot", "securityContext": security, "dnsPolicy": "None",
                "dnsConfig": {"nameservers": ["192.0.2.1"], "searches": ["example"], "options": [{"name": "ndots", "value": "2"}]},
                "hostAliases": [{"ip": "192.0.2.2", "hostnames": ["alias"]}], "imagePullSecrets": [{"name": "pull"}]
            }
        })
    };
    let whole = |security: &Value, probe: &Value, hook: &Value, of_pod: Value| {
        pod(container("c", probe, hook, security), container("i", probe, hook, security), of_pod)
    };
    let of_pod = json!({"runAsNonRoot": false, "seccompProfile": {"type": "RuntimeDefault"}});
    [
        whole(&own, &exec, &exec, json!({})),
        whole(&json!({}), &grpc, &json!({"sleep": {"seconds": 1}}), of_pod),
    ]
}

/// All that the node's hands are told of a pod, as text. The volumes are made in `folder`.
fn told(tree: &Value, folder: &Path) -> String {
    let json = serde_json::to_vec(tree).expect("it is JSON");
    let object = Object::from_tree(&api::value::parse(&json).expect("it is JSON")).expect("an object");
    let pod: core::Pod = serde_json::from_slice(&json).expect("a pod");
    let of_pod = pod.spec.as_ref().expect("a spec");
    let facts = Facts { host_ips: Vec::new(), pod_ips: Vec::new(), allocatable: BTreeMap::new() };
    let wanted = tokens(&pod);
    let given = wanted.keys().map(|key| (key.clone(), "token".to_owned())).collect();
    let volumes = Volumes {
        object: &object,
        pod: &pod,
        directory: folder,
        sources: &OneOfEach,
        tokens: &given,
        facts: &facts,
        now: Timestamp::UNIX_EPOCH,
    };
    let (paths, errors) = volumes.prepare();
    let mut said = vec![format!("{paths:?} {errors:?} {wanted:?} {:?}", references(&pod))];
    show(folder, &mut said);
    if folder.exists() {
        std::fs::remove_dir_all(folder).expect("removed");
    }
    let settings = Settings {
        node: "n".into(),
        host_ips: vec![],
        pods_dir: "/".into(),
        logs_dir: "/".into(),
        cluster_domain: "cluster.local".into(),
        cluster_dns: "10.96.0.10".parse().expect("an address"),
        host_resolv_conf: String::new(),
        memory_bytes: 1 << 30,
        allocatable: BTreeMap::new(),
    };
    said.push(resolv_conf(&settings, "n", of_pod));
    said.push(hosts(&hostname(&object, &pod), None, &["10.1.0.5".parse().expect("an address")], of_pod));
    for container in of_pod.containers.iter().chain(of_pod.init_containers.iter().flatten()) {
        let variables = variables(&object, &pod, container, &facts, &OneOfEach, &BTreeMap::new());
        let parts = Parts {
            object: &object,
            pod: &pod,
            container,
            restarts: 0,
            image: &ImageConfig::default(),
            root: sandbox::Root::Directory("/".into()),
            variables: variables.clone().unwrap_or_default(),
            user: sandbox::User::default(),
            volumes: &paths,
            files: Vec::new(),
            image_volumes: Vec::new(),
            termination_file: PathBuf::from("/words"),
            log: PathBuf::from("/log"),
            node_memory_bytes: settings.memory_bytes,
        };
        let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
        let hooks = container.lifecycle.iter().flat_map(|hooks| [&hooks.post_start, &hooks.pre_stop]);
        let asked: Vec<_> = probes.into_iter().flatten().map(Action::of_probe).collect();
        let hooked: Vec<_> = hooks.flatten().map(Action::of_hook).collect();
        said.push(format!("{variables:?} {:?} {asked:?} {hooked:?}", spec(parts)));
    }
    said.join("\n")
}

/// Names, permissions and contents of all that is in a folder.
fn show(folder: &Path, said: &mut Vec<String>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let (path, metadata) = (entry.path(), entry.metadata().expect("it is there"));
        said.push(format!("{} {:o}", path.display(), metadata.permissions().mode()));
        if metadata.is_dir() {
            show(&path, said);
        } else if metadata.is_file() {
            said.push(format!("{:?}", std::fs::read(&path)));
        }
    }
}

/// Gives every leaf of this path another value; whether there was one.
fn change(value: &mut Value, path: &str) -> bool {
    let (segment, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let Some(value) = value.get_mut(segment.trim_end_matches("[]")) else { return false };
    let below = |value: &mut Value| match rest {
        Some(rest) => change(value, rest),
        None => {
            *value = other(value);
            true
        }
    };
    match value.as_array_mut().filter(|_| segment.ends_with("[]")) {
        Some(elements) => elements.iter_mut().map(below).fold(false, |any, one| any | one),
        None => below(value),
    }
}

fn other(value: &Value) -> Value {
    match value {
        Value::Bool(on) => json!(!on),
        Value::String(text) => match text.parse::<u64>() {
            Ok(number) => json!((2 * number).to_string()),
            Err(_) => json!(format!("{text}x")),
        },
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), other(value))).collect(),
        number => json!(number.as_i64().expect("it is a number") + 1),
    }
}

#[test]
fn every_honoured_leaf_is_acted_on() {
    let scratch = tempfile::tempdir().expect("a folder");
    let (host, folder) = (scratch.path().join("host"), scratch.path().join("volumes"));
    std::fs::create_dir(&host).expect("made");
    let pods = pods(&host);
    let before: Vec<String> = pods.iter().map(|pod| told(pod, &folder)).collect();
    let leaves = all_leaves();
    let honoured = leaves.iter().filter(|leaf| {
        let rule = rule(leaf);
        matches!(rule, Some(Rule::Supported | Rule::Only(..) | Rule::Unless(_)))
            && seen(leaf).is_none()
            && !AS_IT_IS.contains(&&*common_name(leaf))
    });
    let (mut unset, mut dropped, mut acted_on) = (Vec::new(), Vec::new(), 0);
    for leaf in honoured {
        let mut set = false;
        let acts = pods.iter().zip(&before).any(|(pod, before)| {
            let mut pod = pod.clone();
            let there = pod.get_mut("spec").is_some_and(|spec| change(spec, leaf));
            set |= there;
            there && told(&pod, &folder) != *before
        });
        match (set, acts) {
            (false, _) => unset.push(leaf),
            (true, false) => dropped.push(leaf),
            (true, true) => acted_on += 1,
        }
    }
    assert!(unset.is_empty(), "set these in a pod here, or name the test that sees them: {unset:?}");
    assert!(dropped.is_empty(), "these are called honoured and change nothing: {dropped:?}");
    assert!(acted_on > 150, "only {acted_on} leaves were looked at");
}

#[test]
fn every_named_test_is_there_and_sets_the_leaf() {
    let leaves: Vec<String> = all_leaves().iter().map(|leaf| common_name(leaf)).collect();
    for (leaf, (file, test)) in SEEN {
        assert!(leaves.iter().any(|known| known == leaf), "there is no leaf {leaf}");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let source = std::fs::read_to_string(&path).expect("the file is there");
        let (before, body) = source
            .split_once(&format!("fn {test}("))
            .unwrap_or_else(|| panic!("{file} has no {test} for {leaf}"));
        let attribute = before.lines().rev().nth(1).unwrap_or_default();
        assert!(attribute.contains("#[test]") || attribute.contains("#[tokio::test"), "{test} is no test");
        // A function ends where a brace stands below its first letter.
        let indent = &attribute[..attribute.len() - attribute.trim_start().len()];
        let body = body.split(&format!("\n{indent}}}\n")).next().unwrap_or_default();
        let word = leaf.rsplit('.').next().unwrap_or(leaf).trim_end_matches("[]");
        assert!(body.contains(word), "{test} does not set {leaf}");
    }
}
