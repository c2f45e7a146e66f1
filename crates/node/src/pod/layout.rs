//! What an attempt has on the node before it is started: files, writable directories, and who it runs as.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use api::object::Object;
use k8s_openapi::api::core::v1 as core;
use sandbox::{Attempt, Root, User};
use tracing::warn;

use crate::pod::container::hostname;
use crate::pod::desired::Desired;
use crate::pod::environment::Facts;
use crate::pod::live::RootImage;
use crate::pod::network_files;
use crate::pod::records::{Kept, Records};
use crate::pod::worker::Worker;
use crate::volume;

/// Where the files of `/etc` are that all containers of a pod share, in its directory.
pub(super) const ETC: &str = "etc";

/// What an attempt is laid out for.
pub(super) struct Ground<'a> {
    pub object: &'a Object,
    pub pod: &'a core::Pod,
    pub container: &'a core::Container,
    pub restarts: u32,
    pub image: &'a RootImage,
    pub facts: &'a Facts,
}

/// What was laid out.
pub(super) struct Layout {
    /// Files that every container gets: path inside, and on the node.
    pub files: Vec<(String, PathBuf)>,
    /// Directories for the volumes that the image declares, in the same way.
    pub image_volumes: Vec<(String, PathBuf)>,
    pub termination_file: PathBuf,
    pub root: Root,
    pub user: User,
    /// What the next agent is to know.
    pub kept: Kept,
}

impl Worker {
    /// Makes what an attempt has on the node. It may be asked for again, as long as the attempt was not started.
    /// Blocking.
    pub(super) fn lay_out(&self, ground: &Ground) -> Result<Layout, String> {
        let failed = |error: io::Error| format!("the node's disk: {error}");
        let Ground { container, image, .. } = *ground;
        let files = self.shared_files(ground)?;
        let records = self.records(&container.name, ground.restarts);
        std::fs::create_dir_all(records.folder()).map_err(failed)?;
        remove_old_roots(records.folder(), ground.restarts).map_err(failed)?;
        let termination_file = records.termination();
        std::fs::write(&termination_file, "").map_err(failed)?;
        std::fs::set_permissions(&termination_file, PermissionsExt::from_mode(0o666)).map_err(failed)?;
        let writable = records.writable();
        let root = Root::Overlay {
            lower: image.layers.clone(),
            upper: writable.join("upper"),
            work: writable.join("work"),
        };
        let user = user(container, ground.pod, &image.config.user, &root)?;
        let image_volumes = volume::of_image::prepare(container, image, &root, &writable)?;
        let kept = Kept {
            image: container.image.clone().unwrap_or_default(),
            image_id: image.id.clone(),
            manifest: image.manifest,
            stop_signal: image.config.stop_signal.clone(),
            user: (user.uid, user.gid, user.groups.clone()),
        };
        records.keep(&kept).map_err(failed)?;
        Ok(Layout { files, image_volumes, termination_file, root, user, kept })
    }

    /// The files of `/etc` that all containers of the pod share.
    fn shared_files(&self, ground: &Ground) -> Result<Vec<(String, PathBuf)>, String> {
        let failed = |error: io::Error| format!("the node's disk: {error}");
        let Ground { object, pod, facts, .. } = *ground;
        let etc = self.directory().join(ETC);
        std::fs::create_dir_all(&etc).map_err(failed)?;
        let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
        let host = hostname(object, pod);
        let domain = spec.subdomain.as_ref().filter(|name| !name.is_empty());
        let domain = domain
            .map(|sub| format!("{sub}.{}.svc.{}", object.namespace(), self.context.settings.cluster_domain));
        let hosts = if spec.host_network == Some(true) {
            let own = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            network_files::hosts_of_host(&own, spec)
        } else {
            network_files::hosts(&host, domain.as_deref(), &facts.pod_ips, spec)
        };
        let contents = [
            ("hosts", hosts),
            ("resolv.conf", network_files::resolv_conf(&self.context.settings, object.namespace(), spec)),
            ("hostname", format!("{host}\n")),
        ];
        let mut files = Vec::new();
        for (file, content) in contents {
            let path = etc.join(file);
            let draft = etc.join(format!(".{file}.{}", ground.container.name));
            write_once(&path, &draft, &content).map_err(failed)?;
            files.push((format!("/etc/{file}"), path));
        }
        Ok(files)
    }

