//! `trait Api`: the narrow waist.
//!
//! Controllers, scheduler, node agent, edge and console see this trait alone. It has one implementation inside the
//! server's process (`apiserver`) and one over HTTP (`client`), and both run the same authentication, admission
//! and validation. What can be said is data ([`Call`]), so that an implementation is one function.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::names::Resource;
use crate::object::Object;
use crate::status::Status;
use crate::value::{Str, Value};

/// The API as one identity sees it.
pub trait Api: Send + Sync + 'static {
    /// Does one thing and answers.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>>;

    /// Opens a watch. The stream ends when the server ends it; open a new one from the last revision seen.
    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream, Status>>;
}

/// What a watch gives. After an error the stream ends.
pub type WatchStream = BoxStream<'static, Result<WatchEvent, Status>>;

/// One thing that can be asked.
#[derive(Clone, Debug)]
pub enum Call {
    /// Reads an object (or a subresource of it).
    Get(Target, GetOptions),
    /// Lists a collection.
    List(Collection, ListOptions),
    /// Makes an object. With a subresource (`pods/binding`, `pods/eviction`, `serviceaccounts/token`) `name` is set.
    Create(Target, Bytes, WriteOptions),
    /// Replaces an object.
    Update(Target, Bytes, WriteOptions),
    /// Changes an object.
    Patch(Target, PatchKind, Bytes, WriteOptions),
    /// Deletes an object.
    Delete(Target, DeleteOptions),
    /// Deletes what a list would show.
    DeleteCollection(Collection, ListOptions, DeleteOptions),
}

/// One object, or one subresource of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// What sort.
    pub resource: Resource,
    /// Empty for kinds without namespaces.
    pub namespace: Str,
    /// Empty only for creates, where the body names the object.
    pub name: Str,
    /// Empty, or as `status`, `scale`, `binding`.
    pub subresource: Str,
}

/// All objects of a sort, in one namespace or (empty) in all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Collection {
    /// What sort.
    pub resource: Resource,
    /// Empty for all namespaces.
    pub namespace: Str,
}

/// Options of a read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// `resourceVersion`: not older than this; empty for the newest.
    pub resource_version: Str,
}

/// Options of a list, of a deletion of a collection, and the choice of a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// `labelSelector`, as text.
    pub label_selector: Str,
    /// `fieldSelector`, as text.
    pub field_selector: Str,
    /// `limit`; 0 for no limit.
    pub limit: u64,
    /// `continue` of the page before.
    pub continue_token: Str,
    /// `resourceVersion`.
    pub resource_version: Str,
    /// `resourceVersionMatch`: empty, `Exact` or `NotOlderThan`.
    pub resource_version_match: Str,
}

/// Options of a create, update or patch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// `dryRun=All`: do everything but keep nothing.
    pub dry_run: bool,
    /// `fieldManager`; empty for the client's own name.
    pub field_manager: Str,
    /// `fieldValidation`; empty for the server's default.
    pub field_validation: Str,
    /// `force`, for the apply verb.
    pub force: bool,
}

/// Options of a deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`, if given.
    pub grace_period_seconds: Option<i64>,
    /// `preconditions.uid`, if given.
    pub uid: Option<Str>,
    /// `preconditions.resourceVersion`, if given.
    pub resource_version: Option<Str>,
    /// `propagationPolicy`, if given.
    pub propagation: Option<Propagation>,
    /// `dryRun=All`.
    pub dry_run: bool,
    /// `ignoreStoreReadErrorWithClusterBreakingPotential`: delete only what can no longer be read.
    pub ignore_read_error: bool,
}

/// What becomes of dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They stay.
    Orphan,
    /// They go after the owner.
    Background,
    /// They go before the owner.
    Foreground,
}

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' strategic merge patch.
    StrategicMerge,
    /// Server-side apply.
    Apply,
}

