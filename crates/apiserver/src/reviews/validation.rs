//! What a question about rights must be, and what of its selectors cannot be understood.

use api::print::ordered;
use api::selector::{field, label};
use api::status::{Cause, Status};
use api::validation::{Path, cause, names};
use api::value::Value;

/// The operators that upstream knows in selectors of reviews.
const KNOWN: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];
const ONE_OF: &str = "exactly one of nonResourceAttributes or resourceAttributes must be specified";

/// Whose rights a review asks about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// Somebody who is named.
    Another,
    /// Somebody who is named, in one namespace.
    AnotherHere,
    /// The one who asks.
    Oneself,
}

/// Refuses a review that asks nothing, or two things.
pub(super) fn judge(review: &Value, about: About) -> Result<(), Status> {
    let path = Path::root("spec");
    let part = |key: &str| review.at(&["spec", key]).filter(|part| !part.is_null());
    let (resource, other) = (part("resourceAttributes"), part("nonResourceAttributes"));
    let mut causes = Vec::new();
    if resource.is_some() == other.is_some() {
        causes.push(cause::invalid_shown(&path, &shown(other), ONE_OF));
    }
    let is_named = ["user", "groups"].iter().any(|key| part(key).is_some_and(|part| !part.is_empty()));
    if about != About::Oneself && !is_named {
        let why = "at least one of user or group must be specified";
        causes.push(cause::invalid(path.child("user"), "", why));
    }
    if let Some(resource) = resource {
        let path = path.child("resourceAttributes");
        selector(resource, "fieldSelector", &path, &mut causes);
        selector(resource, "labelSelector", &path, &mut causes);
    }
    metadata(review, about, &mut causes);
    if about == About::AnotherHere {
        let namespace = |owner: Option<&Value>| {
            owner.and_then(|owner| owner.str_at(&["namespace"])).unwrap_or_default().to_owned()
        };
        let asked = namespace(resource);
        if resource.is_some() && asked != namespace(review.get("metadata")) {
            let path = path.child("resourceAttributes").child("namespace");
            causes.push(cause::invalid(path, asked, "must match metadata.namespace"));
        }
        if other.is_some() {
            let path = path.child("nonResourceAttributes");
            causes.push(cause::invalid_shown(path, &shown(other), "disallowed on this kind of request"));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid("authorization.k8s.io", "", "", causes)) }
}

/// Attributes of paths by the names that they have inside upstream's server.
fn shown(attributes: Option<&Value>) -> String {
    let Some(attributes) = attributes else { return "null".to_owned() };
    let text = |key: &str| Value::from(attributes.str_at(&[key]).unwrap_or_default());
    format!("{{\"Path\":{},\"Verb\":{}}}", text("path"), text("verb"))
}

/// A question is not kept, so that it has no name and no labels.
fn metadata(review: &Value, about: About, causes: &mut Vec<Cause>) {
    let Some(metadata) = review.get("metadata").filter(|metadata| !metadata.is_empty()) else { return };
    let here = about == About::AnotherHere;
    let is_free = |key: &str| key == "managedFields" || (here && key == "namespace");
    let given = metadata.as_object().into_iter().flat_map(api::value::Map::iter);
    if given.filter(|(key, _)| !is_free(key)).all(|(_, value)| value.is_empty()) {
        return;
    }
    let Some(ty) = api::table::types().find("meta/v1.ObjectMeta") else { return };
    let list = ordered::list(ty, std::slice::from_ref(metadata));
    let why = if here { "must be empty except for namespace" } else { "must be empty" };
    causes.push(cause::invalid_shown("metadata", &list[1..list.len() - 1], why));
}

