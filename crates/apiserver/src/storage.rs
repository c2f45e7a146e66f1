//! The store as the gate sees it: objects, keys by kind, and commits with the API's errors.
//!
//! What is stored is the body of [`Object::body_of`]. The object that everybody shares is made at the first look,
//! for only then its revision is known.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use api::names::{GroupResource, Resource};
use api::object::Object;
use api::status::Status;
use api::value::{Str, Value};
use base::{Clock, Random};
use bytes::Bytes;
use jiff::Timestamp;
use store::{CommitError, Committed, Decode, Entry, Key, List, Revision, Scope, Store, Transaction};

use crate::kinds::{self, Kind};
use crate::lookups::Lookups;

/// A stored value: the encoded body, and the object as soon as somebody has looked at it.
pub struct Record {
    body: Bytes,
    /// What the writer knew already; taken by the first look.
    fields: Mutex<Option<Vec<(Str, Str)>>>,
    object: OnceLock<Arc<Object>>,
}

impl store::Record for Record {
    fn bytes(&self) -> &[u8] {
        &self.body
    }
}

impl Record {
    /// Of a tree in its storage version.
    pub fn new(kind: &Kind, tree: &Value) -> Arc<Self> {
        Self::of(kind, tree, Object::body_of(tree).into())
    }

    /// Of a tree and its body, as [`Object::body_of`] writes it.
    pub fn of(kind: &Kind, tree: &Value, body: Bytes) -> Arc<Self> {
        let stored = kinds::stored(kind.key.as_str()).unwrap_or(kind);
        let fields = Mutex::new(Some(kinds::selectable(stored, tree)));
        Arc::new(Self { body, fields, object: OnceLock::new() })
    }

    /// How the store makes records of what is on disk.
    pub fn decode() -> Decode<Self> {
        Arc::new(|_, body| Ok(Arc::new(Self { body, fields: Mutex::default(), object: OnceLock::new() })))
    }
}

/// The object of an entry, shared by all who look.
pub fn object(entry: &Entry<Record>) -> Arc<Object> {
    let make = || {
        let fields = entry.record.fields.lock().unwrap_or_else(PoisonError::into_inner).take();
        Arc::new(make_object(&entry.key, entry.modified, entry.record.body.clone(), fields))
    };
    Arc::clone(entry.record.object.get_or_init(make))
}

/// The object of an entry with another revision: what a deletion shows.
pub fn object_at(entry: &Entry<Record>, revision: Revision) -> Arc<Object> {
    Arc::new(make_object(&entry.key, revision, entry.record.body.clone(), None))
}

fn make_object(key: &Key, revision: Revision, body: Bytes, fields: Option<Vec<(Str, Str)>>) -> Object {
    let kind = kinds::stored(key.resource.as_str()).expect("only kinds of the table are stored");
    let fields = fields.unwrap_or_else(|| {
        if kind.selectors.iter().all(|path| path.starts_with("metadata.")) {
            return Vec::new();
        }
        let tree =
            api::value::parse(&body).expect("a body passes the store's checksum only as it was written");
        kinds::selectable(kind, &tree)
    });
    Object::from_body(Arc::clone(&kind.stored_kind), revision.0, body, fields)
        .expect("a body passes the store's checksum only as it was written")
}

/// The store, with what turns its words into the API's.
#[derive(Clone)]
pub struct Storage {
    store: Store<Record>,
    clock: Clock,
    random: Random,
}

impl Storage {
    /// Over an open store.
    pub fn new(store: Store<Record>, clock: Clock, random: Random) -> Self {
        Self { store, clock, random }
    }

    /// The store itself.
    pub fn store(&self) -> &Store<Record> {
        &self.store
    }

    /// The key of an object.
    pub fn key(kind: &Kind, namespace: &str, name: &str) -> Key {
        Key::namespaced(&kind.key, if kind.namespaced { namespace } else { "" }, name)
    }

    /// All of a kind, in a namespace or (empty) everywhere.
    pub fn scope(kind: &Kind, namespace: &str) -> Scope {
        if namespace.is_empty() || !kind.namespaced {
            Scope::Resource(kind.key.clone())
        } else {
            Scope::Namespace(kind.key.clone(), namespace.into())
        }
    }

    /// An object in its storage version.
    pub fn read(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.store.get(&Self::key(kind, namespace, name)).map(|entry| object(&entry))
    }

    /// An object that must be there.
    pub fn require(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        self.read(kind, namespace, name).ok_or_else(|| Status::not_found(&kind.group_resource, name))
    }

    /// Commits. A conflict is given back as such; everything else is a status already.
    pub async fn commit(&self, transaction: Transaction<Record>) -> Result<Committed<Record>, Failure> {
        self.store.commit(transaction).await.map_err(|error| match error {
            CommitError::Conflict(conflict) => {
                Failure::Conflict { step: conflict.step, current: conflict.current.as_deref().map(object) }
            }
            CommitError::Busy => Failure::Status(Status::too_many_requests(
                error.to_string(),
                crate::limits::RETRY_AFTER_SECONDS,
            )),
            CommitError::Invalid(ref invalid) => Failure::Status(Status::new(
                api::status::Reason::RequestEntityTooLarge,
                format!("Request entity too large: {invalid}"),
            )),
            CommitError::Disk(_) | CommitError::Closed => {
                tracing::error!(error = &error as &dyn std::error::Error, "a write was not stored");
                Failure::Status(Status::internal(error.to_string()))
            }
        })
    }

    /// When an Event that is written now goes.
    pub fn expiry(&self, kind: &Kind) -> Option<Timestamp> {
        kind.expires.then(|| self.clock.now() + crate::limits::EVENT_LIFETIME)
    }
}

/// Why a commit did not happen.
#[derive(Debug)]
pub enum Failure {
    /// Somebody wrote in between.
    Conflict {
        /// Which step of the transaction.
        step: usize,
        /// What is there now.
        current: Option<Arc<Object>>,
    },
    /// Something else.
    Status(Status),
}

impl Lookups for Storage {
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.read(kinds::find(resource)?, namespace, name)
    }

    fn list(&self, resource: &Resource, namespace: &str) -> Vec<Arc<Object>> {
        let Some(kind) = kinds::find(resource) else { return Vec::new() };
        let page = self.store.list(&List::all(Self::scope(kind, namespace)));
        page.map(|page| page.entries.iter().map(|entry| object(entry)).collect()).unwrap_or_default()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn random(&self) -> &Random {
        &self.random
    }
}

/// The name under which a kind is stored: its group and resource in the storage version.
pub fn stored_name(resource: &str, storage_group: &str) -> String {
    GroupResource { group: Str::from(storage_group), resource: resource.into() }.to_string()
}

impl crate::authz::Graph for Storage {
    fn pods_on(&self, node: &str) -> Vec<Arc<Object>> {
        let mut pods = Lookups::list(self, &api::names::PODS, "");
        pods.retain(|pod| pod.field("spec.nodeName") == Some(node));
        pods
    }
}
