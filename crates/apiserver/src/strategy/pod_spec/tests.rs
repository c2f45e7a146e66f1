use super::*;
use api::json;

/// A pod as the gate has it when a strategy judges, and all that is wrong with it.
fn wrong(spec: Value) -> Vec<String> {
    let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}});
    object.set(&["spec"], spec);
    let ty = api::table::types().of_kind("", "v1", "Pod").unwrap();
    api::schema::apply_defaults(ty, &mut object);
    let mut causes = api::schema::validate(ty, &object);
    causes.extend(pod(&object, true));
    causes.iter().map(ToString::to_string).collect()
}

/// A spec with one right container that has `member` too.
fn with(member: &str, value: Value) -> Value {
    let mut container = json!({"name": "c", "image": "i"});
    container.set(&[member], value);
    let mut spec = json!({});
    spec.set(&["containers"], vec![container]);
    spec
}

fn check(spec: Value, expect: &[&str]) {
    assert_eq!(wrong(spec.clone()), expect, "{spec}");
}

#[test]
fn a_right_pod_is_right() {
    check(json!({"containers": [{"name": "c", "image": "i"}]}), &[]);
}

#[test]
fn containers_have_names_and_images() {
    check(json!({}), &["spec.containers: Required value"]);
    check(json!({"containers": [{"name": "c"}]}), &["spec.containers[0].image: Required value"]);
    check(
        json!({"containers": [{"name": "c", "image": "i"}], "initContainers": [{"name": "c", "image": "i"}]}),
        &["spec.initContainers[0].name: Duplicate value: \"c\""],
    );
    check(
        json!({"restartPolicy": "Sometimes", "containers": [{"name": "c", "image": "i"}]}),
        &[
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ],
    );
}

#[test]
fn ports_are_numbers_and_given_once() {
    check(
        with("ports", json!([{"containerPort": 70000}])),
        &[
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ],
    );
    check(
        with("ports", json!([{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}])),
        &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//9\""],
    );
}

#[test]
fn probes_do_one_thing() {
    check(
        with("livenessProbe", json!({})),
        &["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
    );
    check(
        with("livenessProbe", json!({"successThreshold": 2, "tcpSocket": {"port": 0}})),
        &[
            "spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ],
    );
}

#[test]
fn variables_have_one_source() {
    check(
        with("env", json!([{"name": "A", "valueFrom": {}}])),
        &["spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, \
         `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"],
    );
    check(
        with("env", json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}])),
        &[
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported \
         values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \
         \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
        ],
    );
}

#[test]
fn mounts_name_volumes() {
    check(
        with("volumeMounts", json!([{"name": "v", "mountPath": "/v"}])),
        &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
    );
    let mut spec = with("args", json!([]));
    spec.set(&["volumes"], json!([{"name": "v", "hostPath": {"path": "/a/../b"}}]));
    check(spec, &["spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"]);
}

#[test]
fn requests_stay_below_limits() {
    check(
        with("resources", json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}})),
        &[
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ],
    );
    check(
        with("resources", json!({"requests": {"memory": "-1"}})),
        &[
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
        ],
    );
}

#[test]
fn tolerations_fit_their_operators() {
    let mut spec = with("args", json!([]));
    spec.set(&["tolerations"], json!([{"value": "a"}]));
    check(
        spec,
        &[
            "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \
         \"match all values and all keys\"",
        ],
    );
}

#[test]
fn of_a_running_pod_only_little_changes() {
    let spec = json!({"containers": [{"name": "c", "image": "i"}], "nodeName": "a"});
    let mut old = json!({});
    old.set(&["spec"], spec);
    let check = |change: &dyn Fn(&mut Value), expect: &str| {
        let mut new = old.clone();
        change(&mut new);
        let causes: Vec<String> = update::pod(&new, &old).iter().map(ToString::to_string).collect();
        let causes = causes.join("; ");
        assert!(causes.starts_with(expect) && causes.is_empty() == expect.is_empty(), "{causes}");
    };
    check(&|pod| pod.set(&["spec", "containers"], json!([{"name": "c", "image": "j"}])), "");
    check(&|pod| pod.set(&["spec", "activeDeadlineSeconds"], 3), "");
    check(
        &|pod| pod.set(&["spec", "nodeName"], "b"),
        "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,",
    );
    check(
        &|pod| pod.set(&["spec", "containers"], json!([])),
        "spec.containers: Forbidden: pod updates may not add or remove containers",
    );
}

/// Upstream's own answers to wrong pods.
#[test]
fn rarer_mistakes_are_named_as_upstream_does() {
    let check_member = |field: &str, value: Value, expect: &[&str]| {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        spec.set(&[field], value);
        check(spec, expect);
    };
    check_member("imagePullSecrets", json!([{}]), &[]);
    check_member(
        "os",
        json!({"name": "x"}),
        &["spec.os: Unsupported value: \"x\": supported values: \"linux\", \"windows\""],
    );
    check_member(
        "topologySpreadConstraints",
        json!([{
            "maxSkew": 0, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"
        }]),
        &["spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"],
    );
    check_member(
        "securityContext",
        json!({
            "seccompProfile": {"type": "RuntimeDefault", "localhostProfile": "a"}
        }),
        &["spec.securityContext.seccompProfile.localhostProfile: Invalid value: \
         {\"Type\":\"RuntimeDefault\",\"LocalhostProfile\":\"a\"}: can only be set when seccomp type is Localhost"],
    );
    check_member(
        "affinity",
        json!({
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
        }),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: \
         must have at least one node selector term",
        ],
    );
}

/// Bodies that upstream 1.37.2 refused, each with the causes that it told, in its order.
const UPSTREAM: &str = include_str!("upstream.jsonl");

#[test]
fn what_is_wrong_with_several_members_is_told_in_upstreams_words_and_order() {
    let pods = crate::kinds::find(&api::names::PODS).unwrap();
    let ty = pods.stored_facts.ty;
    let mut different = String::new();
    for line in UPSTREAM.lines() {
        let told = api::value::parse(line.as_bytes()).unwrap();
        let mut object =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}});
        object.set(&["spec"], told.get("spec").cloned().unwrap());
        let mut object = api::schema::decode(ty, &object.to_bytes(), api::schema::FieldValidation::Strict)
            .unwrap_or_else(|error| panic!("{error}: {line}"))
            .value;
        api::schema::apply_defaults(ty, &mut object);
        let causes =
            crate::verbs::causes::merged(pods, api::schema::validate(ty, &object), pod(&object, true));
        let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
        let expect: Vec<&str> = told.array_at(&["causes"]).iter().filter_map(Value::as_str).collect();
        if causes != expect {
            different.push_str(&format!("{line}\n  instead: {causes:#?}\n"));
        }
    }
    assert!(different.is_empty(), "{different}");
}
