//! Objects: made, read, listed, changed, deleted.

use http::Method;

use crate::harness::World;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn map(name: &str, label: &str) -> String {
    format!(r#"{{"metadata":{{"name":"{name}","labels":{{"a":"{label}"}}}},"data":{{"k":"v"}}}}"#)
}

fn deployment(name: &str) -> String {
    format!(
        r#"{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"{name}"}},"spec":{{
        "selector":{{"matchLabels":{{"a":"b"}}}},"template":{{"metadata":{{"labels":{{"a":"b"}}}},
        "spec":{{"containers":[{{"name":"c","image":"i"}}]}}}}}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_made_read_changed_and_deleted() {
    let world = World::open().await;
    let admin = world.admin();
    let made = admin.post(MAPS, &map("m", "b")).await.expect(201);
    assert_eq!(made.str_at(&["kind"]), Some("ConfigMap"));
    assert_eq!(made.array_at(&["metadata", "managedFields"]).len(), 1);
    let read = admin.get(&format!("{MAPS}/m")).await.expect(200);
    assert_eq!(read, made);
    assert_eq!(admin.post(MAPS, &map("m", "b")).await.message(409), "configmaps \"m\" already exists");
    let changed = admin.merge(&format!("{MAPS}/m"), r#"{"data":{"k":null,"l":"w"}}"#).await.expect(200);
    assert_eq!(changed.at(&["data"]).unwrap().to_string(), r#"{"l":"w"}"#);
    assert!(changed.str_at(&["metadata", "resourceVersion"]) > read.str_at(&["metadata", "resourceVersion"]));
    let again = admin.merge(&format!("{MAPS}/m"), r#"{"data":{"l":"w"}}"#).await.expect(200);
    assert_eq!(again, changed, "a patch without effect writes nothing");
    let gone = admin.delete(&format!("{MAPS}/m")).await.expect(200);
    assert_eq!(gone.str_at(&["status"]), Some("Success"));
    assert_eq!(gone.str_at(&["details", "uid"]), made.str_at(&["metadata", "uid"]));
    assert_eq!(admin.get(&format!("{MAPS}/m")).await.message(404), "configmaps \"m\" not found");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_an_older_revision_conflicts() {
    let world = World::open().await;
    let admin = world.admin();
    let made = admin.post(MAPS, &map("m", "b")).await.expect(201);
    admin.merge(&format!("{MAPS}/m"), r#"{"data":{"l":"w"}}"#).await.expect(200);
    let message = admin.put(&format!("{MAPS}/m"), &made.to_string()).await.message(409);
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"m\": the object has been modified; please apply your changes \
         to the latest version and try again"
    );
    let other = r#"{"metadata":{"name":"m","uid":"x"}}"#;
    assert!(admin.put(&format!("{MAPS}/m"), other).await.message(409).contains("Precondition failed: UID"));
    admin.put(&format!("{MAPS}/m"), &map("m", "c")).await.expect(200);
    assert!(
        admin
            .put(&format!("{MAPS}/m"), &map("n", "c"))
            .await
            .message(400)
            .contains("does not match the name on the URL")
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_that_name_no_revision_do_not_conflict_with_each_other() {
    let world = World::open().await;
    let admin = world.admin();
    admin.post(MAPS, &map("m", "b")).await.expect(201);
    let (path, admin) = (format!("{MAPS}/m"), &admin);
    let patches = (0..48).map(|number| {
        let path = &path;
        async move { admin.merge(path, &format!(r#"{{"data":{{"k{number}":"v"}}}}"#)).await.expect(200) }
    });
    let changed = futures::future::join_all(patches).await;
    assert_eq!(changed.len(), 48);
    let read = admin.get(&path).await.expect(200);
    assert_eq!(read.at(&["data"]).unwrap().as_object().unwrap().iter().count(), 49);
    let old = r#"{"metadata":{"resourceVersion":"1"},"data":{"k":"w"}}"#;
    assert!(admin.merge(&path, old).await.message(409).contains("has been modified"));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_page_and_select() {
    let world = World::open().await;
    let admin = world.admin();
    for index in 0..5 {
        let label = if index % 2 == 0 { "even" } else { "odd" };
        admin.post(MAPS, &map(&format!("m{index}"), label)).await.expect(201);
    }
    let names = |list: &api::value::Value| -> Vec<String> {
        list.array_at(&["items"])
            .iter()
            .map(|item| item.str_at(&["metadata", "name"]).unwrap().to_owned())
            .collect()
    };
    let even = admin.get(&format!("{MAPS}?labelSelector=a%3Deven")).await.expect(200);
    assert_eq!(names(&even), ["m0", "m2", "m4"]);
    let one = admin.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm3")).await.expect(200);
    assert_eq!(names(&one), ["m3"]);
    let page = admin.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!(
        (names(&page), page.int_at(&["metadata", "remainingItemCount"])),
        (vec!["m0".into(), "m1".into()], Some(3))
    );
    // The page shows the first page's revision, whatever has happened since.
    admin.delete(&format!("{MAPS}/m2")).await.expect(200);
    let token = page.str_at(&["metadata", "continue"]).unwrap();
    let next = admin.get(&format!("{MAPS}?limit=9&continue={token}")).await.expect(200);
    assert_eq!(names(&next), ["m2", "m3", "m4"]);
    assert_eq!(next.str_at(&["metadata", "resourceVersion"]), page.str_at(&["metadata", "resourceVersion"]));
    assert!(
        admin
            .get(&format!("{MAPS}?fieldSelector=data%3Dx"))
            .await
            .message(400)
            .contains("is not a known field selector")
    );
    assert!(admin.get(&format!("{MAPS}?labelSelector=%3D%3D")).await.code.as_u16() == 400);
    assert_eq!(admin.get(&format!("{MAPS}?resourceVersion=99999")).await.code.as_u16(), 504);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typo_is_named_or_warned_of() {
    let world = World::open().await;
    let admin = world.admin();
    let typo = r#"{"metadata":{"name":"m"},"datta":{}}"#;
    let message = admin.post(&format!("{MAPS}?fieldValidation=Strict"), typo).await.message(400);
    assert_eq!(
        message,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"datta\""
    );
    let warned = admin.post(MAPS, typo).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"datta\\\"\"");
    warned.expect(201);
    assert!(admin.post(MAPS, "{").await.message(400).starts_with("the object provided is unrecognized"));
    let other = r#"{"apiVersion":"v2","kind":"ConfigMap","metadata":{"name":"x"}}"#;
    assert_eq!(
        admin.post(MAPS, other).await.message(400),
        "ConfigMap in version \"v2\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \
         \"v2\" in scheme \"pkg/runtime/scheme.go:111\""
    );
    let unnamed = admin.post(MAPS, r#"{"metadata":{"name":"A_B"}}"#).await.expect(422);
    assert_eq!(unnamed.array_at(&["details", "causes"])[0].str_at(&["field"]), Some("metadata.name"));
    let deep = format!("{{\"metadata\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    assert_eq!(admin.post(MAPS, &deep).await.code.as_u16(), 400);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_and_strange_media_are_refused() {
    let world = World::open().await;
    let admin = world.admin();
    let large = format!(r#"{{"metadata":{{"name":"m"}},"data":{{"k":"{}"}}}}"#, "x".repeat(4 * 1024 * 1024));
    assert_eq!(admin.post(MAPS, &large).await.code.as_u16(), 413);
    let strange = admin.send(Method::POST, MAPS, &[("content-type", "application/cbor")], "x").await;
    assert_eq!(strange.code.as_u16(), 415);
    let apply = [("content-type", "application/apply-patch+yaml")];
    let refused = admin.send(Method::PATCH, &format!("{MAPS}/m"), &apply, "{}").await;
    assert!(refused.message(415).contains("not served"));
    let yaml = [("content-type", "application/yaml"), ("accept", "application/yaml")];
    let made = admin.send(Method::POST, MAPS, &yaml, "metadata:\n  name: made\ndata: {a: b}\n").await;
    assert!(made.text.contains("kind: ConfigMap"), "{}", made.text);
    let unserved =
        admin.send(Method::GET, MAPS, &[("accept", "application/vnd.kubernetes.protobuf")], "").await;
    assert_eq!(unserved.code.as_u16(), 406);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_names_and_dry_runs() {
    let world = World::open().await;
    let admin = world.admin();
    let made = admin.post(MAPS, r#"{"metadata":{"generateName":"g-"}}"#).await.expect(201);
    let name = made.str_at(&["metadata", "name"]).unwrap();
    assert!(name.starts_with("g-") && name.len() == 7, "{name}");
    let dry = admin.post(&format!("{MAPS}?dryRun=All"), &map("d", "b")).await.expect(201);
    assert!(dry.str_at(&["metadata", "uid"]).is_some());
    assert_eq!(admin.get(&format!("{MAPS}/d")).await.code.as_u16(), 404);
    assert_eq!(admin.post(&format!("{MAPS}?dryRun=Some"), &map("d", "b")).await.code.as_u16(), 422);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn approval_is_a_condition_and_nothing_else() {
    let world = World::open().await;
    let admin = world.admin();
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let body = r#"{"metadata":{"name":"c"},"spec":{"request":"Yw==","signerName":"example.com/s","usages":["client auth"]}}"#;
    let mut request = admin.post(path, body).await.expect(201);
    let condition = api::json!({"type": "Approved", "status": "True", "reason": "r", "message": "m"});
    request.set(&["status"], api::json!({"conditions": [condition], "certificate": "Yw=="}));
    request.set(&["spec", "signerName"], "example.com/t");
    let approved = admin.put(&format!("{path}/c/approval"), &request.to_string()).await.expect(200);
    assert_eq!(approved.array_at(&["status", "conditions"])[0].str_at(&["type"]), Some("Approved"));
    assert_eq!(approved.at(&["status", "certificate"]), None, "that is the signer's");
    assert_eq!(approved.str_at(&["spec", "signerName"]), Some("example.com/s"));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spec_and_status_are_changed_apart_and_generation_counts_specs() {
    let world = World::open().await;
    let admin = world.admin();
    let made = admin.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    assert_eq!(
        (made.int_at(&["metadata", "generation"]), made.int_at(&["spec", "replicas"])),
        (Some(1), Some(1))
    );
    let path = format!("{DEPLOYMENTS}/d");
    let same = admin.merge(&path, r#"{"status":{"replicas":7}}"#).await.expect(200);
    assert_eq!(same.int_at(&["status", "replicas"]), None);
    let status =
        admin.merge(&format!("{path}/status"), r#"{"status":{"replicas":7},"spec":{"replicas":9}}"#).await;
    let status = status.expect(200);
    assert_eq!(
        (status.int_at(&["status", "replicas"]), status.int_at(&["spec", "replicas"])),
        (Some(7), Some(1))
    );
    assert_eq!(status.int_at(&["metadata", "generation"]), Some(1));
    let scaled = admin.merge(&format!("{path}/scale"), r#"{"spec":{"replicas":3}}"#).await.expect(200);
    assert_eq!((scaled.str_at(&["kind"]), scaled.int_at(&["spec", "replicas"])), (Some("Scale"), Some(3)));
    let read = admin.get(&path).await.expect(200);
    assert_eq!(
        (read.int_at(&["metadata", "generation"]), read.int_at(&["spec", "replicas"])),
        (Some(2), Some(3))
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_wait_for_finalizers_and_preconditions() {
    let world = World::open().await;
    let admin = world.admin();
    admin.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d");
    let json = [("content-type", "application/json")];
    let wrong = r#"{"preconditions":{"uid":"x"}}"#;
    assert!(
        admin.send(Method::DELETE, &path, &json, wrong).await.message(409).contains("does not match the UID")
    );
    let foreground = r#"{"propagationPolicy":"Foreground"}"#;
    let marked = admin.send(Method::DELETE, &path, &json, foreground).await.expect(200);
    assert_eq!(marked.at(&["metadata", "finalizers"]).unwrap().to_string(), r#"["foregroundDeletion"]"#);
    assert_eq!(marked.int_at(&["metadata", "generation"]), Some(2));
    admin.get(&path).await.expect(200);
    admin.merge(&path, r#"{"metadata":{"finalizers":null}}"#).await.expect(200);
    assert_eq!(admin.get(&path).await.code.as_u16(), 404);
    for name in ["a", "b"] {
        admin.post(MAPS, &map(name, "x")).await.expect(201);
    }
    admin.delete(&format!("{MAPS}?labelSelector=a%3Dx")).await.expect(200);
    assert!(admin.get(MAPS).await.expect(200).array_at(&["items"]).is_empty());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_when_its_finalizer_does() {
    let world = World::open().await;
    let admin = world.admin();
    let made = admin.post("/api/v1/namespaces", r#"{"metadata":{"name":"n"}}"#).await.expect(201);
    assert_eq!(made.str_at(&["metadata", "labels", "kubernetes.io/metadata.name"]), Some("n"));
    let marked = admin.delete("/api/v1/namespaces/n").await.expect(200);
    assert_eq!(marked.str_at(&["status", "phase"]), Some("Terminating"));
    let mut last = admin.get("/api/v1/namespaces/n").await.expect(200);
    last.remove(&["spec", "finalizers"]);
    admin.put("/api/v1/namespaces/n/finalize", &last.to_string()).await.expect(200);
    assert_eq!(admin.get("/api/v1/namespaces/n").await.code.as_u16(), 404);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_metadata_are_made_of_the_same_objects() {
    let world = World::open().await;
    let admin = world.admin();
    admin.post(MAPS, &map("m", "b")).await.expect(201);
    let table = [("accept", "application/json;as=Table;g=meta.k8s.io;v=v1,application/json")];
    let table = admin.send(Method::GET, MAPS, &table, "").await.expect(200);
    assert_eq!(table.str_at(&["kind"]), Some("Table"));
    assert_eq!(table.array_at(&["rows"])[0].array_at(&["cells"])[0].as_str(), Some("m"));
    let metadata = [("accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")];
    let metadata = admin.send(Method::GET, &format!("{MAPS}/m"), &metadata, "").await.expect(200);
    assert_eq!(metadata.str_at(&["kind"]), Some("PartialObjectMetadata"));
    assert!(metadata.get("data").is_none());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_version_and_health_answer() {
    let world = World::open().await;
    let admin = world.admin();
    let version = admin.get("/version").await.expect(200);
    assert_eq!(version.str_at(&["gitVersion"]), Some("v1.37.2+ondol"));
    let groups = admin.get("/apis").await.expect(200);
    assert_eq!(groups.str_at(&["kind"]), Some("APIGroupList"));
    let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let aggregated = admin.send(Method::GET, "/apis", &accept, "").await;
    let tag = aggregated.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(aggregated.body.str_at(&["kind"]), Some("APIGroupDiscoveryList"));
    let again = [accept[0], ("if-none-match", tag.as_str())];
    assert_eq!(admin.send(Method::GET, "/apis", &again, "").await.code.as_u16(), 304);
    let index = admin.get("/openapi/v3").await.expect(200);
    let path = index.str_at(&["paths", "apis/apps/v1", "serverRelativeURL"]).unwrap();
    assert!(admin.get(path).await.text.contains("io.k8s.api.apps.v1.Deployment"));
    assert!(admin.get("/readyz?verbose").await.text.ends_with("readyz check passed\n"));
    assert_eq!(admin.get("/nothing").await.code.as_u16(), 404);
    assert_eq!(
        admin.get("/api/v1/namespaces/default/nothings").await.message(404),
        "the server could not find the requested resource"
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_an_autoscaler_are_one() {
    let world = World::open().await;
    let admin = world.admin();
    let old = r#"{"metadata":{"name":"h"},"spec":{"maxReplicas":3,"targetCPUUtilizationPercentage":50,
        "scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"d"}}}"#;
    let path = "namespaces/default/horizontalpodautoscalers";
    admin.post(&format!("/apis/autoscaling/v1/{path}"), old).await.expect(201);
    let new = admin.get(&format!("/apis/autoscaling/v2/{path}/h")).await.expect(200);
    let metric = &new.array_at(&["spec", "metrics"])[0];
    assert_eq!(metric.int_at(&["resource", "target", "averageUtilization"]), Some(50));
    let back = admin.get(&format!("/apis/autoscaling/v1/{path}/h")).await.expect(200);
    assert_eq!(back.int_at(&["spec", "targetCPUUtilizationPercentage"]), Some(50));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_bears_zone_and_region_of_its_node() {
    let world = World::open().await;
    let admin = world.admin();
    let node = r#"{"metadata":{"name":"a","labels":{"topology.kubernetes.io/zone":"z","topology.kubernetes.io/region":"r"}}}"#;
    admin.post("/api/v1/nodes", node).await.expect(201);
    let pods = "/api/v1/namespaces/default/pods";
    let spec = r#""containers":[{"name":"c","image":"i"}]"#;
    admin.post(pods, &format!(r#"{{"metadata":{{"name":"bound"}},"spec":{{{spec}}}}}"#)).await.expect(201);
    let binding = r#"{"metadata":{"name":"bound"},"target":{"kind":"Node","name":"a"}}"#;
    admin.post(&format!("{pods}/bound/binding"), binding).await.expect(201);
    let placed = format!(r#"{{"metadata":{{"name":"placed"}},"spec":{{"nodeName":"a",{spec}}}}}"#);
    admin.post(pods, &placed).await.expect(201);
    for name in ["bound", "placed"] {
        let pod = admin.get(&format!("{pods}/{name}")).await.expect(200);
        let label = |key: &str| pod.str_at(&["metadata", "labels", key]).map(str::to_owned);
        assert_eq!(label("topology.kubernetes.io/zone").as_deref(), Some("z"), "{name}");
        assert_eq!(label("topology.kubernetes.io/region").as_deref(), Some("r"), "{name}");
    }
    world.close().await;
}
