//! The known differences, each with its reason.

/// The list: `request | path | reason` a line. A `*` at the end of the request or the path stands for anything, a
/// path covers what lies below it.
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
    let (Some(request), Some(path), Some(_)) = (request, path, reason.filter(|reason| !reason.is_empty())) else {
        panic!("a known difference is `request | path | reason`: {line:?}");
    };
    Entry { request: request.to_owned(), path: path.to_owned(), line: line.to_owned(), seen: false }
}

fn fits(pattern: &str, text: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == text, |beginning| text.starts_with(beginning))
}

fn is_below(pattern: &str, path: &str) -> bool {
    path.strip_prefix(pattern).is_some_and(|rest| rest.starts_with(['.', '[']))
}

#[test]
fn a_listed_path_covers_what_lies_below_it_and_nothing_else() {
    let mut list = Differences::read("a: b | body.x | because\n");
    assert!(list.covers("a: b", "body.x.y") && list.covers("a: b", "body.x[0]"));
    assert!(!list.covers("a: b", "body.xy") && !list.covers("a: c", "body.x"));
    assert_eq!(list.gone().count(), 0);
    assert_eq!(Differences::read("a: b | code | because\n").gone().count(), 1);
}
