//! An object that is being printed.

use jiff::{SignedDuration, Timestamp};

use crate::selector::label;
use crate::value::{Map, Value};

use super::duration::human;

/// An object (or part of one) and the time at which it is looked at.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) object: &'a Value,
    pub(super) now: Timestamp,
}

impl<'a> View<'a> {
    pub(super) fn name(self) -> &'a str {
        self.text(&["metadata", "name"])
    }

    pub(super) fn at(self, path: &[&str]) -> Option<&'a Value> {
        self.object.at(path).filter(|value| !value.is_null())
    }

    pub(super) fn has(self, path: &[&str]) -> bool {
        self.at(path).is_some()
    }

    pub(super) fn text(self, path: &[&str]) -> &'a str {
        self.object.str_at(path).unwrap_or_default()
    }

    /// The text at a path, or a word for its absence.
    pub(super) fn text_or(self, path: &[&str], absent: &'a str) -> &'a str {
        Some(self.text(path)).filter(|text| !text.is_empty()).unwrap_or(absent)
    }

    pub(super) fn int(self, path: &[&str]) -> i64 {
        self.object.int_at(path).unwrap_or_default()
    }

    pub(super) fn truth(self, path: &[&str]) -> bool {
        self.object.bool_at(path).unwrap_or_default()
    }

    pub(super) fn list(self, path: &[&str]) -> impl ExactSizeIterator<Item = View<'a>> + DoubleEndedIterator {
        let now = self.now;
        self.object.array_at(path).iter().map(move |object| View { object, now })
    }

    /// The cell of a list's length.
    pub(super) fn count(self, path: &[&str]) -> Value {
        Value::Int(i64::try_from(self.object.array_at(path).len()).unwrap_or(i64::MAX))
    }

    pub(super) fn texts(self, path: &[&str]) -> Vec<&'a str> {
        self.object.array_at(path).iter().filter_map(Value::as_str).collect()
    }

    pub(super) fn time(self, path: &[&str]) -> Option<Timestamp> {
        self.object.str_at(path)?.parse().ok()
    }

    /// How long ago the time at a path was.
    pub(super) fn since(self, path: &[&str]) -> String {
        self.time(path).map_or_else(|| "<unknown>".to_owned(), |time| ago(self.now, time))
    }

    /// The cell of the age.
    pub(super) fn age(self) -> Value {
        self.since(&["metadata", "creationTimestamp"]).into()
    }

    pub(super) fn is_deleting(self) -> bool {
        self.has(&["metadata", "deletionTimestamp"])
    }

    /// The condition of that type in `status.conditions`.
    pub(super) fn condition(self, wanted: &str) -> Option<View<'a>> {
        self.list(&["status", "conditions"]).find(|condition| condition.text(&["type"]) == wanted)
    }

    /// Whether the condition of that type is true.
    pub(super) fn is_condition(self, wanted: &str) -> bool {
        self.condition(wanted).is_some_and(|condition| condition.text(&["status"]) == "True")
    }

    /// A map of texts as `a=b,c=d`.
    pub(super) fn labels(self, path: &[&str]) -> String {
        let pairs: Vec<String> = self
            .at(path)
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(Map::iter)
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
    }

    /// A label selector as text.
    pub(super) fn selector(self, path: &[&str]) -> String {
        label::format(self.at(path))
    }

    /// Names and images of the containers of a pod's spec.
    pub(super) fn containers(self, path: &[&str]) -> [Value; 2] {
        let joined = |key: &str| -> Value {
            let words: Vec<&str> = self.list(path).map(|container| container.text(&[key])).collect();
            words.join(",").into()
        };
        [joined("name"), joined("image")]
    }

    /// A number or text as text, or a word for its absence.
    pub(super) fn scalar_or(self, path: &[&str], absent: &str) -> String {
        match self.at(path) {
            None => absent.to_owned(),
            Some(Value::String(text)) => text.to_string(),
            Some(other) => other.to_string(),
        }
    }
}

/// How long before `now` the time was.
pub(super) fn ago(now: Timestamp, time: Timestamp) -> String {
    human(SignedDuration::from_nanos_i128(now.as_nanosecond() - time.as_nanosecond()))
}

/// The first `max` words, and how many more there are.
pub(super) fn with_more(words: &[String], max: usize, absent: &str) -> String {
    let shown = words.iter().take(max).cloned().collect::<Vec<_>>().join(",");
    if words.len() > max {
        format!("{shown} + {} more...", words.len() - max)
    } else if shown.is_empty() {
        absent.to_owned()
    } else {
        shown
    }
}
