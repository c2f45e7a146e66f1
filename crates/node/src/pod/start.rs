//! The steps that bring a pod up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::interface::{Call, Target, WriteOptions};
use api::json;
use api::names::SERVICE_ACCOUNTS;
use image::policy::{Decision, PullPolicy, decide};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use sandbox::{Attempt, Resources, Root, Scope, User};

use crate::pod::container::{self, Parts, hostname, shares};
use crate::pod::environment::{Facts, of_services, variables};
use crate::pod::live::RootImage;
use crate::pod::machine::{Part, backoff};
use crate::pod::network_files;
use crate::pod::quality::{Quality, milli, units};
use crate::pod::sources::Sources;
use crate::pod::worker::{Desired, RETRY, Worker};
use crate::probe::{Action, Place};
use crate::volume::{self, VolumeError, Volumes};

/// Of its life, the share (in percent) after which a token is renewed, and the least before.
const TOKEN_RENEWAL_PERCENT: i64 = 80;
/// How long a hook may take if nothing else bounds it.
const HOOK_TIMEOUT: Duration = Duration::from_secs(600);
/// Time for a container whose hook failed.
const HOOK_FAILURE_GRACE: Duration = Duration::from_secs(30);

/// The files of a container's attempt on the node.
struct Layout {
    /// Path inside, and on the node.
    files: Vec<(String, PathBuf)>,
    termination_file: PathBuf,
    root: Root,
}

/// Why a container cannot be started, as its status and events say it.
struct Obstacle {
    reason: &'static str,
    message: String,
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

    fn facts(&self) -> Facts {
        Facts {
            host_ips: self.context.settings.host_ips.clone(),
            pod_ips: self.live().ips.clone(),
            allocatable: self.context.settings.allocatable.clone(),
        }
    }

    pub(super) async fn prepare_volumes(self: &Arc<Self>, desired: &Desired) {
        let (maps, secrets) = volume::references(&desired.pod);
        self.context.references.ensure(&self.uid, desired.object.namespace(), &maps, &secrets).await;
        let result = self.write_volumes(desired).await;
        let retry_at = self.context.clock.now() + RETRY;
        match result {
            Ok(paths) => self.change(|live| (live.volume_paths, live.volumes) = (paths, Part::Ready)),
            Err(error) => {
                let reason = if matches!(error, VolumeError::Unsupported { .. }) {
                    "UnsupportedVolume"
                } else {
                    "FailedMount"
                };
                self.note(None, true, reason, error.to_string());
                self.change(|live| live.volumes = Part::Failed(retry_at));
            }
        }
    }

    /// Brings files of ConfigMaps, Secrets, downward fields and tokens up to date.
    pub(super) async fn refresh_volumes(self: &Arc<Self>) {
        if self.live().volumes != Part::Ready {
            // What was missing may be there now, so it is tried again at once.
            return self.change(|live| {
                if matches!(live.volumes, Part::Failed(_)) {
                    live.volumes = Part::Missing;
                }
            });
        }
        let desired = self.desired();
        match self.write_volumes(&desired).await {
            Ok(paths) => self.change(|live| live.volume_paths = paths),
            Err(error) => self.note(None, true, "FailedMount", error.to_string()),
        }
    }

