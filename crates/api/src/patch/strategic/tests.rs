//! Golden: what apimachinery's `strategicpatch` makes of our own documents and patches, by hand and at random.

use proptest::prelude::*;

use super::*;
use crate::value::parse;

/// One line per case: type, original, patch, and result or error.
const GOLDEN: &str = include_str!("../../../testdata/strategic_patches.jsonl");

#[test]
fn patches_merge_to_the_letter_as_upstream() {
    let mut wrong = Vec::new();
    for line in GOLDEN.lines() {
        let case = parse(line.as_bytes()).unwrap();
        let part = |name: &str| case.get(name).cloned().unwrap_or_default();
        let ty = table::types().find(case.str_at(&["type"]).unwrap()).unwrap();
        let ours = apply(part("original"), part("patch"), ty);
        let expect = case.str_at(&["error"]);
        let same = match (&ours, expect) {
            (Ok(result), None) => result == &part("result"),
            (Err(status), Some(error)) => status.message == error,
            _ => false,
        };
        if !same {
            wrong.push(format!("{line}\nours {ours:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn long_lists_are_merged_ordered_and_emptied_in_their_number() {
    const MANY: usize = 30_000;
    /// Element by element with each other they take minutes.
    const BOUND: std::time::Duration = std::time::Duration::from_secs(20);
    let ty = table::types().of_kind("", "v1", "Pod").unwrap();
    let name = |number: usize| Value::from(format!("a/{}", number * 7919 % MANY));
    let container = |number: usize| crate::json!({"name": (name(number)), "image": "i"});
    let names = |numbers: std::ops::Range<usize>| Value::from(numbers.map(name).collect::<Vec<_>>());
    let containers =
        |numbers: std::ops::Range<usize>| Value::from(numbers.map(container).collect::<Vec<_>>());
    let order: Vec<Value> = (0..MANY).rev().map(|number| crate::json!({"name": (name(number))})).collect();
    let document = crate::json!({
        "metadata": {"finalizers": (names(0..MANY / 2))}, "spec": {"containers": (containers(0..MANY / 2))}});
    let clock = base::Clock::system();
    let patch = crate::json!({"metadata": {"finalizers": (names(MANY / 4..MANY))},
        "spec": {"$setElementOrder/containers": order, "containers": []}});
    let added = crate::json!({"spec": {"containers": (containers(MANY / 4..MANY))}});
    let merged = apply(apply(document, added, ty).unwrap(), patch, ty).unwrap();
    assert_eq!(merged.array_at(&["metadata", "finalizers"]).len(), MANY);
    let last = merged.array_at(&["spec", "containers"]).first().unwrap();
    assert_eq!(last.get("name"), Some(&name(MANY - 1)));
    let gone: Vec<Value> =
        (0..MANY).map(|number| crate::json!({"$patch": "delete", "name": (name(number))})).collect();
    let patch = crate::json!({"metadata": {"$deleteFromPrimitiveList/finalizers": (names(0..MANY))},
        "spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": gone}});
    let emptied = apply(merged, patch, ty).unwrap();
    assert_eq!(emptied.array_at(&["metadata", "finalizers"]).len(), 0);
    assert_eq!(emptied.array_at(&["spec", "containers"]).len(), 0);
    assert!(clock.monotonic() < BOUND, "{:?}", clock.monotonic());
}

fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        (0_i64..3).prop_map(Value::Int),
        "[a-c]|delete|replace".prop_map(|text| Value::from(text.as_str())),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        let key = prop::sample::select(vec![
            "spec",
            "containers",
            "name",
            "env",
            "volumes",
            "metadata",
            "finalizers",
            "labels",
            "$patch",
            "$retainKeys",
            "$setElementOrder/containers",
            "$deleteFromPrimitiveList/finalizers",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((key.prop_map(Str::from), inner), 0..5)
                .prop_map(|pairs| Value::Object(Map::from_pairs(pairs))),
        ]
    })
}

proptest! {
    #[test]
    fn no_patch_panics(document in documents(), patch in documents()) {
        let pod = table::types().find("core/v1.Pod").unwrap();
        let _ = apply(document, patch, pod);
    }

    #[test]
    fn the_empty_patch_changes_nothing(document in documents()) {
        if matches!(document, Value::Object(_)) {
            let pod = table::types().find("core/v1.Pod").unwrap();
            prop_assert_eq!(apply(document.clone(), Value::object(), pod).unwrap(), document);
        }
    }
}
