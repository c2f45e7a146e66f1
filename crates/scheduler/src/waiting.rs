//! Pods that look for a place: those whose turn it is, and those that wait for a change that may help them.
//!
//! A pod that fitted nowhere is not tried again until something changes that one of the filters which refused it looks
//! at. Those that were tried often wait behind the others (their back-off), but never for nothing: when nobody else has
//! a turn, the first of them has.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use control::mirror::Key;

use crate::filters::Filters;
use crate::pod::Pod;
use crate::rule::{Kind, Labels};

/// How long a pod stays behind the others after its first attempt; doubled with each, up to the longest.
const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
const BACK_OFF_LONGEST: Duration = Duration::from_secs(10);
/// A pod that no change has helped for so long is tried all the same.
const WAITS_AT_MOST: Duration = Duration::from_secs(300);

/// All pods that look for a place. Times are those of the monotonic clock.
#[derive(Debug, Default)]
pub struct Waiting {
    pods: HashMap<Key, Entry>,
    /// Whose turn it is: high priority first, then who came first.
    turns: BTreeSet<(Reverse<i32>, u64, Key)>,
    /// Who stays behind until when.
    behind: BTreeSet<(Duration, Key)>,
    /// Who is tried at a time, whatever happens.
    timed: BTreeSet<(Duration, Key)>,
    counter: u64,
}

#[derive(Debug)]
struct Entry {
    priority: i32,
    attempts: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Turn(u64),
    Behind(Duration),
    /// With the time at which it is tried at the latest, and when it was tried last.
    Parked {
        until: Duration,
        tried: Duration,
        refused: Option<Refused>,
    },
}

/// Why a pod waits.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Who refused it.
    pub filters: Filters,
}

/// What has happened that may help pods.
pub enum Event<'a> {
    /// A node has come.
    NodeAdded,
    /// A node has changed in these respects.
    NodeChanged {
        /// Its labels.
        labels: bool,
        /// Its taints, or whether it is cordoned.
        taints: bool,
        /// What pods may have of it.
        allocatable: bool,
    },
    /// A node has gone.
    NodeRemoved,
    /// A pod has a place, in a namespace with these labels.
    PodAdded(&'a Pod, &'a Labels),
    /// A pod has left its place, or has other labels or asks for less.
    PodRemoved(&'a Pod, &'a Labels),
    /// The labels of a namespace have changed.
    NamespaceChanged,
}

/// Who is next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// This pod, now.
    Pod(Key),
    /// Somebody at this time.
    At(Duration),
    /// Nobody until something changes.
    Nobody,
}

impl Event<'_> {
    /// Whether it may help a pod that was refused.
    fn helps(&self, refused: &Refused) -> bool {
        let by = |names: &[&str]| names.iter().any(|name| refused.filters.contains(name));
        let pod = &refused.pod;
        match self {
            Self::NodeAdded => true,
            Self::NodeRemoved => by(&["PodTopologySpread"]),
            Self::NamespaceChanged => by(&["InterPodAffinity"]),
            Self::NodeChanged { labels, taints, allocatable } => {
                *labels && by(&["NodeAffinity", "PodTopologySpread", "InterPodAffinity"])
                    || *taints && by(&["NodeUnschedulable", "TaintToleration", "PodTopologySpread"])
                    || *allocatable && by(&["NodeResourcesFit"])
            }
            Self::PodAdded(added, namespace) => {
                by(&["PodTopologySpread"]) && spreads_with(pod, added, namespace)
                    || by(&["InterPodAffinity"])
                        && pod.near.iter().any(|rule| rule.who.matches(added, namespace))
            }
            Self::PodRemoved(removed, namespace) => {
                by(&["NodeResourcesFit"])
                    || by(&["NodePorts"]) && !removed.ports.is_empty()
                    || by(&["PodTopologySpread"]) && spreads_with(pod, removed, namespace)
                    || by(&["InterPodAffinity"])
                        && (pod.apart.iter().any(|rule| rule.who.matches(removed, namespace))
                            || removed.carries.iter().any(|carried| carried.kind == Kind::Repels))
            }
        }
    }
}

