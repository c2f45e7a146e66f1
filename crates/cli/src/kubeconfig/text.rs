//! Changes in a kubeconfig's text that leave every other byte of it alone: comments, layout, and quotes, without which
//! YAML 1.1 reads `on` as a truth value and kubectl reads nothing any more.
//!
//! What cannot be changed in place (a list behind an alias, say) is written anew as JSON, which is YAML that nobody
//! misreads. Each change is read back before it counts.

use api::yaml::{Content, Document, Id, compose, to_json};
use serde_json::Value;

/// A kubeconfig that is being changed.
pub(super) struct Text {
    text: String,
    value: Value,
}

impl Text {
    /// Reads a kubeconfig; a text with nothing in it becomes an empty one.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut read = Self { text: text.to_owned(), value: read(text)? };
        if read.value.is_null() {
            const SKELETON: &str = "apiVersion: v1\nkind: Config\npreferences: {}\n";
            let line = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            // Comments stay; behind a written null nothing can stand.
            let behind = format!("{text}{line}{SKELETON}");
            read.text = if self::read(&behind).is_ok() { behind } else { SKELETON.to_owned() };
            read.value = self::read(&read.text)?;
        }
        if !read.value.is_object() {
            return Err("it is not a mapping".to_owned());
        }
        Ok(read)
    }

    pub(super) fn value(&self) -> &Value {
        &self.value
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// Puts `entry` into a list, in the place of the one with this number or behind all others.
    pub(super) fn put(&mut self, list: &str, number: Option<usize>, entry: Value) -> Result<(), String> {
        let mut expect = self.value.clone();
        let entries = &mut expect[list];
        if entries.is_null() {
            *entries = Value::Array(Vec::new());
        }
        let entries = entries.as_array_mut().ok_or_else(|| format!("{list} is not a list"))?;
        match number {
            Some(number) => entries[number] = entry.clone(),
            None => entries.push(entry.clone()),
        }
        self.change(expect, |editor| match number {
            Some(number) => editor.replace(list, number, &entry),
            None => editor.append(list, &entry),
        })
    }

    /// Takes the entry with this number out of a list.
    pub(super) fn take(&mut self, list: &str, number: usize) -> Result<(), String> {
        let mut expect = self.value.clone();
        let entries = expect[list].as_array_mut().ok_or_else(|| format!("{list} is not a list"))?;
        entries.remove(number);
        self.change(expect, |editor| editor.take(list, number))
    }

    /// Sets a member that is one word.
    pub(super) fn set(&mut self, member: &str, word: &str) -> Result<(), String> {
        let mut expect = self.value.clone();
        expect[member] = Value::from(word);
        self.change(expect, |editor| editor.set(member, word))
    }

    fn change(
        &mut self,
        expect: Value,
        edit: impl FnOnce(&Editor<'_>) -> Option<String>,
    ) -> Result<(), String> {
        if expect == self.value {
            return Ok(());
        }
        let document = compose(self.text.as_bytes()).map_err(|error| error.to_string())?;
        let edited = document.and_then(|document| {
            let newline = if self.text.contains("\r\n") { "\r\n" } else { "\n" };
            edit(&Editor { text: &self.text, newline, document: &document })
        });
        let same = |text: &String| read(text).is_ok_and(|value| settled(&value) == settled(&expect));
        self.text = match edited.filter(same) {
            Some(text) => text,
            None => serde_json::to_string_pretty(&expect).map_err(|error| error.to_string())? + "\n",
        };
        self.value = read(&self.text)?;
        Ok(())
    }
}

fn read(text: &str) -> Result<Value, String> {
    let json = to_json(text.as_bytes()).map_err(|error| error.to_string())?;
    serde_json::from_slice(&json).map_err(|error| error.to_string())
}

/// A list that is not there and one without entries say the same.
fn settled(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(members) = value.as_object_mut() {
        members
            .retain(|_, member| !member.is_null() && member.as_array().is_none_or(|list| !list.is_empty()));
    }
    value
}

/// One change of a text; none where it cannot be made in place.
struct Editor<'text> {
    text: &'text str,
    newline: &'static str,
    document: &'text Document,
}

