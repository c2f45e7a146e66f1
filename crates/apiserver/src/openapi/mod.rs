//! OpenAPI documents, made of the table when they are asked for and not kept: clients cache them by their tags.

use api::schema::openapi;
use api::value::Value;
use http::StatusCode;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, VARY,
};
use wire::{Body, Response};

use crate::GIT_VERSION;
use crate::query::Query;

/// The media type of version 2 in protobuf, as clients ask for it.
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const JSON: &str = "application/json";

/// Answers `/openapi/...`, if the path is one of them.
pub fn respond(path: &str, headers: &HeaderMap, query: Query<'_>) -> Option<Response> {
    let rest = path.strip_prefix("/openapi/")?;
    let tag = openapi::hash();
    // A document that is asked for by its tag never changes under that address.
    let lasting = query.get("hash").is_some_and(|hash| hash == tag);
    if text(headers, IF_NONE_MATCH).trim_matches('"') == tag {
        return Some(described(StatusCode::NOT_MODIFIED, Body::Empty, JSON, &tag, lasting));
    }
    let (body, content_type) = match rest.trim_end_matches('/') {
        "v2" if text(headers, ACCEPT).contains("proto-openapi.spec.v2") => {
            (openapi::v2_protobuf(GIT_VERSION), V2_PROTOBUF)
        }
        "v2" => (openapi::v2(GIT_VERSION), JSON),
        "v3" => (index(&tag).to_bytes(), JSON),
        other => {
            let document =
                other.strip_prefix("v3/").and_then(|path| openapi::documents().find(|d| d.path == path))?;
            (openapi::v3(document.group, document.version, GIT_VERSION)?, JSON)
        }
    };
    let response = described(StatusCode::OK, Body::from(body), content_type, &tag, lasting);
    Some(wire::compress::response(headers, response, wire::compress::LEVEL))
}

fn index(tag: &str) -> Value {
    let mut index = Value::object();
    index.set(&["paths"], Value::object());
    for document in openapi::documents() {
        let address = format!("/openapi/v3/{}?hash={tag}", document.path);
        index.set(&["paths", &document.path, "serverRelativeURL"], address);
    }
    index
}

fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn described(code: StatusCode, body: Body, content_type: &'static str, tag: &str, lasting: bool) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{tag}\"")) {
        headers.insert(ETAG, tag);
    }
    if lasting {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable, max-age=31536000"));
    }
    response
}
