//! JSON patch (RFC 6902), with the habits of the library that upstream uses: negative indices count from the end,
//! `replace` of a missing member adds it, what stands before the first slash of a path is ignored.

use crate::status::{Details, Reason, Status};
use crate::value::{MAX_DEPTH, Str, Value};

/// How many operations one patch may have, as upstream.
pub const MAX_OPERATIONS: usize = 10_000;
/// Bytes of JSON that all `copy` operations of a patch may add, as upstream: each could double the document.
pub const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;
/// Elements of lists that all operations of a patch may move to make room or to close up, and values that they may look
/// through: far beyond what an object of the largest size needs, and done within a second. A list in the middle of which
/// each operation puts an element would take minutes.
pub const MAX_STEPS: usize = 100_000_000;

/// What a patch has cost.
#[derive(Default)]
struct Cost {
    copied_bytes: usize,
    steps: usize,
}

impl Cost {
    fn step(&mut self, steps: usize) -> Result<(), Failed> {
        self.steps += steps;
        (self.steps <= MAX_STEPS).then_some(()).ok_or(Failed)
    }

    fn copy(&mut self, bytes: usize) -> Result<(), Failed> {
        self.copied_bytes += bytes;
        (self.copied_bytes <= MAX_COPIED_BYTES).then_some(()).ok_or(Failed)
    }
}

/// An operation could not be done. Upstream tells the client no more than that.
#[derive(Debug)]
struct Failed;

/// Does the patch's operations on `document`, all or none.
pub fn apply(document: Value, patch: &Value) -> Result<Value, Status> {
    let Value::Array(operations) = patch else {
        let word = patch.type_name();
        return Err(Status::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {word} into Go value of type []handlers.jsonPatchOp"
        )));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(Status::new(
            Reason::RequestEntityTooLarge,
            format!(
                "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                operations.len()
            ),
        ));
    }
    for operation in operations {
        if !matches!(operation, Value::Object(_)) {
            let word = operation.type_name();
            return Err(Status::bad_request(format!(
                "error decoding patch: json: cannot unmarshal {word} into Go value of type handlers.jsonPatchOp"
            )));
        }
    }
    let mut document = document;
    let mut cost = Cost::default();
    for operation in operations {
        step(&mut document, operation, &mut cost).map_err(|Failed| rejected())?;
    }
    Ok(document)
}

/// Upstream's answer to an operation that fails, a `test` among them.
fn rejected() -> Status {
    let mut status =
        Status::new(Reason::Invalid, "the server rejected our request due to an error in our request");
    status.details = Some(Box::new(Details::default()));
    status
}

fn step(document: &mut Value, operation: &Value, cost: &mut Cost) -> Result<(), Failed> {
    let text = |key| operation.str_at(&[key]).ok_or(Failed);
    // An absent value is null, as upstream has it.
    let value = || operation.get("value").cloned().unwrap_or_default();
    match text("op")? {
        "add" => add(document, text("path")?, value(), cost),
        "remove" => remove(document, text("path")?, cost).map(drop),
        "replace" => replace(document, text("path")?, value(), cost),
        "move" => {
            let moved = remove(document, text("from")?, cost)?;
            add(document, text("path")?, moved, cost)
        }
        "copy" => {
            let copied = get(document, text("from")?)?.cloned().unwrap_or_default();
            cost.copy(copied.to_string().len())?;
            add(document, text("path")?, copied, cost)
        }
        "test" => {
            let (path, wanted) = (text("path")?, value());
            let found = if path.is_empty() { Some(&*document) } else { get(document, path)? };
            (found.unwrap_or(&Value::Null) == &wanted).then_some(()).ok_or(Failed)
        }
        _ => Err(Failed),
    }
}

/// The container that a path leads to, and the key in it.
fn container<'a>(document: &'a mut Value, path: &str) -> Result<(&'a mut Value, Str), Failed> {
    let mut parts = path.split('/').map(decoded);
    // What is before the first slash does not count.
    parts.next();
    let mut parts: Vec<Str> = parts.collect();
    let key = parts.pop().ok_or(Failed)?;
    let mut at = document;
    for part in parts {
        at = match at {
            Value::Object(map) => map.get_mut(&part),
            Value::Array(elements) => {
                let index = existing_index(&part, elements.len())?;
                elements.get_mut(index)
            }
            _ => None,
        }
        .ok_or(Failed)?;
    }
    matches!(at, Value::Object(_) | Value::Array(_)).then_some((at, key)).ok_or(Failed)
}

fn decoded(part: &str) -> Str {
    if part.contains('~') { part.replace("~1", "/").replace("~0", "~").into() } else { part.into() }
}

fn signed_index(key: &str) -> Result<i64, Failed> {
    key.parse().map_err(|_| Failed)
}

