//! Upstream's golden files (`k8s.io/api/testdata/HEAD`: every kind fully populated, as JSON and as protobuf), read
//! from the folder that `ONDOL_API_TESTDATA` names. They are not ours to keep, so `cargo xtask` fetches them; without
//! them this has nothing to compare, and the small samples beside the code stand alone.

use std::path::Path;

use api::schema::{self, FieldValidation, TypeMeta, protobuf};
use api::table::{Shape, ShapeId, TypeId, types};

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's input, not the program's configuration")]
fn every_kind_is_the_same_in_json_and_protobuf() {
    let Some(folder) = std::env::var_os("ONDOL_API_TESTDATA") else { return };
    let (mut compared, mut to_the_byte) = (0, 0);
    for entry in std::fs::read_dir(&folder).expect("ONDOL_API_TESTDATA is a folder") {
        let path = entry.expect("a readable folder").path();
        if path.extension().is_some_and(|extension| extension == "json")
            && let Some(exact) = compare(&path)
        {
            compared += 1;
            to_the_byte += usize::from(exact);
        }
    }
    println!("{compared} kinds compared, {to_the_byte} of them to the byte");
    assert!(compared >= 60, "only {compared} kinds of {} were compared", Path::new(&folder).display());
}

/// Compares one triple; none if the kind is not served by default.
fn compare(path: &Path) -> Option<bool> {
    let json = std::fs::read(path).expect("a readable file");
    let pb = std::fs::read(path.with_extension("pb")).expect("its protobuf is beside it");
    let meta = schema::type_meta(&json).expect("golden JSON");
    let (group, version) = api::names::split_api_version(&meta.api_version);
    let ty = types().of_kind(group, version, &meta.kind)?;
    let from_json = schema::decode(ty, &json, FieldValidation::Ignore).expect("golden JSON").value;
    let (opened, message) = protobuf::open(&pb).expect("golden protobuf");
    assert_eq!(opened, meta, "{}", path.display());
    let from_protobuf = protobuf::decode(ty, &opened, message).expect("golden protobuf");
    assert_eq!(from_protobuf.to_string(), from_json.to_string(), "{}", path.display());
    let encoded = protobuf::encode(ty, &meta.api_version, &meta.kind, &from_json);
    let (_, again) = protobuf::open(&encoded).expect("our own protobuf");
    let back = protobuf::decode(ty, &TypeMeta::clone(&meta), again).expect("our own protobuf");
    assert_eq!(back.to_string(), from_json.to_string(), "{}", path.display());
    // Where fields behind gates were dropped, or raw JSON is spaced otherwise, the bytes differ rightly.
    if !has_gated_or_raw(ty, 0) {
        assert!(encoded == pb, "{} differs in its bytes", path.display());
        return Some(true);
    }
    Some(false)
}

fn has_gated_or_raw(ty: TypeId, depth: usize) -> bool {
    depth < 12
        && types().get(ty).fields.iter().any(|field| field.off.is_some() || reaches(field.shape, depth))
}

fn reaches(shape: ShapeId, depth: usize) -> bool {
    match types().bare(shape) {
        Shape::Struct(inner) => has_gated_or_raw(inner, depth + 1),
        Shape::List(element) | Shape::Map(_, element) => reaches(element, depth),
        Shape::Raw | Shape::Json => true,
        _ => false,
    }
}
