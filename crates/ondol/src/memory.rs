//! Giving memory back to the kernel.
//!
//! The allocator returns what was freed only while its threads allocate. After a burst they rest, and what the burst has
//! taken would stay taken: after a start with ten thousand pods hundreds of megabytes. So every thread of a runtime tidies
//! up when it runs out of work, and a task does now and then, in case no thread has had work since.

use std::cell::Cell;
use std::time::Duration;

use base::{Clock, Stop, Tasks};

/// Time between two times that a thread tidies up. A second after it was freed memory may be given back: who needs some
/// again at once shall find it.
const PAUSE: Duration = Duration::from_secs(2);

thread_local! {
    /// When this thread tidied up last.
    static LAST: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Tidies up, unless this thread did a moment ago. For the moment at which a thread has nothing to do.
pub fn rest(clock: &Clock) {
    let now = clock.monotonic();
    if now.saturating_sub(LAST.get()) >= PAUSE {
        LAST.set(now);
        sys::collect();
    }
}

/// Tidies up now and then until `stop`.
pub fn keep_tidy(clock: &Clock, tasks: &Tasks, stop: &Stop) {
    let (clock, stop) = (clock.clone(), stop.clone());
    tasks.spawn("memory", async move {
        while stop.or(clock.sleep(PAUSE)).await.is_some() {
            sys::collect();
        }
    });
}

mod sys {
    #![expect(unsafe_code, reason = "the allocator's crate has no safe word for this")]

    unsafe extern "C" {
        /// Of mimalloc, which is the allocator of this program (`main.rs`).
        fn mi_collect(force: bool);
    }

    /// Frees pages of this thread that are empty, and gives back what all threads have freed a while ago.
    pub fn collect() {
        // SAFETY: the function may be called at any time by any thread; it looks at the thread's own heap and at what
        // all threads share under their own locks.
        unsafe { mi_collect(false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_rests_again_at_once_does_nothing() {
        let clock = Clock::system();
        LAST.set(clock.monotonic());
        let before = LAST.get();
        rest(&clock);
        assert_eq!(LAST.get(), before);
    }
}