fn resolved(index: i64, length: usize) -> Result<usize, Failed> {
    let length = i64::try_from(length).map_err(|_| Failed)?;
    let index = if index < 0 { index + length } else { index };
    if (0..length).contains(&index) { usize::try_from(index).map_err(|_| Failed) } else { Err(Failed) }
}

fn existing_index(key: &str, length: usize) -> Result<usize, Failed> {
    resolved(signed_index(key)?, length)
}

fn get<'a>(document: &'a mut Value, path: &str) -> Result<Option<&'a Value>, Failed> {
    let (container, key) = container(document, path)?;
    match container {
        Value::Object(map) => Ok(map.get(&key)),
        Value::Array(elements) => {
            let index = existing_index(&key, elements.len())?;
            Ok(elements.get(index))
        }
        _ => Err(Failed),
    }
}

/// Nothing becomes deeper than what a body may be: whatever walks an object relies on it.
fn require_shallow(path: &str, value: &Value, cost: &mut Cost) -> Result<(), Failed> {
    fn depth(value: &Value, looked_at: &mut usize) -> usize {
        match value {
            Value::Object(map) => {
                *looked_at += map.len();
                1 + map.iter().map(|(_, value)| depth(value, looked_at)).max().unwrap_or(0)
            }
            Value::Array(elements) => {
                *looked_at += elements.len();
                1 + elements.iter().map(|value| depth(value, looked_at)).max().unwrap_or(0)
            }
            _ => 0,
        }
    }
    let mut looked_at = 0;
    let depth = depth(value, &mut looked_at);
    cost.step(looked_at)?;
    (path.split('/').skip(1).count() + depth <= MAX_DEPTH).then_some(()).ok_or(Failed)
}

