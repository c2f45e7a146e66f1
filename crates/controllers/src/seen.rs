//! What a controller has seen that no object says: since when something is as it is.
//!
//! It is measured by our own clock, which runs on evenly whatever the wall clock is set to, and whatever the clocks of
//! those who wrote the object say. Lost with the process: the next one begins to measure anew, as upstream's does.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::Clock;

/// What was seen of each key, and when for the first time.
pub struct Seen<K, V> {
    clock: Clock,
    entries: Mutex<BTreeMap<K, (V, Duration)>>,
}

impl<K: Ord, V: PartialEq> Seen<K, V> {
    /// Nothing was seen yet.
    pub fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), entries: Mutex::default() }
    }

    /// How long `what` has been seen of `key`; zero from now on if it was something else before.
    pub fn since(&self, key: K, what: V) -> Duration {
        let now = self.clock.monotonic();
        let mut entries = self.entries();
        match entries.get(&key).filter(|(before, _)| *before == what) {
            Some((_, first)) => now.saturating_sub(*first),
            None => {
                entries.insert(key, (what, now));
                Duration::ZERO
            }
        }
    }

    /// It is not there any more.
    pub fn forget(&self, key: &K) {
        self.entries().remove(key);
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<K, (V, Duration)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_changes_begins_anew_and_what_is_forgotten_too() {
        let seen = Seen::new(&Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap()));
        let check = |what: &str, seconds: u64| {
            assert_eq!(seen.since("key", what.to_owned()), Duration::from_secs(seconds), "{what}");
        };
        check("a", 0);
        tokio::time::advance(Duration::from_secs(7)).await;
        check("a", 7);
        check("b", 0);
        tokio::time::advance(Duration::from_secs(3)).await;
        check("b", 3);
        seen.forget(&"key");
        check("b", 0);
    }
}
