//! What has made endpoints change, and when: the annotation by which the way from there to the nodes is measured.
//!
//! As upstream's `TriggerTimeTracker`: the earliest of what has changed since the last plan for the same Service, which
//! no object says. Of pods it is when they began or ceased to be ready, of a Service when it was made.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use api::time::seconds;
use api::value::Value;
use control::mirror::Key;
use jiff::Timestamp;

use super::backends::Service;
use crate::condition;
use crate::pods::PodView;

/// The annotation of Endpoints and EndpointSlices.
pub(super) const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The times of each Service as the last plan for it has seen them.
#[derive(Default)]
pub(super) struct Triggers(Mutex<BTreeMap<Key, Times>>);

#[derive(Default)]
struct Times {
    service: Option<Timestamp>,
    pods: BTreeMap<String, Timestamp>,
}

impl Triggers {
    /// What the annotation is to say if endpoints change now: a time, or null where nothing that has one has changed.
    /// Ask once a plan, for what is told once is known from then on.
    pub(super) fn last_change(&self, service: &Service, pods: &[PodView]) -> Value {
        let made = condition::read_time(service.tree.at(&["metadata", "creationTimestamp"]));
        let times =
            pods.iter().filter_map(|pod| Some((pod.object.name().to_owned(), pod.readiness_since()?)));
        let now = Times { service: made, pods: times.collect() };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match known.get(&Key::of(service.object)) {
            None => made,
            Some(before) => {
                let pods = now.pods.iter().filter(|(name, at)| before.pods.get(*name) < Some(*at));
                let service = now.service.filter(|at| before.service < Some(*at));
                pods.map(|(_, at)| *at).chain(service).min()
            }
        };
        known.insert(Key::of(service.object), now);
        changed.map_or(Value::Null, |at| Value::from(seconds(at)))
    }

    /// The Service is gone.
    pub(super) fn forget(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::json;
    use api::object::Object;

    use super::*;

    /// What is said when the pods became ready in these seconds.
    fn told(triggers: &Triggers, pods: &[(&str, u8)]) -> Option<String> {
        let tree = json!({"apiVersion": "v1", "kind": "Service", "metadata": {
            "name": "s", "namespace": "d", "creationTimestamp": "2026-01-01T00:00:05Z"}});
        let object = Object::from_tree(&tree).unwrap();
        let pods = pods.iter().map(|(name, second)| {
            let at = format!("2026-01-01T00:00:{second:02}Z");
            let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": at});
            let tree = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": (*name), "namespace": "d"},
                "status": {"conditions": [condition]}});
            Arc::new(Object::from_tree(&tree).unwrap())
        });
        let pods = PodView::of(pods.collect());
        let said = triggers.last_change(&Service { object: &object, tree: &tree }, &pods);
        said.as_str().map(str::to_owned)
    }

    #[test]
    fn the_earliest_of_what_has_changed_is_told_once() {
        let triggers = Triggers::default();
        let at = |second: u8| Some(format!("2026-01-01T00:00:{second:02}Z"));
        assert_eq!(told(&triggers, &[("a", 1)]), at(5), "a new Service: when it was made");
        assert_eq!(told(&triggers, &[("a", 1)]), None);
        assert_eq!(told(&triggers, &[("a", 9), ("b", 8)]), at(8));
        assert_eq!(told(&triggers, &[("a", 9), ("b", 10)]), at(10));
        assert_eq!(told(&triggers, &[("a", 9)]), None, "a pod that goes has no time");
        assert_eq!(told(&triggers, &[("a", 9), ("b", 10)]), at(10), "it is forgotten then");
        triggers.forget(&Key::new("d", "s"));
        assert_eq!(told(&triggers, &[("a", 20)]), at(5));
    }
}
