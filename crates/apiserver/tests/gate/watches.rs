//! Watches over HTTPS and in process.

use std::time::Duration;

use api::interface::{Collection, Watch, WatchEvent};
use api::names;
use api::value::Value;
use futures::StreamExt as _;
use http::Method;
use http_body_util::BodyExt as _;

use crate::harness::{Client, World};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// How long an event may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// The lines of a watch.
struct Lines {
    body: wire::Body,
    text: Vec<u8>,
}

impl Lines {
    async fn open(client: &Client, query: &str) -> Self {
        let response = client.open(Method::GET, &format!("{MAPS}?watch=1&{query}"), &[], "").await;
        assert_eq!(response.status().as_u16(), 200);
        Self { body: response.into_body(), text: Vec::new() }
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=at).collect();
                return Some(api::value::parse(&line).unwrap());
            }
            let frame =
                tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event within patience")?;
            self.text.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// Type and name of the next event.
    async fn told(&mut self) -> (String, String) {
        let event = self.next().await.unwrap();
        let text = |path: &[&str]| event.str_at(path).unwrap_or_default().to_owned();
        (text(&["type"]), text(&["object", "metadata", "name"]))
    }
}

fn map(name: &str, label: &str) -> String {
    format!(r#"{{"metadata":{{"name":"{name}","labels":{{"a":"{label}"}}}}}}"#)
}

fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_its_selector_shows() {
    let world = World::open().await;
    let admin = world.admin();
    admin.post(MAPS, &map("m", "in")).await.expect(201);
    let mut lines = Lines::open(&admin, "labelSelector=a%3Din").await;
    assert_eq!(lines.told().await, pair("ADDED", "m"));
    admin.post(MAPS, &map("n", "out")).await.expect(201);
    admin.merge(&format!("{MAPS}/m"), r#"{"data":{"k":"v"}}"#).await.expect(200);
    assert_eq!(lines.told().await, pair("MODIFIED", "m"));
    admin.merge(&format!("{MAPS}/m"), r#"{"metadata":{"labels":{"a":"out"}}}"#).await.expect(200);
    let gone = lines.next().await.unwrap();
    assert_eq!(gone.str_at(&["type"]), Some("DELETED"));
    assert_eq!(
        gone.str_at(&["object", "metadata", "labels", "a"]),
        Some("in"),
        "as it was when it was last in view"
    );
    admin.merge(&format!("{MAPS}/n"), r#"{"metadata":{"labels":{"a":"in"}}}"#).await.expect(200);
    assert_eq!(lines.told().await, pair("ADDED", "n"));
    admin.delete(&format!("{MAPS}/n")).await.expect(200);
    let gone = lines.next().await.unwrap();
    let store = world.gate.storage().store().revision().to_string();
    assert_eq!(gone.str_at(&["object", "metadata", "resourceVersion"]), Some(store.as_str()));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn initial_events_end_with_a_bookmark() {
    let world = World::open().await;
    let admin = world.admin();
    admin.post(MAPS, &map("m", "b")).await.expect(201);
    let query = "sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut lines = Lines::open(&admin, query).await;
    assert_eq!(lines.told().await, pair("ADDED", "m"));
    let mark = lines.next().await.unwrap();
    assert_eq!(
        mark.str_at(&["object", "metadata", "annotations", "k8s.io/initial-events-end"]),
        Some("true")
    );
    let refused = admin.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await;
    assert_eq!(refused.code.as_u16(), 422);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_revision_goes_on_from_there_and_ends_in_time() {
    let world = World::open().await;
    let admin = world.admin();
    let made = admin.post(MAPS, &map("m", "b")).await.expect(201);
    admin.post(MAPS, &map("n", "b")).await.expect(201);
    let revision = made.str_at(&["metadata", "resourceVersion"]).unwrap();
    let mut lines =
        Lines::open(&admin, &format!("resourceVersion={revision}&timeoutSeconds=1&allowWatchBookmarks=1"))
            .await;
    assert_eq!(lines.told().await, pair("ADDED", "n"));
    assert_eq!(lines.told().await.0, "BOOKMARK");
    assert!(lines.next().await.is_none());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_was_forgotten_is_gone() {
    let world = World::open().await;
    let admin = world.admin();
    admin.post(MAPS, &map("m", "b")).await.expect(201);
    admin.post(MAPS, &map("n", "b")).await.expect(201);
    let page = admin.get(&format!("{MAPS}?limit=1")).await.expect(200);
    admin.post(MAPS, &map("o", "b")).await.expect(201);
    let store = world.gate.storage().store();
    store.compact(store.revision()).await.unwrap();
    let mut lines = Lines::open(&admin, "resourceVersion=1").await;
    let gone = lines.next().await.unwrap();
    assert_eq!(
        (gone.str_at(&["type"]), gone.str_at(&["object", "reason"])),
        (Some("ERROR"), Some("Expired"))
    );
    assert_eq!(gone.int_at(&["object", "code"]), Some(410));
    assert!(lines.next().await.is_none());
    let token = page.str_at(&["metadata", "continue"]).unwrap();
    let expired = admin.get(&format!("{MAPS}?continue={token}")).await.expect(410);
    let rest = expired.array_at(&["details", "causes"])[0].str_at(&["message"]).unwrap();
    let rest = admin.get(&format!("{MAPS}?continue={rest}")).await.expect(200);
    assert_eq!(rest.array_at(&["items"]).len(), 2, "the inconsistent rest has what came since");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_does_not_begin_before_what_its_client_has_seen() {
    let world = World::open().await;
    let admin = world.admin();
    let query =
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=";
    let mut lines = Lines::open(&admin, &format!("{query}99999999")).await;
    let refused = lines.next().await.unwrap();
    assert_eq!(refused.str_at(&["type"]), Some("ERROR"));
    let message = refused.str_at(&["object", "message"]).unwrap();
    assert!(message.starts_with("Timeout: Too large resource version: 99999999, current: "), "{message}");
    let causes = refused.array_at(&["object", "details", "causes"]);
    assert_eq!(causes[0].str_at(&["reason"]), Some("ResourceVersionTooLarge"));
    assert!(lines.next().await.is_none());
    let now = world.gate.storage().store().revision().0;
    let mut lines = Lines::open(&admin, &format!("{query}{now}")).await;
    assert_eq!(lines.next().await.unwrap().str_at(&["type"]), Some("BOOKMARK"));
    let refused = admin.get(&format!("{MAPS}?watch=1&continue=abc")).await;
    assert_eq!(refused.code.as_u16(), 422, "{}", refused.text);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_the_process_events_share_the_stored_objects() {
    let world = World::open().await;
    let watch = Watch {
        collection: Collection::new(&names::CONFIG_MAPS, ""),
        label_selector: "".into(),
        field_selector: "".into(),
        from: None,
        bookmarks: false,
        initial_events: true,
    };
    let mut first = world.api().watch(watch.clone()).await.unwrap();
    let mut second = world.api().watch(watch).await.unwrap();
    for stream in [&mut first, &mut second] {
        let mark = stream.next().await.unwrap().unwrap();
        assert!(matches!(mark, WatchEvent::Bookmark { initial_done: true, .. }));
    }
    world.admin().post(MAPS, &map("m", "b")).await.expect(201);
    let (Some(Ok(WatchEvent::Added(one))), Some(Ok(WatchEvent::Added(other)))) =
        (first.next().await, second.next().await)
    else {
        panic!("both streams tell of the new object");
    };
    assert!(std::sync::Arc::ptr_eq(&one, &other));
    drop((first, second));
    world.close().await;
}
