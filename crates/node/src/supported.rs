//! Which fields of a pod's spec this node honours. Every leaf of the type is in one list here, and a test walks the
//! table of types to see it: a field is honoured, read by another component, reported, or refused with its name,
//! never ignored.
//!
//! To support a field, do what it says and move it to [`POD`] or [`CONTAINER`]; a test then asks how it shows
//! (`supported/observed.rs`).

use api::value::Value;

#[cfg(test)]
mod observed;

/// A field that a pod sets and that is not honoured here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Where, as `spec.containers[0].livenessProbe.grpc`.
    pub path: String,
    /// Why, and what to do.
    pub why: String,
    /// Whether the pod must not run; otherwise it runs and the field is only reported.
    pub refused: bool,
}

/// What is done with a field.
#[derive(Clone, Copy)]
enum Rule {
    /// It is honoured.
    Supported,
    /// Another component honours it.
    Elsewhere,
    /// These values are honoured, and what is empty.
    Only(&'static [&'static str], &'static str),
    /// It is honoured unless this function says why not.
    Unless(fn(&Value) -> Option<String>),
    /// The pod runs without it.
    Reported(&'static str),
    /// The pod does not run.
    Refused(&'static str),
}

use Rule::{Elsewhere, Only, Refused, Reported, Supported, Unless};

/// Every field of `containers[]` and `initContainers[]` but those of probes and hooks.
const CONTAINER: &[(&str, Rule)] = &[
    ("name", Supported),
    ("image", Supported),
    ("imagePullPolicy", Supported),
    ("command[]", Supported),
    ("args[]", Supported),
    ("workingDir", Supported),
    ("ports[].name", Supported),
    ("ports[].containerPort", Supported),
    ("ports[].protocol", Supported),
    ("ports[].hostPort", Supported),
    ("ports[].hostIP", Supported),
    ("envFrom[].prefix", Supported),
    ("envFrom[].configMapRef.name", Supported),
    ("envFrom[].configMapRef.optional", Supported),
    ("envFrom[].secretRef.name", Supported),
    ("envFrom[].secretRef.optional", Supported),
    ("env[].name", Supported),
    ("env[].value", Supported),
    // The server lets nothing in but v1.
    ("env[].valueFrom.fieldRef.apiVersion", Elsewhere),
    ("env[].valueFrom.fieldRef.fieldPath", Supported),
    ("env[].valueFrom.resourceFieldRef.containerName", Supported),
    ("env[].valueFrom.resourceFieldRef.resource", Supported),
    ("env[].valueFrom.resourceFieldRef.divisor", Supported),
    ("env[].valueFrom.configMapKeyRef.name", Supported),
    ("env[].valueFrom.configMapKeyRef.key", Supported),
    ("env[].valueFrom.configMapKeyRef.optional", Supported),
    ("env[].valueFrom.secretKeyRef.name", Supported),
    ("env[].valueFrom.secretKeyRef.key", Supported),
    ("env[].valueFrom.secretKeyRef.optional", Supported),
    (
        "env[].valueFrom.fileKeyRef",
        Refused("variables from files are not supported; use a ConfigMap or Secret"),
    ),
    ("resources.limits", Unless(resources)),
    ("resources.requests", Unless(resources)),
    ("resources.claims", Refused(CLAIMS)),
    // It says what a resize does to the container, and no resize is accepted.
    ("resizePolicy[].resourceName", Elsewhere),
    ("resizePolicy[].restartPolicy", Elsewhere),
    (
        "restartPolicy",
        Only(&["Always"], "only sidecars, init containers with Always, have a policy of their own"),
    ),
    ("restartPolicyRules", Refused("rules of restarting are not supported; use the pod's restartPolicy")),
    ("volumeMounts[].name", Supported),
    ("volumeMounts[].readOnly", Supported),
    // IfPossible asks for no more than there is.
    ("volumeMounts[].recursiveReadOnly", Only(&["Disabled", "IfPossible"], "mounts below it stay writable")),
    ("volumeMounts[].mountPath", Supported),
    ("volumeMounts[].subPath", Supported),
    ("volumeMounts[].subPathExpr", Supported),
    (
        "volumeMounts[].mountPropagation",
        Only(
            &["None", "HostToContainer"],
            "what a container mounts never reaches the host; use HostToContainer",
        ),
    ),
    ("volumeMounts[].bindMountOptions", Refused("options of bind mounts are not supported; remove them")),
    ("volumeDevices", Refused("block volumes are not supported; mount a file system with volumeMounts")),
    ("lifecycle.stopSignal", Supported),
    ("terminationMessagePath", Supported),
    ("terminationMessagePolicy", Supported),
    ("securityContext.capabilities.add[]", Supported),
    ("securityContext.capabilities.drop[]", Supported),
    ("securityContext.privileged", Supported),
    ("securityContext.runAsUser", Supported),
    ("securityContext.runAsGroup", Supported),
    ("securityContext.runAsNonRoot", Supported),
    ("securityContext.readOnlyRootFilesystem", Supported),
    ("securityContext.allowPrivilegeEscalation", Supported),
    ("securityContext.procMount", Supported),
    ("securityContext.seccompProfile.type", SECCOMP),
    ("securityContext.seccompProfile.localhostProfile", Refused(SECCOMP_PROFILE)),
    ("securityContext.seLinuxOptions", Refused(SELINUX)),
    ("securityContext.windowsOptions", Refused(WINDOWS)),
    ("securityContext.appArmorProfile.type", APPARMOR),
    ("securityContext.appArmorProfile.localhostProfile", Refused(APPARMOR_PROFILE)),
    ("stdin", Supported),
    ("stdinOnce", Supported),
    ("tty", Supported),
];

/// What a probe and a hook do.
const ACTION: &[(&str, Rule)] = &[
    ("exec.command[]", Supported),
    ("httpGet.path", Supported),
    ("httpGet.port", Supported),
    ("httpGet.host", Supported),
    ("httpGet.scheme", Supported),
    ("httpGet.httpHeaders[].name", Supported),
    ("httpGet.httpHeaders[].value", Supported),
    ("httpGet.protocol", Refused("HTTP/2 without TLS is not supported for probes; remove the field")),
    ("tcpSocket.port", Supported),
    ("tcpSocket.host", Supported),
];

/// What else a probe has.
const PROBE: &[(&str, Rule)] = &[
    ("grpc.port", Supported),
    ("grpc.service", Supported),
    (
        "grpc.mode",
        Only(&["Plaintext"], "gRPC probes speak without TLS here; use Plaintext, tcpSocket or exec"),
    ),
    ("initialDelaySeconds", Supported),
    ("timeoutSeconds", Supported),
    ("periodSeconds", Supported),
    ("successThreshold", Supported),
    ("failureThreshold", Supported),
    ("terminationGracePeriodSeconds", Supported),
];

/// What else a hook has.
const HOOK: &[(&str, Rule)] = &[("sleep.seconds", Supported)];

/// Every field of the spec but those of containers and volumes.
const POD: &[(&str, Rule)] = &[
    (
        "ephemeralContainers",
        Refused("ephemeral containers are not supported on this node yet; use kubectl exec"),
    ),
    ("restartPolicy", Supported),
    ("terminationGracePeriodSeconds", Supported),
    ("activeDeadlineSeconds", Supported),
    ("dnsPolicy", Supported),
    ("dnsConfig.nameservers[]", Supported),
    ("dnsConfig.searches[]", Supported),
    ("dnsConfig.options[].name", Supported),
    ("dnsConfig.options[].value", Supported),
    ("serviceAccountName", Supported),
    // The server keeps both names of the account equal.
    ("serviceAccount", Elsewhere),
    ("automountServiceAccountToken", Elsewhere),
    ("nodeName", Supported),
    ("nodeSelector", Elsewhere),
    ("affinity", Elsewhere),
    ("tolerations", Elsewhere),
    ("topologySpreadConstraints", Elsewhere),
    ("schedulerName", Elsewhere),
    ("schedulingGates", Elsewhere),
    ("schedulingGroup", Refused("groups of pods are not supported; remove the field")),
    ("evictionResponders", Refused("eviction responders are not supported; remove the field")),
    ("priorityClassName", Elsewhere),
    ("priority", Elsewhere),
    ("preemptionPolicy", Elsewhere),
    ("overhead", Elsewhere),
    ("readinessGates[].conditionType", Supported),
    ("hostNetwork", Supported),
    ("hostPID", Supported),
    ("hostIPC", Supported),
    ("shareProcessNamespace", Supported),
    ("hostUsers", Unless(host_users)),
    ("hostname", Supported),
    ("subdomain", Supported),
    ("setHostnameAsFQDN", Refused("the host name is the short one on this node; remove the field")),
    ("hostnameOverride", Refused("a host name in place of the pod's is not supported; use hostname")),
    ("hostAliases[].ip", Supported),
    ("hostAliases[].hostnames[]", Supported),
    ("imagePullSecrets[].name", Supported),
    ("enableServiceLinks", Supported),
    ("runtimeClassName", Refused("this node has one runtime; remove the field")),
    ("os.name", Only(&["linux"], "this node runs Linux; use linux")),
    ("resourceClaims", Refused(CLAIMS)),
    ("resources", Refused("resources of a whole pod are not supported yet; give them to its containers")),
    ("securityContext.runAsUser", Supported),
    ("securityContext.runAsGroup", Supported),
    ("securityContext.runAsNonRoot", Supported),
    ("securityContext.supplementalGroups[]", Supported),
    ("securityContext.supplementalGroupsPolicy", Supported),
    ("securityContext.fsGroup", Supported),
    // The volumes of this node are written anew for each pod, so there is nothing to leave as it was.
    ("securityContext.fsGroupChangePolicy", Elsewhere),
    ("securityContext.sysctls[].name", Unless(sysctl)),
    ("securityContext.sysctls[].value", Supported),
    ("securityContext.seccompProfile.type", SECCOMP),
    ("securityContext.seccompProfile.localhostProfile", Refused(SECCOMP_PROFILE)),
    ("securityContext.seLinuxOptions", Refused(SELINUX)),
    (
        "securityContext.seLinuxChangePolicy",
        Reported("this node has no SELinux, so there are no labels to change"),
    ),
    ("securityContext.windowsOptions", Refused(WINDOWS)),
    ("securityContext.appArmorProfile.type", APPARMOR),
    ("securityContext.appArmorProfile.localhostProfile", Refused(APPARMOR_PROFILE)),
];

/// The types of volumes that there are, and every field of them. Any other field of `volumes[]` is refused.
const VOLUME: &[(&str, Rule)] = &[
    ("name", Supported),
    ("hostPath.path", Supported),
    ("hostPath.type", Supported),
    ("emptyDir.medium", Only(&["Memory"], "huge pages are not supported; use Memory or none")),
    ("emptyDir.sizeLimit", Supported),
    ("emptyDir.mode", Refused("the mode is 0777 on this node; remove the field")),
    ("configMap.name", Supported),
    ("secret.secretName", Supported),
    ("projected.defaultMode", Supported),
    ("projected.defaultUser", Refused(FILE_USER)),
    ("projected.sources[].configMap.name", Supported),
    ("projected.sources[].secret.name", Supported),
    ("projected.sources[].serviceAccountToken.audience", Supported),
    ("projected.sources[].serviceAccountToken.expirationSeconds", Supported),
    ("projected.sources[].serviceAccountToken.path", Supported),
    ("projected.sources[].serviceAccountToken.user", Refused(FILE_USER)),
    (
        "projected.sources[].clusterTrustBundle",
        Refused("bundles of trust are not supported; use a ConfigMap"),
    ),
    ("projected.sources[].podCertificate", Refused("certificates of pods are not supported; use a Secret")),
];

/// What ConfigMaps, Secrets and downward fields have in common, alone or projected.
const FILES: &[(&str, Rule)] = &[
    ("items[].key", Supported),
    ("items[].path", Supported),
    ("items[].mode", Supported),
    ("items[].user", Refused(FILE_USER)),
    ("items[].fieldRef.apiVersion", Elsewhere),
    ("items[].fieldRef.fieldPath", Supported),
    ("items[].resourceFieldRef.containerName", Supported),
    ("items[].resourceFieldRef.resource", Supported),
    ("items[].resourceFieldRef.divisor", Supported),
    ("defaultMode", Supported),
    ("defaultUser", Refused(FILE_USER)),
    ("optional", Supported),
];

const VOLUME_TYPE: &str = "this type of volume is not supported on this node yet; use emptyDir, hostPath, configMap, \
                           secret, downwardAPI or projected";
const CLAIMS: &str = "devices are not allocated on this node; remove the claims";
const FILE_USER: &str = "files belong to root and the pod's fsGroup; remove the field";
const SELINUX: &str = "this node has no SELinux; remove the field";
const WINDOWS: &str = "this node runs Linux; remove the field";
const SECCOMP: Rule = Only(
    &["RuntimeDefault", "Unconfined"],
    "profiles of one's own are not supported yet; use RuntimeDefault",
);
const SECCOMP_PROFILE: &str = "seccomp profiles of one's own are not supported yet; use type RuntimeDefault";
const APPARMOR: Rule = Only(&["Unconfined"], "this node does not load AppArmor profiles; use Unconfined");
const APPARMOR_PROFILE: &str = "this node does not load AppArmor profiles; remove the field";

/// What of `pod` is not honoured here, in the order of its fields. Refused fields come with `refused`.
pub fn check(pod: &Value) -> Vec<Unsupported> {
    let mut found = Vec::new();
    if let Some(spec) = pod.get("spec").and_then(Value::as_object) {
        for (name, value) in spec.iter() {
            walk(value, name.to_string(), name.to_string(), &mut found);
        }
    }
    found
}

/// `pattern` is the path with `[]` for every index, `path` the same with its numbers.
fn walk(value: &Value, pattern: String, path: String, found: &mut Vec<Unsupported>) {
    if is_nothing(value) && !matches!(rule(&pattern), Some(Unless(_))) {
        return;
    }
    let mut tell = |why: String, refused: bool| {
        found.push(Unsupported { path: format!("spec.{path}"), why, refused });
    };
    match rule(&pattern) {
        Some(Supported | Elsewhere) => {}
        Some(Refused(why)) => tell(why.to_owned(), true),
        Some(Reported(why)) => tell(why.to_owned(), false),
        Some(Only(values, why)) => {
            let text = value.as_str().unwrap_or_default();
            if !values.contains(&text) {
                tell(format!("{text} is not supported: {why}"), true);
            }
        }
        Some(Unless(judge)) => {
            if let Some(why) = judge(value) {
                tell(why, true);
            }
        }
        None => match value {
            Value::Object(map) => {
                for (name, member) in map.iter() {
                    walk(member, format!("{pattern}.{name}"), format!("{path}.{name}"), found);
                }
            }
            Value::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    walk(element, format!("{pattern}[]"), format!("{path}[{index}]"), found);
                }
            }
            _ => tell("this node does not know the field; remove it".to_owned(), true),
        },
    }
}

