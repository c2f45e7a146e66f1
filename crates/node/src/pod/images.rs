//! Having a container's image at hand.

use std::sync::Arc;
use std::time::Duration;

use image::policy::{Decision, PullPolicy, decide};

use crate::pod::desired::{Desired, find};
use crate::pod::live::RootImage;
use crate::pod::machine::{Part, backoff};
use crate::pod::sources::Sources;
use crate::pod::start::Obstacle;
use crate::pod::worker::Worker;

impl Worker {
    pub(super) async fn ensure_image(self: &Arc<Self>, desired: &Desired, name: &str) {
        let now = || self.context.clock.now();
        let asked = find(desired, name).and_then(|container| container.image.clone());
        match self.find_image(desired, name).await {
            Ok(root) => self.change(|live| {
                let container = live.containers.entry(name.to_owned()).or_default();
                (container.image, container.rootfs) = (Part::Ready, Some(root));
                (container.waiting, container.pull_failures) = (None, 0);
                container.image_name = asked;
            }),
            Err(obstacle) => {
                let failures = self.change(|live| {
                    let container = live.containers.entry(name.to_owned()).or_default();
                    container.pull_failures += 1;
                    container.image_name = asked;
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
}
