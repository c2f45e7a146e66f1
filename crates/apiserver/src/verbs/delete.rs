//! Deleting: at once, after a grace period, or when the last finalizer is gone.

use std::sync::Arc;

use api::interface::{Answer, DeleteOptions, Propagation, Target};
use api::names::GroupResource;
use api::object::Object;
use api::status::Status;
use api::value::{Str, Value};
use store::{Expectation, Operation as StoreOperation, Revision, Transaction};

use super::{Outcome, commit_companions};
use crate::admission::{self, Attributes, Operation};
use crate::caller::Caller;
use crate::codec;
use crate::gate::Gate;
use crate::kinds::Kind;
use crate::storage::{Failure, Record, Storage, object};
use crate::strategy::Context;

/// The finalizer that keeps an owner until its dependents that block it are gone.
const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that keeps an owner until its dependents forgot it.
const ORPHAN: &str = "orphan";

/// What a deletion comes to.
#[derive(Debug, PartialEq)]
enum Step {
    /// The object goes now; kinds with a grace period show that it was none.
    Remove(Box<Value>),
    /// The object is marked and stays until something else lets it go.
    Mark(Box<Value>),
    /// It is marked already; nothing changes.
    Pending,
}

/// Deletes an object, or begins to.
pub async fn delete(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    options: &DeleteOptions,
) -> Result<Outcome, Status> {
    warn_of_dependents(caller, kind, options);
    let storage = gate.storage();
    let name = &target.name;
    let mut turn = None;
    loop {
        let stored = storage.require(kind, &target.namespace, name)?;
        if options.ignore_read_error {
            return Err(readable(kind, target));
        }
        require_preconditions(kind, &stored, options)?;
        let tree = stored.to_tree();
        let context = Context {
            identity: caller.identity,
            lookups: storage,
            subresource: "",
            dry_run: options.dry_run,
        };
        kind.strategy.validate_delete(&tree, &context)?;
        admit(caller, kind, target, &stored, options, storage)?;
        let step = next(kind, &tree, options, gate.now())?;
        let expect = Expectation::Modified(Revision(stored.revision()));
        let key = Storage::key(kind, &target.namespace, name);
        let transaction = match &step {
            Step::Pending => return Ok(Outcome::done(Answer::Object(codec::answer(kind, &stored)?))),
            _ if options.dry_run => return dry_answer(kind, &stored, &step),
            Step::Remove(_) => {
                let transaction = Transaction::new().delete(key, expect);
                commit_companions(gate, transaction, kind.strategy.release(&tree, &context))?
            }
            Step::Mark(marked) => {
                let record = Record::new(kind, marked);
                let operation = StoreOperation::Put { record, expires: storage.expiry(kind) };
                Transaction::new().step(key, expect, operation)
            }
        };
        match storage.commit(transaction).await {
            Ok(committed) => return answer(kind, &stored, &step, &committed),
            Err(Failure::Conflict { .. }) => storage.take_turn(&mut turn, name).await,
            Err(Failure::Status(status)) => return Err(status),
        }
    }
}

/// Who wants to delete only what cannot be read is told that this can: the store opens with nothing else in it.
fn readable(kind: &Kind, target: &Target) -> Status {
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: unsafe deletion is \
         not allowed because the object is decodable from storage",
        Storage::key(kind, &target.namespace, &target.name)
    );
    Status::conflict(&kind.group_resource, &target.name, &why)
}

/// Tells a client who does not say what becomes of dependents, where that may surprise.
pub fn warn_of_dependents(caller: &Caller<'_>, kind: &Kind, options: &DeleteOptions) {
    if options.propagation.is_none()
        && let Some(warning) = kind.strategy.deletion_warning()
    {
        caller.warn(warning);
    }
}

/// Decides what a deletion does now. Pure.
fn next(kind: &Kind, tree: &Value, options: &DeleteOptions, now: jiff::Timestamp) -> Result<Step, Status> {
    // Upstream takes negative periods for one second.
    let requested = options.grace_period_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let deleting = tree.at(&["metadata", "deletionTimestamp"]).is_some();
    let mut marked = tree.clone();
    let mut changed = false;
    let mut graceful_wait = false;
    if deleting {
        let pending = tree.int_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or_default();
        if pending > 0 {
            match requested {
                Some(shorter) if shorter < pending => {
                    graceful_wait = shorten(&mut marked, pending, shorter, now) > 0;
                    changed = true;
                }
                _ => return Ok(Step::Pending),
            }
        }
    } else if let Some(seconds) = kind.strategy.grace_seconds(tree, requested) {
        mark(kind, &mut marked, seconds, now);
        changed = true;
        graceful_wait = seconds > 0;
    }
    let finalizers = finalizers(kind, tree, options.propagation);
    if finalizers != tree.array_at(&["metadata", "finalizers"]) {
        if finalizers.is_empty() {
            marked.remove(&["metadata", "finalizers"]);
        } else {
            marked.set(&["metadata", "finalizers"], finalizers.clone());
        }
        changed = true;
    }
    let waits = graceful_wait || !finalizers.is_empty() || kind.strategy.is_held(tree);
    if !waits {
        return Ok(Step::Remove(Box::new(marked)));
    }
    if marked.at(&["metadata", "deletionTimestamp"]).is_none() {
        mark(kind, &mut marked, 0, now);
        changed = true;
    }
    if !changed {
        return Ok(Step::Pending);
    }
    Ok(Step::Mark(Box::new(marked)))
}

