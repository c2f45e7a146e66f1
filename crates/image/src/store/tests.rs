use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::document::{ImageConfig, Platform};
use crate::layer::{Compression, Layer};
use crate::{Reference, carried};

fn open(root: &Path) -> Store {
    Store::open(root, Clock::system(), Random::system()).unwrap()
}

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

fn layer(store: &Store, path: &str, content: &[u8]) -> Layer {
    store.write_layer(Compression::Zstd, |writer| writer.file(path, 0o644, content)).unwrap()
}

fn config() -> ImageConfig {
    ImageConfig { cmd: vec!["/a".into()], platform: Platform::here(), ..ImageConfig::default() }
}

async fn image(store: &Store, text: &str, content: &[u8]) -> Named {
    let layer = layer(store, "a", content);
    store.build(&name(text), &config(), &[layer]).await.unwrap()
}

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn what_was_built_is_mounted_from_short_names_and_survives_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let layers = [layer(&store, "a", b"one"), layer(&store, "b", b"two")];
    let named = store.build(&name("app:v1"), &config(), &layers).await.unwrap();
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.find(&name("app:v1")), Some(named.clone()));
    let rootfs = store.rootfs(&named).await.unwrap();
    assert_eq!(rootfs.lower_dirs.len(), 2);
    assert_eq!(std::fs::read(rootfs.lower_dirs[0].join("b")).unwrap(), b"two");
    assert_eq!(std::fs::read(rootfs.lower_dirs[1].join("a")).unwrap(), b"one");
    let (base, option) = rootfs.lowerdir_option();
    assert!(option.len() < 30 && option.split(':').all(|name| base.join(name).is_dir()), "{option}");
    assert_eq!(rootfs.config.cmd, ["/a"]);
    assert_eq!(rootfs.repo_digests, [format!("docker.io/library/app@{}", named.manifest)]);
}

#[test]
fn a_second_process_is_turned_away() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path());
    assert_eq!(folder.path().metadata().unwrap().mode() & 0o777, 0o700, "setuid programs lie in there");
    let error = Store::open(folder.path(), Clock::system(), Random::system()).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    drop(first);
    open(folder.path());
}

#[test]
fn content_with_another_digest_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut ingest = store.ingest().unwrap();
    ingest.write(b"content").unwrap();
    assert!(matches!(ingest.commit(Some(Digest::of(b"other"))), Err(Error::Invalid { .. })));
    drop(store.ingest().unwrap());
    assert_eq!(count(&folder.path().join("ingest")), 0);
    assert_eq!(count(&folder.path().join("blobs/sha256")), 0);
}

#[test]
fn content_that_changed_on_disk_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digest = store.put_blob(b"good").unwrap();
    std::fs::write(store.blob_path(digest), b"evil").unwrap();
    assert!(store.read_blob(digest, 100).unwrap_err().to_string().contains("changed on disk"));
}

#[tokio::test]
async fn a_crash_in_the_middle_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    std::fs::create_dir_all(folder.path().join("ingest/half/etc")).unwrap();
    std::fs::write(folder.path().join("ingest/blob"), b"half").unwrap();
    let partial = format!("{}.partial", Digest::of(b"x").hex());
    std::fs::write(folder.path().join("ingest").join(&partial), b"half").unwrap();
    let store = open(folder.path());
    assert_eq!(count(&folder.path().join("ingest")), 1, "a download that can go on stays");
    store.collect(&[]).await.unwrap();
    assert_eq!(count(&folder.path().join("ingest")), 0);
}

#[test]
fn a_damaged_index_of_names_is_told_and_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    std::fs::write(folder.path().join("names.json"), b"{\"format\":1,").unwrap();
    let error = Store::open(folder.path(), Clock::system(), Random::system()).unwrap_err().to_string();
    assert!(error.contains("names.json") && error.contains("move the file away"), "{error}");
}

