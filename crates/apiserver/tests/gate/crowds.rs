//! Much at once: many members, many requests. Nobody takes the gate from others.

use std::sync::Arc;
use std::time::Duration;

use apiserver::limits;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::Method;
use wire::Body;

use crate::harness::World;

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods?dryRun=All";
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
/// How many members there are of each. Comparing each with each takes minutes.
const MANY: usize = 60_000;
/// What all of them together may take on a busy machine, without optimisation.
const PATIENCE: Duration = Duration::from_secs(60);

fn members(count: usize) -> String {
    let members: Vec<String> = (0..count).map(|at| format!(r#""k{at}":"""#)).collect();
    members.join(",")
}

fn named(count: usize, rest: &str) -> String {
    let elements: Vec<String> = (0..count).map(|at| format!(r#"{{"name":"n{at}"{rest}}}"#)).collect();
    elements.join(",")
}

#[tokio::test(flavor = "multi_thread")]
async fn many_members_take_no_longer_than_their_number() {
    let world = World::open().await;
    let client = world.client("somebody", &[]);
    let admin = world.admin();
    let clock = base::Clock::system();
    let start = clock.monotonic();
    let labels = format!(r#"{{"metadata":{{"labels":{{{}}}}}}}"#, members(MANY));
    client.post(REVIEWS, &labels).await.expect(201);
    let data = format!(r#"{{"metadata":{{"name":"m"}},"data":{{{}}}}}"#, members(MANY));
    admin.post(&format!("{MAPS}?dryRun=All"), &data).await;
    let (containers, volumes) = (named(MANY / 4, r#","image":"i""#), named(MANY / 4, r#","emptyDir":{}"#));
    let pod = format!(
        r#"{{"metadata":{{"name":"p"}},"spec":{{"containers":[{containers}],"volumes":[{volumes}]}}}}"#
    );
    admin.post(PODS, &pod).await;
    let taken = clock.monotonic() - start;
    assert!(taken < PATIENCE, "{taken:?}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_slowly_holds_up_nobody_else() {
    let world = World::open().await;
    let slow = world.client("slow", &[]);
    let (mut senders, mut waiting) = (Vec::new(), FuturesUnordered::new());
    for _ in 0..=limits::OTHERS.bodies.each {
        let (sender, body) = Body::channel(1);
        sender.send("{".into()).await.unwrap();
        senders.push(sender);
        waiting.push(slow.open_with(Method::POST, REVIEWS, JSON, body));
    }
    let refused = tokio::time::timeout(PATIENCE, waiting.next()).await.expect("one is too many").unwrap();
    assert_eq!(refused.status().as_u16(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    // Others have places of their own.
    let other = world.client("other", &[]);
    let (sender, body) = Body::channel(1);
    sender.send("{".into()).await.unwrap();
    let whole = async {
        sender.send("}".into()).await.unwrap();
        drop(sender);
    };
    let (answer, ()) = futures::join!(other.open_with(Method::POST, REVIEWS, JSON, body), whole);
    assert_eq!(answer.status().as_u16(), 201);
    world.admin().post(MAPS, r#"{"metadata":{"name":"m"}}"#).await.expect(201);
    drop((senders, waiting));
    world.close().await;
}

/// Who starts a request moves its future some steps in a row, and a connection holds one for each.
#[tokio::test]
async fn what_a_request_waits_with_is_small() {
    let world = World::open().await;
    let here = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let connection = Arc::new(wire::serve::ConnectionInfo { peer: here, local: here, tls: None });
    let handling = world.gate.handle(http::Request::new(Body::Empty), connection);
    let bytes = size_of_val(&handling);
    drop(handling);
    assert!(bytes <= 2048, "{bytes} bytes");
    world.close().await;
}