fn spreads_with(pod: &Pod, other: &Pod, namespace: &Labels) -> bool {
    // One that is about to go counts no longer, which is a change too.
    let mut counted = other.clone();
    counted.terminating = false;
    pod.spread
        .iter()
        .any(|constraint| constraint.required && constraint.rule.who.matches(&counted, namespace))
}

impl Waiting {
    /// A pod is new here, or has changed: it has a turn.
    pub fn put(&mut self, key: &Key, priority: i32) {
        let attempts = self.remove(key).map_or(0, |entry| entry.attempts);
        self.give_turn(key, Entry { priority, attempts, state: State::Turn(0) });
    }

    /// A pod was refused. It waits until something helps.
    pub fn park(&mut self, key: &Key, refused: Refused, attempts: u32, now: Duration) {
        self.remove(key);
        let until = now + WAITS_AT_MOST;
        let priority = refused.pod.priority;
        self.timed.insert((until, key.clone()));
        let state = State::Parked { until, tried: now, refused: Some(refused) };
        self.pods.insert(key.clone(), Entry { priority, attempts, state });
    }

    /// A pod is to be tried again after a time, whatever happens.
    pub fn put_after(&mut self, key: &Key, priority: i32, attempts: u32, now: Duration, delay: Duration) {
        self.remove(key);
        let until = now + delay;
        self.timed.insert((until, key.clone()));
        let state = State::Parked { until, tried: now, refused: None };
        self.pods.insert(key.clone(), Entry { priority, attempts, state });
    }

    /// A pod looks for no place any more.
    pub fn retire(&mut self, key: &Key) {
        self.remove(key);
    }

    /// Something has happened: those whom it may help have a turn, or stay behind the others for their back-off.
    pub fn wake(&mut self, event: &Event, now: Duration) {
        let helped = self.pods.iter().filter(|(_, entry)| match &entry.state {
            State::Parked { refused: Some(refused), .. } => event.helps(refused),
            _ => false,
        });
        let mut helped: Vec<Key> = helped.map(|(key, _)| key.clone()).collect();
        helped.sort();
        for key in helped {
            let Some(entry) = self.remove(&key) else { continue };
            let State::Parked { tried, .. } = entry.state else { continue };
            let end = tried + back_off(entry.attempts);
            if end <= now {
                self.give_turn(&key, entry);
            } else {
                self.behind.insert((end, key.clone()));
                self.pods.insert(key, Entry { state: State::Behind(end), ..entry });
            }
        }
    }

    /// Takes out who is next, with the number of attempts before this one.
    pub fn next(&mut self, now: Duration) -> (Next, u32) {
        while let Some((at, key)) = self.behind.first().cloned().filter(|(at, _)| *at <= now) {
            self.behind.remove(&(at, key.clone()));
            if let Some(entry) = self.pods.remove(&key) {
                self.give_turn(&key, entry);
            }
        }
        while let Some((_, key)) = self.timed.first().cloned().filter(|(at, _)| *at <= now) {
            if let Some(entry) = self.remove(&key) {
                self.give_turn(&key, entry);
            }
        }
        let first = self.turns.first().map(|(.., key)| key);
        let first = first.or_else(|| self.behind.first().map(|(_, key)| key)).cloned();
        match (first, self.timed.first()) {
            (Some(key), _) => {
                let attempts = self.remove(&key).map_or(0, |entry| entry.attempts);
                (Next::Pod(key), attempts)
            }
            (None, Some((at, _))) => (Next::At(*at), 0),
            (None, None) => (Next::Nobody, 0),
        }
    }

