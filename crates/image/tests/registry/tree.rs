//! Comparing directory trees to the last attribute.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::store::Rootfs;

/// Everything about a file that an image must keep.
pub fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut links: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let metadata = path.symlink_metadata().unwrap();
            let relative = path.strip_prefix(root).unwrap().to_path_buf();
            let (mut content, mut size, mut time) = (String::new(), 0, 0);
            if metadata.is_symlink() {
                content = std::fs::read_link(&path).unwrap().display().to_string();
            } else if metadata.is_file() {
                content = image::Digest::of(&std::fs::read(&path).unwrap()).to_string();
                (size, time) = (metadata.len(), metadata.mtime());
            } else if metadata.is_dir() {
                waiting.push(path.clone());
            }
            let twin = match metadata.is_file() && metadata.nlink() > 1 {
                true => {
                    Some(links.entry((metadata.dev(), metadata.ino())).or_insert(relative.clone()).clone())
                }
                false => None,
            };
            let mut capability = [0_u8; 64];
            let length =
                rustix::fs::lgetxattr(&path, "security.capability", &mut capability[..]).unwrap_or(0);
            found.insert(
                relative,
                format!(
                    "{:o} {}:{} {size} bytes, {time}, device {}, {content} {twin:?} {:?}",
                    metadata.mode(),
                    metadata.uid(),
                    metadata.gid(),
                    metadata.rdev(),
                    &capability[..length]
                ),
            );
        }
    }
    found
}

/// An image mounted by the kernel's overlayfs while this value lives.
pub struct Mounted(tempfile::TempDir);

impl Mounted {
    pub fn new(rootfs: &Rootfs) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (base, lower) = rootfs.lowerdir_option();
        // Overlayfs takes no single layer without an upper one, so an empty one lies on top.
        let empty = folder.path().join("empty");
        let target = folder.path().join("mnt");
        std::fs::create_dir(&empty).unwrap();
        std::fs::create_dir(&target).unwrap();
        let options = format!("ro,lowerdir={}:{lower}", empty.display());
        let status = Command::new("mount")
            .current_dir(base)
            .args(["-i", "-t", "overlay", "overlay", "-o", &options])
            .arg(&target)
            .status()
            .unwrap();
        assert!(status.success(), "mounting an overlay needs root and a kernel with overlayfs");
        Self(folder)
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("mnt")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

/// Fails with the first differences.
pub fn assert_same(found: &BTreeMap<PathBuf, String>, truth: &BTreeMap<PathBuf, String>) {
    let missing: Vec<_> =
        truth.iter().filter(|(path, line)| found.get(*path) != Some(line)).take(5).collect();
    let wrong: Vec<_> = found.iter().filter(|(path, line)| truth.get(*path) != Some(line)).take(5).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "expected {missing:#?}\nfound {wrong:#?}");
}