fn mark(kind: &Kind, tree: &mut Value, seconds: i64, now: jiff::Timestamp) {
    tree.set(
        &["metadata", "deletionTimestamp"],
        api::time::seconds(now + jiff::SignedDuration::from_secs(seconds)),
    );
    // A namespace has no period, it is held by what is in it.
    if !kind.strategy.is_held(tree) {
        tree.set(&["metadata", "deletionGracePeriodSeconds"], seconds);
    }
    if let Some(generation) = tree.int_at(&["metadata", "generation"]).filter(|generation| *generation > 0) {
        tree.set(&["metadata", "generation"], generation + 1);
    }
    kind.strategy.mark_deleting(tree);
}

/// Brings a pending deletion forward; returns the period that remains.
fn shorten(tree: &mut Value, pending: i64, requested: i64, now: jiff::Timestamp) -> i64 {
    let due: jiff::Timestamp =
        tree.str_at(&["metadata", "deletionTimestamp"]).and_then(|time| time.parse().ok()).unwrap_or(now);
    let seconds = jiff::SignedDuration::from_secs;
    let (mut due, mut period) = (due - seconds(pending) + seconds(requested), requested);
    if due < now {
        due = now;
        // The one who ends the object must still get to see that it ends.
        period = period.min(1);
    }
    tree.set(&["metadata", "deletionTimestamp"], api::time::seconds(due));
    tree.set(&["metadata", "deletionGracePeriodSeconds"], period);
    period
}

/// The finalizers that the object must have while it is deleted.
fn finalizers(kind: &Kind, tree: &Value, propagation: Option<Propagation>) -> Vec<Value> {
    let present = tree.array_at(&["metadata", "finalizers"]);
    let has = |name: &str| present.iter().any(|finalizer| finalizer.as_str() == Some(name));
    let (orphan, foreground) = match propagation {
        Some(Propagation::Orphan) => (true, false),
        Some(Propagation::Foreground) => (false, true),
        Some(Propagation::Background) => (false, false),
        None => (has(ORPHAN) || (kind.strategy.orphans_by_default() && !has(FOREGROUND)), has(FOREGROUND)),
    };
    let mut finalizers: Vec<Value> = present
        .iter()
        .filter(|finalizer| !matches!(finalizer.as_str(), Some(FOREGROUND | ORPHAN)))
        .cloned()
        .collect();
    if orphan {
        finalizers.push(ORPHAN.into());
    }
    if foreground {
        finalizers.push(FOREGROUND.into());
    }
    // Untouched lists keep their order.
    if finalizers.len() == present.len() && finalizers.iter().all(|finalizer| present.contains(finalizer)) {
        return present.to_vec();
    }
    finalizers
}

/// Refuses with a conflict what was asked of another object, or of another state of it.
pub fn require_preconditions(kind: &Kind, stored: &Object, options: &DeleteOptions) -> Result<(), Status> {
    // Upstream writes the kind where the resource belongs.
    let about = GroupResource { group: kind.kind.group.clone(), resource: kind.kind.kind.clone() };
    if let Some(uid) = options.uid.as_ref().filter(|uid| *uid != stored.uid()) {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been \
             deleted and then recreated",
            stored.uid()
        );
        return Err(Status::conflict(&about, stored.name(), &why));
    }
    let revision = Str::from(stored.revision().to_string());
    if let Some(version) = options.resource_version.as_ref().filter(|version| **version != revision) {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record \
             ({revision}). The object might have been modified"
        );
        return Err(Status::conflict(&about, stored.name(), &why));
    }
    Ok(())
}

fn admit(
    caller: &Caller<'_>,
    kind: &Kind,
    target: &Target,
    stored: &Arc<Object>,
    options: &DeleteOptions,
    storage: &Storage,
) -> Result<(), Status> {
    let mut warnings = Vec::new();
    let mut attributes = Attributes {
        identity: caller.identity,
        operation: Operation::Delete,
        resource: &target.resource,
        kind: &kind.kind,
        namespace: &target.namespace,
        name: &target.name,
        subresource: "",
        object: None,
        old: None,
        stored: Some(stored),
        dry_run: options.dry_run,
        warnings: &mut warnings,
    };
    admission::mutate(&mut attributes, storage)?;
    admission::validate(&attributes, storage)?;
    warnings.into_iter().for_each(|warning| caller.warn(warning));
    Ok(())
}

fn dry_answer(kind: &'static Kind, stored: &Arc<Object>, step: &Step) -> Result<Outcome, Status> {
    Ok(Outcome::done(match step {
        Step::Mark(marked) => Answer::Object(codec::answer_tree(kind, marked, stored.revision())?),
        Step::Remove(last) => removed(kind, stored, last)?,
        Step::Pending => Answer::Object(codec::answer(kind, stored)?),
    }))
}

fn answer(
    kind: &'static Kind,
    stored: &Arc<Object>,
    step: &Step,
    committed: &store::Committed<Record>,
) -> Result<Outcome, Status> {
    let outcome = &committed.outcomes[0];
    match (step, outcome.current.as_deref()) {
        (Step::Mark(_), Some(entry)) => {
            Ok(Outcome::done(Answer::Object(codec::answer(kind, &object(entry))?)))
        }
        (Step::Remove(last), _) => Ok(Outcome::done(removed(kind, stored, last)?)),
        _ => Ok(Outcome::done(Answer::Object(codec::answer(kind, stored)?))),
    }
}

/// What the client gets for an object that is gone: some kinds show it once more, the others say that it went.
fn removed(kind: &'static Kind, stored: &Object, last: &Value) -> Result<Answer, Status> {
    if kind.returns_deleted {
        return Ok(Answer::Object(codec::answer_tree(kind, last, stored.revision())?));
    }
    Ok(Answer::Status(Box::new(Status::deleted(&kind.group_resource, stored.name(), stored.uid()))))
}
