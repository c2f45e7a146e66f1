use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::layer::{Compression, Writer};

/// A tar archive of entries with data.
fn archive(entries: &[(Entry, &[u8])]) -> (Vec<u8>, Digest) {
    let mut writer = Writer::new(Vec::new(), Compression::None).unwrap();
    for (entry, data) in entries {
        writer.append(entry, *data).unwrap();
    }
    let (bytes, layer) = writer.finish().unwrap();
    (bytes, layer.diff_id)
}

fn unpack_onto(entries: &[(Entry, &[u8])], parents: &[PathBuf]) -> Result<tempfile::TempDir, Error> {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, diff_id) = archive(entries);
    layer(bytes.as_slice(), diff_id, parents, folder.path())?;
    Ok(folder)
}

fn unpack(entries: &[(Entry, &[u8])]) -> Result<tempfile::TempDir, Error> {
    unpack_onto(entries, &[])
}

fn file(path: &str) -> (Entry, &'static [u8]) {
    (Entry::file(path, 0o644, 4), b"data")
}

fn empty(entry: Entry) -> (Entry, &'static [u8]) {
    (entry, b"")
}

/// Whatever is refused must be refused before anything outside changes.
fn refuse(entries: &[(Entry, &[u8])], expect: &str) {
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("layer");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(outer.path().join("secret"), b"secret").unwrap();
    let (bytes, diff_id) = archive(entries);
    let error = layer(bytes.as_slice(), diff_id, &[], &inner).unwrap_err();
    assert!(error.to_string().contains(expect), "{error}");
    assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 2);
    assert_eq!(std::fs::read(outer.path().join("secret")).unwrap(), b"secret");
    assert_eq!(outer.path().join("secret").metadata().unwrap().nlink(), 1);
}

fn is_whiteout_at(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.file_type().is_char_device() && metadata.rdev() == 0)
}

fn is_opaque_at(path: &Path) -> bool {
    let mut value = [0_u8; 1];
    matches!(rustix::fs::lgetxattr(path, OPAQUE, &mut value[..]), Ok(1)) && value == *b"y"
}

#[test]
fn everything_that_a_file_has_is_kept() {
    let capability =
        b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec();
    let owned = Entry {
        uid: 1000,
        gid: 2000,
        mtime_seconds: 1_700_000_000,
        mtime_nanos: 123_456_789,
        xattrs: vec![
            (b"security.capability".to_vec(), capability.clone()),
            (b"user.k".to_vec(), b"v".to_vec()),
        ],
        ..Entry::file("usr/bin/ping", 0o4755, 4)
    };
    let mut big = Entry::file("big-owner", 0o600, 0);
    (big.uid, big.gid, big.mtime_seconds) = (4_000_000_000, 3_000_000, -5);
    let long = format!("usr/{}/{}", "d".repeat(200), "f".repeat(250));
    let link_target = "t".repeat(300);
    let directory = Entry { mtime_seconds: 1_600_000_000, uid: 7, ..Entry::directory("usr", 0o2750) };
    let folder = unpack(&[
        empty(directory),
        (owned, b"ping"),
        empty(big),
        file(&long),
        empty(Entry::symlink("link", &link_target)),
        empty(Entry::hard_link("also-ping", "usr/bin/ping")),
        empty(Entry { device: (1, 3), kind: Kind::CharacterDevice, ..Entry::file("null", 0o666, 0) }),
        empty(Entry { kind: Kind::Fifo, ..Entry::file("pipe", 0o600, 0) }),
    ])
    .unwrap();
    let at = |path: &str| folder.path().join(path);
    let ping = at("usr/bin/ping").metadata().unwrap();
    assert_eq!((ping.uid(), ping.gid(), ping.permissions().mode() & 0o7777), (1000, 2000, 0o4755));
    assert_eq!((ping.mtime(), ping.mtime_nsec(), ping.nlink()), (1_700_000_000, 123_456_789, 2));
    let mut value = [0_u8; 64];
    let length = rustix::fs::lgetxattr(at("also-ping"), "security.capability", &mut value[..]).unwrap();
    assert_eq!(value[..length], capability);
    let big = at("big-owner").metadata().unwrap();
    assert_eq!((big.uid(), big.gid(), big.mtime()), (4_000_000_000, 3_000_000, -5));
    assert_eq!(std::fs::read(at(&long)).unwrap(), b"data");
    assert_eq!(std::fs::read_link(at("link")).unwrap().as_os_str(), link_target.as_str());
    let usr = at("usr").metadata().unwrap();
    assert_eq!((usr.mtime(), usr.uid(), usr.permissions().mode() & 0o7777), (1_600_000_000, 7, 0o2750));
    assert!(at("null").metadata().unwrap().file_type().is_char_device());
    assert!(at("pipe").metadata().unwrap().file_type().is_fifo());
}

