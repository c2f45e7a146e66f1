//! `metadata.managedFields`: who owns which field since when.

use jiff::Timestamp;

use crate::table::TypeId;
use crate::value::{Map, Str, Value};

use super::compare::{Comparison, compare};
use super::set::FieldSet;
use super::written;

/// How many managers of updates an object remembers; older ones are merged.
const MAX_UPDATE_MANAGERS: usize = 10;
/// Longest name of a manager, in bytes.
const MANAGER_MAX_BYTES: usize = 128;
/// Under this name old updates are merged.
const ANCIENT: &str = "ancient-changes";

/// How fields became owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By the apply verb.
    Apply,
    /// By any other write.
    Update,
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Who.
    pub manager: Str,
    /// How.
    pub operation: Operation,
    /// In which version the paths are written, as `apps/v1`.
    pub api_version: Str,
    /// Through which subresource; empty for the object itself.
    pub subresource: Str,
    /// When, in RFC 3339; empty if nobody knows.
    pub time: Str,
    /// What.
    pub fields: FieldSet,
}

/// A write, as far as owners are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Who writes (see [`manager_name`]).
    pub manager: &'a str,
    /// The version of the objects, as `apps/v1`.
    pub api_version: &'a str,
    /// The subresource that is written through; empty for the object itself.
    pub subresource: &'a str,
    /// When.
    pub now: Timestamp,
    /// The type of the objects.
    pub ty: TypeId,
    /// The fields that the write cannot change (see [`super::reset::reset_fields`]).
    pub reset: &'a FieldSet,
}

/// The name of a manager: the parameter `fieldManager`, or else the user agent up to its first slash.
pub fn manager_name(field_manager: &str, user_agent: &str) -> Str {
    if !field_manager.is_empty() {
        return field_manager.into();
    }
    let mut name = Str::default();
    for c in user_agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > MANAGER_MAX_BYTES {
            break;
        }
        name.push(c);
    }
    name
}

/// An object of the version of a write as another version (`apps/v1`) has it, and its type there; `None` if the object
/// has no such version.
pub type Versions<'a> = dyn Fn(&Value, &str) -> Option<(Value, TypeId)> + 'a;

/// Sets `metadata.managedFields` of `new`, an object that is about to take the place of `old` (an empty object for
/// a creation), for a create, update or patch.
///
/// Each manager's fields are named as its version has them, so what became of them is seen in that version, as
/// structured-merge-diff's `Updater.Update` does it. Who speaks a version that is not known is forgotten.
pub fn update(old: &Value, new: &mut Value, write: &Write<'_>, versions: &Versions<'_>) {
    let mut entries = starting_point(old, new, write.subresource);
    new.remove(&["metadata", "managedFields"]);
    // Of a new object the creator owns all.
    if old.is_empty() && entries.is_empty() && write.reset.is_flat() {
        if let Some(fields) = written::of_new(new, write.ty, write.reset) {
            new.set(&["metadata", "managedFields"], vec![entry_of(write, FieldSet::new()).value(fields)]);
        }
        return;
    }
    // An object that was never tracked stays so.
    let exists = old.str_at(&["metadata", "uid"]).is_some_and(|uid| !uid.is_empty());
    if entries.is_empty() && exists {
        return;
    }
    let own = Change::of(old, new, write.ty, write.reset);
    let mut others: Vec<(Str, Option<Change>)> = Vec::new();
    for entry in &mut entries {
        if entry.api_version == write.api_version {
            own.take_from(&mut entry.fields);
            continue;
        }
        let known = others.iter().position(|(version, _)| *version == entry.api_version);
        let at = known.unwrap_or_else(|| {
            let change = versions(old, &entry.api_version).zip(versions(new, &entry.api_version));
            let change = change.map(|((old, ty), (new, _))| Change::of(&old, &new, ty, write.reset));
            others.push((entry.api_version.clone(), change));
            others.len() - 1
        });
        match &others[at].1 {
            Some(change) => change.take_from(&mut entry.fields),
            None => entry.fields = FieldSet::new(),
        }
    }
    let taken = own.taken;
    entries.retain(|entry| !entry.fields.is_empty());
    if !taken.is_empty() {
        credit(&mut entries, taken, write);
    }
    cap(&mut entries);
    store(new, entries);
}