    fn give_turn(&mut self, key: &Key, entry: Entry) {
        self.counter += 1;
        self.turns.insert((Reverse(entry.priority), self.counter, key.clone()));
        self.pods.insert(key.clone(), Entry { state: State::Turn(self.counter), ..entry });
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.pods.remove(key)?;
        match entry.state {
            State::Turn(number) => {
                self.turns.remove(&(Reverse(entry.priority), number, key.clone()));
            }
            State::Behind(end) => {
                self.behind.remove(&(end, key.clone()));
            }
            State::Parked { until, .. } => {
                self.timed.remove(&(until, key.clone()));
            }
        }
        Some(entry)
    }
}

/// How long a pod stays behind after so many attempts.
fn back_off(attempts: u32) -> Duration {
    let doubled = BACK_OFF_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(10));
    doubled.min(BACK_OFF_LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("d", name)
    }

    fn refused(filters: &[&str]) -> Refused {
        let mut set = Filters::default();
        filters.iter().for_each(|name| set.insert_named(name));
        Refused { pod: Arc::default(), filters: set }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn order(waiting: &mut Waiting, now: Duration) -> Vec<String> {
        let mut names = Vec::new();
        while let (Next::Pod(key), _) = waiting.next(now) {
            names.push(key.name.to_string());
        }
        names
    }

    #[test]
    fn higher_priority_comes_first_and_then_who_came_first() {
        let mut waiting = Waiting::default();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5), ("a", 0)] {
            waiting.put(&key(name), priority);
        }
        assert_eq!(order(&mut waiting, seconds(0)), ["b", "d", "c", "a"]);
        assert_eq!(waiting.next(seconds(0)).0, Next::Nobody);
    }

    #[test]
    fn only_those_whom_a_change_may_help_are_woken() {
        let mut waiting = Waiting::default();
        waiting.park(&key("cpu"), refused(&["NodeResourcesFit"]), 1, seconds(0));
        waiting.park(&key("label"), refused(&["NodeAffinity"]), 1, seconds(0));
        let gone = Pod::default();
        waiting.wake(&Event::PodRemoved(&gone, &[]), seconds(2));
        assert_eq!(order(&mut waiting, seconds(2)), ["cpu"]);
        let relabelled = Event::NodeChanged { labels: true, taints: false, allocatable: false };
        waiting.wake(&relabelled, seconds(2));
        assert_eq!(order(&mut waiting, seconds(2)), ["label"]);
    }

    #[test]
    fn a_pod_in_back_off_goes_behind_the_others_but_does_not_wait_for_nothing() {
        let mut waiting = Waiting::default();
        waiting.park(&key("often"), refused(&["NodeResourcesFit"]), 4, seconds(10));
        waiting.put(&key("new"), 0);
        waiting.wake(&Event::NodeAdded, seconds(11));
        assert_eq!(order(&mut waiting, seconds(11)), ["new", "often"]);
        waiting.park(&key("often"), refused(&["NodeResourcesFit"]), 4, seconds(10));
        waiting.wake(&Event::NodeAdded, seconds(11));
        waiting.put(&key("new"), 0);
        assert_eq!(order(&mut waiting, seconds(18)), ["new", "often"], "8 s after the fourth attempt");
    }

    #[test]
    fn who_waits_longest_is_tried_all_the_same() {
        let mut waiting = Waiting::default();
        waiting.park(&key("a"), refused(&["NodeAffinity"]), 1, seconds(7));
        assert_eq!(waiting.next(seconds(8)), (Next::At(seconds(307)), 0));
        assert_eq!(waiting.next(seconds(307)), (Next::Pod(key("a")), 1));
        waiting.put_after(&key("b"), 0, 3, seconds(400), seconds(1));
        assert_eq!(waiting.next(seconds(400)), (Next::At(seconds(401)), 0));
        waiting.retire(&key("b"));
        assert_eq!(waiting.next(seconds(500)).0, Next::Nobody);
    }
}
