//! Events, old and new: what the older group takes for the sake of old clients, the newer one refuses.

use api::status::Cause;
use api::validation::{Path, cause, names};
use api::value::Value;

use super::{Context, MetadataJudged, Strategy, words};

/// How long texts of an event may be, in bytes.
const ACTION_BYTES: usize = 128;
const REASON_BYTES: usize = 128;
const INSTANCE_BYTES: usize = 128;
const NOTE_BYTES: usize = 1024;
/// The fewest events that are a series.
const SERIES: i64 = 2;

/// Events of the core group.
pub(super) struct Events;
/// The same objects through `events.k8s.io`.
pub(super) struct NewEvents;

impl Strategy for Events {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "events")]
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn metadata_judged(&self) -> MetadataJudged {
        MetadataJudged::Alone
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        common(object, "reportingComponent")
    }
}

impl Strategy for NewEvents {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("events.k8s.io", "events")]
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn metadata_judged(&self) -> MetadataJudged {
        MetadataJudged::Last
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        common(object, "reportingController")
    }

    fn validate_create(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let mut causes = series(object);
        if !is_set(object, "eventTime") {
            causes.push(cause::required("eventTime", ""));
        }
        let kind = text(object, "type");
        if !matches!(kind, "Normal" | "Warning") {
            causes.push(cause::invalid("type", "", &format!("has invalid value: {kind}")));
        }
        let host = |key: &str| !object.str_at(&["source", key]).unwrap_or_default().is_empty();
        let old = [
            ("firstTimestamp", is_set(object, "firstTimestamp")),
            ("lastTimestamp", is_set(object, "lastTimestamp")),
            ("count", object.int_at(&["count"]).unwrap_or_default() != 0),
            ("source", host("component") || host("host")),
        ];
        for (field, _) in old.into_iter().filter(|(_, given)| *given) {
            causes.push(cause::invalid(field, "", "needs to be unset"));
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let mut causes = if new.get("series") == old.get("series") { Vec::new() } else { series(new) };
        // What upstream calls them inside; an event is otherwise what it was when it was told.
        let fixed = [
            ("involvedObject", "involvedObject"),
            ("reason", "reason"),
            ("message", "message"),
            ("source", "source"),
            ("firstTimestamp", "firstTimestamp"),
            ("lastTimestamp", "lastTimestamp"),
            ("count", "count"),
            ("type", "type"),
            ("eventTime", "eventTime"),
            ("action", "action"),
            ("related", "related"),
            ("reportingComponent", "reportingController"),
            ("reportingInstance", "reportingInstance"),
        ];
        for (field, name) in fixed {
            causes.extend(words::immutable(new.get(field), old.get(field), &Path::root(name)));
        }
        causes
    }
}

fn text<'a>(event: &'a Value, key: &str) -> &'a str {
    event.str_at(&[key]).unwrap_or_default()
}

fn is_set(event: &Value, key: &str) -> bool {
    event.get(key).is_some_and(|value| !value.is_empty())
}

fn series(event: &Value) -> Vec<Cause> {
    let Some(series) = event.get("series").filter(|series| !series.is_null()) else { return Vec::new() };
    let mut causes = Vec::new();
    if series.int_at(&["count"]).unwrap_or_default() < SERIES {
        causes.push(cause::invalid("series.count", "", "should be at least 2"));
    }
    if !is_set(series, "lastObservedTime") {
        causes.push(cause::required("series.lastObservedTime", ""));
    }
    causes
}

/// The rules of both groups. `controller` is what the group calls the one who tells of the event.
fn common(event: &Value, controller: &str) -> Vec<Cause> {
    let namespace = event.str_at(&["metadata", "namespace"]).unwrap_or_default();
    let regarding = event.str_at(&["involvedObject", "namespace"]).unwrap_or_default();
    // Newer events, which have a time of their own, may lie elsewhere than what they are about.
    let is_new = is_set(event, "eventTime");
    let fits = match (is_new, regarding.is_empty()) {
        (true, false) => true,
        (true, true) => matches!(namespace, "default" | "kube-system"),
        (false, true) => matches!(namespace, "" | "default"),
        (false, false) => regarding == namespace,
    };
    let mut causes = Vec::new();
    if !fits {
        let why = "does not match event.namespace";
        causes.push(cause::invalid("involvedObject.namespace", regarding, why));
    }
    if !is_new {
        return causes;
    }
    let name = text(event, "reportingComponent");
    if name.is_empty() {
        causes.push(cause::required(controller, ""));
    }
    causes.extend(names::is_label_key(name).iter().map(|why| cause::invalid(controller, name, why)));
    for (field, is_needed, bytes) in [
        ("reportingInstance", true, INSTANCE_BYTES),
        ("action", true, ACTION_BYTES),
        ("reason", true, REASON_BYTES),
        ("message", false, NOTE_BYTES),
    ] {
        let value = text(event, field);
        if is_needed && value.is_empty() {
            causes.push(cause::required(field, ""));
        }
        if value.len() > bytes {
            causes.push(cause::invalid(field, "", &format!("can have at most {bytes} characters")));
        }
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::lookups::fake::Fake;
    use api::json;

    fn check(strategy: &dyn Strategy, event: &Value, expect: &[&str]) {
        let lookups = Fake::new(Vec::new());
        let context =
            Context { identity: &Identity::admin(), lookups: &lookups, subresource: "", dry_run: false };
        let mut causes = strategy.validate(event, &context);
        causes.extend(strategy.validate_create(event, &context));
        let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
        assert_eq!(causes, expect, "{event}");
    }

    fn event(namespace: &str, regarding: &str, more: &[(&str, Value)]) -> Value {
        let mut event =
            json!({"metadata": {"namespace": namespace}, "involvedObject": {"namespace": regarding}});
        for (key, value) in more {
            event.set(&[key], value.clone());
        }
        event
    }

    #[test]
    fn an_old_event_is_where_its_object_is() {
        let why = "involvedObject.namespace: Invalid value: \"b\": does not match event.namespace";
        check(&Events, &event("a", "a", &[]), &[]);
        check(&Events, &event("a", "b", &[]), &[why]);
        check(&Events, &event("default", "", &[]), &[]);
        let empty = "involvedObject.namespace: Invalid value: \"\": does not match event.namespace";
        check(&Events, &event("kube-system", "", &[]), &[empty]);
    }

    #[test]
    fn a_new_event_says_who_did_what_and_why() {
        let told = [
            ("eventTime", Value::from("2026-01-01T00:00:00.000000Z")),
            ("reportingComponent", "a.b/c".into()),
            ("reportingInstance", "i".into()),
            ("action", "a".into()),
            ("reason", "r".into()),
            ("type", "Normal".into()),
        ];
        check(&NewEvents, &event("a", "b", &told), &[]);
        check(&NewEvents, &event("kube-system", "", &told), &[]);
        let mut series = told.to_vec();
        series.push(("series", json!({"count": 1})));
        check(
            &NewEvents,
            &event("a", "b", &series),
            &[
                "series.count: Invalid value: \"\": should be at least 2",
                "series.lastObservedTime: Required value",
            ],
        );
        let mut old = told.to_vec();
        old.extend([("count", 3.into()), ("type", "Odd".into()), ("action", "".into())]);
        check(
            &NewEvents,
            &event("a", "b", &old),
            &[
                "action: Required value",
                "type: Invalid value: \"\": has invalid value: Odd",
                "count: Invalid value: \"\": needs to be unset",
            ],
        );
        // The older group takes all that.
        old.pop();
        check(&Events, &event("a", "b", &old), &[]);
    }
}
