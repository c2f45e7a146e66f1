//! Loader and data agree.

use super::*;
use crate::value;

#[test]
fn every_default_is_json_of_the_fields_shape() {
    let mut count = 0;
    for (ty, field) in types().iter().flat_map(|ty| ty.fields.iter().map(move |field| (ty, field))) {
        let Some(default) = field.default else { continue };
        let parsed =
            value::parse(default.as_bytes()).unwrap_or_else(|e| panic!("{} {}: {e}", ty.name, field.name));
        let fits = match types().bare(field.shape) {
            Shape::Bool => parsed.as_bool().is_some(),
            Shape::Int32 | Shape::Int64 => parsed.as_int().is_some(),
            Shape::String => parsed.as_str().is_some(),
            Shape::List(_) => parsed.as_array().is_some(),
            Shape::Map(..) | Shape::Struct(_) => parsed.as_object().is_some(),
            _ => true,
        };
        assert!(fits, "{} {} has the default {default}", ty.name, field.name);
        let values = types().values(field.shape);
        assert!(
            values.is_empty()
                || parsed.as_str().is_some_and(|text| text.is_empty() || values.contains(&text))
        );
        count += 1;
    }
    assert!(count > 100, "{count} defaults");
}

#[test]
fn keys_of_list_maps_and_patches_are_fields_of_their_elements() {
    for (ty, field) in types().iter().flat_map(|ty| ty.fields.iter().map(move |field| (ty, field))) {
        let element = types().element(field.shape).and_then(|element| types().struct_of(element));
        for key in field.list.keys().chain(Some(field.patch.key).filter(|key| !key.is_empty())) {
            let element =
                element.unwrap_or_else(|| panic!("{} {} is no list of structs", ty.name, field.name));
            assert!(element.field(key).is_some(), "{} {} has no key {key}", ty.name, field.name);
        }
    }
}

#[test]
fn names_and_numbers_are_unique_in_each_type() {
    for ty in types().iter() {
        for pair in ty.by_name.windows(2) {
            let name = |at: u16| ty.fields[usize::from(at)].name;
            assert!(name(pair[0]) < name(pair[1]), "{} has {} twice", ty.name, name(pair[0]));
        }
        let mut numbers: Vec<u32> = ty
            .parts
            .iter()
            .map(|part| match part {
                Part::Field(at) => ty.fields[usize::from(*at)].number,
                Part::Inline { number, .. } => *number,
            })
            .filter(|number| *number > 0)
            .collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all, "{}", ty.name);
    }
}

#[test]
fn kinds_are_found_by_resource_and_by_kind() {
    let deployment = kinds().by_resource("apps", "v1", "deployments").unwrap();
    assert_eq!(deployment.kind, "Deployment");
    assert_eq!(types().get(deployment.ty).name, "apps/v1.Deployment");
    assert_eq!(deployment.subresource("scale").unwrap().kind, "Scale");
    assert_eq!(kinds().by_kind("", "v1", "Pod").unwrap().short_names, ["po"]);
    assert_eq!(kinds().preferred("autoscaling", "horizontalpodautoscalers").unwrap().version, "v2");
    assert!(kinds().by_resource("apps", "v1beta1", "deployments").is_none());
}

#[test]
fn what_is_stored_alike_is_equivalent() {
    let event = kinds().by_resource("", "v1", "events").unwrap();
    let others: Vec<_> = kinds().equivalents(event).map(|kind| kind.group).collect();
    assert_eq!(others, ["events.k8s.io"]);
}

#[test]
fn every_kind_and_subresource_has_a_type() {
    for kind in kinds().iter() {
        assert!(types().of_kind(kind.group, kind.version, kind.kind).is_some());
        if kind.can("list") {
            let list = format!("{}List", kind.kind);
            assert!(types().of_kind(kind.group, kind.version, &list).is_some(), "{list}");
        }
        for sub in &kind.subresources {
            assert!(types().of_kind(sub.group, sub.version, sub.kind).is_some(), "{}", sub.kind);
        }
    }
}

#[test]
fn go_names_are_as_in_upstreams_messages() {
    let spec = types().get(types().find("core/v1.PodSpec").unwrap());
    let name = |field: &str| types().go_name(spec.field(field).unwrap().shape);
    assert_eq!(name("containers"), "[]v1.Container");
    assert_eq!(name("nodeSelector"), "map[string]string");
    assert_eq!(name("restartPolicy"), "v1.RestartPolicy");
    assert_eq!(types().openapi_name(spec), "io.k8s.api.core.v1.PodSpec");
}
