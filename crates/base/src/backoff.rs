//! Waiting longer after each failure.

use std::time::Duration;

/// Doubles from `initial` up to `ceiling`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    ceiling: Duration,
    failures: u32,
}

impl Backoff {
    /// A backoff that has seen no failure.
    pub const fn new(initial: Duration, ceiling: Duration) -> Self {
        Self { initial, ceiling, failures: 0 }
    }

    /// The delay for the failure that just happened.
    pub fn fail(&mut self) -> Duration {
        let delay = self.initial.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.ceiling);
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Forgets all failures.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }

    /// How many failures came in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_ceiling_and_starts_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let delays: Vec<u128> = (0..4).map(|_| backoff.fail().as_millis()).collect();
        assert_eq!(delays, [100, 200, 350, 350]);
        backoff.succeed();
        assert_eq!(backoff.fail().as_millis(), 100);
    }
}
