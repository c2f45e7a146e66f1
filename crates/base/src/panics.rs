//! Panics that were caught. Each one is a bug, so that they are counted: for metrics, and for tests that would
//! otherwise see only that things came right in the end.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};

/// There is one hook for panics in a process, and one count of them.
static CAUGHT: AtomicU64 = AtomicU64::new(0);

/// How many panics this process has caught.
pub fn count() -> u64 {
    CAUGHT.load(Ordering::Relaxed)
}

/// Counts a panic that was caught, and gives its words.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a reference to the box would be taken for the panic itself"
)]
pub fn caught(panic: Box<dyn Any + Send>) -> String {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
    let words = panic.downcast_ref::<&str>().map(ToString::to_string);
    words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_panic_and_it_is_counted() {
        let before = count();
        for (panic, words) in [
            (std::panic::catch_unwind(|| panic!("plain")), "plain"),
            (std::panic::catch_unwind(|| panic!("with {}", 3)), "with 3"),
            (std::panic::catch_unwind(|| std::panic::panic_any(7)), ""),
        ] {
            let panic: Result<(), _> = panic;
            assert_eq!(caught(panic.unwrap_err()), words);
        }
        assert!(count() >= before + 3);
    }
}
