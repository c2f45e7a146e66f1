//! What an explanation knows, and how it is looked up.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use api::value::Value;
use jiff::Timestamp;

use super::answers::Answer;

/// Objects by kind, and what was found out by trying.
#[derive(Default)]
pub struct World {
    objects: BTreeMap<&'static str, Vec<Value>>,
    /// What came of tries to connect.
    pub answers: BTreeMap<SocketAddr, Answer>,
}

impl World {
    /// Adds objects of a kind.
    pub fn add(&mut self, kind: &'static str, items: Vec<Value>) {
        self.objects.entry(kind).or_default().extend(items);
    }

    /// All of a kind.
    pub fn all(&self, kind: &str) -> &[Value] {
        self.objects.get(kind).map(Vec::as_slice).unwrap_or_default()
    }

    /// One object.
    pub fn find(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.all(kind).iter().find(|object| {
            name_of(object) == name
                && object.str_at(&["metadata", "namespace"]).unwrap_or_default() == namespace
        })
    }

    /// What `owner` controls.
    pub fn owned<'a>(&'a self, kind: &str, owner: &Value) -> Vec<&'a Value> {
        let uid = owner.str_at(&["metadata", "uid"]).unwrap_or_default().to_owned();
        let owns = |object: &&Value| {
            let owners = object.array_at(&["metadata", "ownerReferences"]);
            owners.iter().any(|owner| {
                owner.str_at(&["uid"]) == Some(&uid) && owner.bool_at(&["controller"]) == Some(true)
            })
        };
        self.all(kind).iter().filter(owns).collect()
    }

    /// Warnings about an object, the newest first.
    pub fn warnings(&self, about: &Value) -> Vec<&Value> {
        let uid = about.str_at(&["metadata", "uid"]).unwrap_or_default();
        let mut found: Vec<&Value> = self
            .all("Event")
            .iter()
            .filter(|event| event.str_at(&["involvedObject", "uid"]) == Some(uid))
            .filter(|event| event.str_at(&["type"]) == Some("Warning"))
            .collect();
        found.sort_by_key(|event| std::cmp::Reverse(event_time(event)));
        found
    }

    /// The newest warning with one of `reasons`.
    pub fn warning<'a>(&'a self, about: &Value, reasons: &[&str]) -> Option<&'a Value> {
        self.warnings(about)
            .into_iter()
            .find(|event| event.str_at(&["reason"]).is_some_and(|reason| reasons.contains(&reason)))
    }
}

/// `metadata.name`.
pub fn name_of(object: &Value) -> &str {
    object.str_at(&["metadata", "name"]).unwrap_or_default()
}

/// What an event says.
pub fn message(event: &Value) -> &str {
    event.str_at(&["message"]).unwrap_or_default().trim()
}

fn event_time(event: &Value) -> Option<Timestamp> {
    ["lastTimestamp", "eventTime", "firstTimestamp"].iter().find_map(|field| time_at(event, &[field]))
}

/// A condition of the status.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object.array_at(&["status", "conditions"]);
    conditions.iter().find(|condition| condition.str_at(&["type"]) == Some(kind))
}

/// Whether a condition is `True`.
pub fn holds(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition.str_at(&["status"]) == Some("True"))
}

/// A time.
pub fn time_at(object: &Value, path: &[&str]) -> Option<Timestamp> {
    object.str_at(path)?.parse().ok()
}

/// ` for 3m` since the time at `path`, or nothing.
pub fn lasting(object: &Value, path: &[&str], now: Timestamp) -> String {
    time_at(object, path).map(|since| format!(" for {}", span(since, now))).unwrap_or_default()
}

/// A duration as kubectl writes it.
pub fn span(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// Whether `labels` are all on `object`.
pub fn has_labels(object: &Value, labels: &Value) -> bool {
    let Some(labels) = labels.as_object() else { return false };
    labels.iter().all(|(key, value)| object.at(&["metadata", "labels", key]) == Some(value))
}

/// An object as kubectl's commands name it.
fn named(object: &Value) -> String {
    let kind = object.str_at(&["kind"]).unwrap_or("KIND").to_lowercase();
    match object.str_at(&["metadata", "namespace"]) {
        None | Some("default" | "") => format!("{kind} {}", name_of(object)),
        Some(namespace) => format!("-n {namespace} {kind} {}", name_of(object)),
    }
}

/// Why a deletion does not come to its end.
pub fn deletion(object: &Value, now: Timestamp) -> Option<super::Finding> {
    time_at(object, &["metadata", "deletionTimestamp"])?;
    let finalizers: Vec<&str> =
        object.array_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str).collect();
    let since = lasting(object, &["metadata", "deletionTimestamp"], now);
    Some(match finalizers.as_slice() {
        [] => super::Finding::new(format!("it is being deleted{since}"), ""),
        some => super::Finding::new(
            format!("it is being deleted{since} and waits for its finalizers: {}", some.join(", ")),
            format!(
                "whoever set a finalizer must remove it; if that program is gone: kubectl patch {} --type=merge -p \
                 '{{\"metadata\":{{\"finalizers\":null}}}}'",
                named(object)
            ),
        ),
    })
}
