//! Changing what is there: read, change, judge, commit, and again if somebody wrote in between.

use std::sync::Arc;

use api::interface::{Answer, Target, WriteOptions};
use api::object::Object;
use api::status::{OBJECT_MODIFIED, Status};
use api::value::{Str, Value};
use store::{Expectation, Revision, Transaction};

use super::{Outcome, causes, commit_companions};
use crate::admission::{self, Attributes, Operation};
use crate::caller::Caller;
use crate::gate::Gate;
use crate::kinds::Kind;
use crate::storage::{self, Failure, Record, Storage};
use crate::strategy::{Context, Generation};
use crate::{codec, managed};

/// One change of one object.
pub struct Change<'a> {
    /// Who asks.
    pub caller: &'a Caller<'a>,
    /// What is changed.
    pub kind: &'static Kind,
    /// Which, and through which subresource.
    pub target: &'a Target,
    /// How.
    pub options: &'a WriteOptions,
}

/// Makes the new tree of the old one; both in the storage version, the new one defaulted.
pub type Make<'a> = dyn FnMut(&Value) -> Result<Value, Status> + Send + 'a;

impl Change<'_> {
    /// Does it. `make` runs once for each try. Upstream's `GuaranteedUpdate` never gives up either: who names no
    /// revision is not to hear of a conflict because somebody else writes at the same time, and each conflict is a write
    /// that was done.
    pub async fn run(&self, gate: &Gate, make: &mut Make<'_>) -> Result<Outcome, Status> {
        let (kind, storage) = (self.kind, gate.storage());
        let name = &self.target.name;
        let _alone = gate.exclusive(kind.strategy).await;
        let mut turn = None;
        loop {
            let stored = storage.require(kind, &self.target.namespace, name)?;
            let old = stored.to_tree();
            let mut new = make(&old)?;
            self.check_identity(&mut new, &stored)?;
            let companions = self.prepare(gate, &mut new, &old, &stored)?;
            if self.options.dry_run {
                return Ok(Outcome::done(Answer::Object(codec::answer_tree(kind, &new, stored.revision())?)));
            }
            let body = Object::body_of(&new);
            let gone = may_go(kind, &new, &old);
            if companions.is_empty() && !gone && body[..] == stored.body()[..] {
                return Ok(Outcome::done(Answer::Object(codec::answer(kind, &stored)?)));
            }
            codec::check_size(body.len())?;
            let expect = Expectation::Modified(Revision(stored.revision()));
            let key = Storage::key(kind, &self.target.namespace, name);
            let mut transaction = Transaction::new();
            let record = Record::of(kind, &new, body.into());
            if gone {
                transaction = transaction.delete(key, expect);
                let context = self.context(storage);
                transaction = commit_companions(gate, transaction, kind.strategy.release(&new, &context))?;
            } else {
                let expires = storage.expiry(kind);
                transaction = transaction.step(
                    key,
                    expect,
                    store::Operation::Put { record: Arc::clone(&record), expires },
                );
                transaction = commit_companions(gate, transaction, companions)?;
            }
            match storage.commit(transaction).await {
                Ok(committed) => return self.answer(&committed, &new),
                // Somebody was faster. A change that names the revision it wants is told so by the next try; whatever
                // names none, as most patches do, is made of the present object.
                Err(Failure::Conflict { .. }) => storage.take_turn(&mut turn, &self.target.name).await,
                Err(Failure::Status(status)) => return Err(status),
            }
        }
    }

    fn answer(&self, committed: &store::Committed<Record>, new: &Value) -> Result<Outcome, Status> {
        let object = match committed.outcomes[0].current.as_deref() {
            Some(entry) => codec::answer(self.kind, &storage::object(entry))?,
            None => codec::answer_tree(self.kind, new, committed.revision.0)?,
        };
        Ok(Outcome::done(Answer::Object(object)))
    }

    /// The new tree must be of the same object, and of its present revision if it names one.
    fn check_identity(&self, new: &mut Value, stored: &Object) -> Result<(), Status> {
        let (kind, name) = (self.kind, &self.target.name);
        super::create::match_namespace(kind, new, &self.target.namespace)?;
        let new_name = new.str_at(&["metadata", "name"]).unwrap_or_default();
        if new_name.is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        if new_name != name.as_str() {
            return Err(Status::bad_request(format!(
                "the name of the object ({new_name}) does not match the name on the URL ({name})"
            )));
        }
        let uid = new.str_at(&["metadata", "uid"]).unwrap_or_default();
        if !uid.is_empty() && uid != stored.uid() {
            let key = Storage::key(kind, &self.target.namespace, name);
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: \
                 Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                stored.uid()
            );
            return Err(Status::conflict(&kind.group_resource, name, &why));
        }
        let version = new.str_at(&["metadata", "resourceVersion"]).unwrap_or_default();
        if version.is_empty() || version == "0" {
            if !kind.strategy.allows_unconditional_update() {
                return Err(Status::invalid(
                    &kind.kind.group,
                    // Upstream writes the resource where the kind belongs.
                    &kind.group_resource.resource,
                    name,
                    vec![api::validation::cause::invalid(
                        "metadata.resourceVersion",
                        0,
                        "must be specified for an update",
                    )],
                ));
            }
            return Ok(());
        }
        let asked: u64 = version.parse().map_err(|_| {
            // A number is expected from the beginning, so upstream takes the failure for one of its own.
            let words = format!("strconv.ParseUint: parsing \"{version}\": invalid syntax");
            Status { code: 500, ..Status::new(api::status::Reason::Unknown, words) }
        })?;
        if asked != stored.revision() {
            return Err(Status::conflict(&kind.group_resource, name, OBJECT_MODIFIED));
        }
        Ok(())
    }

    /// Everything between the client's tree and the commit.
    fn prepare(
        &self,
        gate: &Gate,
        new: &mut Value,
        old: &Value,
        stored: &Arc<Object>,
    ) -> Result<Vec<crate::strategy::Companion>, Status> {
        let (kind, storage, subresource) = (self.kind, gate.storage(), self.target.subresource.as_str());
        let strategy = kind.strategy;
        let context = self.context(storage);
        if let Some(version) = old.at(&["metadata", "resourceVersion"]) {
            new.set(&["metadata", "resourceVersion"], version.clone());
        }
        self.split(new, old);
        let manager = self.caller.manager(&self.options.field_manager);
        managed::on_update(kind, new, old, manager, subresource, gate.now())?;
        self.ask(new, old, stored, |attributes| admission::mutate(attributes, storage))?;
        keep_metadata(new, old);
        if subresource == "status" {
            strategy.prepare_status(new, old, &context);
        } else {
            strategy.prepare_update(new, old, &context);
        }
        codec::complete(kind, new);
        self.count_generation(new, old);
        let name = &self.target.name;
        let causes = codec::validate_update(kind, new, old, subresource);
        let own = if subresource == "status" {
            strategy.validate_status(new, old, &context)
        } else {
            let mut own = strategy.validate(new, &context);
            own.extend(strategy.validate_update(new, old, &context));
            own
        };
        let causes = causes::merged(kind, causes, own);
        if !causes.is_empty() {
            return Err(Status::invalid(kind.stored_facts.group, kind.stored_facts.kind, name, causes));
        }
        if subresource.is_empty() {
            let warnings = crate::strategy::warnings(strategy, &kind.group_resource, new, Some(old));
            warnings.into_iter().for_each(|warning| self.caller.warn(warning));
        }
        self.ask(new, old, stored, |attributes| admission::validate(attributes, storage))?;
        managed::settle(new, old);
        if subresource.is_empty() { strategy.allocate(new, Some(old), &context) } else { Ok(Vec::new()) }
    }

    fn context<'b>(&'b self, storage: &'b Storage) -> Context<'b> {
        Context {
            identity: self.caller.identity,
            lookups: storage,
            subresource: &self.target.subresource,
            dry_run: self.options.dry_run,
        }
    }

    /// The main resource never changes `status`; `status` (and `approval`, a part of it) nothing but itself and
    /// metadata.
    fn split(&self, new: &mut Value, old: &Value) {
        if !self.kind.has_status {
            return;
        }
        let approves = self.target.subresource == "approval";
        if approves {
            // Who approves says so in a condition; the certificate is the signer's.
            match old.at(&["status", "certificate"]) {
                Some(certificate) => new.set(&["status", "certificate"], certificate.clone()),
                None => drop(new.remove(&["status", "certificate"])),
            }
        }
        let (Some(new), Some(old)) = (new.as_object_mut(), old.as_object()) else { return };
        if approves || self.target.subresource == "status" {
            new.retain(|key, _| matches!(key, "metadata" | "status" | "apiVersion" | "kind"));
            for (key, value) in old.iter().filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status")) {
                new.insert(key.clone(), value.clone());
            }
        } else {
            match old.get("status") {
                Some(status) => {
                    new.insert("status", status.clone());
                }
                None => {
                    new.remove("status");
                }
            }
        }
    }

    fn count_generation(&self, new: &mut Value, old: &Value) {
        let rule = self.kind.strategy.generation();
        if rule == Generation::Own {
            return;
        }
        match old.at(&["metadata", "generation"]) {
            Some(generation) => new.set(&["metadata", "generation"], generation.clone()),
            None => {
                new.remove(&["metadata", "generation"]);
            }
        }
        if !self.kind.counts_generation || self.target.subresource == "status" {
            return;
        }
        let has_spec = new.get("spec").is_some() || old.get("spec").is_some();
        let changed = if has_spec && rule == Generation::ByTable {
            new.get("spec") != old.get("spec")
        } else {
            content(new) != content(old)
        };
        if changed {
            let generation = old.int_at(&["metadata", "generation"]).unwrap_or_default();
            new.set(&["metadata", "generation"], generation + 1);
        }
    }

    fn attributes<'b>(
        &'b self,
        new: &'b mut Value,
        old: &'b Value,
        stored: &'b Arc<Object>,
        warnings: &'b mut Vec<String>,
    ) -> Attributes<'b> {
        Attributes {
            identity: self.caller.identity,
            operation: Operation::Update,
            resource: &self.target.resource,
            kind: &self.kind.kind,
            namespace: &self.target.namespace,
            name: &self.target.name,
            subresource: &self.target.subresource,
            object: Some(new),
            old: Some(old),
            stored: Some(stored),
            dry_run: self.options.dry_run,
            warnings,
        }
    }

    /// Asks the admission chain, and passes its warnings on.
    fn ask(
        &self,
        new: &mut Value,
        old: &Value,
        stored: &Arc<Object>,
        chain: impl FnOnce(&mut Attributes<'_>) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let mut warnings = Vec::new();
        let outcome = chain(&mut self.attributes(new, old, stored, &mut warnings));
        warnings.into_iter().for_each(|warning| self.caller.warn(warning));
        outcome
    }
}

/// Everything but the envelope, metadata and status.
fn content(tree: &Value) -> Vec<(&Str, &Value)> {
    let map = tree.as_object();
    map.into_iter()
        .flat_map(api::value::Map::iter)
        .filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
        .collect()
}

/// What no update changes stays, whatever the client sent.
fn keep_metadata(new: &mut Value, old: &Value) {
    for key in ["uid", "creationTimestamp"] {
        if let Some(value) = old.at(&["metadata", key]) {
            new.set(&["metadata", key], value.clone());
        }
    }
    // Who leaves these out means no change; who sends others is told that they are not his to choose.
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new.at(&["metadata", key]).is_none_or(Value::is_null)
            && let Some(value) = old.at(&["metadata", key])
        {
            new.set(&["metadata", key], value.clone());
        }
    }
    new.remove(&["metadata", "selfLink"]);
}

/// Whether nothing holds an object back whose deletion was asked for.
pub fn may_go(kind: &Kind, new: &Value, old: &Value) -> bool {
    new.array_at(&["metadata", "finalizers"]).is_empty()
        && old.at(&["metadata", "deletionTimestamp"]).is_some()
        && old.int_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or_default() == 0
        && !kind.strategy.is_held(new)
}
