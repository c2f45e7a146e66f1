//! Making objects.

use std::sync::Arc;

use api::interface::{Answer, Target, WriteOptions};
use api::status::{Cause, OBJECT_MODIFIED, Reason, Status};
use api::value::{Str, Value};
use store::{Expectation, Transaction};

use super::{Outcome, causes, commit_companions, owners};
use crate::admission::{self, Attributes, Operation};
use crate::caller::Caller;
use crate::gate::Gate;
use crate::kinds::Kind;
use crate::storage::{Failure, Record, Storage};
use crate::strategy::{self, Context, Generation, MetadataJudged};
use crate::{authz, codec, limits, managed};

/// Makes an object of what a client sent.
pub async fn create(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    body: &[u8],
    options: &WriteOptions,
) -> Result<Outcome, Status> {
    let object = codec::decode(kind, body, options, caller)?;
    create_tree(gate, caller, kind, target, object, options).await
}

/// Makes an object of a decoded and defaulted tree.
pub async fn create_tree(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    mut object: Value,
    options: &WriteOptions,
) -> Result<Outcome, Status> {
    match_namespace(kind, &mut object, &target.namespace)?;
    let name = object.str_at(&["metadata", "name"]).unwrap_or_default();
    if !target.name.is_empty() && !name.is_empty() && target.name != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    if !target.name.is_empty() {
        object.set(&["metadata", "name"], target.name.clone());
    }
    let name: Str = object.str_at(&["metadata", "name"]).unwrap_or_default().into();
    strategy::refuse_unenforced(&kind.group_resource, &name)?;
    authz::authorize_create(caller.identity, &kind.group_resource, &name)?;
    if object.str_at(&["metadata", "resourceVersion"]).is_some_and(|version| !version.is_empty()) {
        return Err(Status {
            code: 500,
            ..Status::new(Reason::Unknown, "resourceVersion should not be set on objects to be created")
        });
    }
    let generates =
        name.is_empty() && object.str_at(&["metadata", "generateName"]).is_some_and(|base| !base.is_empty());
    unset(&mut object);
    owners::keep_once(&mut object, false, caller);
    managed::on_create(kind, &mut object, caller.manager(&options.field_manager), gate.now())?;
    for attempt in 1.. {
        let last = !generates || attempt >= limits::NAME_ATTEMPTS;
        let tree = if last { std::mem::take(&mut object) } else { object.clone() };
        match attempt_once(gate, caller, kind, target, tree, options).await {
            Err(status) if status.reason == Reason::AlreadyExists && !last => {}
            outcome => return outcome,
        }
    }
    unreachable!("the loop ends with its last attempt")
}

async fn attempt_once(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    mut tree: Value,
    options: &WriteOptions,
) -> Result<Outcome, Status> {
    let storage = gate.storage();
    let strategy = kind.strategy;
    let context =
        Context { identity: caller.identity, lookups: storage, subresource: "", dry_run: options.dry_run };
    admit(caller, kind, target, &mut tree, options, storage)?;
    stamp(gate, &mut tree);
    if kind.has_status && !strategy.keeps_status() {
        tree.remove(&["status"]);
    }
    strategy.prepare_create(&mut tree, &context);
    if strategy.generation() != Generation::Own && kind.counts_generation {
        tree.set(&["metadata", "generation"], 1);
    }
    codec::complete(kind, &mut tree);
    let name: Str = tree.str_at(&["metadata", "name"]).unwrap_or_default().into();
    let causes = new_causes(kind, &tree, &context);
    if !causes.is_empty() {
        return Err(Status::invalid(kind.stored_facts.group, kind.stored_facts.kind, &name, causes));
    }
    for warning in strategy::warnings(strategy, &kind.group_resource, &tree, None) {
        caller.warn(warning);
    }
    judge(caller, kind, target, &name, &mut tree, options, storage)?;
    keep(gate, &context, kind, &name, tree, options.dry_run).await
}

/// What is wrong with a new object, in upstream's order.
fn new_causes(kind: &'static Kind, tree: &Value, context: &Context<'_>) -> Vec<Cause> {
    let strategy = kind.strategy;
    let mut own = strategy.validate(tree, context);
    own.extend(strategy.validate_create(tree, context));
    let mut table = api::schema::validate(kind.stored_facts.ty, tree);
    match strategy.metadata_judged() {
        MetadataJudged::First => {
            let mut all = codec::validate_metadata(kind, tree);
            all.append(&mut table);
            causes::merged(kind, all, own)
        }
        MetadataJudged::NameLast => {
            let is_form =
                |cause: &mut Cause| cause.field == "metadata.name" && cause.reason == "FieldValueInvalid";
            let mut all = codec::validate_metadata(kind, tree);
            let form: Vec<Cause> = all.extract_if(.., is_form).collect();
            all.append(&mut table);
            let mut all = causes::merged(kind, all, own);
            all.extend(form);
            all
        }
        MetadataJudged::Last => {
            let mut all = causes::merged(kind, table, own);
            all.extend(codec::validate_metadata(kind, tree));
            all
        }
        MetadataJudged::Alone => {
            let all = causes::merged(kind, table, own);
            if all.is_empty() { codec::validate_metadata(kind, tree) } else { all }
        }
    }
}