impl PatchKind {
    /// Its media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::StrategicMerge => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// What a call answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// An object (of a dry run: what it would be; of a subresource: its own kind).
    Object(Arc<Object>),
    /// A collection.
    List(List),
    /// A success without an object.
    Status(Box<Status>),
}

/// A collection, or a page of it.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// The store's revision that this list shows; a watch starts from it.
    pub revision: u64,
    /// Token for the next page; empty at the end.
    pub continue_token: Str,
    /// How many are behind this page, if known.
    pub remaining: Option<u64>,
    /// In the order of namespace and name.
    pub items: Vec<Arc<Object>>,
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct Watch {
    /// What sort, and where.
    pub collection: Collection,
    /// `labelSelector`, as text.
    pub label_selector: Str,
    /// `fieldSelector`, as text.
    pub field_selector: Str,
    /// Events after this revision; `None` begins with the present objects as `Added`.
    pub from: Option<u64>,
    /// Ask for bookmarks.
    pub bookmarks: bool,
    /// `sendInitialEvents` (KEP-3157): present objects first, then a bookmark that says so.
    pub initial_events: bool,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// It came, or came into view of the selectors.
    Added(Arc<Object>),
    /// It changed.
    Modified(Arc<Object>),
    /// It went, or went out of view. The object is as it was last, with the revision of its going.
    Deleted(Arc<Object>),
    /// All up to `revision` has been sent. `initial_done` ends the initial events.
    Bookmark {
        /// The store's revision.
        revision: u64,
        /// Whether this ends the initial events.
        initial_done: bool,
    },
}

impl Target {
    /// An object itself.
    pub fn new(resource: &Resource, namespace: &str, name: &str) -> Self {
        Self {
            resource: resource.clone(),
            namespace: namespace.into(),
            name: name.into(),
            subresource: Str::default(),
        }
    }

    /// A subresource of it.
    pub fn subresource(mut self, subresource: &str) -> Self {
        self.subresource = subresource.into();
        self
    }
}

impl Collection {
    /// In one namespace, or (empty) in all.
    pub fn new(resource: &Resource, namespace: &str) -> Self {
        Self { resource: resource.clone(), namespace: namespace.into() }
    }
}

impl Answer {
    /// The object, where one was asked for.
    pub fn object(self) -> Result<Arc<Object>, Status> {
        match self {
            Self::Object(object) => Ok(object),
            _ => Err(Status::internal("an object was expected and another answer came")),
        }
    }

    /// The list, where one was asked for.
    pub fn list(self) -> Result<List, Status> {
        match self {
            Self::List(list) => Ok(list),
            _ => Err(Status::internal("a list was expected and another answer came")),
        }
    }
}

/// The usual calls, spelled shortly.
impl dyn Api {
    /// Reads an object.
    pub async fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        self.call(Call::Get(Target::new(resource, namespace, name), GetOptions::default())).await?.object()
    }

    /// Lists a collection whole; an empty namespace means all.
    pub async fn list(&self, resource: &Resource, namespace: &str) -> Result<List, Status> {
        self.call(Call::List(Collection::new(resource, namespace), ListOptions::default())).await?.list()
    }

    /// Makes an object.
    pub async fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        object: &Value,
    ) -> Result<Arc<Object>, Status> {
        let target = Target::new(resource, namespace, "");
        self.call(Call::Create(target, object.to_bytes().into(), WriteOptions::default())).await?.object()
    }

    /// Changes an object, or a subresource of it.
    pub async fn patch(&self, target: Target, kind: PatchKind, patch: &Value) -> Result<Arc<Object>, Status> {
        self.call(Call::Patch(target, kind, patch.to_bytes().into(), WriteOptions::default())).await?.object()
    }

    /// Deletes an object; it may linger for grace periods and finalizers.
    pub async fn delete(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: DeleteOptions,
    ) -> Result<Answer, Status> {
        self.call(Call::Delete(Target::new(resource, namespace, name), options)).await
    }
}
