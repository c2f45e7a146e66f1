//! From answers to bytes. Whole objects are copied out of the store's bodies with their envelope spliced in; no tree
//! is built.

use std::sync::Arc;

use api::interface::{Answer, List};
use api::object::Object;
use api::status::Status;
use api::value::{Map, Value, write_string};
use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use wire::{Body, Response};

use crate::kinds::Kind;
use crate::negotiate::{Accepted, Media, Shape};
use crate::table;

/// The JSON of an answer.
pub fn answer(kind: &Kind, answer: &Answer, shape: Shape, include: table::Include) -> Vec<u8> {
    match answer {
        Answer::Object(object) => {
            let mut out = Vec::with_capacity(object.body().len() + 128);
            self::object(kind, object, shape, include, &mut out);
            out
        }
        Answer::List(items) => list(kind, items, shape, include),
        Answer::Status(status) => status.to_value().to_bytes(),
    }
}

/// One object in a shape.
pub fn object(kind: &Kind, object: &Arc<Object>, shape: Shape, include: table::Include, out: &mut Vec<u8>) {
    match shape {
        Shape::Whole => object.write_json(true, out),
        Shape::Metadata => metadata(object, true, out),
        Shape::Table => {
            // A table of one object says the object's own revision.
            let meta = list_meta(object.revision(), "", None);
            table::write(kind, std::slice::from_ref(object), meta, include, true, out);
        }
    }
}

/// What stands in the metadata of a list. `revision` 0 is none.
pub fn list_meta(revision: u64, continue_token: &str, remaining: Option<u64>) -> Map {
    let mut meta = Map::new();
    if revision > 0 {
        meta.insert("resourceVersion", revision.to_string());
    }
    if !continue_token.is_empty() {
        meta.insert("continue", continue_token);
    }
    if let Some(remaining) = remaining {
        meta.insert("remainingItemCount", i64::try_from(remaining).unwrap_or(i64::MAX));
    }
    meta
}

/// How lists end.
pub const LIST_END: &[u8] = b"]}";

/// The beginning of a list of whole objects, up to the first item.
pub fn list_head(kind: &Kind, list: &List, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"kind\":");
    write_string(&format!("{}List", kind.kind.kind), out);
    out.extend_from_slice(b",\"apiVersion\":");
    write_string(&kind.api_version(), out);
    list_start(list, out);
}

fn list_start(list: &List, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"metadata\":");
    Value::from(list_meta(list.revision, &list.continue_token, list.remaining)).write_to(out);
    out.extend_from_slice(b",\"items\":[");
}

/// A list in a shape.
pub fn list(kind: &Kind, list: &List, shape: Shape, include: table::Include) -> Vec<u8> {
    let bytes: usize = list.items.iter().map(|object| object.body().len() + 40).sum();
    let mut out = Vec::with_capacity(bytes + 256);
    if shape == Shape::Table {
        let meta = list_meta(list.revision, &list.continue_token, list.remaining);
        table::write(kind, &list.items, meta, include, true, &mut out);
        return out;
    }
    if shape == Shape::Metadata {
        out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/v1\"");
        list_start(list, &mut out);
    } else {
        list_head(kind, list, &mut out);
    }
    if shape == Shape::Metadata && list.items.is_empty() {
        // Upstream makes nothing of nothing here.
        out.truncate(out.len() - 1);
        out.extend_from_slice(b"null}");
        return out;
    }
    for (index, item) in list.items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if shape == Shape::Metadata {
            metadata(item, true, &mut out);
        } else {
            item.write_json(false, &mut out);
        }
    }
    out.extend_from_slice(LIST_END);
    out
}

/// An object's metadata alone.
pub fn metadata(object: &Object, with_type: bool, out: &mut Vec<u8>) {
    if with_type {
        out.extend_from_slice(
            b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{",
        );
    } else {
        out.extend_from_slice(b"{\"metadata\":{");
    }
    let body = &object.body()[b"{\"metadata\":{".len()..];
    let end = closing_brace(body);
    if object.revision() > 0 {
        out.extend_from_slice(format!("\"resourceVersion\":\"{}\"", object.revision()).as_bytes());
        if end > 0 {
            out.push(b',');
        }
    }
    out.extend_from_slice(&body[..end]);
    out.extend_from_slice(b"}}");
}

/// Where the object that is open at the beginning of `json` is closed.
fn closing_brace(json: &[u8]) -> usize {
    let (mut depth, mut in_string, mut escaped) = (1_usize, false, false);
    for (at, byte) in json.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' if !in_string => depth += 1,
            b'}' if !in_string => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    json.len()
}

/// A response with a body in the agreed media type.
pub fn response(code: u16, media: Media, pretty: bool, json: Vec<u8>) -> Response {
    let body = match media {
        Media::Json if pretty => indented(&json),
        Media::Json => json,
        Media::Yaml => yaml(&json),
    };
    bytes(code, media, body.into())
}

/// A response of bytes that are in the media type already.
pub fn bytes(code: u16, media: Media, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media.content_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// An error as a response.
pub fn failure(status: &Status, accepted: Accepted, pretty: bool) -> Response {
    let mut response = response(status.code, accepted.media, pretty, status.to_value().to_bytes());
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if seconds > 0 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A plain text.
pub fn text(code: u16, text: impl Into<String>) -> Response {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// What the server tells of itself.
pub fn metrics(text: String) -> Response {
    let mut response = self::text(200, text);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(crate::metrics::CONTENT_TYPE));
    response
}

fn indented(json: &[u8]) -> Vec<u8> {
    let Ok(tree) = api::value::parse(json) else { return json.to_vec() };
    serde_json::to_vec_pretty(&tree).unwrap_or_else(|_| json.to_vec())
}

fn yaml(json: &[u8]) -> Vec<u8> {
    let Ok(tree) = api::value::parse(json) else { return json.to_vec() };
    super::yaml::write(&tree).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn metadata_alone_is_cut_out_of_the_body() {
        let tree = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a}\"{", "resourceVersion": "7",
            "labels": {"b": "c"}}, "data": {"x": "y"}});
        let object = Object::from_tree(&tree).unwrap();
        let mut out = Vec::new();
        metadata(&object, true, &mut out);
        let read = api::value::parse(&out).unwrap();
        assert_eq!(read.str_at(&["metadata", "name"]), Some("a}\"{"));
        assert_eq!(read.str_at(&["metadata", "resourceVersion"]), Some("7"));
        assert!(read.get("data").is_none());
    }

    #[test]
    fn yaml_is_written_of_json() {
        assert_eq!(yaml(br#"{"a":1}"#), b"a: 1\n");
    }
}
