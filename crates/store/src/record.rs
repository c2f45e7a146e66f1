//! What is stored, and what happened to it.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;

use crate::key::{Key, Revision};

/// A value as the layer above wants to share it: encoded bytes, with whatever it keeps beside them.
pub trait Record: Send + Sync + 'static {
    /// What goes to disk.
    fn bytes(&self) -> &[u8];

    /// What the value can be found by (see [`crate::List::having`]), each once: numbers that the layer above makes
    /// of what it asks for, such as hashes of labels.
    fn terms(&self) -> &[u64] {
        &[]
    }
}

/// For values that need nothing beside their bytes.
impl Record for Bytes {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// Why a stored value could not be decoded.
pub type DecodeError = Box<dyn std::error::Error + Send + Sync>;

/// Makes a record of bytes that come from disk. It is called once for each value when a store is opened, from
/// several threads; what was put is never decoded again. The bytes are a copy of their own, exactly as long as the
/// value.
pub type Decode<R> = Arc<dyn Fn(&Key, Bytes) -> Result<Arc<R>, DecodeError> + Send + Sync>;

/// One version of one key.
pub struct Entry<R> {
    /// Its name.
    pub key: Key,
    /// When the key was created, most recently.
    pub created: Revision,
    /// When this version was written.
    pub modified: Revision,
    /// How often the key was written since it was created; the first time is 1.
    pub version: u64,
    /// When the store deletes the key by itself.
    pub expires: Option<Timestamp>,
    /// The value.
    pub record: Arc<R>,
}

impl<R> fmt::Debug for Entry<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.modified)
    }
}

/// One change of one key. All watchers share it.
pub struct Event<R> {
    /// When it happened.
    pub revision: Revision,
    /// The new version; `None` for a deletion.
    pub current: Option<Arc<Entry<R>>>,
    /// The version before; `None` for a creation.
    pub previous: Option<Arc<Entry<R>>>,
    /// A place in which the layer above keeps what it has encoded once for all watchers.
    pub encodings: Slot,
}

impl<R> Event<R> {
    /// What changed.
    pub fn key(&self) -> &Key {
        let entry = self.current.as_ref().or(self.previous.as_ref());
        &entry.expect("an event without an entry is never made: see View::apply").key
    }

    /// Whether the key is gone with this event.
    pub fn is_deletion(&self) -> bool {
        self.current.is_none()
    }

    /// Whether the key was not there before.
    pub fn is_creation(&self) -> bool {
        self.previous.is_none()
    }
}

impl<R> fmt::Debug for Event<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match (&self.previous, &self.current) {
            (None, _) => "create",
            (Some(_), Some(_)) => "update",
            (Some(_), None) => "delete",
        };
        write!(f, "{verb} {}@{}", self.key(), self.revision)
    }
}

/// Room for one value of a type that the store does not know. The store empties it when the event grows old.
#[derive(Default)]
pub struct Slot(Mutex<Option<Arc<dyn Any + Send + Sync>>>);

impl Slot {
    /// What is in the slot; made by `make` if nothing is, or something of another type. Others wait while `make`
    /// runs, so that it runs once.
    pub fn get_or_insert_with<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = slot.as_ref().and_then(|any| Arc::clone(any).downcast::<T>().ok()) {
            return found;
        }
        let made = Arc::new(make());
        *slot = Some(Arc::clone(&made) as Arc<dyn Any + Send + Sync>);
        made
    }

    /// Whether there is something in it.
    #[cfg(test)]
    pub(crate) fn is_full(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Empties the slot.
    pub fn clear(&self) {
        // Taken out first, so that what is dropped is dropped outside of the lock.
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(taken);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_makes_its_value_once_until_it_is_cleared() {
        let slot = Slot::default();
        assert_eq!(*slot.get_or_insert_with(|| 1_u32), 1);
        assert_eq!(*slot.get_or_insert_with(|| 2_u32), 1);
        slot.clear();
        assert_eq!(*slot.get_or_insert_with(|| 3_u32), 3);
        assert_eq!(*slot.get_or_insert_with(|| "other type"), "other type");
    }
}
