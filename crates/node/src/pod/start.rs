//! The steps that bring a pod up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use sandbox::Attempt;
use tracing::warn;

use crate::pod::container::{self, Parts};
use crate::pod::deadline::Deadline;
use crate::pod::desired::{Desired, find};
use crate::pod::environment::{Facts, of_services, variables};
use crate::pod::layout::{Ground, Layout, make_sub_paths};
use crate::pod::live::RootImage;
use crate::pod::machine::Part;
use crate::pod::records::Kept;
use crate::pod::worker::{RETRY, Worker};

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
                self.watch_over(attempt);
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
        let (spec, kept) =
            self.prepare(desired, container, restarts, root_image, volumes).await.map_err(config)?;
        let attempt = spec.attempt.clone();
        self.live().containers.entry(name.to_owned()).or_default().runs = Some((restarts, kept));
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

    /// Turns a container into what the sandbox starts, and makes what that has on the node.
    async fn prepare(
        self: &Arc<Self>,
        desired: &Desired,
        container: &core::Container,
        restarts: u32,
        image: RootImage,
        volumes: BTreeMap<String, PathBuf>,
    ) -> Result<(sandbox::ContainerSpec, Kept), String> {
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
        .map_err(|error| error.to_string())?;
        let (worker, own) = (self.clone(), container.clone());
        let (object, pod) = (desired.object.clone(), desired.pod.clone());
        let log = self.log_path(desired, &container.name, restarts);
        let prepared = tokio::task::spawn_blocking(move || {
            let ground = Ground {
                object: &object,
                pod: &pod,
                container: &own,
                restarts,
                image: &image,
                facts: &facts,
            };
            let Layout { files, image_volumes, termination_file, root, user, kept } =
                worker.lay_out(&ground)?;
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
                image_volumes,
                files,
                termination_file,
                log,
                node_memory_bytes: worker.context.settings.memory_bytes,
            };
            let spec = container::spec(parts).map_err(|error| error.to_string())?;
            make_sub_paths(&spec)?;
            Ok((spec, kept))
        });
        prepared.await.map_err(|error| error.to_string())?
    }
}
