//! What the tests of this crate share.

use std::sync::Arc;

use base::{Clock, Random, Tasks};
use bytes::Bytes;
use jiff::Timestamp;

use crate::{
    Committed, Decode, Drive, Expectation, Key, Options, Resource, Revision, SimulatedDisk, Store,
    Transaction,
};

/// The decoder of values that are only bytes.
pub(crate) fn plain() -> Decode<Bytes> {
    Arc::new(|_, bytes| Ok(Arc::new(bytes)))
}

/// A store on a simulated disk, driven by a task.
pub(crate) fn options(disk: &SimulatedDisk) -> Options {
    Options {
        drive: Drive::Task(Tasks::new()),
        growth_bytes: 8192,
        ..Options::new(disk.clone(), Clock::simulated(Timestamp::UNIX_EPOCH), Random::seeded(1))
    }
}

pub(crate) fn open(disk: &SimulatedDisk) -> Store<Bytes> {
    Store::open(options(disk), plain()).unwrap()
}

pub(crate) fn disk() -> SimulatedDisk {
    SimulatedDisk::new(Random::seeded(1))
}

/// A key in resource `pods`, from `namespace/name`.
pub(crate) fn pod(name: &str) -> Key {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    Key::namespaced(&Resource::new("pods"), namespace, name)
}

pub(crate) fn value(text: &str) -> Arc<Bytes> {
    Arc::new(Bytes::copy_from_slice(text.as_bytes()))
}

/// Writes a pod, whatever was there.
pub(crate) async fn put(store: &Store<Bytes>, name: &str, text: &str) -> Revision {
    commit(store, Transaction::new().put(pod(name), Expectation::Any, value(text))).await.revision
}

pub(crate) async fn delete(store: &Store<Bytes>, name: &str) -> Revision {
    commit(store, Transaction::new().delete(pod(name), Expectation::Present)).await.revision
}

pub(crate) async fn commit(store: &Store<Bytes>, transaction: Transaction<Bytes>) -> Committed<Bytes> {
    store.commit(transaction).await.unwrap()
}

/// Everything that is alive, with revisions, as text.
pub(crate) fn dump(store: &Store<Bytes>) -> Vec<String> {
    let page = store.list(&crate::List::all(crate::Scope::All)).unwrap();
    page.entries
        .iter()
        .map(|e| {
            let value = String::from_utf8_lossy(&e.record);
            format!("{} {}-{} v{} {value}", e.key, e.created, e.modified, e.version)
        })
        .collect()
}
