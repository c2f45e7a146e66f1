//! `trait Api` inside the process: the same rights, admission and validation as over HTTPS, the same shared objects.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use api::interface::{Answer, Api, Call, Watch, WatchStream};
use api::status::Status;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::authz::{self, Attributes};
use crate::caller::Caller;
use crate::gate::Gate;
use crate::identity::{Identity, MASTERS};
use crate::verbs::list::Choice;
use crate::watch::{Start, Watcher};
use crate::{kinds, limits, verbs};

pub(crate) struct InProcess {
    gate: Arc<Gate>,
    identity: Identity,
}

impl InProcess {
    pub(crate) fn new(gate: Arc<Gate>, identity: Identity) -> Self {
        Self { gate, identity }
    }

    fn caller(&self) -> Caller<'_> {
        // What a controller writes is recorded under its name, as upstream's user agents have it; what the server
        // itself writes under upstream's name of the server.
        let program = if self.identity.is_in(MASTERS) {
            "kube-apiserver"
        } else {
            self.identity.name.rsplit(':').next().unwrap_or(&self.identity.name)
        };
        Caller::new(&self.identity, program)
    }
}

impl Api for InProcess {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
        let work = async move {
            authorize_call(&self.gate, &self.identity, &call)?;
            Ok(verbs::call(&self.gate, &self.caller(), &call).await?.answer)
        };
        // As over HTTPS: what one call panics on is that call's failure, and not the end of whoever has called.
        async move { AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| Err(panicked(panic))) }
            .boxed()
    }

    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream, Status>> {
        async move {
            let collection = &watch.collection;
            let attributes = Attributes::Resource {
                verb: "watch",
                group: &collection.resource.group,
                resource: &collection.resource.resource,
                namespace: &collection.namespace,
                name: "",
                subresource: "",
                field_selector: &watch.field_selector,
            };
            authorize(&self.gate, &self.identity, &attributes)?;
            let kind = kinds::require(&collection.resource)?;
            kind.require_verb("watch")?;
            let choice = Choice::parse(kind, &watch.label_selector, &watch.field_selector)?;
            let start = match watch.from {
                Some(revision) => Start::After(revision),
                None if watch.initial_events => Start::NowWithMark,
                None => Start::Now,
            };
            let watcher = Watcher::open(&self.gate, kind, &collection.namespace, choice, start)?;
            Ok(stream(Arc::clone(&self.gate), watcher, watch.bookmarks))
        }
        .boxed()
    }
}

/// The watcher as a stream; after an error it has ended.
fn stream(gate: Arc<Gate>, watcher: Watcher, bookmarks: bool) -> WatchStream {
    Box::pin(futures::stream::unfold(Some(watcher), move |watcher| {
        let gate = Arc::clone(&gate);
        async move {
            let mut watcher = watcher?;
            let next = if bookmarks {
                match gate.clock().timeout(limits::BOOKMARK_PERIOD, watcher.next()).await {
                    Some(next) => next?,
                    None => Ok(watcher.bookmark()),
                }
            } else {
                watcher.next().await?
            };
            match next {
                Ok(told) => Some((Ok(told.event), Some(watcher))),
                Err(status) => Some((Err(status), None)),
            }
        }
    }))
}

/// What is said of a request that panicked; the log says more.
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Status {
    let message = base::panics::caught(panic);
    tracing::error!(message, "a request panicked; this is a bug");
    Status::internal("this request panicked the server; its log says where")
}

/// Refuses what the identity may not do.
pub(crate) fn authorize(gate: &Gate, identity: &Identity, attributes: &Attributes<'_>) -> Result<(), Status> {
    let decision = authz::authorize(identity, attributes, gate.storage());
    if decision.allowed { Ok(()) } else { Err(authz::forbidden(identity, attributes, &decision.reason)) }
}

/// The same for a call.
pub(crate) fn authorize_call(gate: &Gate, identity: &Identity, call: &Call) -> Result<(), Status> {
    let (verb, target, collection, field_selector) = match call {
        Call::Get(target, _) => ("get", Some(target), None, ""),
        Call::Create(target, ..) => ("create", Some(target), None, ""),
        Call::Update(target, ..) => ("update", Some(target), None, ""),
        Call::Patch(target, ..) => ("patch", Some(target), None, ""),
        Call::Delete(target, _) => ("delete", Some(target), None, ""),
        Call::List(collection, options) => ("list", None, Some(collection), options.field_selector.as_str()),
        Call::DeleteCollection(collection, options, _) => {
            ("deletecollection", None, Some(collection), options.field_selector.as_str())
        }
    };
    let resource = match (target, collection) {
        (Some(target), _) => &target.resource,
        (None, Some(collection)) => &collection.resource,
        (None, None) => return Err(Status::internal("a call names neither an object nor a collection")),
    };
    let namespace =
        target.map(|target| &target.namespace).or(collection.map(|collection| &collection.namespace));
    let mut attributes = Attributes::Resource {
        verb,
        group: &resource.group,
        resource: &resource.resource,
        namespace: namespace.map_or("", |namespace| namespace.as_str()),
        name: target.map_or("", |target| target.name.as_str()),
        subresource: target.map_or("", |target| target.subresource.as_str()),
        field_selector,
    };
    // As over HTTPS, where the path of a namespace names it as the namespace too.
    if resource.group.is_empty()
        && resource.resource == "namespaces"
        && let Attributes::Resource { namespace, name, .. } = &mut attributes
        && !name.is_empty()
        && verb != "create"
    {
        *namespace = name;
    }
    authorize(gate, identity, &attributes)
}
