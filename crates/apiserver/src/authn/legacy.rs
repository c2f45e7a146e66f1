//! When the lasting token of a Secret was last used: upstream's `LegacyServiceAccountTokenTracking`.
//!
//! Who judges a token only notes its use; the gate writes the day on the Secret. A day is written once, so the noting
//! costs a look at a label, and however many requests come at the same time, one writes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use api::interface::{Call, PatchKind, Target, WriteOptions};
use api::json;
use api::names;
use api::object::Object;
use api::status::Reason;
use api::value::Str;
use jiff::{SignedDuration, Timestamp};

use crate::gate::Gate;
use crate::identity::Identity;

/// The label that names the day.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";

/// A use that is not on its Secret yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Use {
    namespace: Str,
    name: Str,
    uid: Str,
    /// As `2026-01-31`, in UTC.
    day: String,
}

/// Uses of lasting tokens.
#[derive(Default)]
pub(crate) struct Uses {
    noted: Mutex<Noted>,
    /// Whether any use waits: most requests have none.
    waits: AtomicBool,
}

#[derive(Default)]
struct Noted {
    waiting: Vec<Use>,
    /// Those that wait or are being written.
    open: HashSet<Use>,
}

/// A day in UTC, as `2026-01-31`.
pub(crate) fn day(at: Timestamp) -> String {
    at.to_zoned(jiff::tz::TimeZone::UTC).date().to_string()
}

impl Uses {
    /// Notes that the token of `secret` is used at `now`, unless the Secret says so already.
    pub(super) fn note(&self, secret: &Object, now: Timestamp) {
        let today = day(now);
        let last = secret.label(LAST_USED).unwrap_or_default();
        // Another server's clock may be a little ahead.
        if last == today || last == day(now.saturating_add(SignedDuration::from_hours(24)).unwrap_or(now)) {
            return;
        }
        let used = Use {
            namespace: secret.namespace().into(),
            name: secret.name().into(),
            uid: secret.uid().into(),
            day: today,
        };
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.open.insert(used.clone()) {
            noted.waiting.push(used);
            self.waits.store(true, Ordering::Release);
        }
    }

    fn take(&self) -> Vec<Use> {
        if !self.waits.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut self.noted.lock().unwrap_or_else(PoisonError::into_inner).waiting)
    }

    fn done(&self, used: &Use) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).open.remove(used);
    }
}

/// Begins to write what was noted, and does not wait for it. Upstream patches the Secret as itself, too.
pub(crate) fn write_uses(gate: &Arc<Gate>) {
    for used in gate.authenticator().uses().take() {
        let gate = Arc::clone(gate);
        let tasks = gate.tasks().clone();
        tasks.spawn("legacy token use", async move {
            let mut patch = json!({"metadata": {"uid": (used.uid.clone())}});
            patch.set(&["metadata", "labels", LAST_USED], used.day.clone());
            let target = Target::new(&names::SECRETS, &used.namespace, &used.name);
            let call =
                Call::Patch(target, PatchKind::Merge, patch.to_bytes().into(), WriteOptions::default());
            let outcome = gate.as_user(Identity::admin()).call(call).await;
            if let Err(error) = outcome
                && !matches!(error.reason, Reason::NotFound | Reason::Conflict | Reason::Invalid)
            {
                let (namespace, secret) = (used.namespace.as_str(), used.name.as_str());
                tracing::warn!(namespace, secret, %error, "the day of a token's last use was not written");
            }
            gate.authenticator().uses().done(&used);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(label: &str) -> Object {
        let mut tree = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {
            "name": "s", "namespace": "n", "uid": "u"}});
        tree.set(&["metadata", "labels", LAST_USED], label);
        Object::from_tree(&tree).unwrap()
    }

    #[test]
    fn a_day_is_noted_once_until_it_is_written() {
        let uses = Uses::default();
        let now: Timestamp = "2026-01-31T23:30:00Z".parse().unwrap();
        for label in ["2026-01-31", "2026-02-01"] {
            uses.note(&secret(label), now);
            assert!(uses.take().is_empty(), "{label}");
        }
        uses.note(&secret("2026-01-30"), now);
        uses.note(&secret(""), now);
        let taken = uses.take();
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].day, "2026-01-31");
        uses.note(&secret(""), now);
        assert!(uses.take().is_empty(), "it is being written");
        uses.done(&taken[0]);
        uses.note(&secret(""), now);
        assert_eq!(uses.take().len(), 1, "who failed is followed by another");
    }
}
