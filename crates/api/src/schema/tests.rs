//! The mechanism against upstream's recorded answers.

use super::*;
use crate::table::{TypeId, types};
use crate::value::{Value, parse};
use proptest::prelude::*;

fn type_of(name: &str) -> TypeId {
    types().find(name).unwrap()
}

/// A pod with this spec, as text.
fn pod(spec: &str) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"a"}},"spec":{spec}}}"#)
}

fn strict(text: &str) -> Result<Decoded, DecodeError> {
    decode(type_of("core/v1.Pod"), text.as_bytes(), FieldValidation::Strict)
}

#[test]
fn wrong_types_are_named_as_go_names_them() {
    let check = |spec: &str, expect: &str| {
        let message = strict(&pod(spec)).unwrap_err().to_string();
        assert_eq!(message, expect, "{spec}");
    };
    let field = "Go struct field";
    check(
        r#"{"containers":"x"}"#,
        &format!("json: cannot unmarshal string into {field} PodSpec.spec.containers of type []v1.Container"),
    );
    check(
        r#"{"containers":[{"name":"a","ports":[{"containerPort":80.0}]}]}"#,
        &format!(
            "json: cannot unmarshal number 80.0 into {field} \
             ContainerPort.spec.containers.ports.containerPort of type int32"
        ),
    );
    check(
        r#"{"restartPolicy":true,"containers":[]}"#,
        &format!(
            "json: cannot unmarshal bool into {field} PodSpec.spec.restartPolicy of type v1.RestartPolicy"
        ),
    );
    check("[]", &format!("json: cannot unmarshal array into {field} Pod.spec of type v1.PodSpec"));
    check(
        r#"{"nodeSelector":{"a":1}}"#,
        &format!("json: cannot unmarshal number into {field} PodSpec.spec.nodeSelector of type string"),
    );
    check(
        r#"{"containers":[{"livenessProbe":{"httpGet":{"port":true}}}]}"#,
        &format!(
            "json: cannot unmarshal bool into {field} \
             HTTPGetAction.spec.containers.livenessProbe.ProbeHandler.httpGet.port of type int32"
        ),
    );
    check(
        r#"{"automountServiceAccountToken":"x"}"#,
        &format!(
            "json: cannot unmarshal string into {field} PodSpec.spec.automountServiceAccountToken of type bool"
        ),
    );
    check(
        r#"{"containers":[{"resources":{"limits":{"cpu":true}}}]}"#,
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
}

#[test]
fn unknown_and_repeated_fields_are_reported_in_the_order_of_the_text() {
    let text = pod(r#"{"foo":1,"Containers":[],"containers":[{"name":"a","image":"x","bar":2,"name":"b"}]}"#);
    let found = [
        r#"unknown field "spec.foo""#,
        r#"unknown field "spec.Containers""#,
        r#"unknown field "spec.containers[0].bar""#,
        r#"duplicate field "spec.containers[0].name""#,
    ];
    assert_eq!(
        strict(&text).unwrap_err().to_string(),
        format!("strict decoding error: {}", found.join(", "))
    );
    let warned = decode(type_of("core/v1.Pod"), text.as_bytes(), FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings, found);
    assert_eq!(warned.value.str_at(&["metadata", "name"]), Some("a"));
    let ignored = decode(type_of("core/v1.Pod"), text.as_bytes(), FieldValidation::Ignore).unwrap();
    assert!(ignored.warnings.is_empty());
    assert_eq!(ignored.value, warned.value);
}

#[test]
fn syntax_errors_are_worded_as_gos() {
    let check = |text: &str, expect: &str| {
        let message = type_meta(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(message, format!("couldn't get version/kind; json parse error: {expect}"), "{text}");
    };
    check("", "unexpected end of JSON input");
    check(r#"{"kind":"#, "unexpected end of JSON input");
    check("{} x", "invalid character 'x' after top-level value");
    check(r#"{"a" 1}"#, "invalid character '1' after object key");
    check(r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair");
    check("{a}", "invalid character 'a' looking for beginning of object key string");
    check("[1 2]", "invalid character '2' after array element");
    check("trux", "invalid character 'x' in literal true (expecting 'e')");
    check("{\"a\":\"\n\"}", "invalid character '\\n' in string literal");
    check("[1.x]", "invalid character 'x' after decimal point in numeric literal");
    assert!(type_meta("[".repeat(20_000).as_bytes()).unwrap_err().to_string().contains("max depth"));
    assert_eq!(summary(b""), "<empty>");
    assert_eq!(summary(b"[]"), "5b5d");
    assert_eq!(summary(pod("{}").as_bytes()), r#"{"apiVersion":"v1","kind":"Pod ..."#);
}

/// What is stored of an object after decoding, defaults and finishing.
fn whole(ty: &str, text: &str) -> Value {
    let ty = type_of(ty);
    let mut value = decode(ty, text.as_bytes(), FieldValidation::Strict).unwrap().value;
    apply_defaults(ty, &mut value);
    finish(ty, &mut value);
    value
}

#[test]
fn a_small_pod_gets_upstreams_defaults() {
    let got = whole(
        "core/v1.Pod",
        &pod(r#"{"nodeName":"","containers":[{"name":"a","image":"x","env":null,
                "resources":{"limits":{"cpu":"1000m","memory":1}},"livenessProbe":{"httpGet":{"port":80}}}],
                "volumes":[{"name":"v"},{"name":"s","secret":{"secretName":"t"}}]}"#),
    );
    let expect = parse(
        br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{
        "containers":[{"image":"x","imagePullPolicy":"Always","livenessProbe":{"failureThreshold":3,
            "httpGet":{"path":"/","port":80,"scheme":"HTTP"},"periodSeconds":10,"successThreshold":1,
            "timeoutSeconds":1},"name":"a","resources":{"limits":{"cpu":"1","memory":"1"},
            "requests":{"cpu":"1","memory":"1"}},"terminationMessagePath":"/dev/termination-log",
            "terminationMessagePolicy":"File"}],
        "dnsPolicy":"ClusterFirst","enableServiceLinks":true,"restartPolicy":"Always",
        "schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30,
        "volumes":[{"emptyDir":{},"name":"v"},{"name":"s","secret":{"defaultMode":420,"secretName":"t"}}]},
        "status":{}}"#,
    )
    .unwrap();
    assert_eq!(got, expect);
}

#[test]
fn finishing_twice_changes_nothing() {
    let once = whole("apps/v1.Deployment", r#"{"metadata":{"name":"a"}}"#);
    let mut twice = once.clone();
    finish(type_of("apps/v1.Deployment"), &mut twice);
    assert_eq!(once, twice);
    assert_eq!(once.at(&["spec", "selector"]), Some(&Value::Null));
    assert_eq!(once.str_at(&["spec", "strategy", "rollingUpdate", "maxSurge"]), Some("25%"));
    assert_eq!(once.at(&["status"]), Some(&Value::object()));
}

#[test]
fn fields_behind_gates_that_are_off_are_dropped() {
    let got = whole("core/v1.Pod", &pod(r#"{"containers":[],"schedulingGroup":{"podGroupName":"x"}}"#));
    assert_eq!(got.at(&["spec", "schedulingGroup"]), None);
}

#[test]
fn nulls_in_lists_and_maps_are_zero_values() {
    let got = whole("core/v1.ConfigMap", r#"{"metadata":{"name":"a"},"data":{"a":null,"b":""}}"#);
    assert_eq!(got.at(&["data"]).unwrap().to_string(), r#"{"a":"","b":""}"#);
}

#[test]
fn texts_of_a_secret_become_data() {
    let got = whole("core/v1.Secret", r#"{"metadata":{"name":"a"},"data":{"x":""},"stringData":{"a":"b"}}"#);
    assert_eq!(got.at(&["data"]).unwrap().to_string(), r#"{"a":"Yg==","x":""}"#);
    assert_eq!(got.at(&["stringData"]), None);
}

#[test]
fn yaml_is_read_as_its_json() {
    let json = yaml_to_json(b"apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: a\n").unwrap();
    assert_eq!(
        parse(&json).unwrap().to_string(),
        r#"{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"name":"a"}]}}"#
    );
    assert!(yaml_to_json(b"a: [").unwrap_err().to_string().starts_with("yaml: "));
}

fn any_json() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("spec"),
        Just("metadata"),
        Just("containers"),
        Just("name"),
        Just("labels"),
        Just("resources"),
        Just("limits"),
        Just("volumes"),
        Just("ports"),
        Just("livenessProbe"),
        Just("x"),
    ];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("1".to_owned()),
        Just("-2.5e3".to_owned()),
        Just("\"1Gi\"".to_owned()),
        Just("\"\\ud800\"".to_owned()),
        Just("\"2026-01-01T00:00:00Z\"".to_owned()),
    ];
    leaf.prop_recursive(6, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(","))),
            prop::collection::vec((word.clone(), inner), 0..5).prop_map(|pairs| {
                let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
                format!("{{{}}}", pairs.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_panics(text in any_json(), cut in 0usize..400) {
        let text = &text.as_bytes()[..cut.min(text.len())];
        for name in ["core/v1.Pod", "apps/v1.Deployment", "apiextensions/v1.CustomResourceDefinition"] {
            if let Ok(mut decoded) = decode(type_of(name), text, FieldValidation::Warn) {
                apply_defaults(type_of(name), &mut decoded.value);
                finish(type_of(name), &mut decoded.value);
            }
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = type_meta(&bytes);
        let _ = yaml_to_json(&bytes);
    }

    #[test]
    fn the_scanner_takes_what_another_reader_takes(text in any_json()) {
        // A lone surrogate is the one thing that Go replaces and the other reader refuses.
        let object = format!("{{\"a\":{text}}}");
        let other = parse(object.replace("\\ud800", "").as_bytes());
        prop_assert_eq!(type_meta(object.as_bytes()).is_ok(), other.is_ok());
    }
}

#[test]
fn what_the_server_enforces_of_single_values_is_named() {
    let check = |ty: &str, text: &str, expect: &[&str]| {
        let id = type_of(ty);
        let mut value = decode(id, text.as_bytes(), FieldValidation::Strict).unwrap().value;
        apply_defaults(id, &mut value);
        let causes: Vec<String> = validate(id, &value).iter().map(ToString::to_string).collect();
        assert_eq!(causes, expect);
    };
    check("core/v1.Pod", &pod("{}"), &["spec.containers: Required value"]);
    check(
        "core/v1.Pod",
        &pod(r#"{"containers":[{"name":"a","image":"x","imagePullPolicy":"y"},{"name":"a"}]}"#),
        &[
            r#"spec.containers[0].imagePullPolicy: Unsupported value: "y": supported values: "Always", "IfNotPresent", "Never""#,
            "spec.containers[1].image: Required value",
            r#"spec.containers[1].name: Duplicate value: "a""#,
        ],
    );
    check(
        "apps/v1.Deployment",
        r#"{"metadata":{"name":"a"}}"#,
        &["spec.selector: Required value", "spec.template.spec.containers: Required value"],
    );
    check("core/v1.ConfigMap", "{}", &[]);
}
