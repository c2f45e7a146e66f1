//! Golden: what upstream 1.37.2 answered to sequences of writes, and what we make of the same objects.

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::json;
use crate::names::GroupVersionKind;
use crate::table;
use crate::value::{Value, parse};

/// One line per write: case, manager, subresource, `managedFields` as the client gave them, the object after, and
/// the paths in it that admission and strategy set only after owners were recorded.
const GOLDEN: &str = include_str!("../../testdata/managed_fields.jsonl");

fn type_and_resource(object: &Value) -> (table::TypeId, &'static str, &'static str) {
    let text = |key| object.str_at(&[key]).unwrap();
    let kind = GroupVersionKind::parse(text("apiVersion"), text("kind"));
    let facts = table::kinds().by_kind(&kind.group, &kind.version, &kind.kind).unwrap();
    (facts.ty, facts.group, facts.resource)
}

#[test]
fn managed_fields_are_upstreams_to_the_leaf() {
    let mut previous = (String::new(), Value::object());
    let mut wrong = Vec::new();
    for line in GOLDEN.lines() {
        let step = parse(line.as_bytes()).unwrap();
        let case = step.str_at(&["case"]).unwrap();
        let expect = step.get("object").unwrap();
        let old = if previous.0 == case { previous.1 } else { Value::object() };
        let mut new = expect.clone();
        new.remove(&["metadata", "managedFields"]);
        for path in step.array_at(&["later"]) {
            let path: Vec<&str> = path.as_array().unwrap().iter().filter_map(Value::as_str).collect();
            new.remove(&path).unwrap();
        }
        let given = step.get("given").unwrap();
        if !given.is_null() {
            new.set(&["metadata", "managedFields"], given.clone());
        }
        let own = |entry: &&Value| entry.str_at(&["manager"]) == step.str_at(&["manager"]);
        let times = expect.array_at(&["metadata", "managedFields"]).iter();
        let now = times.clone().filter(own).filter_map(|entry| entry.str_at(&["time"])).max();
        let (ty, group, resource) = type_and_resource(expect);
        let subresource = step.str_at(&["subresource"]).unwrap();
        let write = managed::Write {
            manager: step.str_at(&["manager"]).unwrap(),
            api_version: expect.str_at(&["apiVersion"]).unwrap(),
            subresource,
            now: now.unwrap_or("2026-01-01T00:00:00Z").parse().unwrap(),
            ty,
            reset: &reset::reset_fields(group, resource, subresource),
        };
        managed::update(&old, &mut new, &write, &|_, _| None);
        let (ours, theirs) =
            (new.at(&["metadata", "managedFields"]), expect.at(&["metadata", "managedFields"]));
        if ours != theirs {
            let show = |value: Option<&Value>| value.map(ToString::to_string).unwrap_or_default();
            wrong.push(format!(
                "{case} by {}\nours   {}\ntheirs {}",
                write.manager,
                show(ours),
                show(theirs)
            ));
        }
        previous = (case.to_owned(), expect.clone());
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_fields_of_a_new_object_are_written_as_their_set_is() {
    let reset = FieldSet::of(&[&["status"]]);
    let mut seen = std::collections::HashSet::new();
    for line in GOLDEN.lines() {
        let step = parse(line.as_bytes()).unwrap();
        let whole = step.get("object").unwrap();
        let (ty, ..) = type_and_resource(whole);
        // One object of each type and case is enough.
        if !seen.insert((ty, step.str_at(&["case"]).unwrap().to_owned())) {
            continue;
        }
        for object in with_parts_left_out(whole) {
            let comparison = compare(&Value::object(), &object, ty);
            let all = comparison.added.union(comparison.modified);
            for reset in [&FieldSet::new(), &reset] {
                let expect = all.recursive_difference(reset);
                let written = written::of_new(&object, ty, reset);
                assert_eq!(written, (!expect.is_empty()).then(|| expect.to_value()), "{object}");
            }
        }
    }
}

/// An object, and what it is when one of its members, however deep, is empty, null, gone, or there twice.
fn with_parts_left_out(whole: &Value) -> Vec<Value> {
    let mut all = vec![whole.clone()];
    let changes: [fn(&mut Value); 4] = [
        |value| *value = Value::Null,
        |value| *value = Value::object(),
        |value| *value = Value::Array(Vec::new()),
        |value| {
            if let Some(elements) = value.as_array_mut() {
                elements.extend(elements.clone());
            }
        },
    ];
    for place in 0.. {
        for change in changes {
            let mut object = whole.clone();
            let mut left = place;
            if !change_nth(&mut object, &mut left, change) {
                return all;
            }
            all.push(object);
        }
    }
    all
}

/// Changes the value that comes `left` values later in a walk; whether there was one.
fn change_nth(value: &mut Value, left: &mut usize, change: fn(&mut Value)) -> bool {
    let inner: Vec<&mut Value> = match value {
        Value::Object(map) => map.iter_mut().map(|(_, value)| value).collect(),
        Value::Array(elements) => elements.iter_mut().collect(),
        _ => Vec::new(),
    };
    for each in inner {
        if *left == 0 {
            change(each);
            return true;
        }
        *left -= 1;
        if change_nth(each, left, change) {
            return true;
        }
    }
    false
}

#[test]
fn a_write_without_effect_keeps_its_time() {
    let old =
        json!({"metadata": {"managedFields": [{"manager": "a", "time": "2026-01-01T00:00:00Z"}]}, "x": 1});
    let mut new =
        json!({"metadata": {"managedFields": [{"manager": "a", "time": "2026-01-02T00:00:00Z"}]}, "x": 1});
    managed::revert_times(&old, &mut new);
    assert_eq!(new, old);
    new.set(&["metadata", "managedFields"], json!([{"manager": "a", "time": "2026-01-02T00:00:00Z"}]));
    new.set(&["x"], 2);
    let changed = new.clone();
    managed::revert_times(&old, &mut new);
    assert_eq!(new, changed);
}

#[test]
fn managers_are_named_by_parameter_or_agent() {
    assert_eq!(managed::manager_name("x", "kubectl/v1"), "x");
    assert_eq!(managed::manager_name("", "kubectl/v1 (linux)"), "kubectl");
    assert_eq!(managed::manager_name("", &"a".repeat(200)).len(), 128);
}

#[test]
fn an_atomic_map_is_one_leaf_and_a_free_map_is_not() {
    let service = table::types().find("core/v1.Service").unwrap();
    let set =
        set_paths(&json!({"spec": {"selector": {"a": "b"}}, "metadata": {"labels": {"x": "y"}}}), service);
    assert_eq!(set, ["f:metadata/f:labels", "f:metadata/f:labels/f:x", "f:spec/f:selector"]);
}

fn set_paths(object: &Value, ty: table::TypeId) -> Vec<String> {
    compare::set_of(object, ty).paths().iter().map(|path| path.join("/")).collect()
}

#[test]
fn a_value_that_now_is_a_duplicate_is_still_owned() {
    let pod = table::types().find("core/v1.Pod").unwrap();
    let old = json!({"metadata": {"finalizers": ["a/b"]}});
    let new = json!({"metadata": {"finalizers": ["a/b", "a/b"]}});
    let comparison = compare(&old, &new, pod);
    assert_eq!(comparison.removed.paths().len(), 1);
    assert_eq!(comparison.added.paths().len(), 1);
    assert!(compare(&new, &new, pod).is_same());
}

fn sets() -> impl Strategy<Value = FieldSet> {
    let element = prop_oneof![
        "[a-c]".prop_map(|name| PathElement::field(&name)),
        (0_i64..3).prop_map(|n| PathElement::Value(Box::new(Value::Int(n)))),
        (0_i64..20).prop_map(|n| PathElement::Key(vec![("port".into(), Value::Int(n))].into())),
        (0_i64..3).prop_map(PathElement::Index),
    ];
    let path = prop::collection::vec(element, 1..4);
    prop::collection::vec(path, 0..12).prop_map(|paths| {
        let mut set = FieldSet::new();
        paths.iter().for_each(|path| set.insert(path));
        set
    })
}

proptest! {
    #[test]
    fn sets_read_back(set in sets()) {
        prop_assert_eq!(FieldSet::from_value(&set.to_value()).unwrap(), set);
    }

    #[test]
    fn sets_obey_the_laws_of_sets(a in sets(), b in sets()) {
        let union = a.clone().union(b.clone());
        prop_assert_eq!(&union, &b.clone().union(a.clone()));
        prop_assert!(a.difference(&union).is_empty());
        prop_assert_eq!(a.difference(&b).union(a.intersection(&b)), a.clone());
        prop_assert_eq!(a.intersects(&b), !a.intersection(&b).is_empty());
        prop_assert!(!a.difference(&b).intersects(&b));
        prop_assert!(a.recursive_difference(&b).difference(&a.difference(&b)).is_empty());
    }

    #[test]
    fn no_fields_v1_panics(text in "\\{\"[fkvi.:{}\"a-c0-9,]{0,20}\":\\{\\}\\}") {
        if let Ok(value) = parse(text.as_bytes()) {
            let _ = FieldSet::from_value(&value);
        }
    }

    #[test]
    fn times_do_not_matter_to_order_of_credit(seconds in 0_i64..4_000_000_000) {
        let now = Timestamp::from_second(seconds).unwrap();
        let mut new = json!({"kind": "ConfigMap", "data": {"a": "b"}});
        let ty = table::types().find("core/v1.ConfigMap").unwrap();
        let reset = FieldSet::new();
        let write = managed::Write { manager: "", api_version: "v1", subresource: "", now, ty, reset: &reset };
        managed::update(&Value::object(), &mut new, &write, &|_, _| None);
        prop_assert_eq!(new.array_at(&["metadata", "managedFields"])[0].str_at(&["manager"]), Some("unknown"));
    }
}
