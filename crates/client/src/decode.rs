//! Answers as objects, lists and statuses.

use std::sync::Arc;

use api::interface::{Answer, Call, List, WatchEvent};
use api::object::Object;
use api::status::{Reason, Status};
use api::value::{Str, Value};

/// The annotation of the bookmark that ends the initial events of a watch.
const INITIAL_DONE: &str = "k8s.io/initial-events-end";
/// How much of an answer that is no `Status` is repeated in the error.
const TEXT_CHARACTERS: usize = 512;

/// The answer to `call` in a body that came with a success.
pub fn answer(call: &Call, body: &[u8]) -> Result<Answer, Status> {
    let tree = parse(body)?;
    if is_status(&tree) {
        let status = Status::from_value(&tree, 200);
        return Ok(Answer::Status(Box::new(Status { code: success_code(&tree, &status), ..status })));
    }
    match call {
        Call::List(..) => list(tree).map(Answer::List),
        Call::DeleteCollection(..) if tree.get("items").is_some() => list(tree).map(Answer::List),
        _ => object(&tree).map(Answer::Object),
    }
}

/// The error in a body that came with `code`.
pub fn failure(code: u16, body: &[u8]) -> Status {
    if let Ok(tree) = api::value::parse(body)
        && is_status(&tree)
    {
        return Status::from_value(&tree, code);
    }
    let reason = match code {
        400 => Reason::BadRequest,
        401 => Reason::Unauthorized,
        403 => Reason::Forbidden,
        404 => Reason::NotFound,
        405 => Reason::MethodNotAllowed,
        406 => Reason::NotAcceptable,
        409 => Reason::Conflict,
        410 => Reason::Expired,
        413 => Reason::RequestEntityTooLarge,
        415 => Reason::UnsupportedMediaType,
        422 => Reason::Invalid,
        429 => Reason::TooManyRequests,
        503 => Reason::ServiceUnavailable,
        504 => Reason::Timeout,
        _ => Reason::InternalError,
    };
    let text: String = String::from_utf8_lossy(body).trim().chars().take(TEXT_CHARACTERS).collect();
    let message = if text.is_empty() { format!("the server answered {code} without words") } else { text };
    Status { code, ..Status::new(reason, message) }
}

/// One line of a watch.
pub fn event(line: &[u8]) -> Result<WatchEvent, Status> {
    let tree = parse(line)?;
    let object_tree = tree.get("object").ok_or_else(|| garbled("a watch event without an object"))?;
    match tree.str_at(&["type"]).unwrap_or_default() {
        "ADDED" => object(object_tree).map(WatchEvent::Added),
        "MODIFIED" => object(object_tree).map(WatchEvent::Modified),
        "DELETED" => object(object_tree).map(WatchEvent::Deleted),
        "BOOKMARK" => Ok(WatchEvent::Bookmark {
            revision: revision(object_tree)?,
            initial_done: object_tree.str_at(&["metadata", "annotations", INITIAL_DONE]) == Some("true"),
        }),
        "ERROR" => Err(Status::from_value(object_tree, 500)),
        other => Err(garbled(&format!("a watch event of the unknown type {other:?}"))),
    }
}

fn parse(body: &[u8]) -> Result<Value, Status> {
    api::value::parse(body).map_err(|error| garbled(&error.to_string()))
}

fn garbled(what: &str) -> Status {
    Status::internal(format!("the server's answer cannot be read: {what}"))
}

fn is_status(tree: &Value) -> bool {
    tree.str_at(&["kind"]) == Some("Status") && tree.str_at(&["apiVersion"]) == Some("v1")
}

/// A success carries no code of its own.
fn success_code(tree: &Value, status: &Status) -> u16 {
    if tree.str_at(&["status"]) == Some("Success") { 200 } else { status.code }
}

fn object(tree: &Value) -> Result<Arc<Object>, Status> {
    // Answers of some subresources (a binding, a review) name nothing; an object needs a name, which may be empty.
    let named = tree.str_at(&["metadata", "name"]).is_some();
    let result = if named {
        Object::from_tree(tree)
    } else {
        let mut tree = tree.clone();
        tree.set(&["metadata", "name"], "");
        Object::from_tree(&tree)
    };
    result.map(Arc::new).map_err(|error| garbled(&error.to_string()))
}

fn revision(tree: &Value) -> Result<u64, Status> {
    let text = tree.str_at(&["metadata", "resourceVersion"]).unwrap_or_default();
    text.parse().map_err(|_| garbled("a resource version that is no number"))
}

fn list(mut tree: Value) -> Result<List, Status> {
    let api_version: Str = tree.str_at(&["apiVersion"]).unwrap_or_default().into();
    let kind: Str = tree.str_at(&["kind"]).unwrap_or_default().trim_end_matches("List").into();
    let revision = revision(&tree)?;
    let continue_token = tree.str_at(&["metadata", "continue"]).unwrap_or_default().into();
    let remaining =
        tree.int_at(&["metadata", "remainingItemCount"]).and_then(|count| u64::try_from(count).ok());
    let items = tree.remove(&["items"]).unwrap_or_default();
    let mut objects = Vec::with_capacity(items.as_array().map_or(0, <[_]>::len));
    if let Value::Array(items) = items {
        for mut item in items {
            // Items of a list leave out what the list says for all of them.
            if item.get("kind").is_none() {
                item.set(&["kind"], kind.as_str());
                item.set(&["apiVersion"], api_version.as_str());
            }
            objects.push(object(&item)?);
        }
    }
    Ok(List { revision, continue_token, remaining, items: objects })
}

#[cfg(test)]
mod tests {
    use api::interface::{Collection, ListOptions};
    use api::names::PODS;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn items_of_lists_get_the_kind_that_the_list_says() {
        let body = br#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"9","continue":"c",
            "remainingItemCount":3},"items":[{"metadata":{"name":"a","namespace":"n","resourceVersion":"7"}}]}"#;
        let call = Call::List(Collection::new(&PODS, ""), ListOptions::default());
        let list = answer(&call, body).unwrap().list().unwrap();
        assert_eq!((list.revision, list.continue_token.as_str(), list.remaining), (9, "c", Some(3)));
        assert_eq!((list.items[0].kind().kind.as_str(), list.items[0].revision()), ("Pod", 7));
    }

    #[test]
    fn errors_are_the_servers_status_or_made_from_the_code() {
        let body =
            br#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","reason":"Conflict",
            "code":409}"#;
        assert_eq!(failure(409, body).reason, Reason::Conflict);
        let status = failure(502, b"bad gateway");
        assert_eq!((status.code, status.message.as_str()), (502, "bad gateway"));
    }

    #[test]
    fn events_bookmarks_and_errors_are_told_apart() {
        let bookmark = br#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"5",
            "annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        assert!(matches!(event(bookmark), Ok(WatchEvent::Bookmark { revision: 5, initial_done: true })));
        let error =
            br#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"old"}}"#;
        assert_eq!(event(error).unwrap_err().reason, Reason::Expired);
    }

    proptest! {
        #[test]
        fn no_line_makes_decoding_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = event(&line);
            let _ = failure(500, &line);
        }

        #[test]
        fn no_document_makes_decoding_panic(kind in "[A-Za-z]{0,8}", name in ".{0,8}", version in ".{0,8}") {
            let mut tree = api::json!({"type": "ADDED", "object": {"kind": kind}});
            tree.set(&["object", "metadata", "name"], name.as_str());
            tree.set(&["object", "metadata", "resourceVersion"], version.as_str());
            let _ = event(&tree.to_bytes());
        }
    }
}