fn add(document: &mut Value, path: &str, value: Value, cost: &mut Cost) -> Result<(), Failed> {
    require_shallow(path, &value, cost)?;
    let (container, key) = container(document, path)?;
    match container {
        Value::Object(map) => {
            map.insert(key, value);
        }
        Value::Array(elements) if key == "-" => elements.push(value),
        Value::Array(elements) => {
            let index = resolved(signed_index(&key)?, elements.len() + 1)?;
            cost.step(elements.len() - index)?;
            elements.insert(index, value);
        }
        _ => return Err(Failed),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str, cost: &mut Cost) -> Result<Value, Failed> {
    let (container, key) = container(document, path)?;
    match container {
        Value::Object(map) => map.remove(&key).ok_or(Failed),
        Value::Array(elements) => {
            let index = existing_index(&key, elements.len())?;
            cost.step(elements.len() - index)?;
            Ok(elements.remove(index))
        }
        _ => Err(Failed),
    }
}

fn replace(document: &mut Value, path: &str, value: Value, cost: &mut Cost) -> Result<(), Failed> {
    if path.is_empty() {
        if !matches!(value, Value::Object(_) | Value::Array(_)) {
            return Err(Failed);
        }
        *document = value;
        return Ok(());
    }
    require_shallow(path, &value, cost)?;
    let (container, key) = container(document, path)?;
    match container {
        Value::Object(map) => {
            map.insert(key, value);
        }
        Value::Array(elements) => {
            let index = existing_index(&key, elements.len())?;
            elements[index] = value;
        }
        _ => return Err(Failed),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::value::parse;

    fn run(document: &str, patch: &str) -> Result<String, String> {
        let read = |text: &str| parse(text.as_bytes()).unwrap();
        apply(read(document), &read(patch)).map(|value| value.to_string()).map_err(|status| status.message)
    }

    fn check(document: &str, patch: &str, expect: &str) {
        assert_eq!(run(document, patch).as_deref(), Ok(expect), "{document} {patch}");
    }

    fn fails(document: &str, patch: &str) {
        assert_eq!(
            run(document, patch).unwrap_err(),
            "the server rejected our request due to an error in our request",
            "{document} {patch}"
        );
    }

    #[test]
    fn operations_do_what_the_rfc_says() {
        check(r#"{"a":1}"#, r#"[{"op":"add","path":"/b","value":2}]"#, r#"{"a":1,"b":2}"#);
        check(r#"{"a":[1,3]}"#, r#"[{"op":"add","path":"/a/1","value":2}]"#, r#"{"a":[1,2,3]}"#);
        check(r#"{"a":[1]}"#, r#"[{"op":"add","path":"/a/-","value":2}]"#, r#"{"a":[1,2]}"#);
        check(r#"{"a":[1,2]}"#, r#"[{"op":"remove","path":"/a/-1"}]"#, r#"{"a":[1]}"#);
        check(r#"{"a/b":{"~":1}}"#, r#"[{"op":"remove","path":"/a~1b/~0"}]"#, r#"{"a/b":{}}"#);
        check(r#"{"a":{"b":1}}"#, r#"[{"op":"move","from":"/a/b","path":"/c"}]"#, r#"{"a":{},"c":1}"#);
        check(
            r#"{"a":{"b":1}}"#,
            r#"[{"op":"copy","from":"/a","path":"/c"}]"#,
            r#"{"a":{"b":1},"c":{"b":1}}"#,
        );
        check(r#"{"a":1}"#, r#"[{"op":"test","path":"/a","value":1}]"#, r#"{"a":1}"#);
        check(r#"{}"#, r#"[{"op":"test","path":"/a","value":null}]"#, r#"{}"#);
        check(r#"{}"#, r#"[{"op":"replace","path":"/a","value":1}]"#, r#"{"a":1}"#);
    }

    #[test]
    fn what_cannot_be_done_is_rejected_as_upstream() {
        fails(r#"{}"#, r#"[{"op":"remove","path":"/a"}]"#);
        fails(r#"{}"#, r#"[{"op":"add","path":"/a/b","value":1}]"#);
        fails(r#"{"a":[]}"#, r#"[{"op":"replace","path":"/a/0","value":1}]"#);
        fails(r#"{"a":[]}"#, r#"[{"op":"add","path":"/a/1","value":1}]"#);
        fails(r#"{"a":1}"#, r#"[{"op":"test","path":"/a","value":2}]"#);
        fails(r#"{"a":1}"#, r#"[{"op":"turn","path":"/a"}]"#);
        fails(r#"{"a":1}"#, r#"[{"op":"add","value":1}]"#);
        assert_eq!(
            run("{}", "{}").unwrap_err(),
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        );
    }

    #[test]
    fn a_short_patch_does_not_make_a_large_object() {
        let document = format!(r#"{{"data":{{"a":"{}"}}}}"#, "v".repeat(100_000));
        // Each doubles what is there.
        let doubling = |times: usize| {
            let operations: Vec<String> = (0..times)
                .map(|number| format!(r#"{{"op":"copy","from":"/data","path":"/data/c{number}"}}"#))
                .collect();
            format!("[{}]", operations.join(","))
        };
        assert!(run(&document, &doubling(5)).is_ok_and(|patched| patched.len() > 3_200_000));
        fails(&document, &doubling(6));
        fails(&document, &doubling(20));
    }

    #[test]
    fn a_patch_does_not_move_a_long_list_again_and_again() {
        let elements = MAX_STEPS / 100;
        let add = |times: usize| {
            let operation = crate::json!({"op": "add", "path": "/a/0", "value": 1});
            Value::Array(vec![operation; times])
        };
        let document = || crate::json!({"a": (vec![Value::Null; elements])});
        assert!(apply(document(), &add(50)).is_ok());
        assert!(apply(document(), &add(101)).is_err());
        let to_and_fro = [("/a", "/b"), ("/b", "/a")]
            .map(|(from, path)| crate::json!({"op": "move", "from": from, "path": path}));
        assert!(
            apply(document(), &Value::Array(to_and_fro.iter().cloned().cycle().take(50).collect())).is_ok()
        );
        assert!(
            apply(document(), &Value::Array(to_and_fro.iter().cloned().cycle().take(102).collect())).is_err()
        );
    }

    #[test]
    fn a_patch_does_not_go_deeper_than_a_body() {
        // As deep as a patch may carry it, for that is a body too.
        let chain = format!("{}1{}", r#"{"a":"#.repeat(MAX_DEPTH - 2), "}".repeat(MAX_DEPTH - 2));
        let patch = |path: &str, op: &str| format!(r#"[{{"op":"{op}","path":"{path}","value":{chain}}}]"#);
        assert!(run("{}", &patch("/a", "add")).is_ok());
        assert!(run(r#"{"a":{}}"#, &patch("/a/a", "add")).is_ok());
        fails(r#"{"a":{"a":{}}}"#, &patch("/a/a/a", "add"));
        fails(r#"{"a":{"a":{}}}"#, &patch("/a/a/a", "replace"));
        let document = format!(r#"{{"a":{{"a":{{}}}},"b":{chain}}}"#);
        fails(&document, r#"[{"op":"copy","from":"/b","path":"/a/a/b"}]"#);
        fails(&document, r#"[{"op":"move","from":"/b","path":"/a/a/b"}]"#);
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "[/a01~-]{0,8}", from in "[/a01~-]{0,8}", op in "add|remove|replace|move|copy|test") {
            let document = crate::json!({"a": [1, {"a": [0, 1]}], "0": {"1": "x"}});
            let patch = Value::Array(vec![[("op", op), ("path", path), ("from", from), ("value", "v".into())]
                .into_iter()
                .map(|(key, value)| (Str::from(key), Value::from(value)))
                .collect::<crate::value::Map>()
                .into()]);
            let _ = apply(document, &patch);
        }
    }
}
