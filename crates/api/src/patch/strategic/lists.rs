//! Lists: merged by key or by value, and ordered.

use std::collections::{HashMap, HashSet};

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

/// What identifies an element, to be looked up: lists of strangers may be long.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Identity<'a> {
    /// It has no merge key.
    None,
    Text(&'a str),
    /// Any other value: its type and its JSON.
    Other(&'static str, Vec<u8>),
}

impl<'a> Identity<'a> {
    fn of(value: Option<&'a Value>) -> Self {
        match value {
            None => Self::None,
            Some(Value::String(text)) => Self::Text(text),
            Some(other) => Self::Other(go_type(other), other.to_bytes()),
        }
    }

    /// Of an element: by its merge key, or itself.
    fn of_element(element: &'a Value, key: &str, kind: Kind) -> Self {
        match kind {
            Kind::Objects => Self::of(element.get(key)),
            Kind::Scalars => Self::of(Some(element)),
        }
    }
}

/// Where in a list each identity comes first.
fn positions<'a>(list: &'a [Value], key: &str, kind: Kind) -> HashMap<Identity<'a>, usize> {
    let mut positions = HashMap::with_capacity(list.len());
    for (at, element) in list.iter().enumerate() {
        positions.entry(Identity::of_element(element, key, kind)).or_insert(at);
    }
    positions
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
            let gone = positions(&patch, key, kind);
            let stays = |element: &Value| !gone.contains_key(&Identity::of(Some(element)));
            return Ok(original.into_iter().filter(stays).collect());
        }
        let mut seen = HashSet::with_capacity(original.len() + patch.len());
        let all = original.iter().chain(&patch);
        let merged = all.filter(|element| seen.insert(Identity::of(Some(element)))).cloned().collect();
        return ordered(merged, &patch, &original, key, kind);
    }
    if key.is_empty() {
        return other("cannot merge lists without merge key for struct");
    }
    let (original, patch) = special_elements(original, patch, key)?;
    let mut merged = original.clone();
    let mut places = positions(&original, key, kind);
    for change in &patch {
        let Some(value) = change.get(key) else { return no_merge_key(change, key) };
        let at = *places.entry(Identity::of(Some(value))).or_insert(merged.len());
        let (Some(Value::Object(present)), Value::Object(change)) = (merged.get_mut(at), change) else {
            merged.push(change.clone());
            continue;
        };
        merged[at] = Value::Object(merge_maps(std::mem::take(present), change.clone(), schema)?);
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
    let mut gone = Vec::new();
    let mut replace = false;
    for element in patch {
        let Value::Object(map) = &element else { continue };
        match map.get(DIRECTIVE) {
            None => plain.push(element),
            Some(Value::String(word)) if word == "delete" => {
                let Some(value) = map.get(key) else { return no_merge_key(&element, key) };
                gone.push(value.clone());
            }
            Some(Value::String(word)) if word == "replace" => replace = true,
            Some(Value::String(word)) if word == "merge" => {
                return other("merging lists cannot yet be specified in the patch");
            }
            Some(directive) => return Err(unknown_directive(directive, map)),
        }
    }
    if !gone.is_empty() {
        let gone = positions(&gone, "", Kind::Scalars);
        original.retain(|present| {
            present.get(key).is_none_or(|value| !gone.contains_key(&Identity::of(Some(value))))
        });
    }
    Ok(if replace { (plain, Vec::new()) } else { (original, plain) })
}

/// What upstream takes for the server's order after it has merged `patch` into `original`: it merges in place, so
/// that deletions close up and additions fill the room that they leave, and still looks at as many places as there
/// were before.
pub(super) fn left_behind(original: &[Value], patch: &[Value], key: &str, kind: Kind) -> Vec<Value> {
    if kind == Kind::Scalars {
        return original.to_vec();
    }
    let word = |element: &Value| element.str_at(&[DIRECTIVE]).map(str::to_owned);
    let mut at: HashMap<Identity<'_>, Vec<usize>> = HashMap::new();
    for (place, element) in original.iter().enumerate() {
        at.entry(Identity::of(element.get(key))).or_default().push(place);
    }
    let mut stays = vec![true; original.len()];
    let (mut last, mut room) = (original.len(), Vec::new());
    for gone in patch.iter().filter(|element| word(element).as_deref() == Some("delete")) {
        let Some(value) = gone.get(key) else { continue };
        for place in at.remove(&Identity::of(Some(value))).unwrap_or_default() {
            while last > 0 && !stays[last - 1] {
                last -= 1;
            }
            // The last one moves up, and its old place keeps showing it.
            room.extend(original.get(last.wrapping_sub(1)).cloned());
            stays[place] = false;
        }
    }
    let kept = original.iter().zip(&stays).filter(|(_, stays)| **stays).map(|(element, _)| element);
    let mut places: Vec<Value> = kept.cloned().collect();
    let mut filled = places.len();
    places.extend(room.into_iter().rev());
    if patch.iter().any(|element| word(element).as_deref() == Some("replace")) {
        return places;
    }
    for added in patch.iter().filter(|element| element.get(DIRECTIVE).is_none()) {
        if let Some(value) = added.get(key)
            && !at.contains_key(&Identity::of(Some(value)))
        {
            if let Some(place) = places.get_mut(filled) {
                *place = added.clone();
            }
            at.insert(Identity::of(Some(value)), Vec::new());
            filled += 1;
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
    let (order, server) = (positions(order, key, kind), positions(server, key, kind));
    let place = |list: &HashMap<Identity<'_>, usize>, element: &Value| {
        list.get(&Identity::of_element(element, key, kind)).copied()
    };
    let (mut named, mut rest) = (Vec::new(), Vec::new());
    for element in merged {
        let at = place(&server, &element);
        match place(&order, &element) {
            Some(wanted) => named.push((wanted, at, element)),
            None => rest.push((at.unwrap_or(usize::MAX), at, element)),
        }
    }
    named.sort_by_key(|(wanted, ..)| *wanted);
    rest.sort_by_key(|(before, ..)| *before);
    let mut out = Vec::with_capacity(named.len() + rest.len());
    let (mut named, mut rest) = (named.into_iter().peekable(), rest.into_iter().peekable());
    loop {
        let rest_first = match (rest.peek(), named.peek()) {
            (None, None) => return Ok(out),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((_, a, _)), Some((_, b, _))) => matches!((a, b), (Some(a), Some(b)) if a < b),
        };
        let next = if rest_first { rest.next() } else { named.next() };
        out.extend(next.map(|(.., element)| element));
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
