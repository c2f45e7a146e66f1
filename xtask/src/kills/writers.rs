//! Clients that write, and remember what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::interface::{Api, DeleteOptions, PatchKind, Target};
use api::json;
use api::names::{CONFIG_MAPS, DEPLOYMENTS};
use api::status::{Reason, Status};
use api::value::Value;
use base::{Clock, Random, Stop};

use super::record::Record;

/// Objects of one writer.
const KEYS: u64 = 8;
/// Between two writes.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two questions for an outcome.
const RETRY: Duration = Duration::from_millis(30);
/// Between two scalings: long enough for pods to begin, short enough to cut them off.
const SCALE_PAUSE: Duration = Duration::from_millis(1500);
/// Replicas of what is scaled.
const REPLICAS_MAX: u64 = 5;
/// The namespace of everything here.
pub const NAMESPACE: &str = "default";
/// The Deployment that is scaled.
pub const SCALED: &str = "scaled";

/// What is known of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    Absent,
    There { revision: u64, value: u64 },
}

/// Who writes, and where to.
#[derive(Clone)]
pub struct Writer {
    /// The server.
    pub api: Arc<dyn Api>,
    /// Time.
    pub clock: Clock,
    /// What it does next.
    pub random: Random,
    /// What it has seen.
    pub record: Arc<Record>,
    /// When to end.
    pub stop: Stop,
}

/// Whether the server may have done what it was asked: it gave no answer of its own. A 500 is an answer, and a bug.
fn is_unsure(status: &Status) -> bool {
    matches!(status.reason, Reason::ServiceUnavailable | Reason::Timeout | Reason::ServerTimeout)
}

impl Writer {
    /// Creates, updates and deletes ConfigMaps until told to stop; then everything must be as acknowledged.
    pub async fn write_config_maps(self, number: usize) {
        let mut known = vec![Known::Absent; KEYS as usize];
        let mut value = 0;
        while self.stop.or(self.clock.sleep(PAUSE)).await.is_some() {
            let key = self.random.below(KEYS) as usize;
            let name = format!("kept-{number}-{key}");
            value += 1;
            known[key] = self.write(&name, &known[key], value).await;
            if self.random.chance(1, 4) {
                let key = self.random.below(KEYS) as usize;
                self.verify(&format!("kept-{number}-{key}"), &known[key]).await;
            }
        }
        for (key, known) in known.iter().enumerate() {
            self.verify(&format!("kept-{number}-{key}"), known).await;
        }
    }

    /// One write; returns what is known afterwards. A revision that is asked for shows a lost write as a conflict.
    async fn write(&self, name: &str, before: &Known, value: u64) -> Known {
        let data = json!({"value": (value.to_string())});
        let api = &self.api;
        let (wanted, done) = match before {
            Known::Absent => {
                let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
                let done = api.create(&CONFIG_MAPS, NAMESPACE, &object).await;
                (Some(value), done.map(|object| Known::There { revision: object.revision(), value }))
            }
            Known::There { revision, .. } if self.random.chance(1, 4) => {
                let options = DeleteOptions {
                    resource_version: Some(revision.to_string().into()),
                    ..DeleteOptions::default()
                };
                let done = api.delete(&CONFIG_MAPS, NAMESPACE, name, options).await;
                (None, done.map(|_| Known::Absent))
            }
            Known::There { revision, .. } => {
                let patch = json!({"metadata": {"resourceVersion": (revision.to_string())}, "data": data});
                let target = Target::new(&CONFIG_MAPS, NAMESPACE, name);
                let done = api.patch(target, PatchKind::Merge, &patch).await;
                (Some(value), done.map(|object| Known::There { revision: object.revision(), value }))
            }
        };
        match done {
            Ok(known) => {
                self.record.acknowledged.fetch_add(1, Ordering::Relaxed);
                return known;
            }
            Err(status) if status.reason == Reason::TooManyRequests => return before.clone(),
            Err(status) if is_unsure(&status) => {}
            // It names what was acknowledged, so that this is what a lost write looks like.
            Err(status) if matches!(status.code, 404 | 409) => {
                self.record.lose(format!("{name} was {before:?}, and a write was told: {status}"));
            }
            Err(status) => {
                self.record.fault(format!("{name} was {before:?}, and a write was told: {status}"));
            }
        }
        self.record.unsure.fetch_add(1, Ordering::Relaxed);
        let now = self.read(name).await;
        let done = match (&now, wanted) {
            (Known::There { value, .. }, Some(wanted)) => *value == wanted,
            (Known::Absent, None) => true,
            _ => false,
        };
        if !done && now != *before {
            self.record.lose(format!("{name} was {before:?}, was to become {wanted:?}, and is {now:?}"));
        }
        now
    }