    async fn write_volumes(
        self: &Arc<Self>,
        desired: &Desired,
    ) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
        let tokens = self.fetch_tokens(desired).await?;
        let (worker, desired, facts) = (self.clone(), desired.clone(), self.facts());
        let work = move || {
            let directory = worker.directory().join("volumes");
            let volumes = Volumes {
                object: &desired.object,
                pod: &desired.pod,
                directory: &directory,
                sources: &*worker.context.references,
                tokens: &tokens,
                facts: &facts,
                now: worker.context.clock.now(),
            };
            volumes.prepare()
        };
        let failed = |error: tokio::task::JoinError| VolumeError::Io {
            volume: "all".to_owned(),
            source: std::io::Error::other(error),
        };
        tokio::task::spawn_blocking(work).await.map_err(failed)?
    }

    /// The tokens of projected volumes; those near their end are asked for anew, and a task renews them in time.
    async fn fetch_tokens(
        self: &Arc<Self>,
        desired: &Desired,
    ) -> Result<BTreeMap<(String, String), String>, VolumeError> {
        let now = self.context.clock.now();
        let mut tokens = BTreeMap::new();
        for (key, wanted) in volume::tokens(&desired.pod) {
            let present = self.live().tokens.get(&key).filter(|(_, renew_at)| *renew_at > now).cloned();
            let token = match present {
                Some((token, _)) => token,
                None => {
                    let (token, renew_at) = self.request_token(desired, &key.0, &wanted).await?;
                    self.live().tokens.insert(key.clone(), (token.clone(), renew_at));
                    let (worker, delay) =
                        (self.clone(), Duration::try_from(renew_at.duration_since(now)).unwrap_or(RETRY));
                    self.context.tasks.spawn("token renewal", async move {
                        let sleep = worker.context.clock.sleep(delay);
                        let gone = worker.live().dismantled;
                        if worker.context.stop.or(sleep).await.is_some() && !gone {
                            worker.refresh();
                        }
                    });
                    token
                }
            };
            tokens.insert(key, token);
        }
        Ok(tokens)
    }

    async fn request_token(
        &self,
        desired: &Desired,
        volume: &str,
        wanted: &volume::TokenRequest,
    ) -> Result<(String, Timestamp), VolumeError> {
        let failed = |why: String| VolumeError::Token { volume: volume.to_owned(), why };
        let spec = desired.pod.spec.as_ref();
        let account = spec.and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let audiences: Vec<&str> =
            Some(wanted.audience.as_str()).filter(|audience| !audience.is_empty()).into_iter().collect();
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": (wanted.expiration_seconds),
                "boundObjectRef": {
                    "apiVersion": "v1", "kind": "Pod",
                    "name": (desired.object.name()), "uid": (desired.object.uid())
                }
            }
        });
        let target = Target::new(&SERVICE_ACCOUNTS, desired.object.namespace(), account).subresource("token");
        let call = Call::Create(target, request.to_bytes().into(), WriteOptions::default());
        let answer = self.context.api.call(call).await.and_then(api::interface::Answer::object);
        let answer = answer.map_err(|error| failed(error.to_string()))?.to_tree();
        let token = answer
            .str_at(&["status", "token"])
            .ok_or_else(|| failed("the answer has no token".to_owned()))?;
        let now = self.context.clock.now();
        let expires =
            answer.str_at(&["status", "expirationTimestamp"]).and_then(|text| text.parse::<Timestamp>().ok());
        let life = expires.map_or(wanted.expiration_seconds, |at| at.duration_since(now).as_secs());
        let renew_in = (life * TOKEN_RENEWAL_PERCENT / 100).max(60);
        Ok((token.to_owned(), now + Duration::from_secs(renew_in.unsigned_abs())))
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
            .map_err(|error| describe(&error))?;
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
        let written =
            tokio::task::spawn_blocking(move || crate::agent::write_addresses(&directory, &kept)).await;
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

    pub(super) async fn ensure_image(self: &Arc<Self>, desired: &Desired, name: &str) {
        let now = || self.context.clock.now();
        match self.find_image(desired, name).await {
            Ok(root) => self.change(|live| {
                let container = live.containers.entry(name.to_owned()).or_default();
                (container.image, container.rootfs) = (Part::Ready, Some(root));
                (container.waiting, container.pull_failures) = (None, 0);
            }),
            Err(obstacle) => {
                let failures = self.change(|live| {
                    let container = live.containers.entry(name.to_owned()).or_default();
                    container.pull_failures += 1;
                    container.image = Part::Failed(now() + backoff(container.pull_failures));
                    container.waiting = Some((obstacle.reason.to_owned(), obstacle.message.clone()));
                    container.pull_failures
                });
                self.note(Some(name), true, "Failed", format!("Error: {}", obstacle.reason));
                if obstacle.reason == "ErrImagePull" {
                    self.announce_back_off(desired, name, failures);
                }
            }
        }
    }

    /// After the error itself has been seen, the status says that the node waits.
    fn announce_back_off(self: &Arc<Self>, desired: &Desired, name: &str, failures: u32) {
        let image = find(desired, name).and_then(|container| container.image.clone()).unwrap_or_default();
        let (worker, name) = (self.clone(), name.to_owned());
        self.context.tasks.spawn("pull back-off", async move {
            worker.context.clock.sleep(Duration::from_secs(1)).await;
            let message = format!("Back-off pulling image \"{image}\"");
            let still = worker.change(|live| {
                let container = live.containers.entry(name.clone()).or_default();
                let still = matches!(container.image, Part::Failed(_)) && container.pull_failures == failures;
                if still && let Some((reason, error)) = container.waiting.clone() {
                    let message = format!("{message}: {reason}: {error}");
                    container.waiting = Some(("ImagePullBackOff".to_owned(), message));
                }
                still
            });
            if still {
                worker.note(Some(&name), false, "BackOff", message);
                worker.note(Some(&name), true, "Failed", "Error: ImagePullBackOff");
            }
        });
    }

    async fn find_image(self: &Arc<Self>, desired: &Desired, name: &str) -> Result<RootImage, Obstacle> {
        let container = find(desired, name).ok_or_else(|| Obstacle {
            reason: "CreateContainerConfigError",
            message: format!("the pod has no container {name}"),
        })?;
        let text = container.image.as_deref().unwrap_or_default();
        let reference: image::Reference = text.parse().map_err(|error| {
            let message = format!("Failed to apply default image tag \"{text}\": {error}");
            self.note(Some(name), true, "InspectFailed", message.as_str());
            Obstacle { reason: "InvalidImageName", message }
        })?;
        let policy = match container.image_pull_policy.as_deref() {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            _ => PullPolicy::IfNotPresent,
        };
        let known = self.context.images.find(&reference);
        let named = match (decide(policy, known.as_ref()), known) {
            (Decision::UseLocal { reason }, Some(named)) => {
                let message = format!("Container image \"{text}\" already present on machine ({reason})");
                self.note(Some(name), false, "Pulled", message);
                named
            }
            (Decision::Refuse { reason }, _) => {
                let message =
                    format!("Container image \"{text}\" is not present with pull policy of Never: {reason}");
                self.note(Some(name), true, "ErrImageNeverPull", message.as_str());
                return Err(Obstacle { reason: "ErrImageNeverPull", message });
            }
            _ => self.pull(desired, name, text, &reference).await?,
        };
        let failed = |error: image::Error| Obstacle { reason: "ImageInspectError", message: error.in_full() };
        let rootfs = self.context.images.rootfs(&named).await.map_err(failed)?;
        Ok(RootImage {
            layers: rootfs.lower_dirs,
            config: rootfs.config,
            id: rootfs.repo_digests.first().cloned().unwrap_or_else(|| rootfs.image_id.to_string()),
            manifest: rootfs.manifest,
        })
    }

    async fn pull(
        self: &Arc<Self>,
        desired: &Desired,
        name: &str,
        text: &str,
        reference: &image::Reference,
    ) -> Result<image::store::Named, Obstacle> {
        self.note(Some(name), false, "Pulling", format!("Pulling image \"{text}\""));
        let began = self.context.clock.monotonic();
        let keys = self.pull_credentials(desired, reference);
        let pulled = self.context.puller.pull(reference, &keys, &image::pull::silent()).await;
        match pulled {
            Ok(named) => {
                let took = self.context.clock.monotonic().saturating_sub(began).as_secs_f64();
                let message = format!(
                    "Successfully pulled image \"{text}\" in {took:.3}s ({took:.3}s including waiting). \
                     Image size: {} bytes.",
                    named.size_bytes
                );
                self.note(Some(name), false, "Pulled", message);
                Ok(named)
            }
            Err(error) => {
                let message = error.in_full();
                self.note(Some(name), true, "Failed", format!("Failed to pull image \"{text}\": {message}"));
                Err(Obstacle { reason: "ErrImagePull", message })
            }
        }
    }

    fn pull_credentials(
        &self,
        desired: &Desired,
        reference: &image::Reference,
    ) -> Vec<image::credentials::Credentials> {
        let spec = desired.pod.spec.as_ref();
        let names = spec.into_iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        let mut found = Vec::new();
        for secret in names {
            let Ok(data) = self.context.references.secret(desired.object.namespace(), &secret.name) else {
                let message = format!("Unable to retrieve some image pull secrets ({})", secret.name);
                self.note(None, true, "FailedToRetrieveImagePullSecret", message);
                continue;
            };
            let keyring = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
                (Some(bytes), _) => image::credentials::Keyring::parse(bytes),
                (None, Some(bytes)) => image::credentials::Keyring::parse_legacy(bytes),
                (None, None) => continue,
            };
            match keyring {
                Ok(keyring) => found.extend(keyring.find(reference)),
                Err(error) => self.note(None, true, "FailedToRetrieveImagePullSecret", error.in_full()),
            }
        }
        found
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
            container::spec(parts).map_err(|error| error.to_string())
        });
        let spec = prepared.await.map_err(|error| config(error.to_string()))?.map_err(config)?;
        let who = (spec.user.uid, spec.user.gid, spec.user.groups.clone());
        let attempt = spec.attempt.clone();
        self.note(Some(name), false, "Created", "Container created");
        match sandbox.start(spec).await {
            Ok(started) => {
                for note in started.state.notes {
                    self.note(Some(name), true, "LimitClamped", note);
                }
                self.live().containers.entry(name.to_owned()).or_default().user = Some(who);
                self.note(Some(name), false, "Started", "Container started");
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
        let etc = directory.join("etc");
        std::fs::create_dir_all(&etc).map_err(failed)?;
        let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
        let host = hostname(object, pod);
        let domain = spec.subdomain.as_ref().filter(|name| !name.is_empty());
        let domain = domain
            .map(|sub| format!("{sub}.{}.svc.{}", object.namespace(), self.context.settings.cluster_domain));
        let contents = [
            ("hosts", network_files::hosts(&host, domain.as_deref(), &facts.pod_ips, spec)),
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
                    std::fs::remove_dir_all(old.path()).map_err(failed)?;
                }
            }
        }
        let termination_file = container.join(format!("{restarts}.termination"));
        std::fs::write(&termination_file, "").map_err(failed)?;
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
                    worker.condemn(&attempt, HOOK_FAILURE_GRACE);
                    return;
                }
            }
            worker.observe(&mut worker.live(), &worker.desired(), worker.context.clock.now());
            worker.probe(&container, &attempt).await;
        });
    }
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

/// An error with all its sources, for an event.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}