#[test]
fn hostile_paths_are_refused_and_touch_nothing_outside() {
    refuse(&[file("/etc/passwd")], "absolute");
    refuse(&[file("../secret")], "\"..\"");
    refuse(&[file("a/../../secret")], "\"..\"");
    refuse(&[empty(Entry::symlink("up", "..")), file("up/secret")], "symbolic link");
    refuse(&[empty(Entry::symlink("up", "/")), empty(Entry::directory("up/tmp", 0o755))], "symbolic link");
    refuse(
        &[empty(Entry::directory("a", 0o755)), empty(Entry::symlink("a/b", "..")), file("a/b/c")],
        "symbolic link",
    );
    refuse(&[empty(Entry::hard_link("mine", "../secret"))], "\"..\"");
    refuse(
        &[empty(Entry::symlink("up", "..")), empty(Entry::hard_link("mine", "up/secret"))],
        "symbolic link",
    );
    refuse(&[empty(Entry::hard_link("mine", "/secret"))], "absolute");
    refuse(&[empty(Entry::hard_link("mine", "absent"))], "does not exist");
    refuse(&[empty(Entry::directory("d", 0o755)), empty(Entry::hard_link("mine", "d"))], "directory");
    refuse(&[file("a/.wh...")], "hides no name");
    refuse(&[file("plain"), file("plain/below")], "no directory");
    refuse(&[empty(Entry { kind: Kind::File, ..Entry::file("./", 0o644, 0) })], "root");
    let overlay = vec![(b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec())];
    refuse(&[empty(Entry { xattrs: overlay, ..Entry::directory("d", 0o755) })], "overlayfs");
}

#[test]
fn a_replaced_link_is_not_followed() {
    let outer = tempfile::tempdir().unwrap();
    let victim = outer.path().join("victim");
    std::fs::write(&victim, b"untouched").unwrap();
    let folder = unpack(&[empty(Entry::symlink("f", victim.to_str().unwrap())), file("f")]).unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
    assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"data");
}

#[test]
fn whiteouts_become_overlayfs_own() {
    let folder = unpack(&[
        empty(Entry::directory("etc", 0o755)),
        file("etc/.wh.passwd"),
        file("opt/.wh..wh..opq"),
        file("opt/new"),
        file(".wh..wh.plnk"),
        file(".wh.replaced"),
        empty(Entry::directory("replaced", 0o755)),
        file("kept"),
        file(".wh.kept"),
    ])
    .unwrap();
    let at = |path: &str| folder.path().join(path);
    assert!(is_whiteout_at(&at("etc/passwd")));
    assert!(is_opaque_at(&at("opt")) && at("opt/new").exists());
    assert!(is_opaque_at(&at("replaced")), "a directory in the place of a removed one starts empty");
    assert_eq!(std::fs::read(at("kept")).unwrap(), b"data", "a whiteout is about the layers below");
    assert!(!at(".wh..wh.plnk").exists());
}

#[test]
fn implied_directories_look_like_those_below() {
    let below = unpack(&[
        empty(Entry::directory("tmp", 0o1777)),
        empty(Entry { uid: 5, ..Entry::directory("srv", 0o750) }),
    ])
    .unwrap();
    let folder = unpack_onto(&[file("tmp/a/b"), file("srv/x")], &[below.path().to_path_buf()]).unwrap();
    let mode = |path: &str| folder.path().join(path).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("tmp"), mode("tmp/a"), mode("srv")), (0o1777, 0o755, 0o750));
    assert_eq!(folder.path().join("srv").metadata().unwrap().uid(), 5);
}

