//! Who may have how much of the gate at once.
//!
//! After upstream's priority levels: administrators, what belongs to the system, and everybody else have places of
//! their own, so that nobody takes them from another. Where strangers share, one user gets a part of the places only.
//! What comes from inside the process needs no place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use api::status::Status;
use api::value::Str;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::identity::{self, Identity};
use crate::limits::{self, Bound, Bounds};

/// How names begin that nobody is given but by us.
const SYSTEM_PREFIX: &str = "system:";
/// The group of the accounts of what runs the cluster itself.
const SYSTEM_ACCOUNTS: &str = "system:serviceaccounts:kube-system";

/// The shares of all.
pub(crate) struct Shares {
    masters: Share,
    system: Share,
    others: Share,
}

/// What one sort of users has.
pub(crate) struct Share {
    /// Requests that change something.
    pub writes: Places,
    /// Requests that only read.
    pub reads: Places,
    /// Watches, and streams into pods.
    pub streams: Places,
    /// Bodies that did not come together with their headers.
    pub bodies: Places,
    /// Large bodies that are worked on.
    pub large: Semaphore,
}

/// Places of one sort.
pub(crate) struct Places {
    bound: Bound,
    free: Arc<Semaphore>,
    users: Users,
}

/// How many places each user has who has any.
type Users = Arc<Mutex<HashMap<Str, usize>>>;

/// A place, given back when it is dropped.
pub(crate) struct Place {
    _place: OwnedSemaphorePermit,
    _held: Option<Held>,
}

struct Held {
    users: Users,
    name: Str,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            masters: Share::new(&limits::MASTERS),
            system: Share::new(&limits::SYSTEM),
            others: Share::new(&limits::OTHERS),
        }
    }
}

impl Shares {
    /// The share of somebody.
    pub fn of(&self, identity: &Identity) -> &Share {
        let name = identity.name.as_str();
        let is_account = name.starts_with(identity::SERVICE_ACCOUNT_PREFIX);
        if identity.is_in(identity::MASTERS) {
            &self.masters
        } else if identity.is_in(identity::NODES)
            || (is_account && identity.is_in(SYSTEM_ACCOUNTS))
            || (!is_account && name != identity::ANONYMOUS && name.starts_with(SYSTEM_PREFIX))
        {
            &self.system
        } else {
            &self.others
        }
    }

    /// How many places of a sort are taken.
    pub fn taken(&self, sort: fn(&Share) -> &Places) -> usize {
        [&self.masters, &self.system, &self.others].into_iter().map(|share| sort(share).taken()).sum()
    }
}

impl Share {
    fn new(bounds: &Bounds) -> Self {
        Self {
            writes: Places::new(bounds.writes),
            reads: Places::new(bounds.reads),
            streams: Places::new(bounds.streams),
            bodies: Places::new(bounds.bodies),
            large: Semaphore::new(limits::LARGE_BODIES_AT_ONCE),
        }
    }
}

impl Places {
    fn new(bound: Bound) -> Self {
        Self { bound, free: Arc::new(Semaphore::new(bound.all)), users: Users::default() }
    }

    /// A place for somebody, or 429.
    pub fn take(&self, identity: &Identity) -> Result<Place, Status> {
        let refused = || {
            let words = "Too many requests, please try again later.";
            Status::too_many_requests(words, limits::RETRY_AFTER_SECONDS)
        };
        let place = Arc::clone(&self.free).try_acquire_owned().map_err(|_| refused())?;
        let held = if self.bound.each < self.bound.all {
            Some(self.hold(&identity.name).ok_or_else(refused)?)
        } else {
            None
        };
        Ok(Place { _place: place, _held: held })
    }

    fn hold(&self, name: &Str) -> Option<Held> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let count = users.entry(name.clone()).or_default();
        if *count >= self.bound.each {
            return None;
        }
        *count += 1;
        Some(Held { users: Arc::clone(&self.users), name: name.clone() })
    }

    fn taken(&self) -> usize {
        self.bound.all.saturating_sub(self.free.available_permits())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = users.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_gets_a_part_and_leaves_the_rest_to_others() {
        let places = Places::new(Bound { all: 5, each: 2 });
        let (greedy, other, late) =
            (Identity::new("greedy", &[]), Identity::new("other", &[]), Identity::new("late", &[]));
        let mut held = vec![places.take(&greedy).unwrap(), places.take(&greedy).unwrap()];
        assert_eq!(places.take(&greedy).err().map(|status| status.code), Some(429));
        held.extend([places.take(&other).unwrap(), places.take(&other).unwrap()]);
        held.push(places.take(&late).unwrap());
        assert_eq!(places.taken(), 5);
        assert!(places.take(&late).is_err(), "all are taken");
        held.clear();
        assert_eq!(places.taken(), 0);
        assert!(places.take(&greedy).is_ok());
        assert!(places.users.lock().unwrap().is_empty(), "who holds none is forgotten");
    }

    #[test]
    fn administrators_the_system_and_all_others_have_places_of_their_own() {
        let shares = Shares::default();
        let is = |identity: &Identity, share: &Share| std::ptr::eq(shares.of(identity), share);
        assert!(is(&Identity::admin(), &shares.masters));
        assert!(is(&Identity::node("n"), &shares.system));
        assert!(is(&Identity::new("system:kube-scheduler", &[]), &shares.system));
        let account = |namespace| Identity::service_account(namespace, "default", "");
        assert!(is(&account("kube-system"), &shares.system));
        assert!(is(&account("default"), &shares.others));
        assert!(is(&Identity::anonymous(), &shares.others));
        assert!(is(&Identity::new("somebody", &[]), &shares.others));
        const { assert!(limits::OTHERS.writes.each < limits::OTHERS.writes.all) };
    }
}
