//! How large each set is to be in the next moment of a rollout.

use api::value::Value;

use super::scaled;
use super::sets::{Set, Sets};

/// What bounds a rollout, in pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wanted in the end.
    pub replicas: i64,
    /// More than that at any time.
    pub max_surge: i64,
    /// Fewer than that at any time.
    pub max_unavailable: i64,
    /// Old pods go before new ones come.
    pub recreate: bool,
}

impl Limits {
    /// From a Deployment. Both bounds zero would stand still for ever, so one pod may then be missing.
    pub fn of(tree: &Value) -> Self {
        let replicas = tree.int_at(&["spec", "replicas"]).unwrap_or(1);
        if tree.str_at(&["spec", "strategy", "type"]) == Some("Recreate") {
            return Self { replicas, max_surge: 0, max_unavailable: 0, recreate: true };
        }
        let bound = |name| tree.at(&["spec", "strategy", "rollingUpdate", name]);
        let max_surge = scaled(bound("maxSurge"), replicas, true);
        let mut max_unavailable = scaled(bound("maxUnavailable"), replicas, false);
        if max_surge == 0 && max_unavailable == 0 {
            max_unavailable = 1;
        }
        Self { replicas, max_surge, max_unavailable: max_unavailable.min(replicas), recreate: false }
    }

    /// The largest total at any time.
    pub fn ceiling(&self) -> i64 {
        self.replicas + self.max_surge
    }

    /// The fewest available pods at any time.
    pub fn floor(&self) -> i64 {
        self.replicas - self.max_unavailable
    }

    /// How large the new set may be beside `others` pods in old sets.
    pub fn new_size(&self, present: i64, total: i64) -> i64 {
        let room = self.ceiling() - total;
        if room <= 0 { present } else { present + room.min(self.replicas - present) }
    }
}

/// One step of a rolling update: first the new set grows; when it cannot, old ones shrink.
pub fn roll(sets: &mut Sets, limits: &Limits, tree: &Value) {
    let total = sets.total();
    match sets.new_set() {
        None => {
            let size = if limits.recreate { limits.replicas } else { limits.new_size(0, total) };
            sets.create(tree, size, limits);
            return;
        }
        Some(new) => {
            let present = new.replicas;
            let wanted =
                if present > limits.replicas { limits.replicas } else { limits.new_size(present, total) };
            sets.adopt_revision(tree);
            if wanted != present {
                sets.resize_new(wanted);
                return;
            }
        }
    }
    shrink_old(sets, limits);
}

fn shrink_old(sets: &mut Sets, limits: &Limits) {
    // A status that is older than a set's size may count pods that are going already. It is on its way.
    if sets.old().all(|set| set.replicas == 0) || sets.all().iter().any(Set::is_behind) {
        return;
    }
    let new_unavailable = sets.new_set().map_or(0, |new| (new.replicas - new.available).max(0));
    let mut budget = sets.total() - limits.floor() - new_unavailable;
    if budget <= 0 {
        return;
    }
    // Pods that serve nobody go first: they cost no availability.
    for set in sets.old_oldest_first() {
        let unhealthy = (set.replicas - set.available).max(0).min(budget);
        set.replicas -= unhealthy;
        budget -= unhealthy;
    }
    let mut spare = sets.available() - limits.floor();
    for set in sets.old_oldest_first() {
        let healthy = set.replicas.min(spare).max(0);
        set.replicas -= healthy;
        spare -= healthy;
    }
}

/// One step of a recreation: old sets to zero; when all their pods are gone, the new one whole.
pub fn recreate(sets: &mut Sets, limits: &Limits, tree: &Value, old_pods_live: bool) {
    sets.adopt_revision(tree);
    let mut shrunk = false;
    for set in sets.old_oldest_first() {
        shrunk |= set.replicas > 0;
        set.replicas = 0;
    }
    if shrunk || old_pods_live {
        return;
    }
    match sets.new_set() {
        None => sets.create(tree, limits.replicas, limits),
        Some(_) => sets.resize_new(limits.replicas),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    fn limits(replicas: i64, surge: &str, unavailable: &str) -> Limits {
        Limits::of(&json!({"spec": {"replicas": replicas, "strategy": {
            "type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}}))
    }

    #[test]
    fn surge_rounds_up_and_unavailable_down() {
        let limits = limits(10, "25%", "25%");
        assert_eq!((limits.ceiling(), limits.floor()), (13, 8));
    }

    #[test]
    fn both_bounds_zero_let_one_pod_be_missing() {
        assert_eq!(limits(3, "0%", "0%").floor(), 2);
        assert_eq!(
            limits(1, "25%", "25%"),
            Limits { replicas: 1, max_surge: 1, max_unavailable: 0, recreate: false }
        );
    }

    #[test]
    fn the_new_set_takes_the_room_there_is() {
        let limits = limits(10, "30%", "0%");
        assert_eq!(limits.new_size(0, 10), 3);
        assert_eq!(limits.new_size(3, 13), 3);
        assert_eq!(limits.new_size(9, 10), 10);
    }
}