    /// Lets go of all attempts but this and the one before, which can still be asked for: of their control groups,
    /// logs and last words. A container that crashes for ever must not fill the node.
    pub(super) async fn forget_older(
        &self,
        desired: &Desired,
        sandbox: &sandbox::Sandbox,
        attempt: &Attempt,
    ) {
        let is_old = |number: u32| number + 1 < attempt.number;
        let state = sandbox.state();
        let known =
            state.containers.keys().filter(|other| other.name == attempt.name && is_old(other.number));
        for old in known {
            if let Err(error) = sandbox.forget(old).await {
                warn!(container = %old, %error, "what an attempt has left could not be removed");
            }
        }
        let logs = self.log_path(desired, &attempt.name, attempt.number);
        let files = self.records(&attempt.name, attempt.number).folder().to_owned();
        let (folders, newest) =
            ([logs.parent().map(Path::to_owned).unwrap_or_default(), files], attempt.number);
        let removed = tokio::task::spawn_blocking(move || {
            let entries =
                folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
            for entry in entries {
                // `<attempt>.log`, `<attempt>.log.<time>`, and the records of the attempt.
                let name = entry.file_name();
                let number = name.to_str().and_then(|name| name.split_once('.')?.0.parse::<u32>().ok());
                if number.is_some_and(|number| number + 1 < newest) && entry.path().is_file() {
                    // What cannot be removed now is removed with the pod.
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        });
        let _ = removed.await;
    }
}

/// Writes a file unless it is there, as a whole or not at all: containers may have changed it, and start side by side.
fn write_once(path: &Path, draft: &Path, content: &str) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    std::fs::write(draft, content)?;
    match std::fs::hard_link(draft, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    std::fs::remove_file(draft)
}

/// The writable layer of an attempt ends with the next but one.
fn remove_old_roots(container: &Path, restarts: u32) -> io::Result<()> {
    for old in std::fs::read_dir(container)?.flatten() {
        let number = old.file_name().to_str().and_then(Records::number_of_writable);
        if number.is_some_and(|number| number + 1 < restarts) {
            base::tree::remove(&old.path())?;
        }
    }
    Ok(())
}

/// Makes the directories below volumes that the container mounts. Blocking.
pub(super) fn make_sub_paths(spec: &sandbox::ContainerSpec) -> Result<(), String> {
    for mount in &spec.mounts {
        if let sandbox::MountSource::Bind { path, sub_path, .. } = &mount.source
            && !sub_path.is_empty()
        {
            volume::sub_path::ensure(path, sub_path).map_err(|error| {
                format!("failed to prepare subPath {sub_path:?} for {}: {error}", mount.target)
            })?;
        }
    }
    Ok(())
}

/// Who runs a container: what the pod says, or the image.
fn user(container: &core::Container, pod: &core::Pod, image_user: &str, root: &Root) -> Result<User, String> {
    let own = container.security_context.as_ref();
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let uid = own.and_then(|own| own.run_as_user).or(of_pod.and_then(|pod| pod.run_as_user));
    let gid = own.and_then(|own| own.run_as_group).or(of_pod.and_then(|pod| pod.run_as_group));
    let wanted = uid.map_or_else(|| image_user.to_owned(), |uid| uid.to_string());
    let mut user = sandbox::users::lookup(root, &wanted).map_err(|error| error.to_string())?.user;
    let number = |id: i64| u32::try_from(id).map_err(|_| format!("{id} is no user or group id"));
    if let Some(gid) = gid {
        user.gid = number(gid)?;
    }
    let strict = of_pod.and_then(|pod| pod.supplemental_groups_policy.as_deref()) == Some("Strict");
    if strict {
        user.groups.clear();
    }
    let more =
        of_pod.into_iter().flat_map(|pod| pod.supplemental_groups.iter().flatten().chain(&pod.fs_group));
    for group in more {
        let group = number(*group)?;
        if !user.groups.contains(&group) {
            user.groups.push(group);
        }
    }
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_containers_share_is_written_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, draft) = (folder.path().join("hosts"), folder.path().join(".hosts.web"));
        // What an agent that was killed has left of its draft is of no matter.
        std::fs::write(&draft, "ha").expect("written");
        write_once(&path, &draft, "first").expect("written");
        write_once(&path, &folder.path().join(".hosts.other"), "second").expect("it is there");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "first");
        assert!(!draft.exists(), "nothing else is left");
    }

    #[test]
    fn the_writable_layers_of_two_attempts_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["0.root", "1.root", "2.root", "0.termination"] {
            std::fs::create_dir_all(folder.path().join(name).join("upper")).expect("made");
        }
        remove_old_roots(folder.path(), 2).expect("removed");
        let left = |name: &str| folder.path().join(name).exists();
        assert_eq!((left("0.root"), left("1.root"), left("2.root")), (false, true, true));
        assert!(left("0.termination"), "other records are not its matter");
    }
}
