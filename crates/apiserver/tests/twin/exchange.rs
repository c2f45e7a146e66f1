//! Requests as data, and answers in a form in which two servers can be compared.
//!
//! A file of requests reads like HTTP. `### words` begins a request and names it, lines of `@` say what is no HTTP,
//! then come the method with the path, headers, an empty line and the body:
//!
//! ```text
//! ### a map is made
//! @user visitor
//! @keep revision metadata.resourceVersion
//! POST /api/v1/namespaces/twin/configmaps
//! content-type: application/json
//!
//! {"metadata":{"name":"one"}}
//! ```
//!
//! `@upstream` marks what is sent to upstream alone, where no controllers run, to make what a controller would make;
//! nothing is compared. `@keep` takes a text out of the answer, and `${revision}` in a later path, header or body is that text.
//! `${letters:1000}` is as many letters. A body without a media type is JSON. This module knows no server: who sends
//! the requests is `xtask twin` (to upstream) and the test beside it (to our gate).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Sent with every request, so that both servers write the same manager.
pub const USER_AGENT: &str = "twin/1";
/// What is compared of the headers of an answer.
pub const HEADERS: [&str; 4] = ["content-type", "retry-after", "warning", "allow"];
/// The users of requests and their groups; `nobody` sends no credentials.
pub const USERS: [(&str, &[&str]); 3] = [
    ("admin", &["system:masters"]),
    ("visitor", &["visitors"]),
    ("system:node:twin-node", &["system:nodes"]),
];

/// Keys whose texts differ between any two servers, and what is shown instead.
const MASKED_KEYS: [(&str, &str); 6] = [
    ("uid", "<uid>"),
    ("resourceVersion", "<revision>"),
    ("continue", "<continue>"),
    ("clusterIP", "<address>"),
    ("token", "<token>"),
    ("serverAddress", "<address>"),
];

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `file: words`.
    pub name: String,
    /// One of [`USERS`], or `nobody`.
    pub user: String,
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// What to keep of the answer: a name and the path to a text.
    pub keep: Vec<(String, String)>,
    /// Whether it is sent to upstream alone.
    pub upstream_only: bool,
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// Those of [`HEADERS`] that were there.
    pub headers: BTreeMap<String, String>,
    /// The body: JSON, an array of JSON lines, or text.
    pub body: Value,
}

/// The files of a folder in the order in which they are sent.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder can be read").path()).collect();
    files.sort();
    files
}

/// Reads a file of requests.
pub fn parse(file: &str, text: &str) -> Vec<Request> {
    let mut requests = Vec::new();
    for section in format!("\n{text}").split("\n### ").skip(1) {
        let (words, rest) = section.split_once('\n').unwrap_or((section, ""));
        let (head, body) = rest.split_once("\n\n").unwrap_or((rest, ""));
        let mut request = Request {
            name: format!("{file}: {}", words.trim()),
            user: "admin".to_owned(),
            method: String::new(),
            path: String::new(),
            headers: Vec::new(),
            body: body.trim_end_matches('\n').to_owned(),
            keep: Vec::new(),
            upstream_only: false,
        };
        for line in head.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            if let Some(user) = line.strip_prefix("@user ") {
                request.user = user.to_owned();
            } else if let Some((name, path)) =
                line.strip_prefix("@keep ").and_then(|rest| rest.split_once(' '))
            {
                request.keep.push((name.to_owned(), path.to_owned()));
            } else if line == "@upstream" {
                request.upstream_only = true;
            } else if request.method.is_empty() {
                let (method, path) = line.split_once(' ').unwrap_or_else(|| panic!("no path in {line:?}"));
                (request.method, request.path) = (method.to_owned(), path.to_owned());
            } else {
                let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no header: {line:?}"));
                request.headers.push((name.to_lowercase(), value.to_owned()));
            }
        }
        let typed = request.headers.iter().any(|(name, _)| name == "content-type");
        if !typed && !request.body.is_empty() {
            request.headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        request.headers.push(("user-agent".to_owned(), USER_AGENT.to_owned()));
        requests.push(request);
    }
    requests
}

/// What was kept of earlier answers.
#[derive(Default)]
pub struct Kept(BTreeMap<String, String>);

impl Kept {
    /// The request with what was kept put in.
    pub fn fill(&self, request: &Request) -> Request {
        let mut filled = request.clone();
        filled.path = self.put(&request.path);
        filled.body = self.put(&request.body);
        for (_, value) in &mut filled.headers {
            *value = self.put(value);
        }
        filled
    }

    fn put(&self, text: &str) -> String {
        let mut parts = text.split("${");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}').unwrap_or((part, ""));
            match name.strip_prefix("letters:").and_then(|count| count.parse().ok()) {
                Some(count) => out.push_str(&"a".repeat(count)),
                None => out.push_str(self.0.get(name).map_or("nothing-was-kept", String::as_str)),
            }
            out.push_str(rest);
        }
        out
    }

    /// Keeps what the request asks for.
    pub fn keep(&mut self, request: &Request, body: &[u8]) {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        for (name, path) in &request.keep {
            let pointer = format!("/{}", path.replace('.', "/"));
            let found = body
                .pointer(&pointer)
                .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            self.0.insert(name.clone(), found.unwrap_or_else(|| format!("no-{name}")));
        }
    }
}

