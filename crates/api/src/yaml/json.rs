//! A document as JSON.

use std::collections::HashSet;

use super::resolve::{Scalar, resolve};
use super::{Content, Document, Error, Id, compose};
use crate::value::{MAX_DEPTH, write_string};

/// How much JSON a document may become: aliases can make a great deal of a small text.
const JSON_BYTES: usize = 16 * 1024 * 1024;
/// Up to so many nodes nearly all may come of aliases.
const FREE_NODES: u32 = 400_000;
/// From so many nodes on only a tenth may.
const MANY_NODES: u32 = 4_000_000;

/// The JSON of a text's first document. Members that occur twice, or are merged and then given anew, are written as
/// often, in the order in which they count.
pub fn to_json(text: &[u8]) -> Result<Vec<u8>, Error> {
    let Some(document) = compose(text)? else { return Ok(b"null".to_vec()) };
    let mut writer = Writer {
        document: &document,
        out: Vec::with_capacity(text.len()),
        nodes: 0,
        aliased: 0,
        active: HashSet::new(),
    };
    writer.node(Document::ROOT, 0)?;
    Ok(writer.out)
}

struct Writer<'document> {
    document: &'document Document,
    out: Vec<u8>,
    /// Nodes so far, and how many of them in place of aliases.
    nodes: u32,
    aliased: u32,
    /// The aliases that are being written.
    active: HashSet<Id>,
}

