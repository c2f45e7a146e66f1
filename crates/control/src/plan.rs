//! What a controller decides.

use std::sync::Arc;
use std::time::Duration;

use api::interface::{
    Answer, Call, Collection, DeleteOptions, GetOptions, ListOptions, PatchKind, Target, WriteOptions,
};
use api::names::Resource;
use api::object::Object;
use api::status::{Reason, Status};
use api::value::{Str, Value};
use jiff::Timestamp;

use crate::mirror::{Change, Key};
use crate::recorder::Note;
use crate::world::World;

/// One loop: which keys a change touches, and what is to be done for a key.
pub trait Controller: Send + Sync + 'static {
    /// Name in logs, and the field manager of its writes, as upstream's.
    fn name(&self) -> &'static str;

    /// The component that its events name as their source: its name, unless upstream's has another there.
    fn source(&self) -> &'static str {
        self.name()
    }

    /// What it reads, and how a change of each leads to keys. Everything that `plan` reads must be listed.
    fn watches(&self) -> Vec<Watches>;

    /// What is to be done for `key`, given the world and the time. Pure: the same world gives the same plan.
    fn plan(&self, world: &World, key: &Key, now: Timestamp) -> Plan;
}

/// A resource that a controller reads.
pub struct Watches {
    /// What is read.
    pub resource: Resource,
    /// The keys that a change of it touches; none if it is only looked up.
    pub keys: KeysOf,
}

/// Maps a change to the keys to look at.
pub type KeysOf = fn(&World, &Change) -> Vec<Key>;

/// What is to be done for a key. An empty plan says that all is as it should be.
#[derive(Debug, Default)]
pub struct Plan {
    /// One stage after the other; the writes of one stage at the same time. A failing write ends the plan after
    /// its stage.
    pub stages: Vec<Vec<Write>>,
    /// What users are told, after the stages have succeeded.
    pub notes: Vec<Note>,
    /// Look at the key again after this long, whatever happens.
    pub again_after: Option<Duration>,
}

/// One write of a plan, or a check that guards the stages behind it.
#[derive(Clone, Debug)]
pub struct Write {
    /// What is asked of the API: a write, or the read of a check.
    pub call: Call,
    /// What the answer must be like; if it is not, the plan ends and the key is tried again.
    pub check: Option<Check>,
    /// Failures that mean that somebody else has already done it, or that the next plan will see better.
    pub tolerate: &'static [Reason],
    /// Told if the write fails; `{error}` stands for the reason.
    pub on_failure: Option<Note>,
    /// Done if the write fails, as to say so in a status. Its own failure is only logged.
    pub or_else: Option<OrElse>,
    /// Told if the write succeeds; `{name}` stands for the name of the object in the answer.
    pub on_success: Option<Note>,
}

/// What mirrors cannot be asked, because they may lag: is it really there, or not?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// No object of that name, or one of another uid.
    Absent {
        /// The uid that must not be there.
        uid: Str,
    },
    /// No object in the collection.
    Empty,
    /// The object of this uid, and nobody is deleting it.
    Present {
        /// The uid that must be there.
        uid: Str,
    },
}

/// The write that answers a failure: a pure function of it.
#[derive(Clone)]
pub struct OrElse(Arc<dyn Fn(&Status) -> Write + Send + Sync>);

impl OrElse {
    /// The write for this failure.
    pub fn write(&self, failure: &Status) -> Write {
        (self.0)(failure)
    }
}

impl std::fmt::Debug for OrElse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OrElse")
    }
}

impl Check {
    /// Whether an answer is as it must be.
    pub fn holds(&self, answer: &Answer) -> bool {
        match (self, answer) {
            (Self::Absent { uid }, Answer::Object(object)) => object.uid() != uid,
            (Self::Empty, Answer::List(list)) => list.items.is_empty(),
            (Self::Present { uid }, Answer::Object(object)) => object.uid() == uid && !object.is_deleting(),
            _ => false,
        }
    }
}

impl Watches {
    /// The objects themselves are the keys.
    pub fn itself(resource: &Resource) -> Self {
        Self::mapped(resource, |_, change| change.either().map(Key::of).into_iter().collect())
    }

    /// A change leads to keys by `keys`.
    pub fn mapped(resource: &Resource, keys: KeysOf) -> Self {
        Self { resource: resource.clone(), keys }
    }

    /// Only looked up; changes lead to nothing.
    pub fn looked_up(resource: &Resource) -> Self {
        Self::mapped(resource, |_, _| Vec::new())
    }
}

impl Change {
    /// The newest side there is.
    pub fn either(&self) -> Option<&Object> {
        self.new.as_deref().or(self.old.as_deref())
    }

    /// Both sides that are there, old first.
    pub fn sides(&self) -> impl Iterator<Item = &Object> {
        self.old.as_deref().into_iter().chain(self.new.as_deref())
    }
}

impl Plan {
    /// Nothing is to be done.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Adds a write to the last stage.
    pub fn write(&mut self, write: Write) {
        match self.stages.last_mut() {
            Some(stage) => stage.push(write),
            None => self.stages.push(vec![write]),
        }
    }

