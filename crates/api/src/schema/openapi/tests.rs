use super::*;
use crate::value::parse;

/// All references in a tree.
fn references<'a>(value: &'a Value, out: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter() {
                match value.as_str() {
                    Some(target) if key == "$ref" => out.push(target),
                    _ => references(value, out),
                }
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| references(element, out)),
        _ => {}
    }
}

fn check_references(document: &Value, prefix: &str, home: &[&str]) {
    let mut found = Vec::new();
    references(document, &mut found);
    let Some(schemas) = document.at(home) else { return assert!(found.is_empty()) };
    for reference in found {
        let name = reference.strip_prefix(prefix).unwrap();
        assert!(schemas.get(name).is_some(), "{reference}");
    }
}

fn document(path: &str) -> Value {
    let document = documents().find(|document| document.path == path).unwrap();
    parse(&v3(document.subject, "v1")).unwrap()
}

#[test]
fn every_reference_of_every_document_resolves() {
    for document in documents() {
        let parsed = parse(&v3(document.subject, "v1")).unwrap();
        check_references(&parsed, "#/components/schemas/", &["components", "schemas"]);
    }
    check_references(&parse(&v2("v1")).unwrap(), "#/definitions/", &["definitions"]);
}

#[test]
fn a_document_says_what_clients_look_for() {
    let document = document("apis/apps/v1");
    // kubectl looks here to learn whether the server validates fields.
    let patch =
        document.at(&["paths", "/apis/apps/v1/namespaces/{namespace}/deployments/{name}", "patch"]).unwrap();
    assert_eq!(patch.str_at(&["operationId"]), Some("patchAppsV1NamespacedDeployment"));
    assert_eq!(patch.str_at(&["x-kubernetes-group-version-kind", "kind"]), Some("Deployment"));
    let parameters = patch.array_at(&["parameters"]);
    assert!(parameters.iter().any(|p| p.str_at(&["name"]) == Some("fieldValidation")));
    let spec = document.at(&["components", "schemas", "io.k8s.api.core.v1.PodSpec", "properties"]).unwrap();
    assert_eq!(spec.str_at(&["containers", "x-kubernetes-patch-merge-key"]), Some("name"));
    assert_eq!(spec.str_at(&["containers", "x-kubernetes-list-type"]), Some("map"));
    let deployment = document.at(&["components", "schemas", "io.k8s.api.apps.v1.Deployment"]).unwrap();
    let named = &deployment.array_at(&["x-kubernetes-group-version-kind"])[0];
    assert_eq!(named.to_string(), r#"{"group":"apps","kind":"Deployment","version":"v1"}"#);
}

/// What upstream's own document says, word by word but for descriptions and their order.
#[test]
fn operations_are_upstreams() {
    let document = document("apis/apps/v1");
    let names = |place: &str, method: &str| -> String {
        let path = format!("/apis/apps/v1/{place}");
        let home = document.at(&["paths", &path]).unwrap();
        let own = home.get(method).map(|operation| operation.array_at(&["parameters"])).unwrap_or_default();
        let all = own.iter().chain(home.array_at(&["parameters"]));
        let mut names: Vec<&str> = all.filter_map(|each| each.str_at(&["name"])).collect();
        names.sort_unstable();
        names.join(" ")
    };
    assert_eq!(
        names("namespaces/{namespace}/deployments", "delete"),
        "continue dryRun fieldSelector gracePeriodSeconds ignoreStoreReadErrorWithClusterBreakingPotential labelSelector \
         limit namespace orphanDependents pretty propagationPolicy resourceVersion resourceVersionMatch \
         sendInitialEvents shardSelector timeoutSeconds"
    );
    assert_eq!(names("namespaces/{namespace}/deployments/{name}", "get"), "name namespace pretty");
    assert_eq!(
        names("watch/deployments", "get"),
        "allowWatchBookmarks continue fieldSelector labelSelector limit pretty resourceVersion resourceVersionMatch \
         sendInitialEvents shardSelector timeoutSeconds watch"
    );
    let one = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
    assert!(document.at(&["paths", one, "delete", "responses", "202"]).is_some());
    // What all operations of a path take stands beside them.
    assert_eq!(document.at(&["paths", one, "get", "parameters"]), None);
    let watch = "/apis/apps/v1/watch/namespaces/{namespace}/deployments";
    assert_eq!(
        document.str_at(&["paths", watch, "get", "operationId"]),
        Some("watchAppsV1NamespacedDeploymentList")
    );
}

#[test]
fn defaults_are_those_that_upstream_declares() {
    let document = document("api/v1");
    let of = |ty: &str, field: &str| {
        let name = format!("io.k8s.api.core.v1.{ty}");
        let found = document.at(&["components", "schemas", &name, "properties", field, "default"]);
        found.map(ToString::to_string)
    };
    let text = |words: &str| Some(words.to_owned());
    assert_eq!(of("Pod", "spec"), text("{}"));
    assert_eq!(of("Container", "name"), text("\"\""));
    assert_eq!(of("ContainerStatus", "restartCount"), text("0"));
    assert_eq!(of("ServicePort", "protocol"), text("\"TCP\""));
    // Code sets it, and no document tells.
    assert_eq!(of("PodSpec", "restartPolicy"), None);
    let list = ["components", "schemas", "io.k8s.api.core.v1.PodList", "properties", "items"];
    assert_eq!(document.at(&[&list[..], &["x-kubernetes-list-type"]].concat()), None);
}

#[test]
fn documents_are_named_by_their_paths() {
    let paths: Vec<String> = documents().map(|document| document.path).collect();
    for path in ["api", "api/v1", "apis", "apis/apps", "apis/apps/v1", "version", "openid/v1/jwks"] {
        assert_eq!(paths.iter().filter(|each| *each == path).count(), 1, "{path}");
    }
    assert_eq!(hash().len(), 16);
    let version = document("version");
    assert_eq!(version.str_at(&["paths", "/version/", "get", "operationId"]), Some("getCodeVersion"));
}

#[test]
fn everything_is_in_the_document_of_version_2() {
    let document = parse(&v2("v1")).unwrap();
    for path in [
        "/api/",
        "/apis/apps/",
        "/api/v1/watch/pods",
        "/api/v1/nodes/{name}/proxy/{path}",
        "/.well-known/openid-configuration/",
    ] {
        let get = document.at(&["paths", path, "get"]).unwrap_or_else(|| panic!("{path}"));
        assert_eq!(get.array_at(&["schemes"]).len(), 1, "{path}");
    }
}

#[test]
fn the_protobuf_of_version_2_begins_as_gnostics() {
    let bytes = v2_protobuf("v1");
    assert!(bytes.starts_with(b"\x0a\x032.0\x12\x10\x0a\x0aKubernetes\x12\x02v1\x42"));
    assert!(bytes.len() > 100_000);
}

/// Sums of upstream's own documents (1.37.2, as a server with its defaults serves them): of the paths and of the schemas
/// of each, without descriptions, parameters and lists of words in order. `tools/openapi/sums.py` makes the file.
const UPSTREAM: &str = include_str!("../../../testdata/openapi.txt");

/// Where ours differ: the schema, the path below it, and what upstream has there.
const DIFFERENT: &[(&str, &[&str], &str)] = &[
    // The words of a map's values are not in the table.
    (
        "io.k8s.api.core.v1.PersistentVolumeClaimStatus",
        &["properties", "allocatedResourceStatuses", "additionalProperties", "enum"],
        r#"["ControllerResizeInProgress","ControllerResizeInfeasible","NodeResizeInProgress","NodeResizeInfeasible","NodeResizePending"]"#,
    ),
    // A strategy that is the default, and bytes that count as a list.
    (
        "io.k8s.api.policy.v1.PodDisruptionBudgetSpec",
        &["properties", "selector", "x-kubernetes-patch-strategy"],
        r#""replace""#,
    ),
    (
        "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceSpec",
        &["properties", "caBundle", "x-kubernetes-list-type"],
        r#""atomic""#,
    ),
];

/// A tree without descriptions and without an order that means nothing.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut out = Value::object();
            for (key, value) in map.iter() {
                if key != "description" || value.as_str().is_none() {
                    out.set(&[key.as_str()], canonical(value));
                }
            }
            out
        }
        Value::Array(elements) => {
            let mut elements: Vec<Value> = elements.iter().map(canonical).collect();
            if elements.iter().all(|each| each.as_str().is_some()) {
                elements.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            } else if elements.iter().all(|each| each.get("in").is_some()) {
                let key = |each: &Value| {
                    (each.str_at(&["name"]).map(str::to_owned), each.str_at(&["in"]).map(str::to_owned))
                };
                elements.sort_by_key(key);
            }
            elements.into()
        }
        other => other.clone(),
    }
}

#[test]
fn documents_are_upstreams_but_for_words() {
    let sum_of = |value: &Value| format!("{:016x}", sum(FIRST_SUM, &canonical(value).to_bytes()));
    let mut ours = Vec::new();
    for each in documents() {
        let document = parse(&v3(each.subject, "v1")).unwrap();
        let mut schemas = document.at(&["components", "schemas"]).cloned().unwrap_or_else(Value::object);
        for (name, path, upstream) in DIFFERENT {
            if let Some(schema) = schemas.at_mut(&[name]) {
                schema.set(path, parse(upstream.as_bytes()).unwrap());
            }
        }
        ours.push(format!("{} {} paths", sum_of(document.get("paths").unwrap()), each.path));
        ours.push(format!("{} {} schemas", sum_of(&schemas), each.path));
    }
    let all = parse(&v2("v1")).unwrap();
    ours.push(format!("{} v2 paths", sum_of(all.get("paths").unwrap())));
    let missing: Vec<&str> = UPSTREAM.lines().filter(|line| !ours.iter().any(|own| own == line)).collect();
    assert!(missing.is_empty() && UPSTREAM.lines().count() == ours.len(), "{missing:#?}");
}
