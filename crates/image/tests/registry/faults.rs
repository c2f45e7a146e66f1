//! What a registry or the way to it does wrong, and what comes of it.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use image::credentials::Credentials;
use image::pull::{Event, Progress};
use image::store::Named;
use image::{Error, Reference, Store, pull};
use serde_json::json;

use crate::fake::{Door, Fake, Fault, blob, gzip};
use crate::{name, puller, store};

struct World {
    fake: Fake,
    store: Store,
    reference: Reference,
    folder: tempfile::TempDir,
}

async fn world(door: Door) -> World {
    let fake = Fake::start(door).await;
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let reference = name(&format!("{}/app:v1", fake.address));
    World { fake, store, reference, folder }
}

impl World {
    async fn pull(&self) -> Result<Named, Error> {
        puller(&self.store).pull(&self.reference, &[], &pull::silent()).await
    }

    /// Nothing of a failed pull has a name, and a collection leaves nothing.
    async fn assert_empty(&self) {
        assert!(self.store.list().is_empty());
        self.store.collect(&[]).await.unwrap();
        for folder in ["blobs/sha256", "layers", "ingest"] {
            assert_eq!(std::fs::read_dir(self.folder.path().join(folder)).unwrap().count(), 0, "{folder}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_broke_off_goes_on_where_it_stopped() {
    let world = world(Door::Open).await;
    let served = world.fake.serve(&[&[7; 100_000], b"small"]);
    let path = blob(served.layers[0].digest);
    world.fake.fail(&path, [Fault::CutAfter(60_000), Fault::CutAfter(20_000)]);
    let events: Arc<Mutex<Vec<Event>>> = Arc::default();
    let heard = events.clone();
    let progress: Progress = Arc::new(move |event| heard.lock().unwrap().push(event));
    let named = puller(&world.store).pull(&world.reference, &[], &progress).await.unwrap();
    let ranges: Vec<Option<String>> =
        world.fake.seen(&path).iter().map(|seen| seen.header("range").map(ToOwned::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=60000-".into()), Some("bytes=80000-".into())]);
    let rootfs = world.store.rootfs(&named).await.unwrap();
    assert_eq!(std::fs::read(rootfs.lower_dirs[1].join("file0")).unwrap(), [7; 100_000]);
    let events = events.lock().unwrap();
    assert!(
        matches!(&events[0], Event::Resolved { manifest, layers } if *manifest == served.manifest && layers.len() == 2)
    );
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Retrying { .. })).count(), 2);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Unpacked { .. })).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_pull_resumes_what_an_earlier_one_left() {
    let world = world(Door::Open).await;
    let served = world.fake.serve(&[&[7; 100_000]]);
    let path = blob(served.layers[0].digest);
    let broken = vec![Fault::Status(503, vec![]); 4];
    world.fake.fail(&path, [vec![Fault::CutAfter(50_000)], broken].concat());
    assert!(matches!(world.pull().await, Err(Error::Unreachable { .. })));
    world.pull().await.unwrap();
    assert_eq!(world.fake.seen(&path).last().unwrap().header("range"), Some("bytes=50000-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_content_is_fetched_once_more_and_then_refused() {
    let world = world(Door::Open).await;
    let served = world.fake.serve(&[b"content"]);
    let path = blob(served.layers[0].digest);
    world.fake.fail(&path, [Fault::Corrupt, Fault::Corrupt]);
    let error = world.pull().await.unwrap_err();
    assert!(matches!(&error, Error::Invalid { .. }), "{error}");
    assert!(error.to_string().contains(&served.layers[0].digest.to_string()), "{error}");
    assert_eq!(world.fake.seen(&path).len(), 2);
    world.assert_empty().await;
    world.fake.fail(&path, [Fault::Corrupt]);
    world.pull().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_or_broken_registry_is_asked_again_but_not_for_ever() {
    let world = world(Door::Open).await;
    world.fake.serve(&[b"content"]);
    let path = "/v2/app/manifests/v1";
    let busy = || Fault::Status(429, vec![("retry-after", "0".into())]);
    world.fake.fail(path, [busy(), Fault::Status(502, vec![]), busy()]);
    world.pull().await.unwrap();
    assert_eq!(world.fake.seen(path).len(), 4);
    world.fake.fail(path, [Fault::Status(429, vec![("retry-after", "3600".into())])]);
    let error = world.pull().await.unwrap_err();
    assert!(matches!(error, Error::Throttled { retry_after: Some(_), .. }), "{error}");
    assert_eq!(world.fake.seen(path).len(), 5, "an hour is not waited for");
    world.fake.fail(path, vec![Fault::Status(500, vec![]); 5]);
    let error = world.pull().await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("500"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named() {
    let world = world(Door::Open).await;
    let error = world.pull().await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("app:v1") && error.to_string().contains("NAME_UNKNOWN"), "{error}");
    let gone = name("127.0.0.1:1/app:v1");
    let error = puller(&world.store).pull(&gone, &[], &pull::silent()).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { registry, .. } if registry == "127.0.0.1:1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_once_and_used_for_all() {
    let open = world(Door::Token(None)).await;
    open.fake.serve(&[b"one", b"two"]);
    open.pull().await.unwrap();
    assert_eq!(open.fake.seen("/token").len(), 1);
    let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("me:secret"));
    let closed = world(Door::Token(Some(basic))).await;
    closed.fake.serve(&[b"one"]);
    assert!(matches!(closed.pull().await, Err(Error::Unauthorized { .. })));
    let credentials = [Credentials::Basic { username: "me".into(), password: "secret".into() }];
    puller(&closed.store).pull(&closed.reference, &credentials, &pull::silent()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_elsewhere_takes_no_credentials_along() {
    let world = world(Door::Token(None)).await;
    let elsewhere = Fake::start(Door::Open).await;
    let served = world.fake.serve(&[b"content"]);
    let path = blob(served.layers[0].digest);
    let bytes = {
        let mut writer = image::layer::Writer::new(Vec::new(), image::layer::Compression::None).unwrap();
        writer.file("file0", 0o644, b"content").unwrap();
        writer.finish().unwrap().0
    };
    elsewhere.put("/storage", bytes);
    let location = format!("http://{}/storage", elsewhere.address);
    world.fake.fail(&path, [Fault::Status(307, vec![("location", location)])]);
    world.pull().await.unwrap();
    assert!(world.fake.seen(&path).iter().any(|seen| seen.header("authorization").is_some()));
    let there = elsewhere.seen("/storage");
    assert_eq!(there.len(), 1);
    assert_eq!(there[0].header("authorization"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn circles_of_redirects_end() {
    let world = world(Door::Open).await;
    let here = format!("http://{}/v2/app/manifests/v1", world.fake.address);
    let circle = Fault::Status(302, vec![("location", here)]);
    world.fake.fail("/v2/app/manifests/v1", vec![circle; 100]);
    let error = world.pull().await.unwrap_err();
    assert!(error.to_string().contains("circles"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_at_once_share_each_layer() {
    let world = world(Door::Open).await;
    let served = world.fake.serve(&[&[1; 50_000], &[2; 50_000]]);
    let puller = puller(&world.store);
    let silent = pull::silent();
    let pull = || puller.pull(&world.reference, &[], &silent);
    let (one, two, three) = tokio::join!(pull(), pull(), pull());
    assert_eq!(one.unwrap().manifest, two.unwrap().manifest);
    three.unwrap();
    for layer in &served.layers {
        assert_eq!(world.fake.seen(&blob(layer.digest)).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn this_platform_is_chosen_from_an_index() {
    let world = world(Door::Open).await;
    let served = world.fake.serve(&[b"content"]);
    let entry = |digest: &image::Digest, os: &str, architecture: &str| {
        json!({"mediaType": image::document::media::MANIFEST, "digest": digest, "size": served.manifest_bytes.len(),
               "platform": {"os": os, "architecture": architecture}})
    };
    let here = image::document::Platform::here();
    let index = json!({"schemaVersion": 2, "mediaType": image::document::media::INDEX, "manifests": [
        entry(&image::Digest::of(b"windows"), "windows", &here.architecture),
        entry(&served.manifest, "linux", &here.architecture),
    ]})
    .to_string();
    let target = image::Digest::of(index.as_bytes());
    world.fake.put("/v2/app/manifests/v1", index);
    let named = world.pull().await.unwrap();
    assert_eq!((named.manifest, named.target), (served.manifest, target));
    let by_index = world.reference.with_digest(target);
    assert_eq!(world.store.find(&by_index).unwrap().manifest, served.manifest);
    let only_windows =
        json!({"schemaVersion": 2, "manifests": [entry(&served.manifest, "windows", "amd64")]}).to_string();
    world.fake.put("/v2/app/manifests/v1", only_windows);
    let error = world.pull().await.unwrap_err().to_string();
    assert!(error.contains("windows/amd64") && error.contains("linux"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_digest_only_that_content_is_taken() {
    let world = world(Door::Open).await;
    let served = world.fake.serve(&[b"content"]);
    let wanted = image::Digest::of(b"another manifest");
    world.fake.put(&format!("/v2/app/manifests/{wanted}"), served.manifest_bytes.clone());
    let puller = puller(&world.store);
    let error = puller.pull(&world.reference.with_digest(wanted), &[], &pull::silent()).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    let named =
        puller.pull(&world.reference.with_digest(served.manifest), &[], &pull::silent()).await.unwrap();
    assert_eq!(named.name.to_string(), format!("{}/app@{}", world.fake.address, served.manifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_lies_are_refused() {
    let world = world(Door::Open).await;
    let served = world.fake.serve(&[b"content"]);
    let manifests = "/v2/app/manifests/v1";
    world.fake.put(manifests, vec![b' '; (4 << 20) + 1]);
    assert!(matches!(world.pull().await, Err(Error::TooLarge { .. })));
    world.fake.put(manifests, r#"{"schemaVersion":1,"fsLayers":[]}"#);
    assert!(matches!(world.pull().await, Err(Error::Unsupported { .. })));
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut manifest: serde_json::Value = serde_json::from_slice(&served.manifest_bytes).unwrap();
        change(&mut manifest);
        manifest.to_string()
    };
    world.fake.put(manifests, with(&|manifest| manifest["layers"][0]["size"] = json!(10)));
    let error = world.pull().await.unwrap_err().to_string();
    assert!(error.contains("more than the announced 10 bytes"), "{error}");
    world.fake.put(manifests, with(&|manifest| manifest["layers"] = json!([])));
    let error = world.pull().await.unwrap_err().to_string();
    assert!(error.contains("0 layers"), "{error}");
    // A layer whose blob is right but whose content is not what the configuration says.
    let other = gzip(b"not a tar archive, but long enough to be looked at");
    let digest = image::Digest::of(&other);
    world.fake.put(&blob(digest), other.clone());
    world.fake.put(
        manifests,
        with(&|manifest| {
            manifest["layers"][0]["digest"] = json!(digest);
            manifest["layers"][0]["size"] = json!(other.len());
        }),
    );
    let error = world.pull().await.unwrap_err();
    assert!(matches!(&error, Error::Unpack { .. }), "{}", error.in_full());
    world.assert_empty().await;
}
