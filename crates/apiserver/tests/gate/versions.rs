//! Objects that are written in more than one version.

use api::value::Value;
use http::Method;

use crate::harness::World;

/// One line per write: what was sent, and what upstream 1.37.2 answered, `managedFields` without times.
const GOLDEN: &str = include_str!("../../testdata/managed_versions.jsonl");

/// Entries in an order that does not depend on times, which they lose.
fn timeless(entries: &[Value]) -> Vec<String> {
    let mut entries: Vec<String> = entries
        .iter()
        .map(|entry| {
            let mut entry = entry.clone();
            entry.remove(&["time"]);
            entry.to_string()
        })
        .collect();
    entries.sort();
    entries
}

#[tokio::test(flavor = "multi_thread")]
async fn who_owns_what_is_seen_in_the_version_of_each_who_wrote() {
    let world = World::open().await;
    let admin = world.admin();
    let mut wrong = Vec::new();
    for line in GOLDEN.lines() {
        let step = api::value::parse(line.as_bytes()).unwrap();
        let text = |key: &str| step.str_at(&[key]).unwrap().to_owned();
        let (method, agent): (Method, String) = (text("method").parse().unwrap(), text("who") + "/1");
        let headers = [("content-type", &*text("type")), ("user-agent", &*agent)];
        let body = step.get("body").unwrap().to_string();
        let answer = admin.send(method, &text("path"), &headers, &body).await;
        let code = step.int_at(&["code"]).unwrap();
        let answer = answer.expect(u16::try_from(code).unwrap());
        let ours = timeless(answer.array_at(&["metadata", "managedFields"]));
        let theirs = timeless(step.array_at(&["managed"]));
        if ours != theirs {
            wrong.push(format!("{body}\nours   {}\ntheirs {}", ours.join("\n  "), theirs.join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
    world.close().await;
}
