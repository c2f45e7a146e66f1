//! A value that tasks wait for.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// A small value that one side moves and others wait on. Those who wait are woken in the order in which they began to
/// wait, so a simulation repeats; `tokio::sync::watch` wakes in a random order.
#[derive(Debug, Default)]
pub struct Level<T> {
    value: Mutex<T>,
    moved: Notify,
}

impl<T: Copy> Level<T> {
    /// Begins at `value`.
    pub fn new(value: T) -> Self {
        Self { value: Mutex::new(value), moved: Notify::new() }
    }

    /// As it is now.
    pub fn get(&self) -> T {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it, and wakes all who wait.
    pub fn update(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.value.lock().unwrap_or_else(PoisonError::into_inner));
        self.moved.notify_waiters();
    }

    /// Returns once `holds` says so: at once, or after an update.
    pub async fn wait_for(&self, mut holds: impl FnMut(T) -> bool) {
        loop {
            // Made before looking, so that an update in between is not missed.
            let moved = self.moved.notified();
            if holds(self.get()) {
                return;
            }
            moved.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::Tasks;

    #[tokio::test]
    async fn who_waits_is_woken_in_the_order_of_waiting() {
        for _ in 0..20 {
            let level = Arc::new(Level::new(0));
            let order = Arc::new(Mutex::new(Vec::new()));
            let tasks = Tasks::new();
            for number in 0..16 {
                let (level, order) = (level.clone(), order.clone());
                tasks.spawn("waits", async move {
                    level.wait_for(|value| value > 0).await;
                    order.lock().unwrap().push(number);
                });
            }
            tokio::task::yield_now().await;
            level.update(|value| *value = 1);
            assert!(tasks.join(Duration::from_secs(5)).await);
            assert_eq!(*order.lock().unwrap(), (0..16).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn what_holds_already_is_not_waited_for() {
        Level::new(3).wait_for(|value| value == 3).await;
    }
}