    async fn verify(&self, name: &str, known: &Known) {
        let now = self.read(name).await;
        if now != *known {
            self.record.lose(format!("{name} was acknowledged as {known:?} and is {now:?}"));
        }
    }

    /// What the server has, as soon as there is one.
    async fn read(&self, name: &str) -> Known {
        loop {
            match self.api.get(&CONFIG_MAPS, NAMESPACE, name).await {
                Ok(object) => {
                    let value = object.to_tree();
                    let value = value.str_at(&["data", "value"]).and_then(|text| text.parse().ok());
                    return Known::There { revision: object.revision(), value: value.unwrap_or_default() };
                }
                Err(status) if status.reason == Reason::NotFound => return Known::Absent,
                Err(status) if is_unsure(&status) => self.clock.sleep(RETRY).await,
                Err(status) => {
                    self.record.fault(format!("{name} cannot be read: {status}"));
                    self.clock.sleep(RETRY).await;
                }
            }
        }
    }

    /// Scales a Deployment until told to stop; returns the size that was acknowledged last.
    pub async fn scale(&self) -> u64 {
        let mut replicas = self.replicas().await.0;
        while self.stop.or(self.clock.sleep(SCALE_PAUSE)).await.is_some() {
            let wanted = self.random.below(REPLICAS_MAX + 1);
            let target = Target::new(&DEPLOYMENTS, NAMESPACE, SCALED);
            let patch = json!({"spec": {"replicas": (i64::try_from(wanted).unwrap_or_default())}});
            let acknowledged = match self.api.patch(target, PatchKind::Merge, &patch).await {
                Ok(object) => {
                    self.record.acknowledged.fetch_add(1, Ordering::Relaxed);
                    Some(object.revision())
                }
                Err(status) if is_unsure(&status) || status.reason == Reason::TooManyRequests => None,
                Err(status) => {
                    self.record.fault(format!("a scaling to {wanted} was told: {status}"));
                    None
                }
            };
            let (now, revision) = self.replicas().await;
            match acknowledged {
                Some(written) if now != wanted || revision < written => self.record.lose(format!(
                    "a scaling to {wanted} was acknowledged at {written}, and at {revision} it is {now}"
                )),
                None if now != wanted && now != replicas => {
                    self.record.fault(format!("scaled from {replicas} to {wanted}, and is {now}"));
                }
                _ => {}
            }
            replicas = now;
        }
        replicas
    }

    async fn replicas(&self) -> (u64, u64) {
        loop {
            match self.api.get(&DEPLOYMENTS, NAMESPACE, SCALED).await {
                Ok(object) => {
                    let replicas = object.to_tree().int_at(&["spec", "replicas"]).unwrap_or_default();
                    return (replicas.unsigned_abs(), object.revision());
                }
                Err(status) => {
                    if !is_unsure(&status) {
                        self.record.fault(format!("the Deployment that is scaled cannot be read: {status}"));
                    }
                    self.clock.sleep(RETRY).await;
                }
            }
        }
    }
}

/// A Deployment of the echo server.
pub fn deployment(name: &str, replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 5,
                     "containers": [{"name": "echo", "image": "ondol.local/echo:v1"}]}
        }}
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_gave_no_answer_of_its_own_leaves_one_unsure() {
        let is = |reason| is_unsure(&Status::new(reason, "no"));
        assert!(is(Reason::ServiceUnavailable) && is(Reason::Timeout));
        assert!(!is(Reason::InternalError) && !is(Reason::Conflict) && !is(Reason::NotFound));
    }
}
