//! A short-lived certificate that is renewed while its owner runs.

use std::sync::Arc;
use std::time::Duration;

use base::{Backoff, Clock, Stop};
use jiff::Timestamp;

use super::{Authority, Error, Leaf, Presented};

/// The clock is looked at this often, where the kernel does not tell that it was set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const RETRY_INITIAL: Duration = Duration::from_secs(1);
const RETRY_CEILING: Duration = Duration::from_secs(60);

/// Keeps a [`Presented`] certificate fresh: renewed at two thirds of its lifetime, at once when the wall clock
/// jumped out of its validity.
pub struct Rotating {
    authority: Arc<Authority>,
    leaf: Leaf,
    clock: Clock,
    presented: Arc<Presented>,
    issued: Timestamp,
}

impl Rotating {
    /// Issues the first certificate.
    pub fn new(authority: Arc<Authority>, leaf: Leaf, clock: Clock) -> Result<Self, Error> {
        let issued = clock.now();
        let presented = Presented::new(&authority.issue(&leaf, issued)?)?;
        Ok(Self { authority, leaf, clock, presented, issued })
    }

    /// What servers and clients present; always the newest.
    pub fn presented(&self) -> Arc<Presented> {
        self.presented.clone()
    }

    /// Renews until `stop`. Run it as a task.
    pub async fn run(mut self, stop: Stop) {
        let mut backoff = Backoff::new(RETRY_INITIAL, RETRY_CEILING);
        let mut wait = LOOK_EVERY;
        let (clock, jumps) = (self.clock.clone(), self.clock.jumps());
        let woken = async |wait| {
            tokio::select! {
                () = clock.sleep(wait) => {}
                () = jumps.next() => {}
            }
        };
        while stop.or(woken(wait)).await.is_some() {
            wait = LOOK_EVERY.min(self.leaf.lifetime / 3);
            if !is_due(self.issued, self.leaf.lifetime, self.clock.now()) {
                continue;
            }
            match self.renew() {
                Ok(()) => backoff.succeed(),
                Err(error) => {
                    wait = backoff.fail();
                    tracing::error!(
                        common_name = self.leaf.common_name,
                        error = &error as &dyn std::error::Error,
                        "the certificate could not be renewed; will try again"
                    );
                }
            }
        }
    }

    fn renew(&mut self) -> Result<(), Error> {
        let now = self.clock.now();
        self.presented.set(&self.authority.issue(&self.leaf, now)?)?;
        self.issued = now;
        Ok(())
    }
}

/// Whether a certificate issued at `issued` wants renewal at `now`.
fn is_due(issued: Timestamp, lifetime: Duration, now: Timestamp) -> bool {
    // A clock that was set back to before the issue makes the certificate "not yet valid" for us and our peers.
    let renewal = issued.checked_add(lifetime * 2 / 3).unwrap_or(Timestamp::MAX);
    now < issued || now >= renewal
}

#[cfg(test)]
mod tests {
    use super::super::Usage;
    use super::*;
    use base::{Stopper, Tasks};

    #[test]
    fn renewal_is_due_at_two_thirds_and_after_a_jump_back() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let hour = Duration::from_secs(3600);
        for (now, expect) in [(1000, false), (3399, false), (3400, true), (9999, true), (999, true)] {
            assert_eq!(is_due(at(1000), hour, at(now)), expect, "{now}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_certificate_is_presented_in_time() {
        let clock = Clock::simulated(Timestamp::from_second(1_800_000_000).unwrap());
        let authority = Arc::new(Authority::create("test", clock.now()).unwrap());
        let leaf = Leaf {
            common_name: "a".into(),
            organizations: vec![],
            dns_names: vec!["a.example".into()],
            ips: vec![],
            usages: vec![Usage::Server],
            lifetime: Duration::from_secs(900),
        };
        let rotating = Rotating::new(authority, leaf, clock.clone()).unwrap();
        let presented = rotating.presented();
        let first = presented.chain().unwrap();
        let (stopper, tasks) = (Stopper::new(), Tasks::new());
        tasks.spawn("rotating", rotating.run(stopper.signal()));
        clock.sleep(Duration::from_secs(599)).await;
        assert_eq!(presented.chain().unwrap(), first);
        clock.sleep(Duration::from_secs(62)).await;
        assert_ne!(presented.chain().unwrap(), first);
        stopper.stop();
        assert!(tasks.join(Duration::from_secs(5)).await);
    }
}
