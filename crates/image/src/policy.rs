//! Whether an image is answered from the store or asked for at its registry.
//!
//! One rule stands above the pull policy: a name that was imported, built or tagged here means what it was made to
//! mean here. A registry may have another image of that name, or may not exist at all; asking it under `Always`
//! would replace or lose what the user has just made.

use crate::store::{Named, Origin};

/// When to ask the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before every start.
    Always,
    /// When the store has no such image.
    IfNotPresent,
    /// Never.
    Never,
}

/// What to do, and why in words for an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Run what the store has.
    UseLocal {
        /// Why, as a clause.
        reason: String,
    },
    /// Ask the registry.
    Pull,
    /// Neither; the container cannot start.
    Refuse {
        /// Why, and what to do.
        reason: String,
    },
}

/// Decides for one name under `policy`; `known` is what the store has under it.
pub fn decide(policy: PullPolicy, known: Option<&Named>) -> Decision {
    match (policy, known) {
        (PullPolicy::Never, None) => Decision::Refuse {
            reason: "the image is not in this machine's store and its pull policy is Never: import or pull it, or \
                     use IfNotPresent"
                .to_owned(),
        },
        (PullPolicy::Always | PullPolicy::IfNotPresent, None) => Decision::Pull,
        (PullPolicy::Always, Some(named)) => match made_here(named.origin) {
            Some(verb) => Decision::UseLocal {
                reason: format!("{} was {verb} on this machine, so no registry is asked", named.name),
            },
            None => Decision::Pull,
        },
        (PullPolicy::IfNotPresent | PullPolicy::Never, Some(named)) => {
            Decision::UseLocal { reason: format!("{} is already present on this machine", named.name) }
        }
    }
}

fn made_here(origin: Origin) -> Option<&'static str> {
    match origin {
        Origin::Imported => Some("imported"),
        Origin::Built => Some("built"),
        Origin::Tagged => Some("tagged"),
        Origin::Pulled => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    fn known(origin: Origin) -> Named {
        Named {
            name: "docker.io/library/shop:latest".parse().unwrap(),
            manifest: Digest::of(b"manifest"),
            target: Digest::of(b"manifest"),
            image_id: Digest::of(b"config"),
            size_bytes: 1,
            origin,
            stored_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_was_made_here_is_never_asked_for_elsewhere() {
        for origin in [Origin::Imported, Origin::Built, Origin::Tagged] {
            for policy in [PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never] {
                assert!(matches!(decide(policy, Some(&known(origin))), Decision::UseLocal { .. }));
            }
        }
        let Decision::UseLocal { reason } = decide(PullPolicy::Always, Some(&known(Origin::Imported))) else {
            panic!("an imported image is local");
        };
        assert_eq!(
            reason,
            "docker.io/library/shop:latest was imported on this machine, so no registry is asked"
        );
    }

    #[test]
    fn pulled_images_follow_the_policy() {
        let pulled = known(Origin::Pulled);
        assert_eq!(decide(PullPolicy::Always, Some(&pulled)), Decision::Pull);
        assert!(matches!(decide(PullPolicy::IfNotPresent, Some(&pulled)), Decision::UseLocal { .. }));
        assert!(matches!(decide(PullPolicy::Never, Some(&pulled)), Decision::UseLocal { .. }));
    }

    #[test]
    fn unknown_images_are_pulled_unless_never() {
        assert_eq!(decide(PullPolicy::Always, None), Decision::Pull);
        assert_eq!(decide(PullPolicy::IfNotPresent, None), Decision::Pull);
        assert!(matches!(decide(PullPolicy::Never, None), Decision::Refuse { .. }));
    }
}
