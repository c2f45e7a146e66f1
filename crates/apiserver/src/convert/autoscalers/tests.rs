//! Golden: what upstream 1.37.2 shows of the same objects in both versions.

use super::*;
use crate::convert::{from_stored, to_stored};
use crate::kinds::{self, Kind};
use api::names::Resource;

/// One line per object: both versions of what was made through one of them (`way`), and what was sent.
const GOLDEN: &str = include_str!("../../../testdata/autoscalers.jsonl");

fn old_version() -> &'static Kind {
    kinds::find(&Resource::known("autoscaling", "v1", "horizontalpodautoscalers")).unwrap()
}

/// Both versions of each case that went a way.
fn cases(way: &str) -> Vec<(String, Value, Value, Value)> {
    let all = GOLDEN.lines().map(|line| api::value::parse(line.as_bytes()).unwrap());
    let wanted: Vec<_> = all
        .filter(|case| case.str_at(&["way"]) == Some(way))
        .map(|mut case| {
            let mut take = |key: &str| case.remove(&[key]).unwrap_or_default();
            (take("case").to_string(), take("v1"), take("v2"), take("sent"))
        })
        .collect();
    assert!(wanted.len() > 5, "{way}");
    wanted
}

fn finished(mut tree: Value) -> Value {
    api::schema::finish(old_version().stored_facts.ty, &mut tree);
    tree
}

#[test]
fn version_1_is_upstreams_to_the_letter_for_every_metric_target_and_status() {
    for (case, v1, v2, _) in cases("to v1") {
        assert_eq!(from_stored(old_version(), v2).unwrap().to_string(), v1.to_string(), "{case}");
    }
}

#[test]
fn what_upstream_exported_in_version_1_comes_back_whole() {
    for (case, v1, v2, _) in cases("to v2") {
        let back = finished(to_stored(old_version(), v1.clone()).unwrap());
        assert_eq!(back.to_string(), v2.to_string(), "{case}");
        assert_eq!(from_stored(old_version(), back).unwrap().to_string(), v1.to_string(), "{case}");
    }
}

#[test]
fn annotations_are_read_as_go_reads_them_or_not_at_all() {
    for (case, v1, v2, mut sent) in cases("sent v1") {
        api::schema::apply_defaults(old_version().facts.ty, &mut sent);
        let mut stored = to_stored(old_version(), sent).unwrap();
        stored.remove(&["status"]);
        // A strategy counts them.
        stored.set(&["metadata", "generation"], 1);
        let stored = finished(stored);
        assert_eq!(stored.to_string(), v2.to_string(), "{case}");
        assert_eq!(from_stored(old_version(), stored).unwrap().to_string(), v1.to_string(), "{case}");
    }
}

#[test]
fn an_object_of_version_2_keeps_no_annotation_of_version_1() {
    let kind = kinds::find(&Resource::known("autoscaling", "v2", "horizontalpodautoscalers")).unwrap();
    let tree = json!({"metadata": {"name": "a", "annotations": {
        "autoscaling.alpha.kubernetes.io/metrics": "[]", "keep": "me"}}});
    let kept = json!({"metadata": {"name": "a", "annotations": {"keep": "me"}}});
    assert_eq!(to_stored(kind, tree).unwrap(), kept);
}