/// What a write changes, in one version.
struct Change {
    /// Added or modified.
    taken: FieldSet,
    removed: FieldSet,
}

impl Change {
    fn of(old: &Value, new: &Value, ty: TypeId, reset: &FieldSet) -> Self {
        let Comparison { mut added, mut modified, mut removed } = compare(old, new, ty);
        if !reset.is_empty() {
            added = added.without(reset);
            modified = modified.without(reset);
            removed = removed.without(reset);
        }
        Self { taken: added.union(modified), removed }
    }

    /// Takes from what somebody owns what another now does, or nobody.
    fn take_from(&self, fields: &mut FieldSet) {
        for gone in [&self.taken, &self.removed] {
            if fields.intersects(gone) {
                *fields = fields.difference(gone);
            }
        }
    }
}

/// Gives back the old times if nothing but times has changed, so that a write without effect changes nothing.
pub fn revert_times(old: &Value, new: &mut Value) {
    const PATH: [&str; 2] = ["metadata", "managedFields"];
    let (before, after) = (old.array_at(&PATH), new.array_at(&PATH));
    fn timeless(entry: &Value) -> impl Iterator<Item = (&Str, &Value)> {
        let members = entry.as_object().into_iter().flat_map(Map::iter);
        members.filter(|(key, _)| *key != "time")
    }
    let alike = before.len() == after.len()
        && before.iter().zip(after).all(|(a, b)| timeless(a).eq(timeless(b)))
        && before != after;
    if !alike {
        return;
    }
    let entries = before.to_vec();
    let changed = std::mem::replace(new.at_mut(&PATH).unwrap_or(&mut Value::Null), Value::Array(entries));
    if &*new != old {
        new.set(&PATH, changed);
    }
}

/// The entries that the write starts from: those that the client sends, if they make sense, else the old ones. A
/// list that is empty, or has one empty entry, forgets all.
fn starting_point(old: &Value, new: &Value, subresource: &str) -> Vec<Entry> {
    const PATH: [&str; 2] = ["metadata", "managedFields"];
    let live = || decode(old.array_at(&PATH)).unwrap_or_default();
    if !subresource.is_empty() {
        return live();
    }
    match new.at(&PATH) {
        Some(Value::Array(given)) => match given.as_slice() {
            [] => Vec::new(),
            [Value::Object(only)] if only.is_empty() => Vec::new(),
            given => decode(given).filter(|entries| !entries.is_empty()).unwrap_or_else(live),
        },
        _ => live(),
    }
}

/// Reads entries; `None` if one of them makes no sense.
pub fn decode(entries: &[Value]) -> Option<Vec<Entry>> {
    let mut out: Vec<Entry> = Vec::with_capacity(entries.len() + 1);
    for entry in entries {
        let text = |key| entry.str_at(&[key]).unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        if text("apiVersion").is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        let fields = match entry.get("fieldsV1") {
            Some(fields) => FieldSet::from_value(fields).ok()?,
            None => FieldSet::new(),
        };
        let entry = Entry {
            manager: text("manager").into(),
            operation,
            api_version: text("apiVersion").into(),
            subresource: text("subresource").into(),
            time: text("time").into(),
            fields,
        };
        match out.iter_mut().find(|other| other.is_same_manager(&entry)) {
            Some(other) => *other = entry,
            None => out.push(entry),
        }
    }
    Some(out)
}