fn selector(attributes: &Value, member: &str, path: &Path, causes: &mut Vec<Cause>) {
    let Some(selector) = attributes.get(member).filter(|selector| !selector.is_null()) else { return };
    let path = path.child(member);
    let raw = selector.str_at(&["rawSelector"]).unwrap_or_default();
    let requirements = selector.array_at(&["requirements"]);
    if !raw.is_empty() && !requirements.is_empty() {
        let why = "may not specified at the same time as requirements";
        causes.push(cause::invalid(path.child("rawSelector"), raw, why));
    }
    if raw.is_empty() && requirements.is_empty() {
        let why = format!("when {path} is specified, requirements or rawSelector is required");
        causes.push(cause::required(path.child("requirements"), &why));
    }
    for (index, each) in requirements.iter().enumerate() {
        requirement(each, member == "labelSelector", &path.child("requirements").index(index), causes);
    }
}

fn requirement(each: &Value, of_labels: bool, path: &Path, causes: &mut Vec<Cause>) {
    let key = each.str_at(&["key"]).unwrap_or_default();
    let values = each.array_at(&["values"]);
    if !of_labels && key.is_empty() {
        causes.push(cause::required(path.child("key"), "must be specified"));
    }
    // Operators that are not known are those of newer clients.
    match each.str_at(&["operator"]).unwrap_or_default() {
        "In" | "NotIn" if values.is_empty() => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            causes.push(cause::required(path.child("values"), why));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            causes.push(cause::forbidden(path.child("values"), why));
        }
        _ => {}
    }
    if !of_labels {
        return;
    }
    causes.extend(names::is_label_key(key).iter().map(|why| cause::invalid(path.child("key"), key, why)));
    for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
        let path = path.child("values").index(index);
        causes.extend(names::is_label_value(value).iter().map(|why| cause::invalid(&path, value, why)));
    }
}

/// What of the selectors of a review is heard.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The field selector as far as it could be read, as text.
    pub(super) fields: String,
    /// What upstream writes into `status.evaluationError`; empty if all was read.
    pub(super) error: String,
}

/// Reads the selectors of a review. What cannot be read is left out, which asks for more, never for less.
pub(super) fn heard(review: &Value) -> Heard {
    let part =
        |member: &str| review.at(&["spec", "resourceAttributes", member]).filter(|part| !part.is_null());
    let mut out = Heard::default();
    let mut errors = Vec::new();
    for (member, read) in [
        ("fieldSelector", read_fields as fn(&Value) -> (Vec<String>, bool)),
        ("labelSelector", read_labels as fn(&Value) -> (Vec<String>, bool)),
    ] {
        let Some(selector) = part(member) else { continue };
        let (terms, is_whole) = read(selector);
        if !is_whole {
            let how = if terms.is_empty() { "ignored" } else { "partially ignored" };
            errors.push(format!("spec.resourceAttributes.{member} {how} due to parse error"));
        }
        if member == "fieldSelector" {
            out.fields = terms.join(",");
        }
    }
    out.error = errors.join("; ");
    out
}

fn read_fields(selector: &Value) -> (Vec<String>, bool) {
    let raw = selector.str_at(&["rawSelector"]).unwrap_or_default();
    if !raw.is_empty() {
        return match field::Selector::parse(raw) {
            Ok(_) => (vec![raw.to_owned()], true),
            Err(_) => (Vec::new(), false),
        };
    }
    let all = selector.array_at(&["requirements"]);
    let term = |each: &Value| {
        let values = each.array_at(&["values"]);
        let sign = match each.str_at(&["operator"])? {
            "In" => "=",
            "NotIn" => "!=",
            _ => return None,
        };
        let [value] = values else { return None };
        Some(format!("{}{sign}{}", each.str_at(&["key"])?, field::escape(value.as_str()?)))
    };
    let terms: Vec<String> = all.iter().filter_map(term).collect();
    let is_whole = terms.len() == all.len();
    (terms, is_whole)
}

