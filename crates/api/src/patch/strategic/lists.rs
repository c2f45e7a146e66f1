//! Lists: merged by key or by value, and ordered.

use crate::value::Value;

use super::{DIRECTIVE, Failure, Schema, go_map, go_text, go_type, merge_maps, other, unknown_directive};

/// What the elements of a list are, as far as merging asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Objects,
    Scalars,
}

/// What all elements are; they must be of one Go type.
pub(super) fn element_kind<'a>(lists: impl Iterator<Item = &'a [Value]> + Clone) -> Result<Kind, Failure> {
    let mut elements = lists.clone().flatten();
    let Some(first) = elements.next() else { return other("no elements in any of the given slices") };
    if matches!(first, Value::Array(_)) {
        return Err(Failure::Unprocessable);
    }
    if elements.any(|element| go_type(element) != go_type(first)) {
        let shown: Vec<String> = lists.map(|list| go_text(&Value::Array(list.to_vec()))).collect();
        return other(format!("list element types are not identical: [{}]", shown.join(" ")));
    }
    Ok(if matches!(first, Value::Object(_)) { Kind::Objects } else { Kind::Scalars })
}

fn no_merge_key<T>(element: &Value, key: &str) -> Result<T, Failure> {
    match element {
        Value::Object(map) => {
            other(format!("map: {} does not contain declared merge key: {key}", go_map(map)))
        }
        wrong => other(format!("expected a map[string]interface {{}}, but received a {}", go_type(wrong))),
    }
}

/// The position of the element whose merge key has the value.
fn find(list: &[Value], key: &str, value: &Value) -> Option<usize> {
    list.iter().position(|element| element.get(key) == Some(value))
}

/// What identifies an element: its merge key, or itself.
fn identity<'a>(element: &'a Value, key: &str, kind: Kind) -> Option<&'a Value> {
    match kind {
        Kind::Objects => element.get(key),
        Kind::Scalars => Some(element),
    }
}

/// Merges `patch` into `original`; or takes its elements away (`deleting`), if they are scalars.
pub(super) fn merge_lists(
    original: Vec<Value>,
    patch: Vec<Value>,
    schema: Schema,
    key: &str,
    deleting: bool,
) -> Result<Vec<Value>, Failure> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let kind = element_kind([original.as_slice(), patch.as_slice()].into_iter())?;
    if kind == Kind::Scalars {
        if deleting {
            return Ok(original.into_iter().filter(|element| !patch.contains(element)).collect());
        }
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for element in original.iter().chain(&patch) {
            if !merged.contains(element) {
                merged.push(element.clone());
            }
        }
        return ordered(merged, &patch, &original, key, kind);
    }
    if key.is_empty() {
        return other("cannot merge lists without merge key for struct");
    }
    let (original, patch) = special_elements(original, patch, key)?;
    let mut merged = original.clone();
    for change in &patch {
        let Some(value) = change.get(key) else { return no_merge_key(change, key) };
        match find(&merged, key, value) {
            Some(at) => {
                let (Value::Object(present), Value::Object(change)) = (&merged[at], change) else { continue };
                merged[at] = Value::Object(merge_maps(present.clone(), change.clone(), schema)?);
            }
            None => merged.push(change.clone()),
        }
    }
    ordered(merged, &patch, &original, key, kind)
}

/// Does what elements with `$patch` say; gives the list to merge into and the elements to merge.
fn special_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Failure> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for element in patch {
        let Value::Object(map) = &element else { continue };
        match map.get(DIRECTIVE) {
            None => plain.push(element),
            Some(Value::String(word)) if word == "delete" => {
                let Some(value) = map.get(key) else { return no_merge_key(&element, key) };
                original.retain(|present| present.get(key) != Some(value));
            }
            Some(Value::String(word)) if word == "replace" => replace = true,
            Some(Value::String(word)) if word == "merge" => {
                return other("merging lists cannot yet be specified in the patch");
            }
            Some(directive) => return Err(unknown_directive(directive, map)),
        }
    }
    Ok(if replace { (plain, Vec::new()) } else { (original, plain) })
}

/// What upstream takes for the server's order after it has merged `patch` into `original`: it merges in place, so
/// that deletions close up and additions fill the room that they leave, and still looks at as many places as there
/// were before.
pub(super) fn left_behind(original: &[Value], patch: &[Value], key: &str, kind: Kind) -> Vec<Value> {
    let mut places = original.to_vec();
    if kind == Kind::Scalars {
        return places;
    }
    let word = |element: &Value| element.str_at(&[DIRECTIVE]).map(str::to_owned);
    let mut present = original.to_vec();
    for gone in patch.iter().filter(|element| word(element).as_deref() == Some("delete")) {
        let Some(value) = gone.get(key) else { continue };
        while let Some(at) = find(&present, key, value) {
            places[at..present.len()].rotate_left(1);
            let last = present.len() - 1;
            places[last] = present[last].clone();
            present.remove(at);
        }
    }
    if patch.iter().any(|element| word(element).as_deref() == Some("replace")) {
        return places;
    }
    for added in patch.iter().filter(|element| element.get(DIRECTIVE).is_none()) {
        if added.get(key).is_some_and(|value| find(&present, key, value).is_none()) {
            if let Some(place) = places.get_mut(present.len()) {
                *place = added.clone();
            }
            present.push(added.clone());
        }
    }
    places
}

/// The merged list in order: elements that `order` names as it names them; the others as in `server`, before those
/// that they stood before.
pub(super) fn ordered(
    merged: Vec<Value>,
    order: &[Value],
    server: &[Value],
    key: &str,
    kind: Kind,
) -> Result<Vec<Value>, Failure> {
    if kind == Kind::Objects {
        for element in merged.iter().chain(order) {
            if element.get(key).is_none() {
                return no_merge_key(element, key);
            }
        }
    }
    let position = |list: &[Value], element: &Value| {
        let wanted = identity(element, key, kind);
        list.iter().position(|other| identity(other, key, kind) == wanted)
    };
    let (mut named, mut rest): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|element| position(order, element).is_some());
    named.sort_by_key(|element| position(order, element));
    rest.sort_by_key(|element| position(server, element).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + rest.len());
    let (mut named, mut rest) = (named.into_iter().peekable(), rest.into_iter().peekable());
    loop {
        let rest_first = match (rest.peek(), named.peek()) {
            (None, None) => return Ok(out),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(a), Some(b)) => {
                matches!((position(server, a), position(server, b)), (Some(a), Some(b)) if a < b)
            }
        };
        out.extend(if rest_first { rest.next() } else { named.next() });
    }
}

/// Refuses a patch whose elements come in another order than `$setElementOrder` says.
pub(super) fn check_order(patch: &[Value], order: &[Value], key: &str) -> Result<(), Failure> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for element in patch {
        let directive = element.get(DIRECTIVE).is_some();
        if !key.is_empty() && !matches!(element, Value::Object(_)) {
            return no_merge_key(element, key);
        }
        if directive {
            continue;
        }
        let mut found = false;
        for other in wanted.by_ref() {
            let same = if key.is_empty() {
                element == other
            } else {
                let Some(own) = element.get(key) else { return no_merge_key(element, key) };
                let Some(theirs) = other.get(key) else { return no_merge_key(other, key) };
                own == theirs
            };
            if same {
                found = true;
                break;
            }
        }
        if !found {
            let list = |elements: &[Value]| go_text(&Value::Array(elements.to_vec()));
            return other(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                list(patch),
                list(order)
            ));
        }
    }
    Ok(())
}
