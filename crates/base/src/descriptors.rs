//! How many files this process may have open.
//!
//! A shell gives its children 1,024, for programs of old that cannot count further, and lets them ask for many more. A
//! server asks, for each of its connections is a file; what it starts for others gets what it was given itself.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit that [`raise`] has found.
static GIVEN: OnceLock<Rlimit> = OnceLock::new();

/// How many files may be open now; at least one, and as good as endless where there is no limit.
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the limit to the highest that may be asked for, and returns what came of it.
pub fn raise() -> u64 {
    let given = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: given.maximum, maximum: given.maximum }).is_ok() {
        // The first one counts: later ones were raised already.
        let _ = GIVEN.set(given);
    }
    limit()
}

/// The limit with which this process was started, if it was raised since: for programs that are started for others.
pub fn given() -> Option<Rlimit> {
    GIVEN.get().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_asked_for_is_asked_for_and_what_was_given_is_remembered() {
        let before = getrlimit(Resource::Nofile);
        let low = Rlimit { current: before.current.map(|limit| limit.min(900)), maximum: before.maximum };
        setrlimit(Resource::Nofile, low).unwrap();
        assert_eq!(raise(), before.maximum.unwrap_or(u64::MAX));
        raise();
        assert_eq!(given(), Some(low));
    }
}
