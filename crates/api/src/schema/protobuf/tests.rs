//! Protobuf there and back.

use super::*;
use crate::schema::{FieldValidation, apply_defaults, decode as decode_json};
use crate::table::types;
use proptest::prelude::*;

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"creationTimestamp":"2026-01-02T03:04:05Z",
    "labels":{"a":"b","c":""},"managedFields":[{"fieldsV1":{"f:spec":{}},"manager":"m"}],"name":"a"},
    "spec":{"activeDeadlineSeconds":-1,"containers":[{"args":["","x"],"image":"i","name":"c",
    "livenessProbe":{"httpGet":{"port":"http"}},"readinessProbe":{"tcpSocket":{"port":80}},
    "resources":{"limits":{"cpu":"1500m"}}}],"hostNetwork":true,"volumes":[{"configMap":{"name":"m"},"name":"v"}]}}"#;

fn id(name: &str) -> TypeId {
    types().find(name).unwrap()
}

#[test]
fn an_object_comes_back_as_it_was() {
    let pod = id("core/v1.Pod");
    let value = decode_json(pod, POD.as_bytes(), FieldValidation::Strict).unwrap().value;
    let bytes = encode(pod, "v1", "Pod", &value);
    let (meta, message) = open(&bytes).unwrap();
    assert_eq!((meta.api_version.as_str(), meta.kind.as_str()), ("v1", "Pod"));
    assert_eq!(decode(pod, &meta, message).unwrap(), value);
}

#[test]
fn a_small_object_has_upstreams_bytes() {
    // Written out by hand: the envelope, empty metadata with its eight fields that are no pointers, one entry.
    let map = id("core/v1.ConfigMap");
    let value = decode_json(map, br#"{"data":{"k":"v"}}"#, FieldValidation::Strict).unwrap().value;
    let expect: &[u8] = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x1a\
        \x0a\x10\x0a\0\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\0\x42\0\
        \x12\x06\x0a\x01k\x12\x01v\x1a\0\x22\0";
    let bytes = encode(map, "v1", "ConfigMap", &value);
    assert_eq!(bytes, expect);
}

#[test]
fn what_is_no_protobuf_is_refused() {
    assert!(open(b"{}").unwrap_err().to_string().contains("expected prefix [107 56 115 0]"));
    assert!(decode(id("core/v1.Pod"), &TypeMeta::default(), b"\x0a\x05abc").is_err());
    assert!(decode(id("core/v1.Pod"), &TypeMeta::default(), b"\x0b").is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..400, byte: u8) {
        let pod = id("core/v1.Pod");
        let _ = decode(pod, &TypeMeta::default(), &bytes);
        let _ = open(&bytes);
        let mut value = decode_json(pod, POD.as_bytes(), FieldValidation::Strict).unwrap().value;
        apply_defaults(pod, &mut value);
        let mut damaged = encode_message(pod, &value);
        let at = at % damaged.len();
        damaged[at] = byte;
        let _ = decode(pod, &TypeMeta::default(), &damaged);
    }
}