impl Answer {
    /// An answer in the form that is compared.
    pub fn new(code: u16, headers: BTreeMap<String, String>, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let lines = || text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
        let mut body = serde_json::from_slice(body)
            .or_else(|_| lines().map(Value::Array))
            .unwrap_or_else(|_| Value::String(text.lines().map(mask_line).collect::<Vec<_>>().join("\n")));
        mask(&mut body, "");
        Self {
            code,
            headers: headers.into_iter().map(|(name, value)| (name, mask_text(&value))).collect(),
            body,
        }
    }
}

fn mask(value: &mut Value, key: &str) {
    match value {
        Value::Object(map) => mask_map(map),
        Value::Array(items) => {
            items.iter_mut().for_each(|item| mask(item, key.strip_suffix('s').unwrap_or(key)));
            // They are ordered by their seconds, and where a second ends is chance.
            if key == "managedFields" {
                items.sort_by_key(Value::to_string);
            }
        }
        Value::String(text) => {
            let masked = MASKED_KEYS.iter().find(|(name, _)| *name == key);
            *text = match masked {
                Some((_, shown)) if !text.is_empty() && text != "None" && text != "0" => (*shown).to_owned(),
                _ => mask_text(text),
            };
        }
        Value::Number(_) if matches!(key, "nodePort" | "healthCheckNodePort") => *value = "<port>".into(),
        _ => {}
    }
}

fn mask_map(map: &mut Map<String, Value>) {
    // A generated name is its beginning and five letters.
    let beginning = map.get("generateName").and_then(Value::as_str).unwrap_or_default().to_owned();
    for (key, value) in map.iter_mut() {
        if let ("name", Value::String(name), false) = (key.as_str(), &mut *value, beginning.is_empty())
            && name.starts_with(&beginning)
        {
            *name = format!("{beginning}<suffix>");
        }
        mask(value, key);
    }
}

/// A line of YAML, or of any other text.
fn mask_line(line: &str) -> String {
    for (key, shown) in MASKED_KEYS {
        if let Some((before, _)) = line.split_once(&format!("{key}: ")) {
            return format!("{before}{key}: {shown}");
        }
    }
    mask_text(line)
}

/// Puts words in place of uids, times, ages, addresses and chosen ports, wherever they stand in a text.
pub fn mask_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut fresh = true;
    while let Some(first) = rest.chars().next() {
        let masked = if fresh { masks(rest) } else { None };
        match masked {
            Some((length, shown)) => {
                out.push_str(shown);
                rest = &rest[length..];
                fresh = false;
            }
            None => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
                fresh = !first.is_ascii_alphanumeric() && first != '.';
            }
        }
    }
    // Revisions within sentences.
    for before in ["current: ", "in record (", "\\\"resourceVersion\\\":\\\""] {
        if let Some(at) = out.find(before).map(|at| at + before.len()) {
            let digits = out[at..].bytes().take_while(u8::is_ascii_digit).count();
            if digits > 0 {
                out.replace_range(at..at + digits, "<revision>");
            }
        }
    }
    // The volume with a pod's token, whose name ends in five letters.
    if let Some(at) = out.find("kube-api-access-").map(|at| at + "kube-api-access-".len())
        && out.is_char_boundary(at + 5)
    {
        out.replace_range(at..at + 5, "<suffix>");
    }
    // The age of what was just made, alone in a cell of a table.
    let age = text.strip_suffix("s").or_else(|| text.strip_suffix("ms"));
    if age.is_some_and(|number| {
        !number.is_empty() && number.len() < 3 && number.bytes().all(|b| b.is_ascii_digit())
    }) {
        return "<age>".to_owned();
    }
    out
}

/// The length of something maskable at the beginning of a text, and its mask.
fn masks(text: &str) -> Option<(usize, &'static str)> {
    let shape: Vec<u8> = text.bytes().take(40).collect();
    let fits = |pattern: &str| {
        shape.len() >= pattern.len()
            && pattern.bytes().zip(&shape).all(|(wanted, byte)| match wanted {
                b'x' => byte.is_ascii_hexdigit(),
                b'9' => byte.is_ascii_digit(),
                other => other == *byte,
            })
    };
    if fits("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx") {
        return Some((36, "<uid>"));
    }
    if fits("9999-99-99T99:99:99") {
        let length =
            19 + text[19..].bytes().take_while(|byte| byte.is_ascii_digit() || b".Z".contains(byte)).count();
        return Some((length, "<time>"));
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 5 && text[..5].parse::<u32>().is_ok_and(|port| (30_000..32_768).contains(&port)) {
        return Some((5, "<port>"));
    }
    if ["10.", "127.0.0.1", "172.", "192.168."].iter().any(|beginning| text.starts_with(beginning)) {
        let length = text.bytes().take_while(|byte| byte.is_ascii_digit() || b".:".contains(byte)).count();
        let length = text[..length].trim_end_matches(['.', ':']).len();
        if text[..length].split([':']).next()?.split('.').count() == 4 {
            return Some((length, "<address>"));
        }
    }
    None
}