impl Editor<'_> {
    fn append(&self, list: &str, entry: &Value) -> Option<String> {
        let Some((key, value)) = self.member(list) else { return self.add(list, Member::List(entry)) };
        let node = self.document.node(value);
        let (flow, items) = match &node.content {
            Content::Sequence { flow, items } => (*flow, items.as_slice()),
            Content::Scalar { .. } => (false, &[][..]),
            _ => return None,
        };
        match (items.last(), flow) {
            (Some(last), true) => {
                Some(self.insert(self.document.node(*last).end, &format!(", {}", json(entry)?)))
            }
            (Some(last), false) => {
                let indent = self.column(node.start)?;
                Some(self.insert_line(self.document.node(*last).end, &self.dashed(indent, entry)?))
            }
            (None, _) if self.in_braces() => {
                Some(self.splice(node.start, node.end, &format!("[{}]", json(entry)?)))
            }
            (None, _) => {
                let colon = self.colon(key)?;
                let indent = self.column(self.document.node(key).start)?;
                let entry = self.newline.to_owned() + &self.dashed(indent, entry)?;
                Some(self.splice(colon, node.end.max(colon), &entry))
            }
        }
    }

    fn replace(&self, list: &str, number: usize, entry: &Value) -> Option<String> {
        let (_, value) = self.member(list)?;
        let Content::Sequence { flow, items } = &self.document.node(value).content else { return None };
        let node = self.document.node(*items.get(number)?);
        if *flow {
            return Some(self.splice(node.start, node.end, &json(entry)?));
        }
        let indent = node.start - self.line_start(node.start);
        Some(self.splice(node.start, node.end, &self.block(indent, entry)?))
    }

    fn take(&self, list: &str, number: usize) -> Option<String> {
        let (key, value) = self.member(list)?;
        let node = self.document.node(value);
        let Content::Sequence { flow, items } = &node.content else { return None };
        let entry = self.document.node(*items.get(number)?);
        if *flow {
            let (start, end) = match number.checked_sub(1) {
                Some(before) => (self.document.node(items[before]).end, entry.end),
                None => match items.get(1) {
                    Some(next) => (entry.start, self.document.node(*next).start),
                    None => (node.start + 1, entry.end),
                },
            };
            return Some(self.splice(start, end, ""));
        }
        let colon = self.colon(key)?;
        if items.len() == 1 && self.text[colon..node.start].trim().is_empty() {
            return Some(self.splice(colon, node.end, " []"));
        }
        let dash = self.text[..entry.start].trim_end_matches(' ').strip_suffix('-')?.len();
        self.column(dash)?;
        let line = self.line_start(dash);
        let end = self.line_end(entry.end);
        let before = self.text[..line].strip_suffix('\n')?;
        Some(self.splice(before.strip_suffix('\r').unwrap_or(before).len(), end, ""))
    }

    fn set(&self, member: &str, word: &str) -> Option<String> {
        let Some((_, value)) = self.member(member) else { return self.add(member, Member::Word(word)) };
        let node = self.document.node(value);
        let Content::Scalar { .. } = node.content else { return None };
        let space = if node.start == node.end { " " } else { "" };
        let word = if self.in_braces() { json(&Value::from(word))? } else { scalar(&Value::from(word))? };
        Some(self.splice(node.start, node.end, &format!("{space}{word}")))
    }

    /// Adds a member behind all others.
    fn add(&self, name: &str, member: Member<'_>) -> Option<String> {
        let root = self.document.node(Document::ROOT);
        let Content::Mapping { flow, pairs } = &root.content else { return None };
        let (_, last) = pairs.last()?;
        let end = self.document.node(*last).end;
        if *flow {
            let value = match member {
                Member::List(entry) => format!("[{}]", json(entry)?),
                Member::Word(word) => json(&Value::from(word))?,
            };
            return Some(self.insert(end, &format!(", {}: {value}", json(&Value::from(name))?)));
        }
        let indent = self.column(root.start)?;
        let value = match member {
            Member::List(entry) => self.newline.to_owned() + &self.dashed(indent, entry)?,
            Member::Word(word) => format!(" {}", scalar(&Value::from(word))?),
        };
        Some(self.insert_line(end, &format!("{}{name}:{value}", " ".repeat(indent))))
    }

    /// Key and value of a member of the whole; of equal keys the last counts.
    fn member(&self, name: &str) -> Option<(Id, Id)> {
        let root = self.document.node(Document::ROOT);
        let Content::Mapping { pairs, .. } = &root.content else { return None };
        pairs.iter().rev().find(|(key, _)| self.document.text(*key) == Some(name)).copied()
    }

    fn in_braces(&self) -> bool {
        matches!(self.document.node(Document::ROOT).content, Content::Mapping { flow: true, .. })
    }

    /// Behind the colon after a key.
    fn colon(&self, key: Id) -> Option<usize> {
        let end = self.document.node(key).end;
        let rest = self.text[end..].trim_start_matches(' ');
        rest.starts_with(':').then(|| self.text.len() - rest.len() + 1)
    }

    fn line_start(&self, at: usize) -> usize {
        self.text[..at].rfind('\n').map_or(0, |newline| newline + 1)
    }

    /// Before the end of the line; of what ends with its line, at once.
    fn line_end(&self, at: usize) -> usize {
        if self.text[..at].ends_with('\n') {
            let text = &self.text[..at - 1];
            return text.strip_suffix('\r').unwrap_or(text).len();
        }
        let rest = &self.text[at..];
        let line = rest.split('\n').next().unwrap_or(rest);
        at + line.strip_suffix('\r').unwrap_or(line).len()
    }

    /// The column of what is the first in its line.
    fn column(&self, at: usize) -> Option<usize> {
        let before = &self.text[self.line_start(at)..at];
        before.bytes().all(|byte| byte == b' ').then_some(before.len())
    }

    fn splice(&self, start: usize, end: usize, text: &str) -> String {
        [&self.text[..start], text, &self.text[end..]].concat()
    }

    fn insert(&self, at: usize, text: &str) -> String {
        self.splice(at, at, text)
    }

    /// Puts lines behind the one in which `at` is.
    fn insert_line(&self, at: usize, lines: &str) -> String {
        self.insert(self.line_end(at), &format!("{}{lines}", self.newline))
    }

    /// An entry of a list, with its dash.
    fn dashed(&self, indent: usize, entry: &Value) -> Option<String> {
        Some(format!("{}- {}", " ".repeat(indent), self.block(indent + 2, entry)?))
    }

    /// A value on lines of its own; the first one's indentation is there already, and the last one is open.
    fn block(&self, indent: usize, value: &Value) -> Option<String> {
        let margin = format!("{}{}", self.newline, " ".repeat(indent));
        let lines: Option<Vec<String>> = match value {
            Value::Object(members) if !members.is_empty() => members
                .iter()
                .map(|(name, value)| {
                    let name = scalar(&Value::from(name.as_str()))?;
                    Some(match value {
                        Value::Object(inner) if !inner.is_empty() => {
                            format!("{name}:{margin}  {}", self.block(indent + 2, value)?)
                        }
                        Value::Array(inner) if !inner.is_empty() => {
                            format!("{name}:{margin}{}", self.block(indent, value)?)
                        }
                        value => format!("{name}: {}", scalar(value)?),
                    })
                })
                .collect(),
            Value::Array(entries) if !entries.is_empty() => {
                entries.iter().map(|entry| Some(format!("- {}", self.block(indent + 2, entry)?))).collect()
            }
            value => return scalar(value),
        };
        Some(lines?.join(&margin))
    }
}

/// What a member that is added says.
enum Member<'value> {
    List(&'value Value),
    Word(&'value str),
}

fn json(value: &Value) -> Option<String> {
    serde_json::to_string(value).ok()
}

/// A scalar, or something without members: as in JSON, but for words that no reader of YAML can mistake.
fn scalar(value: &Value) -> Option<String> {
    let Value::String(word) = value else { return json(value) };
    let plain = word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/+=:@".contains(&byte))
        && !word.ends_with(':')
        && read(word).is_ok_and(|read| read == *value);
    if plain { Some(word.clone()) } else { json(value) }
}