impl Writer<'_> {
    fn count(&mut self) -> Result<(), Error> {
        self.nodes += 1;
        self.aliased += u32::from(!self.active.is_empty());
        let share = f64::from(self.aliased) / f64::from(self.nodes);
        let allowed = match self.nodes {
            ..=FREE_NODES => 0.99,
            MANY_NODES.. => 0.10,
            nodes => 0.99 - 0.89 * f64::from(nodes - FREE_NODES) / f64::from(MANY_NODES - FREE_NODES),
        };
        if (self.aliased > 100 && self.nodes > 1000 && share > allowed) || self.out.len() > JSON_BYTES {
            return Err(Error::Syntax("document contains excessive aliasing".to_owned()));
        }
        Ok(())
    }

    fn node(&mut self, id: Id, depth: usize) -> Result<(), Error> {
        self.count()?;
        if depth > MAX_DEPTH {
            return Err(Error::Syntax(format!("exceeded max depth of {MAX_DEPTH}")));
        }
        let document = self.document;
        match &document.node(id).content {
            Content::Alias { name, target } => {
                self.through(id, name, |writer| writer.node(*target, depth))?;
            }
            Content::Scalar { tag, value, implicit } => {
                self.scalar(&resolve(tag.as_deref(), value, *implicit)?)?;
            }
            Content::Sequence { items, .. } => {
                self.out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.out.push(b',');
                    }
                    self.node(*item, depth + 1)?;
                }
                self.out.push(b']');
            }
            Content::Mapping { .. } => {
                self.out.push(b'{');
                self.members(id, depth)?;
                self.out.push(b'}');
            }
        }
        Ok(())
    }

    /// Writes what an alias stands for.
    fn through(
        &mut self,
        alias: Id,
        name: &str,
        write: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if !self.active.insert(alias) {
            return Err(Error::Syntax(format!("anchor '{name}' value contains itself")));
        }
        write(self)?;
        self.active.remove(&alias);
        Ok(())
    }

    fn members(&mut self, mapping: Id, depth: usize) -> Result<(), Error> {
        let document = self.document;
        let Content::Mapping { pairs, .. } = &document.node(mapping).content else { return Ok(()) };
        for (key, value) in pairs {
            if is_merge(&document.node(*key).content) {
                self.merge(*value, depth)?;
                continue;
            }
            let name = self.key(*key)?;
            if self.out.last() != Some(&b'{') {
                self.out.push(b',');
            }
            write_string(&name, &mut self.out);
            self.out.push(b':');
            self.node(*value, depth + 1)?;
        }
        Ok(())
    }

    /// Writes the members of one mapping, or of several: the first counts most, so it comes last.
    fn merge(&mut self, value: Id, depth: usize) -> Result<(), Error> {
        let document = self.document;
        match &document.node(value).content {
            Content::Sequence { items, .. } => {
                items.iter().rev().try_for_each(|item| self.merge_one(*item, depth))
            }
            _ => self.merge_one(value, depth),
        }
    }

    fn merge_one(&mut self, value: Id, depth: usize) -> Result<(), Error> {
        self.count()?;
        if depth > MAX_DEPTH {
            return Err(Error::Syntax(format!("exceeded max depth of {MAX_DEPTH}")));
        }
        let document = self.document;
        match &document.node(value).content {
            Content::Mapping { .. } => self.members(value, depth + 1),
            Content::Alias { name, target }
                if matches!(document.node(*target).content, Content::Mapping { .. }) =>
            {
                self.through(value, name, |writer| writer.members(*target, depth + 1))
            }
            _ => Err(Error::Syntax("map merge requires map or sequence of maps as the value".to_owned())),
        }
    }

    /// The name of a member: what is no text becomes one.
    fn key(&mut self, id: Id) -> Result<String, Error> {
        self.count()?;
        let document = self.document;
        let mut content = &document.node(id).content;
        if let Content::Alias { target, .. } = content {
            content = &document.node(*target).content;
        }
        let Content::Scalar { tag, value, implicit } = content else {
            return Err(Error::Syntax("invalid map key: a list or a map cannot name a member".to_owned()));
        };
        Ok(match resolve(tag.as_deref(), value, *implicit)? {
            Scalar::Text(text) => text,
            Scalar::Bool(truth) => truth.to_string(),
            Scalar::Int(number) => number.to_string(),
            Scalar::Float(number) => float_key(number),
            Scalar::Null | Scalar::Unsigned(_) => {
                return Err(Error::NoJson(format!("unsupported map key: {value:?} cannot name a member")));
            }
        })
    }

    fn scalar(&mut self, scalar: &Scalar) -> Result<(), Error> {
        match scalar {
            Scalar::Null => self.out.extend_from_slice(b"null"),
            Scalar::Bool(truth) => self.out.extend_from_slice(truth.to_string().as_bytes()),
            Scalar::Int(number) => self.out.extend_from_slice(number.to_string().as_bytes()),
            Scalar::Unsigned(number) => self.out.extend_from_slice(number.to_string().as_bytes()),
            Scalar::Text(text) => write_string(text, &mut self.out),
            Scalar::Float(number) if !number.is_finite() => {
                let name = match (number.is_nan(), number.is_sign_negative()) {
                    (true, _) => "NaN",
                    (_, true) => "-Inf",
                    (_, false) => "+Inf",
                };
                return Err(Error::NoJson(format!("json: unsupported value: {name}")));
            }
            Scalar::Float(number) => self.out.extend_from_slice(float(*number).as_bytes()),
        }
        Ok(())
    }
}

fn is_merge(content: &Content) -> bool {
    let Content::Scalar { tag, value, implicit } = content else { return false };
    value == "<<" && (*implicit || tag.as_deref() == Some("tag:yaml.org,2002:merge"))
}

/// A number as Go writes it into JSON: with an exponent only where it is very large or very small.
fn float(number: f64) -> String {
    let size = number.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{number:e}");
        return if size >= 1.0 { text.replace('e', "e+") } else { text };
    }
    number.to_string()
}

/// A number as Go names a member by it: of single precision, with an exponent from a million on.
fn float_key(number: f64) -> String {
    let single = number as f32;
    if single.is_nan() {
        return ".nan".to_owned();
    }
    if single.is_infinite() {
        return if single > 0.0 { ".inf".to_owned() } else { "-.inf".to_owned() };
    }
    let text = format!("{single:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    single.to_string()
}
