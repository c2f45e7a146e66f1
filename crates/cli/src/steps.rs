//! Steps as they happen: one line each, with what they took.

use std::time::Duration;

use base::Clock;

use crate::output;

/// Prints steps.
pub struct Steps {
    clock: Clock,
    last: Duration,
}

impl Steps {
    /// The first step begins now.
    pub fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), last: clock.monotonic() }
    }

    /// A step is done.
    pub fn done(&mut self, what: &str) {
        let now = self.clock.monotonic();
        output::line(format_args!("✓ {what} ({} ms)", now.saturating_sub(self.last).as_millis()));
        self.last = now;
    }

    /// Something that took no time of its own.
    pub fn note(&self, what: &str) {
        output::line(format_args!("  {what}"));
    }
}
