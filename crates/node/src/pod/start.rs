//! The steps that bring a pod up.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use sandbox::{Attempt, Resources, Root, Scope, User};
use tracing::warn;

use crate::pod::container::{self, Parts, hostname, shares};
use crate::pod::deadline::Deadline;
use crate::pod::environment::{Facts, of_services, variables};
use crate::pod::machine::Part;
use crate::pod::network_files;
use crate::pod::quality::{Quality, milli, units};
use crate::pod::worker::{Desired, RETRY, Worker};
use crate::probe::{Action, Place};
use crate::volume;

/// How long a hook may take if nothing else bounds it.
const HOOK_TIMEOUT: Duration = Duration::from_secs(600);
/// Time for a container whose hook failed.
const HOOK_FAILURE_GRACE: Duration = Duration::from_secs(30);

/// Where the files of `/etc` are that all containers of a pod share, in its directory.
const ETC: &str = "etc";

/// Ending of the file that holds the name of an attempt's image.
const IMAGE_FILE: &str = "image";

/// The files of a container's attempt on the node.
struct Layout {
    /// Path inside, and on the node.
    files: Vec<(String, PathBuf)>,
    termination_file: PathBuf,
    root: Root,
}

/// Why a container cannot be started, as its status and events say it.
pub(super) struct Obstacle {
    pub reason: &'static str,
    pub message: String,
}

impl Worker {
    /// The pod's directory.
    pub(super) fn directory(&self) -> PathBuf {
        self.context.settings.pods_dir.join(self.uid.as_str())
    }

    /// Where a container's logs are.
    pub fn log_path(&self, desired: &Desired, container: &str, attempt: u32) -> PathBuf {
        let object = &desired.object;
        let pod = format!("{}_{}_{}", object.namespace(), object.name(), object.uid());
        self.context.settings.logs_dir.join(pod).join(container).join(format!("{attempt}.log"))
    }

    pub(super) fn facts(&self) -> Facts {
        Facts {
            host_ips: self.context.settings.host_ips.clone(),
            pod_ips: self.live().ips.clone(),
            allocatable: self.context.settings.allocatable.clone(),
        }
    }

    pub(super) async fn create_sandbox(self: &Arc<Self>, desired: &Desired) {
        match self.try_create_sandbox(desired).await {
            Ok(sandbox) => self.adopt(sandbox),
            Err(why) => {
                self.context.network.release(&self.uid);
                self.note(
                    None,
                    true,
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {why}"),
                );
                let retry_at = self.context.clock.now() + RETRY;
                self.change(|live| live.sandbox = Part::Failed(retry_at));
            }
        }
    }

