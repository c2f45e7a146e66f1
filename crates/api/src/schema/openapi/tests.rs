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
    assert!(found.len() > 10);
    let schemas = document.at(home).unwrap();
    for reference in found {
        let name = reference.strip_prefix(prefix).unwrap();
        assert!(schemas.get(name).is_some(), "{reference}");
    }
}

#[test]
fn every_reference_of_every_document_resolves() {
    for document in documents() {
        let text = v3(document.group, document.version, "v1").unwrap();
        let parsed = parse(&text).unwrap();
        check_references(&parsed, "#/components/schemas/", &["components", "schemas"]);
    }
    check_references(&parse(&v2("v1")).unwrap(), "#/definitions/", &["definitions"]);
    assert!(v3("apps", "v1beta1", "v1").is_none());
}

#[test]
fn a_document_says_what_clients_look_for() {
    let text = v3("apps", "v1", "v1").unwrap();
    let document = parse(&text).unwrap();
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

#[test]
fn documents_are_named_by_their_paths() {
    let paths: Vec<String> = documents().map(|document| document.path).collect();
    assert_eq!(paths[0], "api/v1");
    assert!(paths.contains(&"apis/apps/v1".to_owned()));
    assert_eq!(hash().len(), 16);
}

#[test]
fn the_protobuf_of_version_2_begins_as_gnostics() {
    let bytes = v2_protobuf("v1");
    assert!(bytes.starts_with(b"\x0a\x032.0\x12\x10\x0a\x0aKubernetes\x12\x02v1\x42"));
    assert!(bytes.len() > 100_000);
}
