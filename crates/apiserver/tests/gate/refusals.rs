//! Bad input: each gets one clear message, and nothing half done.

use http::Method;

use crate::harness::{Client, World};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// Posts a body and compares the message of the refusal, of which `...` stands for anything at its end.
async fn check(client: &Client, path: &str, body: &str, code: u16, expect: &str) {
    let before = client.get(path).await.text;
    let message = client.post(path, body).await.message(code);
    match expect.strip_suffix("...") {
        Some(beginning) => assert!(message.starts_with(beginning), "{message}"),
        None => assert_eq!(message, expect),
    }
    assert_eq!(client.get(path).await.text, before, "something is half done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_with_a_mistake_names_the_field() {
    let world = World::open().await;
    let admin = world.admin();
    let strict = format!("{DEPLOYMENTS}?fieldValidation=Strict");
    let deployment = |spec: &str, container: &str| {
        format!(
            r#"{{"metadata":{{"name":"d"}},"spec":{{{spec}"selector":{{"matchLabels":{{"a":"b"}}}},"template":
            {{"metadata":{{"labels":{{"a":"b"}}}},"spec":{{"containers":[{{"name":"c","image":"i"{container}}}]}}}}}}}}"#
        )
    };
    let typo = deployment(r#""replica":3,"#, r#","imag":"i""#);
    let refused = admin.post(&strict, &typo).await.message(400);
    assert_eq!(
        refused,
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \
         \"spec.replica\", unknown field \"spec.template.spec.containers[0].imag\""
    );
    let words = "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into \
                 Go struct field DeploymentSpec.spec.replicas of type int32";
    check(&admin, DEPLOYMENTS, &deployment(r#""replicas":"three","#, ""), 400, words).await;
    let map = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go \
               struct field ConfigMap.data of type string";
    check(&admin, MAPS, r#"{"metadata":{"name":"m"},"data":{"a":1}}"#, 400, map).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_that_nobody_knows_are_not_found() {
    let world = World::open().await;
    let admin = world.admin();
    let path = "/apis/example.org/v1/namespaces/default/nothings";
    let message = admin.post(path, r#"{"metadata":{"name":"n"}}"#).await;
    assert_eq!(message.code.as_u16(), 404);
    let wrong = r#"{"apiVersion":"example.org/v1","kind":"Nothing","metadata":{"name":"n"}}"#;
    check(
        &admin,
        MAPS,
        wrong,
        400,
        "Nothing in version \"v1\" cannot be handled as a ConfigMap: no kind \"Nothing\" is registered...",
    )
    .await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_too_deep_is_refused_by_its_limit() {
    let world = World::open().await;
    let admin = world.admin();
    let map = |rest: &str| format!(r#"{{"metadata":{{"name":"m"{rest}}}}}"#);
    let many = |count: usize| "x".repeat(count);
    let body = format!(r#"{{"metadata":{{"name":"m"}},"data":{{"a":"{}"}}}}"#, many(3_500_000));
    check(&admin, MAPS, &body, 413, "Request entity too large: limit is 3145728").await;
    let data = format!(r#"{{"metadata":{{"name":"m"}},"data":{{"a":"{}"}}}}"#, many(2_000_000));
    let words = "ConfigMap \"m\" is invalid: []: Too long: may not be more than 1048576 bytes";
    check(&admin, MAPS, &data, 422, words).await;
    let label = map(&format!(r#","labels":{{"a":"{}"}}"#, many(64)));
    let words = format!(
        "ConfigMap \"m\" is invalid: metadata.labels: Invalid value: \"{}\": must be no more than 63 bytes",
        many(64)
    );
    check(&admin, MAPS, &label, 422, &words).await;
    let annotation = map(&format!(r#","annotations":{{"a":"{}"}}"#, many(300_000)));
    let words =
        "ConfigMap \"m\" is invalid: metadata.annotations: Too long: may not be more than 262144 bytes";
    check(&admin, MAPS, &annotation, 422, words).await;
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let deep =
            format!(r#"{{"metadata":{{"name":"m"}},"x":{}1{}}}"#, open.repeat(20_000), close.repeat(20_000));
        let message = admin.post(MAPS, &deep).await.message(400);
        assert!(message.contains("exceeded max depth"), "{message}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_utf_8_is_replaced_as_upstream_does() {
    let world = World::open().await;
    let admin = world.admin();
    let body = b"{\"metadata\":{\"name\":\"m\"},\"data\":{\"a\":\"\xff\"}}".to_vec();
    let made = admin.send_bytes(Method::POST, MAPS, JSON, body).await.expect(201);
    assert_eq!(made.str_at(&["data", "a"]), Some("\u{fffd}"));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_in_a_circle_are_kept_and_can_be_deleted() {
    let world = World::open().await;
    let admin = world.admin();
    let first = admin.post(MAPS, r#"{"metadata":{"name":"a"}}"#).await.expect(201);
    let owner = |name: &str, uid: &str| {
        format!(
            r#"{{"metadata":{{"ownerReferences":[{{"apiVersion":"v1","kind":"ConfigMap","name":"{name}","uid":"{uid}"}}]}}}}"#
        )
    };
    let uid = |object: &api::value::Value| object.str_at(&["metadata", "uid"]).unwrap().to_owned();
    let second = admin.post(MAPS, r#"{"metadata":{"name":"b"}}"#).await.expect(201);
    admin.merge(&format!("{MAPS}/a"), &owner("b", &uid(&second))).await.expect(200);
    admin.merge(&format!("{MAPS}/b"), &owner("a", &uid(&first))).await.expect(200);
    let two = r#"{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"x","uid":"1","controller":true},
        {"apiVersion":"v1","kind":"Pod","name":"y","uid":"2","controller":true}]}}"#;
    let message = admin.merge(&format!("{MAPS}/a"), two).await.message(422);
    assert!(message.contains("Only one reference can have Controller set to true"), "{message}");
    admin.delete(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!(admin.get(&format!("{MAPS}/a")).await.code.as_u16(), 404);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_and_a_port_belong_to_one_service() {
    let world = World::open().await;
    let admin = world.admin();
    let range = r#"{"metadata":{"name":"kubernetes"},"spec":{"cidrs":["10.96.0.0/24"]}}"#;
    admin.post("/apis/networking.k8s.io/v1/servicecidrs", range).await.expect(201);
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, ip: &str, port: u16| {
        format!(
            r#"{{"metadata":{{"name":"{name}"}},"spec":{{"type":"NodePort","clusterIP":"{ip}","ports":[{{"port":80,"nodePort":{port}}}]}}}}"#
        )
    };
    admin.post(services, &service("a", "10.96.0.50", 30_001)).await.expect(201);
    let words = "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.50\"]: failed to allocate IP \
                 10.96.0.50: provided IP is already allocated";
    check(&admin, services, &service("b", "10.96.0.50", 30_002), 422, words).await;
    let words = "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30001: provided port is already \
                 allocated";
    check(&admin, services, &service("b", "10.96.0.51", 30_001), 422, words).await;
    // Nothing was kept for the service that was refused.
    admin.post(services, &service("c", "10.96.0.51", 30_002)).await.expect(201);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_yet_says_so() {
    let world = World::open().await;
    let admin = world.admin();
    let apply = [("content-type", "application/apply-patch+yaml")];
    let path = format!("{MAPS}/m?fieldManager=kubectl");
    let message = admin.send(Method::PATCH, &path, &apply, "metadata: {name: m}").await.message(415);
    assert!(message.contains("server-side apply is not served by this version of Ondol yet"), "{message}");
    let named = r#"{"metadata":{"name":"x"}}"#;
    let refused = [
        ("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", named),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", named),
        ("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", named),
        ("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", named),
        ("/api/v1/namespaces/default/resourcequotas", named),
        ("/api/v1/namespaces/default/limitranges", r#"{"metadata":{"name":"x"},"spec":{"limits":[]}}"#),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            r#"{"metadata":{"name":"x"},"spec":{"podSelector":{}}}"#,
        ),
        (
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            r#"{"metadata":{"name":"foos.example.org"},"spec":{"group":"example.org","scope":"Namespaced",
            "names":{"plural":"foos","kind":"Foo"},"versions":[{"name":"v1","served":true,"storage":true,
            "schema":{"openAPIV3Schema":{"type":"object"}}}]}}"#,
        ),
    ];
    for (path, body) in refused {
        let message = admin.post(path, body).await.message(403);
        assert!(message.contains("does not enforce this kind yet"), "{path}: {message}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_tell_clients_what_fields_mean() {
    let world = World::open().await;
    let document = world.admin().get("/openapi/v3/apis/apps/v1").await.expect(200);
    let spec = ["components", "schemas", "io.k8s.api.apps.v1.DeploymentSpec", "properties", "replicas"];
    let words = document.at(&spec).and_then(|field| field.str_at(&["description"]));
    assert!(words.unwrap().starts_with("Number of desired pods."), "{words:?}");
    world.close().await;
}
