//! A pod's volumes and the tokens in them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::interface::{Call, Target, WriteOptions};
use api::json;
use api::names::SERVICE_ACCOUNTS;
use jiff::Timestamp;

use crate::pod::machine::Part;
use crate::pod::worker::{Desired, RETRY, Worker};
use crate::volume::{self, VolumeError, Volumes};

/// Of its life, the share (in percent) after which a token is renewed.
const TOKEN_RENEWAL_PERCENT: i64 = 80;

impl Worker {
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

    /// Has all tokens asked for anew: by a clock that was set, they may have ended, or not begun.
    pub fn renew_tokens(self: &Arc<Self>) {
        self.live().tokens.clear();
        self.refresh();
    }

    /// Looks at the pod's files again after a time, if the pod is still there: for that it is not kept in memory, for
    /// most pods go before the hour of their token.
    fn renew_after(self: &Arc<Self>, delay: Duration) {
        let worker = Arc::downgrade(self);
        let (clock, stop) = (self.context.clock.clone(), self.context.stop.clone());
        self.context.tasks.spawn("token renewal", async move {
            if stop.or(clock.sleep(delay)).await.is_none() {
                return;
            }
            if let Some(worker) = worker.upgrade().filter(|worker| !worker.live().dismantled) {
                worker.refresh();
            }
        });
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
                    self.renew_after(Duration::try_from(renew_at.duration_since(now)).unwrap_or(RETRY));
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
}
