//! The volumes that an image declares. As under containerd, each attempt gets a writable directory of its own for them,
//! which begins with what the image has there: so images run with a root that nobody can write to.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as core;
use sandbox::Root;
use sandbox::inside::{self, CopyError};

use crate::pod::live::RootImage;

/// The most volumes of one image that are made.
pub const VOLUMES_MAX: usize = 100;
/// Where they are, in the writable directory of the attempt.
const FOLDER: &str = "volumes";

/// Makes the directories of an attempt that begins, in its writable directory. Gives where they belong, and where they
/// are. What is there already was made for the same attempt and is left as it is. Blocking.
pub fn prepare(
    container: &core::Container,
    image: &RootImage,
    root: &Root,
    writable: &Path,
) -> Result<Vec<(String, PathBuf)>, String> {
    let wanted = targets(&image.config.volumes, container)?;
    let failed = |target: &str, why: String| format!("the volume {target} of the image: {why}");
    let mut made = Vec::new();
    for (index, target) in wanted.into_iter().enumerate() {
        let folder = writable.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(|error| failed(&target, error.to_string()))?;
        // An attempt that could not be started may be tried again with another image.
        let path = folder.join(format!("{}-{index}", image.manifest.hex()));
        if !path.exists() {
            let draft = path.with_extension("draft");
            fill(root, &target, &draft, &path).map_err(|error| failed(&target, base::with_causes(&error)))?;
        }
        made.push((target, path));
    }
    Ok(made)
}

/// What is half done does not count.
fn fill(root: &Root, target: &str, draft: &Path, path: &Path) -> Result<(), CopyError> {
    if draft.exists() {
        base::tree::remove(draft)?;
    }
    inside::copy(root, target, draft)?;
    Ok(std::fs::rename(draft, path)?)
}

/// Where the image wants volumes and the container mounts nothing itself.
fn targets(volumes: &[String], container: &core::Container) -> Result<Vec<String>, String> {
    let mounted: Vec<String> =
        container.volume_mounts.iter().flatten().map(|mount| cleaned(&mount.mount_path)).collect();
    let mut targets = Vec::new();
    for declared in volumes {
        let target = cleaned(declared);
        let of_processes = target == "/proc" || target.starts_with("/proc/");
        if target == "/" || of_processes || declared.contains('\0') {
            return Err(format!("the image declares a volume at {declared:?}, where none can be"));
        }
        if !mounted.contains(&target) && !targets.contains(&target) {
            targets.push(target);
        }
    }
    if targets.len() > VOLUMES_MAX {
        return Err(format!("the image declares more than {VOLUMES_MAX} volumes"));
    }
    Ok(targets)
}

/// The path from the root, without detours, and never above the root.
fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(declared: &[&str], mounted: &[&str], expect: &[&str]) {
        let mount = |path: &&str| core::VolumeMount { mount_path: (*path).into(), ..Default::default() };
        let container = core::Container {
            volume_mounts: Some(mounted.iter().map(mount).collect()),
            ..core::Container::default()
        };
        let declared: Vec<String> = declared.iter().map(ToString::to_string).collect();
        assert_eq!(targets(&declared, &container).expect("allowed"), expect, "{declared:?}");
    }

    #[test]
    fn every_declared_path_is_one_below_the_root() {
        check(&["/data"], &[], &["/data"]);
        check(&["data", "./data/", "/data//"], &[], &["/data"]);
        check(&["/a/../../../b", "../c/./d"], &[], &["/b", "/c/d"]);
    }

    #[test]
    fn what_the_pod_mounts_there_comes_before_the_image() {
        check(&["/data", "/logs"], &["/data/"], &["/logs"]);
        check(&["/data"], &["/data/below", "/dat"], &["/data"]);
    }

    #[test]
    fn volumes_in_impossible_places_are_refused() {
        let many: Vec<String> = (0..=VOLUMES_MAX).map(|number| format!("/v{number}")).collect();
        let none = core::Container::default();
        for declared in ["/", "", "/a/..", "../..", "/proc", "/proc/sys", "/x/../proc/1", "/a\0b"] {
            let refused = targets(&[declared.to_owned()], &none).expect_err(declared);
            assert!(refused.contains("declares a volume at"), "{refused}");
        }
        assert!(targets(&many, &none).expect_err("too many").contains("more than"));
    }

    proptest::proptest! {
        #[test]
        fn a_cleaned_path_never_leaves_the_root(path in "[a-z./]{0,40}") {
            let cleaned = cleaned(&path);
            proptest::prop_assert!(cleaned.starts_with('/'));
            proptest::prop_assert!(cleaned.split('/').skip(1).all(|part| part != ".." && part != "."));
        }
    }
}