#[tokio::test]
async fn collection_keeps_names_pins_and_leases() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let kept = image(&store, "kept", b"1").await;
    let pinned = image(&store, "pinned", b"2").await;
    let leased = image(&store, "leased", b"3").await;
    image(&store, "gone", b"4").await;
    for text in ["pinned", "leased", "gone"] {
        store.remove(&name(text)).await.unwrap();
    }
    let mut lease = store.lease();
    lease.hold_image(leased.manifest);
    let collected = store.collect(&[pinned.manifest]).await.unwrap();
    assert_eq!((collected.blobs, collected.layers), (3, 1));
    for named in [&kept, &pinned, &leased] {
        assert!(store.is_complete(named.manifest).await.unwrap());
        store.rootfs(named).await.unwrap();
    }
    drop(lease);
    let collected = store.collect(&[]).await.unwrap();
    assert_eq!((collected.blobs, collected.layers), (6, 2));
    assert_eq!(count(&folder.path().join("l")), 1);
    assert_eq!(store.collect(&[]).await.unwrap(), Collected::default());
}

#[tokio::test]
async fn names_are_found_by_digest_and_ids_by_their_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let named = image(&store, "example.com/app:v1", b"1").await;
    let by_digest = name(&format!("example.com/app@{}", named.manifest));
    assert_eq!(store.find(&by_digest).unwrap().manifest, named.manifest);
    assert!(store.find(&name(&format!("example.com/other@{}", named.manifest))).is_none());
    assert_eq!(store.resolve(&named.image_id.hex()[..12]).unwrap(), named);
    assert_eq!(store.resolve(&named.image_id.to_string()).unwrap(), named);
    assert!(matches!(store.resolve("absent"), Err(Error::NotFound { .. })));
    let tagged = store.tag("example.com/app:v1", &name("mine:latest")).await.unwrap();
    assert_eq!((tagged.origin, tagged.image_id), (Origin::Tagged, named.image_id));
    let inspection = store.inspect("mine").await.unwrap();
    assert_eq!(inspection.names.len(), 2);
    assert!(inspection.layers[0].unpacked);
}

#[tokio::test]
async fn an_image_without_layers_still_mounts() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let named = store.build(&name("scratch-like"), &config(), &[]).await.unwrap();
    let rootfs = store.rootfs(&named).await.unwrap();
    assert_eq!(count(&rootfs.lower_dirs[0]), 0);
}

#[tokio::test]
async fn chains_with_the_same_beginning_get_links_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let chain_id = Digest::of(b"chain");
    let taken = folder.path().join("l").join(&chain_id.hex()[..10]);
    std::os::unix::fs::symlink("../layers/other", taken).unwrap();
    assert_eq!(store.link(chain_id).unwrap(), chain_id.hex()[..12]);
    assert_eq!(store.link(chain_id).unwrap(), chain_id.hex()[..12]);
}

#[tokio::test]
async fn work_on_one_digest_is_done_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(folder.path()));
    let digest = Digest::of(b"x");
    let first = store.flight(digest).await;
    let mut second = Box::pin(store.flight(digest));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    second.await;
}

#[tokio::test]
async fn carried_images_are_small_share_their_layer_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    carried::install(&store).await.unwrap();
    let (one, two) = (store.find(&name("ondol.local/echo:v1")), store.find(&name("ondol.local/echo:v2")));
    let (one, two) = (store.rootfs(&one.unwrap()).await.unwrap(), store.rootfs(&two.unwrap()).await.unwrap());
    assert_eq!(one.lower_dirs, two.lower_dirs);
    assert!(
        one.config.env.contains(&"ECHO_VERSION=v1".into())
            && two.config.env.contains(&"ECHO_VERSION=v2".into())
    );
    assert_eq!(std::fs::read(one.lower_dirs[0].join("bin/get")).unwrap(), carried::ECHO);
    let bytes: u64 =
        walk(folder.path()).iter().map(|metadata| metadata.blocks() * 512 / metadata.nlink()).sum();
    assert!(bytes < 2 << 20, "{bytes} bytes on disk");
    let before = store.list();
    let begun = store.clock().monotonic();
    carried::install(&store).await.unwrap();
    let took = store.clock().monotonic() - begun;
    // 10 ms is what it may take, fivefold is what a busy machine gets.
    assert!(took < std::time::Duration::from_millis(50), "{took:?}");
    assert_eq!(store.list(), before, "a second time changes nothing");
    store.tag("ondol.local/echo:v2", &name("ondol.local/echo:v1")).await.unwrap();
    carried::install(&store).await.unwrap();
    assert_eq!(
        store.find(&name("ondol.local/echo:v1")).unwrap().origin,
        Origin::Tagged,
        "the user's tag stays"
    );
}

fn walk(folder: &Path) -> Vec<std::fs::Metadata> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(metadata);
        }
    }
    found
}
