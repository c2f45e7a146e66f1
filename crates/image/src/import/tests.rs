use base::{Clock, Random};

use super::*;
use crate::document::ImageConfig;
use crate::layer::{Layer, Writer};

fn open(root: &Path) -> Store {
    Store::open(root, Clock::system(), Random::system()).unwrap()
}

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

async fn built(store: &Store, text: &str) -> Named {
    let layer = store.write_layer(Compression::Gzip, |writer| writer.file("a", 0o644, b"content")).unwrap();
    let config = ImageConfig { cmd: vec!["/a".into()], platform: Platform::here(), ..ImageConfig::default() };
    store.build(&name(text), &config, &[layer]).await.unwrap()
}

async fn saved(store: &Store, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    store.save(&names, Vec::new()).await.unwrap()
}

/// What `docker save` wrote before it wrote layouts: plain layers in folders, one of them by a link.
fn old_docker(tags: &[&str]) -> Vec<u8> {
    let plain = |path: &str| -> (Vec<u8>, Layer) {
        let mut writer = Writer::new(Vec::new(), Compression::None).unwrap();
        writer.file(path, 0o644, b"content").unwrap();
        writer.finish().unwrap()
    };
    let (bytes, layer) = plain("a");
    let config = json!({
        "architecture": Platform::here().architecture, "os": "linux", "config": {"Cmd": ["/a"], "Env": null},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id, layer.diff_id]}
    })
    .to_string();
    let id = Digest::of(config.as_bytes()).hex();
    let manifest =
        json!([{"Config": format!("{id}.json"), "RepoTags": tags, "Layers": ["x/layer.tar", "y/layer.tar"]}]);
    let mut archive = crate::archive::Writer::new(Vec::new());
    let mut put =
        |path: &str, data: &[u8]| archive.append(&Entry::file(path, 0o644, data.len() as u64), data).unwrap();
    put("x/VERSION", b"1.0");
    put("x/layer.tar", &bytes);
    put(&format!("{id}.json"), config.as_bytes());
    put("manifest.json", manifest.to_string().as_bytes());
    archive.append(&Entry::symlink("y/layer.tar", "../x/layer.tar"), io::empty()).unwrap();
    archive.finish().unwrap()
}

#[tokio::test]
async fn what_is_saved_comes_back_the_same_under_every_compression() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let one = built(&store, "app:v1").await;
    store.tag("app:v1", &name("example.com/team/app:v2")).await.unwrap();
    let archive = saved(&store, &["app:v1", "example.com/team/app:v2"]).await;
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut encoder, &archive).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(archive.as_slice(), 1).unwrap();
    for bytes in [archive, gzip, zstd] {
        let other = tempfile::tempdir().unwrap();
        let other = open(other.path());
        let named = other.import(io::Cursor::new(bytes), None).await.unwrap();
        let names: Vec<String> = named.iter().map(|named| named.name.to_string()).collect();
        assert_eq!(names, ["docker.io/library/app:v1", "example.com/team/app:v2"]);
        assert!(named.iter().all(|named| named.manifest == one.manifest && named.origin == Origin::Imported));
        let rootfs = other.rootfs(&named[0]).await.unwrap();
        assert_eq!(std::fs::read(rootfs.lower_dirs[0].join("a")).unwrap(), b"content");
    }
}

#[tokio::test]
async fn old_docker_archives_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let named = store.import(io::Cursor::new(old_docker(&["shop:v3"])), None).await.unwrap();
    assert_eq!(named[0].name, name("shop:v3"));
    assert_eq!(store.rootfs(&named[0]).await.unwrap().lower_dirs.len(), 2);
    assert_eq!(store.rootfs(&named[0]).await.unwrap().config.cmd, ["/a"]);
}

#[tokio::test]
async fn a_name_is_asked_for_where_the_archive_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let error = store.import(io::Cursor::new(old_docker(&[])), None).await.unwrap_err();
    assert!(error.to_string().contains("--name"), "{error}");
    let named = store.import(io::Cursor::new(old_docker(&[])), Some(name("mine"))).await.unwrap();
    assert_eq!(named[0].name, name("mine:latest"));
}

#[tokio::test]
async fn one_name_is_not_given_to_several_images() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    built(&store, "one").await;
    let layer = store.write_layer(Compression::None, |writer| writer.file("b", 0o644, b"other")).unwrap();
    let config = ImageConfig { platform: Platform::here(), ..ImageConfig::default() };
    store.build(&name("two"), &config, &[layer]).await.unwrap();
    let bytes = saved(&store, &["one", "two"]).await;
    let error = store.import(io::Cursor::new(bytes), Some(name("both"))).await.unwrap_err();
    assert!(error.to_string().contains("2 images"), "{error}");
}

/// Gives half of the bytes, then fails.
struct Failing(io::Cursor<Vec<u8>>);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::other("the line is dead")),
            count => Ok(count),
        }
    }
}

#[tokio::test]
async fn archives_that_are_none_are_refused_and_leave_no_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let good = old_docker(&["shop"]);
    let mut wrong_layer = good.clone();
    let at = wrong_layer.windows(7).position(|window| window == b"content").unwrap();
    wrong_layer[at] = b'C';
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        io::Write::write_all(&mut encoder, &good).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(good.as_slice(), 1).unwrap();
    let mut damaged = gzip.clone();
    // The first byte behind gzip's own header tells the sort of a block; there is none of this sort.
    damaged[10] = 0xff;
    // The manifest comes last but for a link and the mark of the end.
    let before_manifest = good.windows(13).position(|window| window == b"manifest.json").unwrap();
    let cases: [(&[u8], &str); 9] = [
        (b"not an archive, only text that goes on for a while", "cut short"),
        (&good[..good.len() / 2], "cut short"),
        (&good[..700], "cut short"),
        (&good[..before_manifest], "cut short"),
        (&gzip[..gzip.len() / 2], "cut short, for it cannot be decompressed"),
        (&zstd[..zstd.len() / 2], "cut short, for it cannot be decompressed"),
        (&damaged, "cannot be decompressed"),
        (&wrong_layer, "diff id"),
        (&[0; 1024], "neither index.json nor manifest.json"),
    ];
    for (bytes, expect) in cases {
        let error = store.import(io::Cursor::new(bytes.to_vec()), None).await.unwrap_err().in_full();
        assert!(error.contains(expect) && !error.contains("disk"), "{error}");
    }
    let broken = Failing(io::Cursor::new(good[..700].to_vec()));
    let error = store.import(broken, None).await.unwrap_err().in_full();
    assert!(error.contains("the line is dead") && error.contains("give it again"), "{error}");
    assert!(store.list().is_empty());
    store.collect(&[]).await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(folder.path().join("ingest")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_layout_in_a_directory_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let one = built(&store, "app:v1").await;
    let layout = tempfile::tempdir().unwrap();
    let bytes = saved(&store, &["app:v1"]).await;
    crate::unpack::layer(bytes.as_slice(), Digest::of(&bytes), &[], layout.path()).unwrap();
    let other = tempfile::tempdir().unwrap();
    let other = open(other.path());
    let named = other.import_directory(layout.path(), None).await.unwrap();
    assert_eq!(named[0].manifest, one.manifest);
    let error = other.import_directory(other.root(), None).await.unwrap_err().to_string();
    assert!(error.contains("index.json"), "{error}");
}
