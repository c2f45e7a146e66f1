//! The store as the gate sees it: objects, keys by kind, and commits with the API's errors.
//!
//! What is stored is the body of [`Object::body_of`]. The object that everybody shares is made at the first look,
//! for only then its revision is known.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use api::names::{GroupResource, Resource};
use api::object::{Indexed, Object};
use api::status::Status;
use api::value::{Str, Value};
use base::{Clock, Random};
use bytes::Bytes;
use jiff::Timestamp;
use store::{CommitError, Committed, Decode, Entry, Key, List, Revision, Scope, Store, Transaction};

use crate::kinds::{self, Kind};
use crate::limits;
use crate::lookups::Lookups;

/// A stored value: the encoded body, what it is found by, and the object as soon as somebody has looked at it.
pub struct Record {
    body: Bytes,
    terms: Box<[u64]>,
    /// What is known already; taken by the first look.
    indexed: Mutex<Option<Box<Indexed>>>,
    object: OnceLock<Arc<Object>>,
}

impl store::Record for Record {
    fn bytes(&self) -> &[u8] {
        &self.body
    }

    fn terms(&self) -> &[u64] {
        &self.terms
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
        Self::with(body, Indexed::of_tree(tree, kinds::selectable(stored, tree)))
    }

    /// How the store makes records of what is on disk.
    pub fn decode() -> Decode<Self> {
        Arc::new(|key, body| {
            let indexed = read(key, &body)?;
            Ok(Self::with(body, indexed))
        })
    }

    fn with(body: Bytes, indexed: Indexed) -> Arc<Self> {
        let mut terms: Vec<u64> =
            indexed.labels().iter().map(|(key, value)| label_term(key, value)).collect();
        let of_fields =
            indexed.fields().iter().filter(|(path, value)| path == NODE_NAME && !value.is_empty());
        terms.extend(of_fields.map(|(path, value)| field_term(path, value)));
        Arc::new(Self {
            body,
            terms: terms.into(),
            indexed: Mutex::new(Some(Box::new(indexed))),
            object: OnceLock::new(),
        })
    }
}

/// The one field that pods are found by: every node asks for its own.
const NODE_NAME: &str = "spec.nodeName";

/// What objects with a label are found by.
pub fn label_term(key: &str, value: &str) -> u64 {
    term(0, key, value)
}

/// What objects with a value of a selectable field are found by; `None` if the field leads to nothing.
pub fn indexed_field(path: &str, value: &str) -> Option<u64> {
    (path == NODE_NAME && !value.is_empty()).then(|| field_term(path, value))
}

fn field_term(path: &str, value: &str) -> u64 {
    term(1, path, value)
}

/// Equal words give equal terms; what is found is compared again, so others may too.
fn term(sort: u8, key: &str, value: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (sort, key, value).hash(&mut hasher);
    hasher.finish()
}

/// The object of an entry, shared by all who look.
pub fn object(entry: &Entry<Record>) -> Arc<Object> {
    let make = || {
        let indexed = entry.record.indexed.lock().unwrap_or_else(PoisonError::into_inner).take();
        Arc::new(make_object(
            &entry.key,
            entry.modified,
            entry.record.body.clone(),
            indexed.map(|boxed| *boxed),
        ))
    };
    Arc::clone(entry.record.object.get_or_init(make))
}

/// The object of an entry with another revision: what a deletion shows.
pub fn object_at(entry: &Entry<Record>, revision: Revision) -> Arc<Object> {
    Arc::new(make_object(&entry.key, revision, entry.record.body.clone(), None))
}

fn make_object(key: &Key, revision: Revision, body: Bytes, indexed: Option<Indexed>) -> Object {
    let kind = kind_of(key);
    let indexed = indexed.unwrap_or_else(|| {
        read(key, &body).expect("a body passes the store's checksum only as it was written")
    });
    Object::of_parts(Arc::clone(&kind.stored_kind), revision.0, body, indexed)
}

fn kind_of(key: &Key) -> &'static Kind {
    kinds::stored(key.resource.as_str()).expect("only kinds of the table are stored")
}

/// What is indexed of a body.
fn read(key: &Key, body: &Bytes) -> Result<Indexed, store::DecodeError> {
    // A kind that a later version of this program stored cannot be served, so nothing of it is asked for.
    let Some(kind) = kinds::stored(key.resource.as_str()) else { return Ok(Indexed::default()) };
    let fields = if kind.selectors.iter().all(|path| path.starts_with("metadata.")) {
        Vec::new()
    } else {
        kinds::selectable(kind, &api::value::parse(body)?)
    };
    Ok(Indexed::of_body(body, fields)?)
}

/// The store, with what turns its words into the API's.
#[derive(Clone)]
pub struct Storage {
    store: Store<Record>,
    clock: Clock,
    random: Random,
    turns: Arc<[tokio::sync::Mutex<()>; limits::TURNS]>,
}

impl Storage {
    /// Over an open store.
    pub fn new(store: Store<Record>, clock: Clock, random: Random) -> Self {
        let turns = Arc::new(std::array::from_fn(|_| tokio::sync::Mutex::default()));
        Self { store, clock, random, turns }
    }

    /// Who found an object of that name changed by others waits until it is its turn to try again, once: of many who
    /// write one object, one at a time does.
    pub async fn take_turn<'a>(&'a self, turn: &mut Option<tokio::sync::MutexGuard<'a, ()>>, name: &str) {
        if turn.is_none() {
            let queue = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
            let queue = usize::try_from(queue % limits::TURNS as u64).unwrap_or_default();
            *turn = Some(self.turns[queue].lock().await);
        }
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
            CommitError::Busy => {
                Failure::Status(Status::too_many_requests(error.to_string(), limits::RETRY_AFTER_SECONDS))
            }
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
        kind.expires.then(|| self.clock.now() + limits::EVENT_LIFETIME)
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
        let Some(kind) = kinds::find(&api::names::PODS) else { return Vec::new() };
        let having = indexed_field(NODE_NAME, node).into_iter().collect();
        let page = self.store.list(&List { having, ..List::all(Self::scope(kind, "")) });
        let mut pods: Vec<_> =
            page.map(|page| page.entries.iter().map(|entry| object(entry)).collect()).unwrap_or_default();
        pods.retain(|pod| pod.field(NODE_NAME) == Some(node));
        pods
    }
}
