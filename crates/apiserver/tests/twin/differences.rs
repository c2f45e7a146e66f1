//! Recorded answers, where ours differ from them, and the known differences, each with its reason.

use serde_json::Value;

use crate::exchange::{Answer, HEADERS};

/// The list: `request | path | reason` a line. A `*` stands for anything, a path covers what lies below it.
pub struct Differences(Vec<Entry>);

struct Entry {
    request: String,
    path: String,
    line: String,
    seen: bool,
}

impl Differences {
    /// Reads the list; each line must have a reason.
    pub fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(entry).collect())
    }

    /// Whether a difference is listed.
    pub fn covers(&mut self, request: &str, path: &str) -> bool {
        let mut covered = false;
        for entry in &mut self.0 {
            if fits(&entry.request, request) && (fits(&entry.path, path) || is_below(&entry.path, path)) {
                entry.seen = true;
                covered = true;
            }
        }
        covered
    }

    /// The lines that covered nothing.
    pub fn gone(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|entry| !entry.seen).map(|entry| entry.line.as_str())
    }
}

fn entry(line: &str) -> Entry {
    let mut parts = line.splitn(3, " | ").map(str::trim);
    let (request, path, reason) = (parts.next(), parts.next(), parts.next());
    let (Some(request), Some(path), Some(_)) = (request, path, reason.filter(|reason| !reason.is_empty()))
    else {
        panic!("a known difference is `request | path | reason`: {line:?}");
    };
    Entry { request: request.to_owned(), path: path.to_owned(), line: line.to_owned(), seen: false }
}

/// Whether a text is a pattern with anything in place of each `*`.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| fits(after, &rest[at..]))
        }),
    }
}

fn is_below(pattern: &str, path: &str) -> bool {
    path.strip_prefix(pattern).is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// A line of a file: the name of the request and its answer.
pub fn read(line: &str) -> (String, Answer) {
    let value: Value = serde_json::from_str(line).expect("a line of recorded answers is JSON");
    let headers = value["headers"].as_object().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let answer = Answer {
        code: value["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or_default(),
        headers: headers.map(|(name, value)| (name.clone(), text(value))).collect(),
        body: value["body"].clone(),
    };
    (text(&value["request"]), answer)
}

/// Where `ours` differs from `upstream`: a path and what is there on both sides.
pub fn between(upstream: &Answer, ours: &Answer) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if upstream.code != ours.code {
        found.push(("code".to_owned(), format!("upstream {}, ours {}", upstream.code, ours.code)));
    }
    for name in HEADERS {
        if upstream.headers.get(name) != ours.headers.get(name) {
            let shown =
                format!("upstream {:?}, ours {:?}", upstream.headers.get(name), ours.headers.get(name));
            found.push((format!("headers.{name}"), shown));
        }
    }
    compare("body", &upstream.body, &ours.body, &mut found);
    found
}

fn compare(path: &str, upstream: &Value, ours: &Value, found: &mut Vec<(String, String)>) {
    match (upstream, ours) {
        (Value::Object(theirs), Value::Object(own)) => {
            for (key, value) in theirs {
                match own.get(key) {
                    Some(other) => compare(&format!("{path}.{key}"), value, other, found),
                    None => found.push((format!("{path}.{key}"), format!("only upstream: {value}"))),
                }
            }
            for (key, value) in own.iter().filter(|(key, _)| !theirs.contains_key(*key)) {
                found.push((format!("{path}.{key}"), format!("only ours: {value}")));
            }
        }
        (Value::Array(theirs), Value::Array(own)) => {
            for index in 0..theirs.len().max(own.len()) {
                let path = format!("{path}[{index}]");
                match (theirs.get(index), own.get(index)) {
                    (Some(value), Some(other)) => compare(&path, value, other, found),
                    (Some(value), None) => found.push((path, format!("only upstream: {value}"))),
                    (None, Some(value)) => found.push((path, format!("only ours: {value}"))),
                    (None, None) => {}
                }
            }
        }
        _ if upstream != ours => {
            found.push((path.to_owned(), format!("\n    upstream {upstream}\n    ours     {ours}")))
        }
        _ => {}
    }
}

#[test]
fn a_listed_path_covers_what_lies_below_it_and_nothing_else() {
    let mut list = Differences::read("a: b | body.x | because\n");
    assert!(list.covers("a: b", "body.x.y") && list.covers("a: b", "body.x[0]"));
    assert!(!list.covers("a: b", "body.xy") && !list.covers("a: c", "body.x"));
    assert_eq!(list.gone().count(), 0);
    assert_eq!(Differences::read("a: b | code | because\n").gone().count(), 1);
}