/// Allocates and commits.
async fn keep(
    gate: &Gate,
    context: &Context<'_>,
    kind: &'static Kind,
    name: &str,
    mut tree: Value,
    dry_run: bool,
) -> Result<Outcome, Status> {
    let storage = gate.storage();
    let _alone = gate.exclusive(kind.strategy).await;
    let namespace: Str = tree.str_at(&["metadata", "namespace"]).unwrap_or_default().into();
    for _ in 0..limits::ALLOCATION_TRIES {
        // Looked at first, so that nothing is allocated for a name that is taken.
        if storage.read(kind, &namespace, name).is_some() {
            return Err(Status::already_exists(&kind.group_resource, name));
        }
        let companions = kind.strategy.allocate(&mut tree, None, context)?;
        if dry_run {
            return Ok(Outcome::created(Answer::Object(codec::answer_tree(kind, &tree, 0)?)));
        }
        let record = codec::record(kind, &tree)?;
        let transaction = Transaction::new().step(
            Storage::key(kind, &namespace, name),
            Expectation::Absent,
            store::Operation::Put { record, expires: storage.expiry(kind) },
        );
        let transaction = commit_companions(gate, transaction, companions)?;
        match storage.commit(transaction).await {
            Ok(committed) => {
                let entry = committed.outcomes[0].current.as_deref().expect("what was put is there");
                return Ok(Outcome::created(Answer::Object(codec::answer(
                    kind,
                    &crate::storage::object(entry),
                )?)));
            }
            Err(Failure::Conflict { step: 0, .. }) => {
                return Err(Status::already_exists(&kind.group_resource, name));
            }
            // A companion's name was taken in between: allocate anew.
            Err(Failure::Conflict { .. }) => {}
            Err(Failure::Status(status)) => return Err(status),
        }
    }
    Err(Status::conflict(&kind.group_resource, name, OBJECT_MODIFIED))
}

fn admit(
    caller: &Caller<'_>,
    kind: &Kind,
    target: &Target,
    tree: &mut Value,
    options: &WriteOptions,
    storage: &Storage,
) -> Result<(), Status> {
    let name: Str = tree.str_at(&["metadata", "name"]).unwrap_or_default().into();
    let mut warnings = Vec::new();
    let mut attributes = attributes(caller, kind, target, &name, tree, options, &mut warnings);
    let outcome = admission::mutate(&mut attributes, storage);
    warnings.into_iter().for_each(|warning| caller.warn(warning));
    outcome
}

fn judge(
    caller: &Caller<'_>,
    kind: &Kind,
    target: &Target,
    name: &str,
    tree: &mut Value,
    options: &WriteOptions,
    storage: &Storage,
) -> Result<(), Status> {
    let mut warnings = Vec::new();
    let attributes = attributes(caller, kind, target, name, tree, options, &mut warnings);
    let outcome = admission::validate(&attributes, storage);
    warnings.into_iter().for_each(|warning| caller.warn(warning));
    outcome
}

fn attributes<'a>(
    caller: &'a Caller<'_>,
    kind: &'a Kind,
    target: &'a Target,
    name: &'a str,
    tree: &'a mut Value,
    options: &WriteOptions,
    warnings: &'a mut Vec<String>,
) -> Attributes<'a> {
    Attributes {
        identity: caller.identity,
        operation: Operation::Create,
        resource: &target.resource,
        kind: &kind.kind,
        namespace: &target.namespace,
        name,
        subresource: "",
        object: Some(tree),
        old: None,
        stored: None,
        dry_run: options.dry_run,
        warnings,
    }
}

/// What the server alone sets: name, uid, creation time.
fn stamp(gate: &Gate, tree: &mut Value) {
    let random = gate.random();
    unset(tree);
    tree.set(&["metadata", "uid"], random.uuid());
    tree.set(&["metadata", "creationTimestamp"], api::time::seconds(gate.now()));
    if tree.str_at(&["metadata", "name"]).unwrap_or_default().is_empty()
        && let Some(base) = tree.str_at(&["metadata", "generateName"]).filter(|base| !base.is_empty())
    {
        let mut end = base.len().min(limits::NAME_BASE_BYTES);
        while !base.is_char_boundary(end) {
            end -= 1;
        }
        let name = format!("{}{}", &base[..end], random.suffix(limits::NAME_SUFFIX_LETTERS));
        tree.set(&["metadata", "name"], name);
    }
}

/// What no creation may bring along.
fn unset(tree: &mut Value) {
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        tree.remove(&["metadata", key]);
    }
}

/// The object gets the namespace of the request, or must have it already.
pub fn match_namespace(kind: &Kind, object: &mut Value, namespace: &str) -> Result<(), Status> {
    if !kind.namespaced {
        // Upstream drops what a client wrote there.
        object.remove(&["metadata", "namespace"]);
        return Ok(());
    }
    match object.str_at(&["metadata", "namespace"]).unwrap_or_default() {
        "" => object.set(&["metadata", "namespace"], namespace),
        other if other == namespace => {}
        _ => {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// The record of a companion, with what the server sets.
pub fn companion_record(gate: &Gate, kind: &'static Kind, mut object: Value) -> Result<Arc<Record>, Status> {
    stamp(gate, &mut object);
    codec::complete(kind, &mut object);
    codec::record(kind, &object)
}
