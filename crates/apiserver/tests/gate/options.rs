//! What writes and deletions are told, and what they say.

use http::Method;

use crate::harness::{Answer, World};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DOUBLED: &str = "API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; \
                       please fix your requests; duplicate UID(s) observed: u1";

fn warnings(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("warning").iter().filter_map(|value| value.to_str().ok()).collect()
}

fn owned(name: &str, owners: &[&str]) -> String {
    let owners: Vec<String> = owners
        .iter()
        .map(|name| format!(r#"{{"apiVersion":"v1","kind":"Pod","name":"{name}","uid":"u1"}}"#))
        .collect();
    format!(r#"{{"metadata":{{"name":"{name}","ownerReferences":[{}]}}}}"#, owners.join(","))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_is_kept_once_and_the_client_is_told() {
    let world = World::open().await;
    let admin = world.admin();
    let names = |answer: &Answer| -> Vec<String> {
        let owners = answer.body.array_at(&["metadata", "ownerReferences"]).iter();
        owners.filter_map(|owner| owner.str_at(&["name"]).map(str::to_owned)).collect()
    };
    let made = admin.post(MAPS, &owned("m", &["a", "a"])).await;
    assert_eq!(names(&made), ["a"]);
    let words = format!("299 - \".metadata.ownerReferences contains duplicate entries; {DOUBLED}\"");
    assert_eq!(warnings(&made), [words.as_str()]);
    // Of one uid, but not the same.
    let path = format!("{MAPS}/m");
    let put = admin.put(&path, &owned("m", &["a", "b", "a"])).await;
    assert_eq!((names(&put), warnings(&put)), (vec!["a".into(), "b".into()], vec![words.as_str()]));
    let patched = admin.merge(&path, &owned("m", &["b", "b"])).await;
    let words = format!(
        "299 - \".metadata.ownerReferences contains duplicate entries after mutating admission happens; {DOUBLED}\""
    );
    assert_eq!((names(&patched), warnings(&patched)), (vec!["b".into()], vec![words.as_str()]));
    let quiet = admin.put(&path, &owned("m", &["a", "b"])).await;
    assert!(warnings(&quiet).is_empty());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_read_is_not_deleted_as_unreadable() {
    let world = World::open().await;
    let admin = world.admin();
    admin.post(MAPS, &owned("m", &[])).await.expect(201);
    let body = r#"{"ignoreStoreReadErrorWithClusterBreakingPotential":true}"#;
    let json = [("content-type", "application/json")];
    let refused = admin.send(Method::DELETE, &format!("{MAPS}/m"), &json, body).await.message(409);
    assert_eq!(
        refused,
        "Operation cannot be fulfilled on configmaps \"m\": StorageError: invalid object, Code: 4, Key: \
         /registry/configmaps/default/m, ResourceVersion: 0, AdditionalErrorMsg: unsafe deletion is not allowed \
         because the object is decodable from storage"
    );
    let missing = admin.send(Method::DELETE, &format!("{MAPS}/n"), &json, body).await.message(404);
    assert_eq!(missing, "configmaps \"n\" not found");
    let all = admin.send(Method::DELETE, MAPS, &json, body).await.message(422);
    assert!(
        all.contains("is not allowed with DELETECOLLECTION, try again after removing the option"),
        "{all}"
    );
    admin.get(&format!("{MAPS}/m")).await.expect(200);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_may_nest_as_deep_as_upstream_reads() {
    let world = World::open().await;
    let admin = world.admin();
    let deep = |depth: usize| {
        let (open, close) = (r#"{"a":"#.repeat(depth), "}".repeat(depth));
        format!(r#"{{"metadata":{{"name":"m"}},"nope":{open}1{close}}}"#)
    };
    let made = admin.post(MAPS, &deep(9_990)).await;
    assert_eq!(warnings(&made), [r#"299 - "unknown field \"nope\"""#]);
    made.expect(201);
    let message = admin.post(MAPS, &deep(10_001)).await.message(400);
    assert!(
        message.contains(
            "couldn't get version/kind; json parse error: invalid character '{' exceeded max depth"
        ),
        "{message}"
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_of_another_pod_is_a_conflict_and_takes_nothing_of_the_budget() {
    let world = World::open().await;
    let admin = world.admin();
    let pods = "/api/v1/namespaces/default/pods";
    let pod = r#"{"metadata":{"name":"p","labels":{"a":"b"}},"spec":{"nodeName":"n","containers":[{"name":"c","image":"i"}]}}"#;
    let evict = |name: &str, preconditions: &str| {
        let body = format!(
            r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{name}"}},"deleteOptions":{{"preconditions":{preconditions}}}}}"#
        );
        let (admin, path) = (admin.clone(), format!("{pods}/{name}/eviction"));
        async move { admin.post(&path, &body).await }
    };
    let uid =
        admin.post(pods, pod).await.expect(201).str_at(&["metadata", "uid"]).unwrap_or_default().to_owned();
    // Without a budget, with one that has room, and in a state that no budget counts.
    let refused = evict("p", r#"{"uid":"u"}"#).await.message(409);
    assert!(
        refused.contains("the UID in the precondition (u) does not match the UID in record"),
        "{refused}"
    );
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget =
        r#"{"metadata":{"name":"b"},"spec":{"minAvailable":1,"selector":{"matchLabels":{"a":"b"}}}}"#;
    admin.post(budgets, budget).await.expect(201);
    let room = r#"{"status":{"observedGeneration":1,"disruptionsAllowed":1,"currentHealthy":2,"desiredHealthy":1,"expectedPods":2}}"#;
    admin.merge(&format!("{budgets}/b/status"), room).await.expect(200);
    let phase = |phase: &str| format!(r#"{{"status":{{"phase":"{phase}"}}}}"#);
    for now in ["Running", "Pending", "Failed"] {
        admin.merge(&format!("{pods}/p/status"), &phase(now)).await.expect(200);
        evict("p", r#"{"uid":"u"}"#).await.message(409);
        evict("p", r#"{"resourceVersion":"1"}"#).await.message(409);
    }
    let left = admin.get(&format!("{budgets}/b")).await.expect(200);
    assert_eq!(left.int_at(&["status", "disruptionsAllowed"]), Some(1));
    evict("p", &format!(r#"{{"uid":"{uid}"}}"#)).await.expect(201);
    world.close().await;
}