    /// What is added from now on waits for what was added before.
    pub fn then(&mut self) {
        if self.stages.last().is_some_and(|stage| !stage.is_empty()) {
            self.stages.push(Vec::new());
        }
    }

    /// Tells users something once the writes have succeeded.
    pub fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Look again after `delay`; the shortest asked for counts.
    pub fn again_after(&mut self, delay: Duration) {
        self.again_after = Some(self.again_after.map_or(delay, |before| before.min(delay)));
    }

    /// Whether it writes and tells nothing.
    pub fn is_empty(&self) -> bool {
        self.stages.iter().all(Vec::is_empty) && self.notes.is_empty()
    }

    /// All writes in order.
    pub fn writes(&self) -> impl Iterator<Item = &Write> {
        self.stages.iter().flatten()
    }
}

impl Write {
    fn new(call: Call, tolerate: &'static [Reason]) -> Self {
        Self { call, check: None, tolerate, on_failure: None, on_success: None, or_else: None }
    }

    /// Makes an object; one that exists already is left to the next plan.
    pub fn create(resource: &Resource, namespace: &str, object: &Value) -> Self {
        let target = Target::new(resource, namespace, "");
        let call = Call::Create(target, object.to_bytes().into(), WriteOptions::default());
        Self::new(call, &[Reason::AlreadyExists])
    }

    /// Changes an object by a merge patch (RFC 7386). To guard it, put `metadata.uid` or
    /// `metadata.resourceVersion` into the patch.
    pub fn merge(target: Target, patch: &Value) -> Self {
        Self::patch(target, PatchKind::Merge, patch)
    }

    /// Changes an object by a patch. That it is gone is left to the next plan.
    pub fn patch(target: Target, kind: PatchKind, patch: &Value) -> Self {
        let call = Call::Patch(target, kind, patch.to_bytes().into(), WriteOptions::default());
        Self::new(call, &[Reason::NotFound])
    }

    /// Replaces an object, or a subresource of it.
    pub fn update(target: Target, object: &Value) -> Self {
        Self::new(
            Call::Update(target, object.to_bytes().into(), WriteOptions::default()),
            &[Reason::NotFound],
        )
    }

    /// Deletes an object if it is still the one that was seen.
    pub fn delete(resource: &Resource, object: &Object, options: DeleteOptions) -> Self {
        let target = Target::new(resource, object.namespace(), object.name());
        let options = DeleteOptions { uid: Some(Str::from(object.uid())), ..options };
        Self::new(Call::Delete(target, options), &[Reason::NotFound, Reason::Conflict])
    }

    /// Deletes all objects of a collection.
    pub fn delete_collection(collection: Collection, options: DeleteOptions) -> Self {
        let call = Call::DeleteCollection(collection, ListOptions::default(), options);
        Self::new(call, &[Reason::NotFound, Reason::MethodNotAllowed])
    }

    /// Goes on only if the object with this uid is really gone.
    pub fn require_absent(target: Target, uid: &str) -> Self {
        let check = Check::Absent { uid: uid.into() };
        Self {
            check: Some(check),
            ..Self::new(Call::Get(target, GetOptions::default()), &[Reason::NotFound])
        }
    }

    /// Goes on only if the object is still there and stays.
    pub fn require_present(resource: &Resource, object: &Object) -> Self {
        let target = Target::new(resource, object.namespace(), object.name());
        let check = Check::Present { uid: object.uid().into() };
        Self { check: Some(check), ..Self::new(Call::Get(target, GetOptions::default()), &[]) }
    }

    /// Goes on only if a collection is really empty.
    pub fn require_empty(collection: Collection) -> Self {
        let call = Call::List(collection, ListOptions { limit: 1, ..ListOptions::default() });
        Self { check: Some(Check::Empty), ..Self::new(call, &[Reason::NotFound, Reason::MethodNotAllowed]) }
    }

    /// Also takes these failures for a success.
    #[must_use]
    pub fn tolerating(mut self, reasons: &'static [Reason]) -> Self {
        self.tolerate = reasons;
        self
    }

    /// What users are told about how it went.
    #[must_use]
    pub fn telling(mut self, on_success: Option<Note>, on_failure: Option<Note>) -> Self {
        (self.on_success, self.on_failure) = (on_success, on_failure);
        self
    }

    /// What is done if it fails.
    #[must_use]
    pub fn or_else(mut self, answer: impl Fn(&Status) -> Write + Send + Sync + 'static) -> Self {
        self.or_else = Some(OrElse(Arc::new(answer)));
        self
    }

    /// What it writes.
    pub fn target(&self) -> Option<&Target> {
        match &self.call {
            Call::Create(target, ..)
            | Call::Update(target, ..)
            | Call::Patch(target, ..)
            | Call::Delete(target, _) => Some(target),
            Call::Get(..) | Call::List(..) | Call::DeleteCollection(..) => None,
        }
    }
}
