//! A pod's volumes and the tokens in them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::interface::{Call, Target, WriteOptions};
use api::json;
use api::names::SERVICE_ACCOUNTS;
use jiff::Timestamp;

use crate::pod::desired::Desired;
use crate::pod::machine::Part;
use crate::pod::worker::{RETRY, Worker};
use crate::volume::{self, VolumeError, Volumes};

/// Of its life, the share (in percent) after which a token is renewed.
const TOKEN_RENEWAL_PERCENT: i64 = 80;
/// Wait before a token that could not be renewed is asked for again.
const TOKEN_RETRY: Duration = Duration::from_secs(10);

/// Why volumes are written.
#[derive(Clone, Copy, PartialEq)]
enum Occasion {
    /// The pod needs them before it goes on.
    Step,
    /// Something in them has changed. Of no use for a pod that is taken down meanwhile.
    Refresh,
}

impl Worker {
    pub(super) async fn prepare_volumes(self: &Arc<Self>, desired: &Desired) {
        let (maps, secrets) = volume::references(&desired.pod);
        self.context.references.ensure(&self.uid, desired.object.namespace(), &maps, &secrets).await;
        let (paths, errors) = self.write_volumes(desired, Occasion::Step).await;
        let retry_at = self.context.clock.now() + RETRY;
        for error in &errors {
            let unsupported = matches!(error, VolumeError::Unsupported { .. });
            let reason = if unsupported { "UnsupportedVolume" } else { "FailedMount" };
            self.note(None, true, reason, error.to_string());
        }
        let outdated = self.change(|live| {
            if errors.is_empty() {
                (live.volume_paths, live.volumes) = (paths, Part::Ready);
            } else {
                live.volumes = Part::Failed(retry_at);
            }
            std::mem::take(&mut live.volumes_outdated)
        });
        if outdated {
            self.refresh();
        }
    }

    /// Brings files of ConfigMaps, Secrets, downward fields and tokens up to date. What cannot be, stays as it is.
    pub(super) async fn refresh_volumes(self: &Arc<Self>) {
        let ready = self.change(|live| {
            match live.volumes {
                // What was missing may be there now, so it is tried again at once.
                Part::Failed(_) if !live.dismantled => live.volumes = Part::Missing,
                // What is being written may be of before the change.
                Part::Busy => live.volumes_outdated = true,
                _ => {}
            }
            live.volumes == Part::Ready
        });
        if !ready {
            return;
        }
        let desired = self.desired();
        let (paths, errors) = self.write_volumes(&desired, Occasion::Refresh).await;
        for error in errors {
            self.note(None, true, "FailedMount", error.to_string());
        }
        self.change(|live| {
            if live.volumes == Part::Ready {
                live.volume_paths.extend(paths);
            }
        });
    }

    async fn write_volumes(
        self: &Arc<Self>,
        desired: &Desired,
        occasion: Occasion,
    ) -> (BTreeMap<String, PathBuf>, Vec<VolumeError>) {
        let (tokens, mut errors) = self.fetch_tokens(desired).await;
        let (worker, desired, facts) = (self.clone(), desired.clone(), self.facts());
        let work = move || {
            // One at a time, or older content could be written over newer.
            let _turn = worker.disk_turn();
            if occasion == Occasion::Refresh && worker.live().volumes != Part::Ready {
                return (BTreeMap::new(), Vec::new());
            }
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
        match tokio::task::spawn_blocking(work).await {
            Ok((paths, others)) => {
                // Why a token is missing was said already.
                let known: Vec<&str> = errors.iter().map(VolumeError::volume).collect();
                let others: Vec<_> =
                    others.into_iter().filter(|other| !known.contains(&other.volume())).collect();
                errors.extend(others);
                (paths, errors)
            }
            Err(error) => {
                let source = std::io::Error::other(error);
                errors.push(VolumeError::Io { volume: "all".to_owned(), source });
                (BTreeMap::new(), errors)
            }
        }
    }

    /// Has all tokens asked for anew: by a clock that was set, they may have ended, or not begun.
    pub fn renew_tokens(self: &Arc<Self>) {
        self.live().tokens.clear();
        self.refresh();
    }

    /// The tokens of projected volumes; those near their end are asked for anew, and a task renews them in time. One
    /// that cannot be had is asked for again soon, and the one before is used for as long as it holds.
    async fn fetch_tokens(
        self: &Arc<Self>,
        desired: &Desired,
    ) -> (BTreeMap<(String, String), String>, Vec<VolumeError>) {
        let now = self.context.clock.now();
        let (mut tokens, mut errors) = (BTreeMap::new(), Vec::new());
        for (key, wanted) in volume::tokens(&desired.pod) {
            let before = self.live().tokens.get(&key).cloned();
            if let Some((token, _)) = before.as_ref().filter(|(_, renew_at)| *renew_at > now) {
                tokens.insert(key, token.clone());
                continue;
            }
            match self.request_token(desired, &key.0, &wanted).await {
                Ok((token, renew_at)) => {
                    self.live().tokens.insert(key.clone(), (token.clone(), renew_at));
                    self.refresh_in(Duration::try_from(renew_at.duration_since(now)).unwrap_or(RETRY));
                    tokens.insert(key, token);
                }
                Err(error) => {
                    errors.push(error);
                    if let Some((token, _)) = before {
                        self.refresh_in(TOKEN_RETRY);
                        tokens.insert(key, token);
                    }
                }
            }
        }
        (tokens, errors)
    }

    /// Looks at the volumes again after a while, if the pod is still there; it is not kept for that.
    fn refresh_in(self: &Arc<Self>, delay: Duration) {
        let (clock, stop, worker) =
            (self.context.clock.clone(), self.context.stop.clone(), Arc::downgrade(self));
        self.context.tasks.spawn("token renewal", async move {
            if stop.or(clock.sleep(delay)).await.is_some()
                && let Some(worker) = worker.upgrade().filter(|worker| !worker.live().dismantled)
            {
                worker.refresh();
            }
        });
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
}
