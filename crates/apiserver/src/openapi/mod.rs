//! OpenAPI documents, made of the table when they are asked for and not kept: clients cache them by their tags.

use api::schema::openapi;
use api::value::Value;
use http::StatusCode;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION,
    VARY,
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
    let rest = rest.strip_suffix('/').filter(|rest| matches!(*rest, "v2" | "v3")).unwrap_or(rest);
    let document = rest.strip_prefix("v3/").map(|path| openapi::documents().find(|d| d.path == path));
    if document == Some(None) {
        return Some(described(StatusCode::NOT_FOUND, Body::Empty, "", "", false));
    }
    let tag = openapi::hash();
    // A document that is asked for by its tag never changes under that address.
    let asked = query.text("hash");
    if document.is_some() && !asked.is_empty() && asked.as_str() != tag {
        return Some(moved(&format!("{path}?hash={tag}")));
    }
    let lasting = asked.as_str() == tag;
    if text(headers, IF_NONE_MATCH).trim_matches('"') == tag {
        return Some(described(StatusCode::NOT_MODIFIED, Body::Empty, JSON, &tag, lasting));
    }
    let (body, content_type) = match (rest, document) {
        (_, Some(Some(document))) => (openapi::v3(document.subject, GIT_VERSION), JSON),
        ("v2", _) if text(headers, ACCEPT).contains("proto-openapi.spec.v2") => {
            (openapi::v2_protobuf(GIT_VERSION), V2_PROTOBUF)
        }
        ("v2", _) => (openapi::v2(GIT_VERSION), JSON),
        ("v3", _) => (index(&tag).to_bytes(), JSON),
        _ => return None,
    };
    let response = described(StatusCode::OK, Body::from(body), content_type, &tag, lasting);
    Some(wire::compress::response(headers, response, wire::compress::LEVEL))
}

/// Leads a client with an old tag to the present document.
fn moved(address: &str) -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(address) = HeaderValue::from_str(address) {
        response.headers_mut().insert(LOCATION, address);
    }
    response
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
    if !content_type.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if !tag.is_empty()
        && let Ok(tag) = HeaderValue::from_str(&format!("\"{tag}\""))
    {
        headers.insert(ETAG, tag);
    }
    if lasting {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable, max-age=31536000"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_tag_leads_to_the_present_document() {
        let ask = |path: &str, query: &str| respond(path, &HeaderMap::new(), Query::new(query));
        let old = ask("/openapi/v3/apis/apps/v1", "hash=stale").unwrap();
        assert_eq!(old.status(), StatusCode::MOVED_PERMANENTLY);
        let address = text(old.headers(), LOCATION).to_owned();
        assert_eq!(address, format!("/openapi/v3/apis/apps/v1?hash={}", openapi::hash()));
        let present = ask("/openapi/v3/apis/apps/v1", address.split_once('?').unwrap().1).unwrap();
        assert_eq!(present.status(), StatusCode::OK);
        assert!(text(present.headers(), CACHE_CONTROL).contains("immutable"));
        assert_eq!(ask("/openapi/v3/nope", "").unwrap().status(), StatusCode::NOT_FOUND);
        assert_eq!(ask("/openapi/v3", "").unwrap().status(), StatusCode::OK);
        assert!(ask("/openapi/v4", "").is_none());
    }
}