#[test]
fn a_hard_link_to_a_file_below_is_a_copy() {
    let below = unpack(&[(Entry { uid: 9, ..Entry::file("bin/tool", 0o755, 4) }, b"tool")]).unwrap();
    let parents = [below.path().to_path_buf()];
    let link = || [empty(Entry::hard_link("bin/alias", "bin/tool"))];
    let folder = unpack_onto(&link(), &parents).unwrap();
    let alias = folder.path().join("bin/alias");
    assert_eq!(std::fs::read(&alias).unwrap(), b"tool");
    assert_eq!((alias.metadata().unwrap().uid(), alias.metadata().unwrap().mode() & 0o7777), (9, 0o755));
    let hidden = unpack_onto(&[file("bin/.wh.tool")], &parents).unwrap();
    let parents = [hidden.path().to_path_buf(), below.path().to_path_buf()];
    assert!(unpack_onto(&link(), &parents).unwrap_err().to_string().contains("does not exist"));
}

#[test]
fn content_with_another_diff_id_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, _) = archive(&[file("a")]);
    let error = layer(bytes.as_slice(), Digest::of(b"other"), &[], folder.path()).unwrap_err();
    assert!(matches!(error, Error::DiffId { .. }), "{error}");
}

#[test]
fn sparse_files_of_every_dialect_have_their_holes() {
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("sparse");
    let made = std::fs::File::create(&path).unwrap();
    made.set_len(3 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&made, b"middle", 1 << 20).unwrap();
    for dialect in [
        "--format=gnu",
        "--format=pax --sparse-version=0.0",
        "--format=pax --sparse-version=0.1",
        "--format=pax",
    ] {
        let output = std::process::Command::new("tar")
            .args(dialect.split(' '))
            .args(["--sparse", "-C"])
            .arg(source.path())
            .args(["-cf", "-", "sparse"])
            .output()
            .unwrap();
        assert!(output.status.success());
        let folder = tempfile::tempdir().unwrap();
        layer(output.stdout.as_slice(), Digest::of(&output.stdout), &[], folder.path()).unwrap();
        let found = folder.path().join("sparse");
        assert_eq!(std::fs::read(&found).unwrap(), std::fs::read(&path).unwrap(), "{dialect}");
        assert!(found.metadata().unwrap().blocks() * 512 < 1 << 20, "{dialect}: the holes are filled");
    }
}

fn any_path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-c]",
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just(".wh.a".to_owned()),
        Just(".wh..wh..opq".to_owned())
    ];
    (proptest::bool::weighted(0.1), proptest::collection::vec(part, 1..5))
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (any_path(), any_path(), 0..6_u8, 0..0o7777_u32).prop_map(|(path, link, kind, mode)| match kind {
        0 => Entry::directory(&path, mode),
        1 => Entry::symlink(&path, &link),
        2 => Entry::hard_link(&path, &link),
        3 => Entry { kind: Kind::Fifo, ..Entry::file(&path, mode, 0) },
        _ => Entry::file(&path, mode, 4),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_archive_reaches_outside(entries in proptest::collection::vec(any_entry(), 1..12)) {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("a");
        std::fs::create_dir(&inner).unwrap();
        for name in ["b", "c"] {
            std::fs::write(outer.path().join(name), b"untouched").unwrap();
        }
        let with_data: Vec<(Entry, &[u8])> =
            entries.into_iter().map(|entry| { let data: &[u8] = if entry.size > 0 { b"data" } else { b"" }; (entry, data) }).collect();
        let (bytes, diff_id) = archive(&with_data);
        let _ = layer(bytes.as_slice(), diff_id, &[], &inner);
        prop_assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 3);
        for name in ["b", "c"] {
            let path = outer.path().join(name);
            prop_assert_eq!(std::fs::read(&path).unwrap(), b"untouched");
            prop_assert_eq!(path.metadata().unwrap().nlink(), 1);
        }
    }

    #[test]
    fn damaged_archives_are_refused_without_a_panic(
        at in 0..4096_usize, byte in any::<u8>(), cut in 0..4096_usize
    ) {
        let (mut bytes, diff_id) = archive(&[
            (Entry { xattrs: vec![(b"user.a".to_vec(), b"b".to_vec())], ..Entry::file("a", 0o644, 4) }, b"data"),
            empty(Entry::symlink("l", "a")),
        ]);
        let length = bytes.len();
        bytes[at % length] ^= byte;
        bytes.truncate(length - cut % length);
        let folder = tempfile::tempdir().unwrap();
        let whole = Digest::of(&bytes) == diff_id;
        let done = layer(bytes.as_slice(), diff_id, &[], folder.path());
        prop_assert_eq!(done.is_ok(), whole);
    }

    #[test]
    fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let mut reader = Reader::new(bytes.as_slice());
        while let Ok(Some(_)) = reader.next_entry() {}
    }
}