fn read_labels(selector: &Value) -> (Vec<String>, bool) {
    let raw = selector.str_at(&["rawSelector"]).unwrap_or_default();
    if !raw.is_empty() {
        return match label::Selector::parse(raw) {
            Ok(_) => (vec![raw.to_owned()], true),
            Err(_) => (Vec::new(), false),
        };
    }
    // Keys, values and their number were judged before.
    let all = selector.array_at(&["requirements"]);
    let terms: Vec<String> = all
        .iter()
        .filter_map(|each| each.str_at(&["operator"]))
        .filter(|operator| KNOWN.contains(operator))
        .map(str::to_owned)
        .collect();
    let is_whole = terms.len() == all.len();
    (terms, is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    fn review(attributes: &[(&str, Value)]) -> Value {
        let mut review = json!({"spec": {"user": "x", "resourceAttributes": {"verb": "get"}}});
        for (key, value) in attributes {
            review.set(&["spec", "resourceAttributes", key], value.clone());
        }
        review
    }

    #[test]
    fn a_question_asks_one_thing_about_somebody() {
        let check = |review: Value, about: About, expect: &[&str]| {
            let causes = judge(&review, about).err().and_then(|status| status.details).map(|d| d.causes);
            let causes: Vec<String> = causes.unwrap_or_default().iter().map(ToString::to_string).collect();
            assert_eq!(causes, expect, "{review}");
        };
        check(review(&[]), About::Another, &[]);
        check(
            json!({"spec": {"resourceAttributes": {}, "nonResourceAttributes": {"path": "/"}}}),
            About::Another,
            &[
                "spec: Invalid value: {\"Path\":\"/\",\"Verb\":\"\"}: exactly one of nonResourceAttributes or \
                 resourceAttributes must be specified",
                "spec.user: Invalid value: \"\": at least one of user or group must be specified",
            ],
        );
        check(
            review(&[
                ("fieldSelector", json!({})),
                ("labelSelector", json!({"requirements": [{"key": "a", "operator": "In"}]})),
            ]),
            About::Oneself,
            &[
                "spec.resourceAttributes.fieldSelector.requirements: Required value: when \
                 spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required",
                "spec.resourceAttributes.labelSelector.requirements[0].values: Required value: must be specified when \
                 `operator` is 'In' or 'NotIn'",
            ],
        );
        let mut named = review(&[("namespace", "a".into())]);
        named.set(&["metadata"], json!({"name": "z", "namespace": "b"}));
        check(
            named,
            About::AnotherHere,
            &[
                "metadata: Invalid value: {\"name\":\"z\",\"namespace\":\"b\"}: must be empty except for namespace",
                "spec.resourceAttributes.namespace: Invalid value: \"a\": must match metadata.namespace",
            ],
        );
    }

    #[test]
    fn what_cannot_be_read_of_a_selector_is_said() {
        let check = |member: &str, selector: Value, fields: &str, error: &str| {
            let heard = heard(&review(&[(member, selector)]));
            assert_eq!((heard.fields.as_str(), heard.error.as_str()), (fields, error));
        };
        check("fieldSelector", json!({"rawSelector": "a=b"}), "a=b", "");
        let ignored = "spec.resourceAttributes.fieldSelector ignored due to parse error";
        check("fieldSelector", json!({"rawSelector": "a in b"}), "", ignored);
        check("fieldSelector", json!({"requirements": [{"key": "a", "operator": "Exists"}]}), "", ignored);
        check(
            "fieldSelector",
            json!({"requirements": [{"key": "a", "operator": "In", "values": ["b,c"]}, {"key": "a", "operator": "Odd"}]}),
            "a=b\\,c",
            "spec.resourceAttributes.fieldSelector partially ignored due to parse error",
        );
        check("labelSelector", json!({"requirements": [{"key": "a", "operator": "Exists"}]}), "", "");
        check(
            "labelSelector",
            json!({"rawSelector": "!!"}),
            "",
            "spec.resourceAttributes.labelSelector ignored due to parse error",
        );
    }
}
