//! Takes JSON text apart, with Go's words for what is wrong with it.
//!
//! Not serde_json's reader, because upstream's answers depend on what that one hides: the text of numbers, the order
//! of members, broken surrogates (which Go replaces), and the sentence about the first wrong character.

use std::borrow::Cow;

use super::DecodeError;
use crate::value::{MAX_DEPTH, Map, Str, Value};

/// How deep what nobody keeps may nest: as deep as Go reads.
const SKIPPED_DEPTH_MAX: usize = 10_000;

/// A place in a JSON text.
pub(super) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

/// What sort of value begins here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl Sort {
    /// Go's word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Number => "number",
            Self::String => "string",
            Self::Array => "array",
            Self::Object => "object",
        }
    }
}

type Result<T, E = DecodeError> = std::result::Result<T, E>;

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    fn skip_space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn fail<T>(&self, context: &str) -> Result<T> {
        let message = match self.text.get(self.at) {
            None => "unexpected end of JSON input".to_owned(),
            Some(b'\'') => format!("invalid character '\\'' {context}"),
            Some(b'"') => format!("invalid character '\"' {context}"),
            Some(byte) => {
                let quoted = crate::validation::cause::quoted(&char::from(*byte).to_string());
                format!("invalid character '{}' {context}", &quoted[1..quoted.len() - 1])
            }
        };
        Err(DecodeError::Syntax(message))
    }

    /// What begins here; white space before it is passed over.
    pub(super) fn sort(&mut self) -> Result<Sort> {
        self.skip_space();
        match self.text.get(self.at) {
            Some(b'n') => Ok(Sort::Null),
            Some(b't' | b'f') => Ok(Sort::Bool),
            Some(b'"') => Ok(Sort::String),
            Some(b'[') => Ok(Sort::Array),
            Some(b'{') => Ok(Sort::Object),
            Some(b'-' | b'0'..=b'9') => Ok(Sort::Number),
            _ => self.fail("looking for beginning of value"),
        }
    }

    /// Nothing but white space may follow.
    pub(super) fn end(&mut self) -> Result<()> {
        self.skip_space();
        if self.at == self.text.len() { Ok(()) } else { self.fail("after top-level value") }
    }

    /// Where it is, for [`Self::since`].
    pub(super) fn mark(&mut self) -> usize {
        self.skip_space();
        self.at
    }

    /// The text from a mark to here.
    pub(super) fn since(&self, mark: usize) -> &'a [u8] {
        &self.text[mark..self.at]
    }

    fn literal(&mut self, word: &'static str) -> Result<()> {
        for (index, expected) in word.bytes().enumerate() {
            if self.text.get(self.at) != Some(&expected) {
                let context = match index {
                    0 => "looking for beginning of value".to_owned(),
                    _ => format!("in literal {word} (expecting '{}')", char::from(expected)),
                };
                return self.fail(&context);
            }
            self.at += 1;
        }
        Ok(())
    }

    pub(super) fn null(&mut self) -> Result<()> {
        self.literal("null")
    }

    pub(super) fn bool(&mut self) -> Result<bool> {
        let truth = self.text.get(self.at) == Some(&b't');
        self.literal(if truth { "true" } else { "false" })?;
        Ok(truth)
    }

    /// The text of a number.
    pub(super) fn number(&mut self) -> Result<&'a str> {
        let start = self.at;
        if self.text.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        match self.text.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.fail("in numeric literal"),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.text.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        Ok(std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default())
    }

    fn digits(&mut self) {
        while matches!(self.text.get(self.at), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self, context: &str) -> Result<()> {
        if !matches!(self.text.get(self.at), Some(b'0'..=b'9')) {
            return self.fail(context);
        }
        self.digits();
        Ok(())
    }

    /// A string without its quotes and escapes; what is not UTF-8 is replaced, as Go does.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>> {
        self.at += 1;
        let start = self.at;
        loop {
            self.at += crate::value::plain_bytes(&self.text[self.at..]);
            match self.text.get(self.at) {
                Some(b'"') => {
                    let plain = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(String::from_utf8_lossy(plain));
                }
                Some(b'\\') => return self.escaped(start),
                Some(0x20..) => self.at += 1,
                _ => return self.fail("in string literal"),
            }
        }
    }

    fn escaped(&mut self, start: usize) -> Result<Cow<'a, str>> {
        let mut out = String::from_utf8_lossy(&self.text[start..self.at]).into_owned();
        let mut from = self.at;
        loop {
            match self.text.get(self.at) {
                Some(b'"') => {
                    out.push_str(&String::from_utf8_lossy(&self.text[from..self.at]));
                    self.at += 1;
                    return Ok(Cow::Owned(out));
                }
                Some(b'\\') => {
                    out.push_str(&String::from_utf8_lossy(&self.text[from..self.at]));
                    self.at += 1;
                    out.push(self.escape()?);
                    from = self.at;
                }
                Some(0x20..) => self.at += 1,
                _ => return self.fail("in string literal"),
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        let plain = match self.text.get(self.at) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode_escape();
            }
            _ => return self.fail("in string escape code"),
        };
        self.at += 1;
        Ok(plain)
    }

    fn unicode_escape(&mut self) -> Result<char> {
        let first = self.four_hex()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.four_hex()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn four_hex(&mut self) -> Result<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.text.get(self.at).and_then(|byte| char::from(*byte).to_digit(16));
            let Some(digit) = digit else { return self.fail("in \\u hexadecimal character escape") };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    fn deeper(&mut self) -> Result<()> {
        if self.depth >= MAX_DEPTH {
            return Err(DecodeError::Syntax(format!("exceeded max depth of {MAX_DEPTH}")));
        }
        self.at += 1;
        self.depth += 1;
        Ok(())
    }

    /// Goes into an array.
    pub(super) fn enter_array(&mut self) -> Result<()> {
        self.deeper()
    }

    /// Whether another element follows; goes out of the array if not. `first` is whether none was read yet.
    pub(super) fn next_element(&mut self, first: bool) -> Result<bool> {
        self.skip_space();
        match self.text.get(self.at) {
            Some(b']') => {
                self.at += 1;
                self.depth -= 1;
                Ok(false)
            }
            Some(b',') if !first => {
                self.at += 1;
                self.skip_space();
                if self.text.get(self.at) == Some(&b']') {
                    return self.fail("looking for beginning of value");
                }
                Ok(true)
            }
            _ if first => Ok(true),
            _ => self.fail("after array element"),
        }
    }

    /// Goes into an object.
    pub(super) fn enter_object(&mut self) -> Result<()> {
        self.deeper()
    }

    /// The name of the next member, with the colon behind it passed; none, and out of the object, if it ends.
    pub(super) fn next_key(&mut self, first: bool) -> Result<Option<Cow<'a, str>>> {
        self.skip_space();
        match self.text.get(self.at) {
            Some(b'}') => {
                self.at += 1;
                self.depth -= 1;
                return Ok(None);
            }
            Some(b',') if !first => {
                self.at += 1;
                self.skip_space();
            }
            _ if first => {}
            _ => return self.fail("after object key:value pair"),
        }
        if self.text.get(self.at) != Some(&b'"') {
            return self.fail("looking for beginning of object key string");
        }
        let key = self.string()?;
        self.skip_space();
        if self.text.get(self.at) != Some(&b':') {
            return self.fail("after object key");
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Passes over a value. Nothing is made of it, so it may be as deep as upstream takes it.
    pub(super) fn skip(&mut self) -> Result<()> {
        // What is open around, for the stack has no room for so much; and whether its first member is to come.
        let mut open: Vec<(Sort, bool)> = Vec::new();
        loop {
            let sort = self.sort()?;
            match sort {
                Sort::Null => self.null()?,
                Sort::Bool => drop(self.bool()?),
                Sort::Number => drop(self.number()?),
                Sort::String => drop(self.string()?),
                Sort::Array | Sort::Object => {
                    if self.depth >= SKIPPED_DEPTH_MAX {
                        return self.fail("exceeded max depth");
                    }
                    self.at += 1;
                    self.depth += 1;
                    open.push((sort, true));
                }
            }
            while let Some((sort, first)) = open.last_mut() {
                let first = std::mem::take(first);
                let more = match sort {
                    Sort::Array => self.next_element(first)?,
                    _ => self.next_key(first)?.is_some(),
                };
                if more {
                    break;
                }
                open.pop();
            }
            if open.is_empty() {
                return Ok(());
            }
        }
    }

    /// Any value, as a tree.
    pub(super) fn tree(&mut self) -> Result<Value> {
        Ok(match self.sort()? {
            Sort::Null => {
                self.null()?;
                Value::Null
            }
            Sort::Bool => Value::Bool(self.bool()?),
            Sort::Number => number_value(self.number()?),
            Sort::String => Value::String(self.string()?.into()),
            Sort::Array => {
                self.enter_array()?;
                let mut elements = Vec::new();
                while self.next_element(elements.is_empty())? {
                    elements.push(self.tree()?);
                }
                Value::Array(elements)
            }
            Sort::Object => {
                self.enter_object()?;
                let mut pairs: Vec<(Str, Value)> = Vec::new();
                while let Some(key) = self.next_key(pairs.is_empty())? {
                    let value = self.tree()?;
                    pairs.push((key.into(), value));
                }
                Value::Object(Map::from_pairs(pairs))
            }
        })
    }
}

/// A number as Go reads it where no type says what it is.
pub(super) fn number_value(text: &str) -> Value {
    match text.parse::<i64>() {
        Ok(number) => Value::Int(number),
        Err(_) => Value::Float(text.parse().unwrap_or(0.0)),
    }
}
