//! Keys that wait for a worker: each once, never two workers on one key, some not before their time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base::Clock;
use tokio::sync::Notify;

use crate::mirror::Key;

/// A queue of keys. Adding a key that waits changes nothing; adding one that is being worked on brings it back when
/// that work is done.
pub struct Queue {
    clock: Clock,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Key>,
    waiting: BTreeSet<Key>,
    working: BTreeSet<Key>,
    /// By due time (monotonic), for keys that wait; the earliest time of each key counts.
    delayed: BTreeSet<(Duration, Key)>,
    due: BTreeMap<Key, Duration>,
    closed: bool,
}

impl Queue {
    /// An empty queue.
    pub fn new(clock: Clock) -> Self {
        Self { clock, state: Mutex::default(), wake: Notify::new() }
    }

    /// Adds a key for now.
    pub fn add(&self, key: Key) {
        self.state().add(key);
        self.wake.notify_one();
    }

    /// Adds a key for later. If it is already due earlier, that stands.
    pub fn add_after(&self, key: Key, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = self.clock.monotonic() + delay;
        let mut state = self.state();
        if let Some(earlier) = state.due.get(&key).copied() {
            if earlier <= at {
                return;
            }
            state.delayed.remove(&(earlier, key.clone()));
        }
        state.due.insert(key.clone(), at);
        state.delayed.insert((at, key));
        drop(state);
        self.wake.notify_one();
    }

    /// The next key to work on, or `None` when the queue is closed. Call [`Queue::done`] with it afterwards.
    pub async fn next(&self) -> Option<Key> {
        loop {
            let notified = self.wake.notified();
            let pause = {
                let mut state = self.state();
                if state.closed {
                    return None;
                }
                let now = self.clock.monotonic();
                state.ripen(now);
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.working.insert(key.clone());
                    // Somebody else must see to what is ready, and to the time of what is not: whoever did so far may
                    // be the one who goes to work now.
                    if !(state.ready.is_empty() && state.delayed.is_empty()) {
                        self.wake.notify_one();
                    }
                    return Some(key);
                }
                state.delayed.first().map(|(at, _)| at.saturating_sub(now))
            };
            match pause {
                Some(pause) => {
                    let _ = self.clock.timeout(pause, notified).await;
                }
                None => notified.await,
            }
        }
    }

    /// Says that the work on a key has ended.
    pub fn done(&self, key: &Key) {
        let mut state = self.state();
        state.working.remove(key);
        if state.waiting.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Ends the queue: waiting workers get `None`.
    pub fn close(&self) {
        self.state().closed = true;
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// How many keys wait for now.
    pub fn len(&self) -> usize {
        self.state().waiting.len()
    }

    /// Whether no key waits for now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nothing waits and nobody works; delayed keys do not count.
    pub fn is_idle(&self) -> bool {
        let state = self.state();
        state.waiting.is_empty() && state.working.is_empty()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, key: Key) {
        if self.waiting.insert(key.clone()) && !self.working.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn ripen(&mut self, now: Duration) {
        while let Some((at, _)) = self.delayed.first()
            && *at <= now
        {
            let Some((_, key)) = self.delayed.pop_first() else { return };
            self.due.remove(&key);
            self.add(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn key(name: &str) -> Key {
        Key::new("", name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_returns_after_work() {
        let queue = Queue::new(Clock::simulated(Timestamp::UNIX_EPOCH));
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next().await, Some(key("a")));
        queue.add(key("a"));
        queue.add(key("b"));
        assert_eq!(queue.next().await, Some(key("b")), "a is being worked on");
        queue.done(&key("a"));
        assert_eq!(queue.next().await, Some(key("a")));
        queue.done(&key("a"));
        queue.done(&key("b"));
        assert!(queue.is_idle());
        queue.close();
        assert_eq!(queue.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_to_work_leaves_the_time_of_delayed_keys_to_another() {
        let queue = Queue::new(Clock::simulated(Timestamp::UNIX_EPOCH));
        queue.add_after(key("later"), Duration::from_secs(3));
        queue.wake.notified().await;
        queue.add(key("now"));
        queue.wake.notified().await;
        // Somebody waits who has seen neither, and nobody else would wake him.
        let mut idle = Box::pin(queue.wake.notified());
        assert!(futures::poll!(&mut idle).is_pending());
        assert_eq!(queue.next().await, Some(key("now")));
        assert!(futures::poll!(&mut idle).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_of_a_key_counts() {
        let clock = Clock::simulated(Timestamp::UNIX_EPOCH);
        let queue = Queue::new(clock.clone());
        queue.add_after(key("a"), Duration::from_secs(9));
        queue.add_after(key("a"), Duration::from_secs(3));
        queue.add_after(key("a"), Duration::from_secs(5));
        assert_eq!(queue.next().await, Some(key("a")));
        assert_eq!(clock.monotonic().as_secs(), 3);
        queue.done(&key("a"));
        assert_eq!(queue.len(), 0);
        assert!(clock.timeout(Duration::from_secs(60), queue.next()).await.is_none());
    }
}
