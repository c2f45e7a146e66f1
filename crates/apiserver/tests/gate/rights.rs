//! Who may do what, and how they show who they are.

use api::interface::{Call, GetOptions, Target};
use api::names;
use apiserver::authn::Keys as _;
use apiserver::{Identity, Lookups as _};
use std::time::Duration;

use http::Method;

use crate::harness::World;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn strangers_see_health_and_nothing_else() {
    let world = World::open().await;
    let stranger = world.stranger();
    assert_eq!(stranger.get("/healthz").await.text, "ok");
    stranger.get("/version").await.expect(200);
    assert_eq!(
        stranger.get(MAPS).await.message(403),
        "configmaps is forbidden: User \"system:anonymous\" cannot list resource \"configmaps\" in API group \"\" in \
         the namespace \"default\""
    );
    let mut liar = world.stranger();
    liar.token = Some("not.a.token".to_owned());
    assert_eq!(liar.get("/healthz").await.message(401), "Unauthorized");
    let jane = world.client("jane", &["dev"]);
    assert_eq!(jane.get(MAPS).await.code.as_u16(), 403);
    jane.get("/api").await.expect(200);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_holds_while_its_account_is_there() {
    let world = World::open().await;
    let admin = world.admin();
    let path = "/api/v1/namespaces/default/serviceaccounts/default";
    let made =
        admin.post(&format!("{path}/token"), r#"{"spec":{"expirationSeconds":600}}"#).await.expect(201);
    let token = made.str_at(&["status", "token"]).unwrap().to_owned();
    let review = format!(r#"{{"spec":{{"token":"{token}"}}}}"#);
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let reviewed = admin.post(reviews, &review).await.expect(201);
    assert_eq!(
        reviewed.str_at(&["status", "user", "username"]),
        Some("system:serviceaccount:default:default")
    );
    let mut pod = world.stranger();
    pod.token = Some(token);
    let selves = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let itself = pod.post(selves, "{}").await.expect(201);
    assert_eq!(
        itself.str_at(&["status", "userInfo", "username"]),
        Some("system:serviceaccount:default:default")
    );
    assert!(
        admin
            .post(&format!("{path}/token"), r#"{"spec":{"expirationSeconds":5}}"#)
            .await
            .message(422)
            .contains("10 minutes")
    );
    admin.delete(path).await.expect(200);
    assert_eq!(pod.post(selves, "{}").await.message(401), "Unauthorized");
    assert_eq!(admin.post(reviews, &review).await.expect(201).bool_at(&["status", "authenticated"]), None);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_in_a_secret_holds_while_secret_and_account_are_there() {
    let world = World::open().await;
    let admin = world.admin();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = admin.post(accounts, r#"{"metadata":{"name":"robot"}}"#).await.expect(201);
    let uid = account.str_at(&["metadata", "uid"]).unwrap();
    let claims = api::json!({
        "iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:default:robot",
        "kubernetes.io/serviceaccount/namespace": "default",
        "kubernetes.io/serviceaccount/service-account.name": "robot",
        "kubernetes.io/serviceaccount/service-account.uid": (uid),
        "kubernetes.io/serviceaccount/secret.name": "robot-token"
    });
    let token = world.keys.sign(&claims).unwrap();
    let mut robot = world.stranger();
    robot.token = Some(token.clone());
    let selves = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    // No Secret holds it yet.
    assert_eq!(robot.post(selves, "{}").await.message(401), "Unauthorized");
    let secret = format!(
        r#"{{"metadata":{{"name":"robot-token","annotations":{{"kubernetes.io/service-account.name":"robot"}}}},
        "type":"kubernetes.io/service-account-token","stringData":{{"token":"{token}"}}}}"#
    );
    let secrets = "/api/v1/namespaces/default/secrets";
    admin.post(secrets, &secret).await.expect(201);
    let itself = robot.post(selves, "{}").await.expect(201);
    let name = itself.str_at(&["status", "userInfo", "username"]);
    assert_eq!(name, Some("system:serviceaccount:default:robot"));
    let path = format!("{secrets}/robot-token");
    // The day of the use is written beside the request, once.
    let today = world.gate.storage().now().to_string()[..10].to_owned();
    let labelled = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let secret = admin.get(&path).await.expect(200);
            match secret.str_at(&["metadata", "labels", "kubernetes.io/legacy-token-last-used"]) {
                Some(day) => break (day.to_owned(), secret),
                None => tokio::task::yield_now().await,
            }
        }
    });
    let (day, secret) = labelled.await.expect("the day is written");
    assert_eq!(day, today);
    let owners = secret.array_at(&["metadata", "managedFields"]).iter();
    assert!(owners.clone().any(|entry| entry.str_at(&["manager"]) == Some("kube-apiserver")));
    for _ in 0..20 {
        robot.post(selves, "{}").await.expect(201);
    }
    let revision =
        |secret: &api::value::Value| secret.str_at(&["metadata", "resourceVersion"]).map(str::to_owned);
    assert_eq!(revision(&admin.get(&path).await.expect(200)), revision(&secret), "one write a day");
    let invalid = r#"{"metadata":{"labels":{"kubernetes.io/legacy-token-invalid-since":"2026-01-01"}}}"#;
    admin.merge(&path, invalid).await.expect(200);
    assert_eq!(robot.post(selves, "{}").await.message(401), "Unauthorized");
    admin.merge(&path, r#"{"metadata":{"labels":null}}"#).await.expect(200);
    robot.post(selves, "{}").await.expect(201);
    admin.merge(&path, r#"{"data":{"token":"b3RoZXI="}}"#).await.expect(200);
    assert_eq!(robot.post(selves, "{}").await.message(401), "Unauthorized");
    admin.merge(&path, &format!(r#"{{"stringData":{{"token":"{token}"}}}}"#)).await.expect(200);
    robot.post(selves, "{}").await.expect(201);
    // Another account of that name is not the one that the token was made for.
    admin.delete(&format!("{accounts}/robot")).await.expect(200);
    assert_eq!(robot.post(selves, "{}").await.message(401), "Unauthorized");
    admin.post(accounts, r#"{"metadata":{"name":"robot"}}"#).await.expect(201);
    assert_eq!(robot.post(selves, "{}").await.message(401), "Unauthorized");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_what_its_pods_name() {
    let world = World::open().await;
    let admin = world.admin();
    for name in ["used", "other"] {
        admin.post(MAPS, &format!(r#"{{"metadata":{{"name":"{name}"}}}}"#)).await.expect(201);
    }
    let pod = r#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i",
        "envFrom":[{"configMapRef":{"name":"used"}}]}]}}"#;
    admin.post("/api/v1/namespaces/default/pods", pod).await.expect(201);
    let node = world.client("system:node:a", &["system:nodes"]);
    assert_eq!(node.get(&format!("{MAPS}/used")).await.code.as_u16(), 403);
    let binding = r#"{"metadata":{"name":"p"},"target":{"kind":"Node","name":"a"}}"#;
    admin.post("/api/v1/namespaces/default/pods/p/binding", binding).await.expect(201);
    node.get(&format!("{MAPS}/used")).await.expect(200);
    assert!(node.get(&format!("{MAPS}/other")).await.message(403).contains("no relationship found"));
    let other = world.client("system:node:b", &["system:nodes"]);
    assert_eq!(other.get(&format!("{MAPS}/used")).await.code.as_u16(), 403);
    node.get("/api/v1/pods?fieldSelector=spec.nodeName%3Da").await.expect(200);
    assert_eq!(node.get("/api/v1/pods").await.code.as_u16(), 403);
    // Of accounts those of its pods, of nodes itself; whether they exist or not.
    node.get("/api/v1/namespaces/default/serviceaccounts/default").await.expect(200);
    for (path, why) in [
        ("/api/v1/namespaces/kube-system/serviceaccounts/default", "no relationship found"),
        ("/api/v1/nodes", "cannot read all nodes"),
        ("/api/v1/nodes/b", "cannot read 'b'"),
        ("/api/v1/namespaces/default/persistentvolumeclaims/c", "no relationship found"),
        ("/apis/storage.k8s.io/v1/volumeattachments", "cannot list"),
    ] {
        let message = node.get(path).await.message(403);
        assert!(message.contains(why), "{path}: {message}");
    }
    assert_eq!(node.get("/api/v1/nodes/a").await.code.as_u16(), 404);
    let again = admin.post("/api/v1/namespaces/default/pods/p/binding", binding).await.message(409);
    assert!(again.contains("is already assigned to node \"a\""), "{again}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn masters_may_act_as_others_and_ask_about_them() {
    let world = World::open().await;
    let admin = world.admin();
    let as_jane = [("impersonate-user", "jane")];
    assert!(admin.send(Method::GET, MAPS, &as_jane, "").await.message(403).contains("User \"jane\""));
    let review = r#"{"spec":{"user":"jane","resourceAttributes":{"verb":"get","resource":"pods"}}}"#;
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer = admin.post(reviews, review).await.expect(201);
    assert_eq!(answer.bool_at(&["status", "allowed"]), Some(false));
    let jane = world.client("jane", &[]);
    assert_eq!(jane.post(reviews, review).await.code.as_u16(), 403);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_the_process_the_same_rights_hold() {
    let world = World::open().await;
    let target = Target::new(&names::NAMESPACES, "", "default");
    let call = || Call::Get(target.clone(), GetOptions::default());
    let namespace = world.api().call(call()).await.unwrap().object().unwrap();
    assert_eq!(namespace.name(), "default");
    let jane = world.gate.as_user(Identity::new("jane", &[]));
    assert_eq!(jane.call(call()).await.unwrap_err().code, 403);
    let scheduler = world.gate.as_user(Identity::new("system:kube-scheduler", &[]));
    scheduler.call(call()).await.unwrap();
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_enforced_is_not_taken() {
    let world = World::open().await;
    let policy = r#"{"metadata":{"name":"p"},"spec":{"podSelector":{}}}"#;
    let path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    assert!(world.admin().post(path, policy).await.message(403).contains("does not enforce this kind yet"));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_of_clients_is_published_and_mended() {
    let world = World::open().await;
    let admin = world.admin();
    admin.post("/api/v1/namespaces", r#"{"metadata":{"name":"kube-system"}}"#).await.expect(201);
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    for pem in ["first", "second"] {
        apiserver::bootstrap::publish_client_authority(&world.gate, pem).await.unwrap();
        let map = admin.get(path).await.expect(200);
        assert_eq!(map.str_at(&["data", "client-ca-file"]), Some(pem));
    }
    world.close().await;
}