impl Entry {
    /// Whether both are the same manager. Those who apply are one over all versions.
    fn is_same_manager(&self, other: &Self) -> bool {
        self.operation == other.operation
            && self.manager == other.manager
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As JSON.
    pub fn to_value(&self) -> Value {
        self.value(self.fields.to_value())
    }

    /// The same with fields in a form of their own.
    fn value(&self, fields: Value) -> Value {
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let mut pairs: Vec<(Str, Value)> = Vec::with_capacity(7);
        let mut add = |key: &'static str, value: Value| pairs.push((Str::const_new(key), value));
        add("apiVersion", self.api_version.clone().into());
        add("fieldsType", "FieldsV1".into());
        add("fieldsV1", fields);
        for (key, text) in [("manager", &self.manager), ("operation", &operation.into())] {
            if !text.is_empty() {
                add(key, text.clone().into());
            }
        }
        for (key, text) in [("subresource", &self.subresource), ("time", &self.time)] {
            if !text.is_empty() {
                add(key, text.clone().into());
            }
        }
        Value::Object(Map::from_pairs(pairs))
    }
}

/// What the writer owns, since now.
fn entry_of(write: &Write<'_>, fields: FieldSet) -> Entry {
    let manager = if write.manager.is_empty() { "unknown" } else { write.manager };
    // Upstream loses the time of those who scale when it carries the entry over to the scaled object.
    let time = match write.subresource {
        "scale" => String::new(),
        _ => crate::time::seconds(write.now),
    };
    Entry {
        manager: manager.into(),
        operation: Operation::Update,
        api_version: write.api_version.into(),
        subresource: write.subresource.into(),
        time: time.into(),
        fields,
    }
}

/// The writer owns what it changed.
fn credit(entries: &mut Vec<Entry>, fields: FieldSet, write: &Write<'_>) {
    let entry = entry_of(write, fields);
    match entries.iter_mut().find(|other| other.is_same_manager(&entry)) {
        Some(own) => {
            own.fields = std::mem::take(&mut own.fields).union(entry.fields);
            own.time = entry.time;
        }
        None => entries.push(entry),
    }
}

/// Merges the oldest updates, version by version, until there are few enough.
fn cap(entries: &mut Vec<Entry>) {
    let updates =
        |entries: &[Entry]| entries.iter().filter(|entry| entry.operation == Operation::Update).count();
    let mut left = updates(entries);
    if left <= MAX_UPDATE_MANAGERS {
        return;
    }
    let (mut old, mut kept): (Vec<Entry>, Vec<Entry>) =
        entries.drain(..).partition(|entry| entry.operation == Operation::Update);
    // Among those of one second upstream goes by the identifier, which begins with the manager's name.
    old.sort_by(|a, b| {
        (&a.time, &a.manager, &a.api_version, &a.subresource).cmp(&(
            &b.time,
            &b.manager,
            &b.api_version,
            &b.subresource,
        ))
    });
    let mut merged: Vec<Entry> = Vec::new();
    for entry in old {
        let bucket = merged.iter_mut().find(|bucket| bucket.api_version == entry.api_version);
        match bucket {
            Some(bucket) if left > MAX_UPDATE_MANAGERS => {
                bucket.manager = ANCIENT.into();
                bucket.subresource = Str::default();
                bucket.fields = std::mem::take(&mut bucket.fields).union(entry.fields);
                bucket.time = entry.time;
                left -= 1;
            }
            None if left > MAX_UPDATE_MANAGERS => merged.push(entry),
            _ => kept.push(entry),
        }
    }
    kept.append(&mut merged);
    *entries = kept;
}

fn store(new: &mut Value, mut entries: Vec<Entry>) {
    if entries.is_empty() {
        return;
    }
    entries.sort_by(|a, b| {
        (a.operation, &a.time, &a.manager, &a.api_version, &a.subresource).cmp(&(
            b.operation,
            &b.time,
            &b.manager,
            &b.api_version,
            &b.subresource,
        ))
    });
    let entries: Vec<Value> = entries.iter().map(Entry::to_value).collect();
    new.set(&["metadata", "managedFields"], entries);
}
