//! Deleting what a list shows.

use std::sync::Arc;

use api::interface::{Answer, Collection, DeleteOptions, List, ListOptions, Target};
use api::object::Object;
use api::status::{Reason, Status};
use futures::StreamExt as _;

use super::{Outcome, delete, list};
use crate::caller::Caller;
use crate::gate::Gate;
use crate::kinds::Kind;
use crate::{limits, query};

/// Deletes what a list shows, some at a time. The first failure ends it.
pub async fn delete(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    collection: &Collection,
    list_options: &ListOptions,
    options: &DeleteOptions,
) -> Result<Outcome, Status> {
    query::refuse_unreadable_collection(options)?;
    delete::warn_of_dependents(caller, kind, options);
    let shown = list::list(gate, kind, collection, list_options)?;
    let mut deletions = futures::stream::iter(shown.items.clone().into_iter().map(|object: Arc<Object>| {
        let target = Target::new(&collection.resource, object.namespace(), object.name());
        // Each deletion keeps to the object that was listed, unless the client names another, as upstream lets it.
        let uid = options.uid.clone().or_else(|| Some(object.uid().into()));
        let options = DeleteOptions { uid, ..options.clone() };
        async move { delete::delete(gate, caller, kind, &target, &options).await }
    }))
    .buffer_unordered(limits::DELETE_COLLECTION_WORKERS);
    while let Some(outcome) = deletions.next().await {
        match outcome {
            Ok(_) => {}
            Err(status) if status.reason == Reason::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    drop(deletions);
    Ok(Outcome::done(Answer::List(List { revision: shown.revision, items: shown.items, ..List::default() })))
}