/// Absent and zero mean the same in every field that is refused.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Bool(on) => !on,
        Value::String(text) => text.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        other => other.is_null(),
    }
}

/// The rule of exactly this field, or of one that it is a part of where that is not honoured by parts.
fn rule(pattern: &str) -> Option<Rule> {
    if pattern == "containers[].restartPolicy" {
        return Some(Refused("only init containers have a restartPolicy of their own; use the pod's"));
    }
    if let Some(field) = strip(pattern, &["containers[].", "initContainers[]."]) {
        let action =
            strip(field, &["livenessProbe.", "readinessProbe.", "startupProbe."]).map(|f| (f, PROBE));
        let action = action
            .or_else(|| strip(field, &["lifecycle.postStart.", "lifecycle.preStop."]).map(|f| (f, HOOK)));
        return match action {
            Some((field, more)) => find(ACTION, field).or_else(|| find(more, field)),
            None => find(CONTAINER, field),
        };
    }
    if let Some(field) = pattern.strip_prefix("volumes[].") {
        let file = strip(field, &["configMap.", "secret.", "downwardAPI."]);
        let file = file.or_else(|| {
            field
                .strip_prefix("projected.sources[].")
                .and_then(|source| strip(source, &["configMap.", "secret.", "downwardAPI."]))
        });
        let known = find(VOLUME, field).or_else(|| file.and_then(|file| find(FILES, file)));
        let kind = field.split(['.', '[']).next().unwrap_or(field);
        let there = ["name", "hostPath", "emptyDir", "configMap", "secret", "downwardAPI", "projected"];
        return known.or_else(|| (!there.contains(&kind)).then_some(Refused(VOLUME_TYPE)));
    }
    find(POD, pattern)
}