    async fn try_create_sandbox(self: &Arc<Self>, desired: &Desired) -> Result<sandbox::Sandbox, String> {
        let spec = desired.pod.spec.as_ref().ok_or("the pod has no spec")?;
        let scope = |host: Option<bool>| if host == Some(true) { Scope::Host } else { Scope::Own };
        let on_host = spec.host_network == Some(true);
        let sysctls = spec.security_context.as_ref().and_then(|security| security.sysctls.as_ref());
        let sandbox = self
            .context
            .sandboxes
            .create(sandbox::Spec {
                id: self.uid.to_string(),
                hostname: hostname(&desired.object, &desired.pod),
                network: scope(spec.host_network),
                ipc: scope(spec.host_ipc),
                uts: scope(spec.host_network),
                sysctls: sysctls.into_iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect(),
                cgroup_parent: Quality::of(&desired.pod).cgroup().to_owned(),
                resources: pod_resources(spec),
                annotation: format!("{}/{}", desired.object.namespace(), desired.object.name()),
                ..sandbox::Spec::default()
            })
            .await
            .map_err(|error| base::with_causes(&error))?;
        let ips = if on_host {
            self.context.settings.host_ips.clone()
        } else {
            match self.connect(&sandbox).await {
                Ok(ips) => ips,
                Err(why) => {
                    // A sandbox without a network is of no use; the next attempt makes both anew.
                    let _ = sandbox.remove().await;
                    return Err(why);
                }
            }
        };
        let (directory, kept) = (self.directory(), ips.clone());
        let written = tokio::task::spawn_blocking(move || {
            // Names of an earlier sandbox lead to its address; the first container has them made anew.
            match std::fs::remove_dir_all(directory.join(ETC)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            crate::agent::write_addresses(&directory, &kept)
        })
        .await;
        if let Ok(Err(error)) = written {
            let _ = sandbox.remove().await;
            return Err(error.to_string());
        }
        self.live().ips = ips;
        Ok(sandbox)
    }

    async fn connect(&self, sandbox: &sandbox::Sandbox) -> Result<Vec<std::net::IpAddr>, String> {
        use std::os::fd::AsFd;
        let netns = std::fs::File::open(sandbox.netns_path()).map_err(|error| error.to_string())?;
        self.context.network.attach(&self.uid, netns.as_fd()).await
    }

    pub(super) async fn start_container(self: &Arc<Self>, desired: &Desired, name: &str, restarts: u32) {
        let result = self.try_start(desired, name, restarts).await;
        let now = self.context.clock.now();
        match result {
            Ok(attempt) => {
                self.change(|live| {
                    let container = live.containers.entry(name.to_owned()).or_default();
                    (container.waiting, container.busy) = (None, false);
                    // The next attempt asks again: a policy may want the registry's newest.
                    container.image = Part::Missing;
                });
                self.watch_over(desired, attempt, true);
            }
            Err(obstacle) => {
                self.note(Some(name), true, "Failed", format!("Error: {}", obstacle.message));
                self.change(|live| {
                    let container = live.containers.entry(name.to_owned()).or_default();
                    container.busy = false;
                    container.waiting = Some((obstacle.reason.to_owned(), obstacle.message));
                    // What is configured wrongly is looked at again, as a change elsewhere may mend it.
                    container.image = Part::Failed(now + RETRY);
                });
            }
        }
    }

    async fn try_start(
        self: &Arc<Self>,
        desired: &Desired,
        name: &str,
        restarts: u32,
    ) -> Result<Attempt, Obstacle> {
        let config = |message: String| Obstacle { reason: "CreateContainerConfigError", message };
        let container =
            find(desired, name).ok_or_else(|| config(format!("the pod has no container {name}")))?;
        let (sandbox, root_image, volumes) = {
            let live = self.live();
            let root = live.containers.get(name).and_then(|container| container.rootfs.clone());
            (live.handle.clone(), root, live.volume_paths.clone())
        };
        let (Some(sandbox), Some(root_image)) = (sandbox, root_image) else {
            return Err(config("sandbox or image is not there any more".to_owned()));
        };
        let facts = self.facts();
        let links = desired.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
        let mut services = (self.context.services)(desired.object.namespace());
        if !links {
            services.retain(|service| service.name == "kubernetes");
        }
        let variables = variables(
            &desired.object,
            &desired.pod,
            container,
            &facts,
            &*self.context.references,
            &of_services(&services),
        )
        .map_err(|error| config(error.to_string()))?;
        let worker = self.clone();
        let (object, pod, own, image) =
            (desired.object.clone(), desired.pod.clone(), container.clone(), root_image);
        let log = self.log_path(desired, name, restarts);
        let prepared = tokio::task::spawn_blocking(move || {
            let Layout { files, termination_file, root } =
                worker.lay_out(&object, &pod, &own.name, restarts, &image.layers, &facts)?;
            let user = user(&own, &pod, &image.config.user, &root)?;
            let parts = Parts {
                object: &object,
                pod: &pod,
                container: &own,
                restarts,
                image: &image.config,
                root,
                variables,
                user,
                volumes: &volumes,
                files,
                termination_file,
                log,
                node_memory_bytes: worker.context.settings.memory_bytes,
            };
            let spec = container::spec(parts).map_err(|error| error.to_string())?;
            make_sub_paths(&spec)?;
            Ok(spec)
        });
        let spec = prepared.await.map_err(|error| config(error.to_string()))?.map_err(config)?;
        let who = (spec.user.uid, spec.user.gid, spec.user.groups.clone());
        let attempt = spec.attempt.clone();
        self.live().containers.entry(name.to_owned()).or_default().runs =
            container.image.clone().map(|image| (restarts, image));
        self.note(Some(name), false, "Created", "Container created");
        let start = sandbox.start(spec);
        tokio::pin!(start);
        let started = tokio::select! {
            started = &mut start => started,
            () = Deadline::of_the_pod(self) => {
                // It hangs, on a file or a disk that does not answer, and nobody waits for it any more.
                if let Err(error) = sandbox.kill(&attempt).await {
                    warn!(container = %attempt, %error, "a container that does not start could not be killed");
                }
                start.await
            }
        };
        match started {
            Ok(started) => {
                for note in started.state.notes {
                    self.note(Some(name), true, "LimitClamped", note);
                }
                self.live().containers.entry(name.to_owned()).or_default().user = Some(who);
                self.note(Some(name), false, "Started", "Container started");
                self.forget_older(desired, &sandbox, &attempt).await;
                Ok(attempt)
            }
            // The attempt is over and known to the sandbox: its end is answered like any other.
            Err(error) => {
                let known = sandbox.state().get(&attempt).is_some();
                let message = error.to_string();
                if known {
                    self.note(Some(name), true, "Failed", format!("Error: {message}"));
                    return Ok(attempt);
                }
                Err(Obstacle { reason: "RunContainerError", message })
            }
        }
    }

    /// Lets go of all attempts but this and the one before, which can still be asked for: of their control groups,
    /// logs and last words. A container that crashes for ever must not fill the node.
    async fn forget_older(&self, desired: &Desired, sandbox: &sandbox::Sandbox, attempt: &Attempt) {
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
        let files = self.directory().join("containers").join(&attempt.name);
        let (folders, newest) =
            ([logs.parent().map(Path::to_owned).unwrap_or_default(), files], attempt.number);
        let removed = tokio::task::spawn_blocking(move || {
            let entries =
                folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
            for entry in entries {
                // `<attempt>.log`, `<attempt>.log.<time>`, `<attempt>.termination`.
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

    /// The files of a container's attempt on the node. Blocking.
    fn lay_out(
        &self,
        object: &api::object::Object,
        pod: &core::Pod,
        name: &str,
        restarts: u32,
        layers: &[PathBuf],
        facts: &Facts,
    ) -> Result<Layout, String> {
        let failed = |error: std::io::Error| format!("the node's disk: {error}");
        let directory = self.directory();
        let etc = directory.join(ETC);
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
            // Containers may have changed it; only the first one finds it made.
            if !path.exists() {
                std::fs::write(&path, content).map_err(failed)?;
            }
            files.push((format!("/etc/{file}"), path));
        }
        let container = directory.join("containers").join(name);
        std::fs::create_dir_all(&container).map_err(failed)?;
        if restarts > 0 {
            // The writable layer of an attempt ends with the next one.
            for old in std::fs::read_dir(&container).map_err(failed)?.flatten() {
                let is_older_root =
                    old.file_name().to_str().and_then(|n| n.strip_suffix(".root")?.parse::<u32>().ok());
                if is_older_root.is_some_and(|number| number + 1 < restarts) {
                    base::tree::remove(&old.path()).map_err(failed)?;
                }
            }
        }
        let termination_file = container.join(format!("{restarts}.termination"));
        std::fs::write(&termination_file, "").map_err(failed)?;
        let mut described = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let image = described.find(|other| other.name == name).and_then(|own| own.image.as_ref());
        if let Some(image) = image {
            std::fs::write(container.join(format!("{restarts}.{IMAGE_FILE}")), image).map_err(failed)?;
        }
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&termination_file, permissions).map_err(failed)?;
        let writable = container.join(format!("{restarts}.root"));
        let root = Root::Overlay {
            lower: layers.to_vec(),
            upper: writable.join("upper"),
            work: writable.join("work"),
        };
        Ok(Layout { files, termination_file, root })
    }

    /// The name of the image that an attempt runs, as an agent wrote it down when it started it.
    pub(super) fn image_of(&self, name: &str, attempt: u32) -> Option<(u32, String)> {
        let file = self.directory().join("containers").join(name).join(format!("{attempt}.{IMAGE_FILE}"));
        std::fs::read_to_string(file).ok().map(|image| (attempt, image))
    }

    /// A container runs: its hook is told (once, by who started it), its probes begin.
    pub(super) fn watch_over(self: &Arc<Self>, desired: &Desired, attempt: Attempt, tell_hook: bool) {
        let Some(container) = find(desired, &attempt.name).cloned() else { return };
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let (worker, hook) = (self.clone(), hook.filter(|_| tell_hook).and_then(Action::of_hook));
        self.context.tasks.spawn("after start", async move {
            let Some(sandbox) = worker.sandbox() else { return };
            if let Some(hook) = hook {
                let ip = worker.live().ips.first().copied();
                let place = Place { sandbox: &sandbox, attempt: &attempt, container: &container, ip };
                if let Err(failure) = hook.run(&place, &worker.context.clock, HOOK_TIMEOUT).await {
                    let message = format!("PostStartHook failed: {}", failure.0);
                    worker.note(Some(&container.name), true, "FailedPostStartHook", message);
                    worker.condemn(&attempt, HOOK_FAILURE_GRACE, "postStart hook");
                    return;
                }
            }
            worker.observe(&mut worker.live(), &worker.desired(), worker.context.clock.now());
            worker.probe(&container, &attempt).await;
        });
    }
}

/// Makes the directories below volumes that the container mounts. Blocking.
fn make_sub_paths(spec: &sandbox::ContainerSpec) -> Result<(), String> {
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

/// The container of a name, init containers included.
pub fn find<'a>(desired: &'a Desired, name: &str) -> Option<&'a core::Container> {
    let spec = desired.pod.spec.as_ref()?;
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.find(|container| container.name == name)
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

/// Limits of the whole pod: the sum of its containers' limits, where all have one; shares for all requests.
fn pod_resources(spec: &core::PodSpec) -> Resources {
    let amounts = |name: &str, limits: bool| -> (i64, bool) {
        let of = |container: &core::Container| {
            let resources = container.resources.as_ref();
            let list = resources.and_then(|r| if limits { r.limits.as_ref() } else { r.requests.as_ref() });
            list.and_then(|list| list.get(name))
                .map(|text| if name == "cpu" { milli(text) } else { units(text) })
        };
        let sidecars =
            spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let running: Vec<Option<i64>> = spec.containers.iter().chain(sidecars).map(of).collect();
        let starting = spec.init_containers.iter().flatten().filter_map(of).max().unwrap_or_default();
        let all = !running.is_empty() && running.iter().all(|amount| amount.is_some_and(|amount| amount > 0));
        (running.iter().flatten().sum::<i64>().max(starting), all)
    };
    let (cpu_request, _) = amounts("cpu", false);
    let ((cpu_limit, cpu_all), (memory_limit, memory_all)) = (amounts("cpu", true), amounts("memory", true));
    Resources {
        cpu_shares: Some(shares(cpu_request)),
        cpu_quota_us: cpu_all.then(|| cpu_limit.unsigned_abs() * 100).map(|quota| quota.max(1000)),
        cpu_period_us: cpu_all.then_some(100_000),
        memory_bytes: memory_all.then(|| memory_limit.unsigned_abs()),
        pids: None,
        huge_pages: Vec::new(),
    }
}
