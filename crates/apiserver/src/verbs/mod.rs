//! The verbs, each for all kinds.

pub(crate) mod causes;
pub mod collection;
pub mod create;
pub mod delete;
pub mod get;
pub mod list;
mod owners;
pub mod patch;
pub mod update;
pub mod write;

use api::interface::{Answer, Call};
use api::status::{Reason, Status};
use store::{Expectation, Transaction};

use crate::caller::Caller;
use crate::gate::Gate;
use crate::kinds;
use crate::storage::{Record, Storage};
use crate::strategy::Companion;
use crate::{reviews, subresource};

/// What a verb did.
pub struct Outcome {
    /// The answer.
    pub answer: Answer,
    /// The HTTP status of it.
    pub code: u16,
    /// The JSON that a client over HTTP gets, where it is not the answer's own: reviews have no name, objects do.
    pub raw: Option<Vec<u8>>,
}

impl Outcome {
    /// Done.
    pub fn done(answer: Answer) -> Self {
        Self { answer, code: 200, raw: None }
    }

    /// Something new came to be.
    pub fn created(answer: Answer) -> Self {
        Self { answer, code: 201, raw: None }
    }
}

/// Does what was asked. Authorisation is behind it already.
pub async fn call(gate: &Gate, caller: &Caller<'_>, call: &Call) -> Result<Outcome, Status> {
    match call {
        Call::Get(target, options) => {
            let kind = kinds::require(&target.resource)?;
            if target.subresource.is_empty() {
                kind.require_verb("get")?;
                get::get(gate, kind, target, options)
            } else {
                subresource::get(gate, kind, target, options)
            }
        }
        Call::List(collection, options) => {
            let kind = kinds::require(&collection.resource)?;
            kind.require_verb("list")?;
            Ok(Outcome::done(Answer::List(list::list(gate, kind, collection, options)?)))
        }
        Call::Create(target, body, options) => {
            let kind = kinds::require(&target.resource)?;
            if !target.subresource.is_empty() {
                return subresource::create(gate, caller, kind, target, body, options).await;
            }
            kind.require_verb("create")?;
            if kind.is_virtual() {
                return reviews::create(gate, caller, kind, target, body, options).await;
            }
            if kind.namespaced && target.namespace.is_empty() {
                return Err(method_not_allowed());
            }
            create::create(gate, caller, kind, target, body, options).await
        }
        Call::Update(target, body, options) => {
            let kind = kinds::require(&target.resource)?;
            if !target.subresource.is_empty() {
                return subresource::update(gate, caller, kind, target, body, options).await;
            }
            kind.require_verb("update")?;
            update::update(gate, caller, kind, target, body, options).await
        }
        Call::Patch(target, patch_kind, body, options) => {
            let kind = kinds::require(&target.resource)?;
            if !target.subresource.is_empty() {
                return subresource::patch(gate, caller, kind, target, *patch_kind, body, options).await;
            }
            kind.require_verb("patch")?;
            patch::patch(gate, caller, kind, target, *patch_kind, body, options).await
        }
        Call::Delete(target, options) => {
            let kind = kinds::require(&target.resource)?;
            kind.require_verb("delete")?;
            delete::delete(gate, caller, kind, target, options).await
        }
        Call::DeleteCollection(collection, list_options, options) => {
            let kind = kinds::require(&collection.resource)?;
            kind.require_verb("deletecollection")?;
            collection::delete(gate, caller, kind, collection, list_options, options).await
        }
    }
}

/// The path is there, the verb is not.
pub fn method_not_allowed() -> Status {
    let mut status = Status::new(
        Reason::MethodNotAllowed,
        "the server does not allow this method on the requested resource",
    );
    status.details = Some(Box::default());
    status
}

/// Adds the steps of companions to a transaction.
fn commit_companions(
    gate: &Gate,
    mut transaction: Transaction<Record>,
    companions: Vec<Companion>,
) -> Result<Transaction<Record>, Status> {
    for companion in companions {
        transaction = match companion {
            Companion::Create { resource, object } => {
                let kind = kinds::require(&resource)?;
                let namespace = object.str_at(&["metadata", "namespace"]).unwrap_or_default().to_owned();
                let name = object.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
                let record = create::companion_record(gate, kind, object)?;
                transaction.put(Storage::key(kind, &namespace, &name), Expectation::Absent, record)
            }
            Companion::Delete { resource, namespace, name } => {
                let kind = kinds::require(&resource)?;
                transaction.delete(Storage::key(kind, &namespace, &name), Expectation::Any)
            }
        };
    }
    Ok(transaction)
}