fn strip<'a>(text: &'a str, prefixes: &[&str]) -> Option<&'a str> {
    prefixes.iter().find_map(|prefix| text.strip_prefix(prefix))
}

/// Fields that are honoured must be named to the leaf; others hold for all below them.
fn find(rules: &[(&str, Rule)], field: &str) -> Option<Rule> {
    rules.iter().find_map(|(name, rule)| {
        let below = field.strip_prefix(name)?;
        let part = below.starts_with(['.', '[']) && matches!(rule, Refused(_) | Reported(_) | Elsewhere);
        (below.is_empty() || part).then_some(*rule)
    })
}

fn host_users(value: &Value) -> Option<String> {
    (value.as_bool() == Some(false))
        .then(|| "user namespaces are not supported on this node yet; remove the field".into())
}

fn resources(value: &Value) -> Option<String> {
    let names = value.as_object()?.keys();
    let mut unknown = names.filter(|name| !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage"));
    let name = unknown.next()?;
    Some(format!("this node has no {name}; use cpu, memory and ephemeral-storage"))
}

/// Kubelet's list of sysctls that concern nobody but the pod.
fn sysctl(value: &Value) -> Option<String> {
    const SAFE: &[&str] = &[
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    ];
    let name = value.as_str().unwrap_or_default().replace('/', ".");
    (!SAFE.contains(&&*name))
        .then(|| format!("the sysctl {name} is not among the safe ones ({})", SAFE.join(", ")))
}

#[cfg(test)]
mod tests {
    use api::json;
    use api::table::{Shape, ShapeId, types};

    use super::*;

    /// The leaves of a shape; structs and lists are no leaves, maps are.
    fn leaves(shape: ShapeId, path: &str, found: &mut Vec<String>) {
        match types().bare(shape) {
            Shape::Struct(id) if !types().get(id).fields.is_empty() => {
                for field in &types().get(id).fields {
                    leaves(field.shape, &format!("{path}.{}", field.name), found);
                }
            }
            Shape::List(element) => leaves(element, &format!("{path}[]"), found),
            _ => found.push(path.to_owned()),
        }
    }

    pub(super) fn all_leaves() -> Vec<String> {
        let spec = types().get(types().find("core/v1.PodSpec").expect("it is in the table"));
        let mut found = Vec::new();
        for field in &spec.fields {
            leaves(field.shape, field.name, &mut found);
        }
        found
    }

    #[test]
    fn every_leaf_of_a_pods_spec_is_in_one_list() {
        let leaves = all_leaves();
        assert!(leaves.len() > 800, "the table has the whole type");
        let unknown: Vec<&String> = leaves.iter().filter(|leaf| rule(leaf).is_none()).collect();
        assert!(unknown.is_empty(), "say what becomes of {unknown:?}");
    }

    #[test]
    fn no_list_names_a_field_that_is_not_there() {
        let leaves = all_leaves();
        let there = |prefix: &str, name: &str| {
            let path = format!("{prefix}{name}");
            leaves.iter().any(|leaf| {
                leaf.strip_prefix(&path).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
            })
        };
        let lists = [
            ("containers[].", CONTAINER),
            ("containers[].livenessProbe.", ACTION),
            ("containers[].livenessProbe.", PROBE),
            ("initContainers[].lifecycle.preStop.", HOOK),
            ("", POD),
            ("volumes[].", VOLUME),
        ];
        for (prefix, list) in lists {
            let wrong: Vec<&str> =
                list.iter().map(|(name, _)| *name).filter(|name| !there(prefix, name)).collect();
            assert!(wrong.is_empty(), "{prefix} has no {wrong:?}");
        }
    }

    fn check_spec(spec: Value, expect: &[(&str, bool)]) {
        let found = check(&json!({"spec": spec}));
        let found: Vec<(&str, bool)> = found.iter().map(|one| (&*one.path, one.refused)).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn an_ordinary_pod_is_supported_as_the_server_completes_it() {
        check_spec(
            json!({
                "containers": [{
                    "name": "a", "image": "b", "env": [{"name": "x", "value": "y"}],
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                    "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
                    "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "periodSeconds": 10},
                    "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent",
                    "volumeMounts": [{"name": "t", "mountPath": "/t", "readOnly": true}]
                }],
                "initContainers": [{"name": "s", "image": "b", "restartPolicy": "Always"}],
                "volumes": [{"name": "t", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"apiVersion": "v1", "fieldPath": "x"}}]}}
                ]}}],
                "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]},
                "schedulerName": "default-scheduler", "priority": 0, "preemptionPolicy": "PreemptLowerPriority",
                "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
                "hostUsers": true, "setHostnameAsFQDN": false, "runtimeClassName": "", "nodeName": "n"
            }),
            &[],
        );
    }

    #[test]
    fn what_is_not_honoured_is_named() {
        check_spec(
            json!({
                "containers": [
                    {"name": "a", "resources": {"limits": {"hugepages-2Mi": "4Mi"}}, "restartPolicy": "Never",
                     "volumeMounts": [{"mountPropagation": "Bidirectional"}, {"mountPropagation": "None"}]},
                    {"name": "b", "startupProbe": {"grpc": {"port": 80, "mode": "TLS"}}, "volumeDevices": [{"name": "x"}],
                     "securityContext": {"appArmorProfile": {"type": "Localhost"}}}
                ],
                "ephemeralContainers": [{"name": "c"}],
                "hostUsers": false,
                "newField": 1,
                "runtimeClassName": "gvisor",
                "securityContext": {
                    "seLinuxChangePolicy": "Recursive", "sysctls": [{"name": "kernel.msgmax", "value": "1"}]
                },
                "volumes": [{"name": "n", "nfs": {"server": "s", "path": "/"}}, {"name": "h", "emptyDir": {"medium": "HugePages"}}]
            }),
            &[
                ("spec.containers[0].resources.limits", true),
                ("spec.containers[0].restartPolicy", true),
                ("spec.containers[0].volumeMounts[0].mountPropagation", true),
                ("spec.containers[1].securityContext.appArmorProfile.type", true),
                ("spec.containers[1].startupProbe.grpc.mode", true),
                ("spec.containers[1].volumeDevices", true),
                ("spec.ephemeralContainers", true),
                ("spec.hostUsers", true),
                ("spec.newField", true),
                ("spec.runtimeClassName", true),
                ("spec.securityContext.seLinuxChangePolicy", false),
                ("spec.securityContext.sysctls[0].name", true),
                ("spec.volumes[0].nfs", true),
                ("spec.volumes[1].emptyDir.medium", true),
            ],
        );
    }
}
