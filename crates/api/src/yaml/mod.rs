//! YAML as upstream reads it: version 1.1, by libyaml, the first document of a text.
//!
//! [`compose`] gives the nodes of a document with the bytes that each stands on, for who changes a text and leaves the
//! rest of it alone; [`to_json`] gives the JSON that upstream makes of it: `yes` is a truth value and `0o17` a number,
//! `<<` merges, `!!binary` is decoded, of equal keys the last counts.

mod json;
mod resolve;
mod sys;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use crate::value::MAX_DEPTH;
use sys::{Event, Parser};

pub use json::to_json;

/// Why a text is not YAML that can be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// It is not YAML.
    #[error("yaml: {0}")]
    Syntax(String),
    /// It is YAML, of which there is no JSON.
    #[error("{0}")]
    NoJson(String),
}

/// A node's number in its document.
pub type Id = usize;

/// A document: its nodes, in the order in which they begin.
#[derive(Debug)]
pub struct Document {
    nodes: Vec<Node>,
}

/// A node, and the bytes that it stands on.
#[derive(Debug)]
pub struct Node {
    /// Where its first byte is.
    pub start: usize,
    /// Behind its last byte; white space and comments after it do not count.
    pub end: usize,
    /// What it is.
    pub content: Content,
}

/// What a node is.
#[derive(Debug)]
pub enum Content {
    /// A text, which may stand for something else.
    Scalar {
        /// Its tag in full, as `tag:yaml.org,2002:str`.
        tag: Option<String>,
        /// The text without quotes and escapes.
        value: String,
        /// Whether it is plain, so that the text says what it is.
        implicit: bool,
    },
    /// A list.
    Sequence {
        /// Whether it is written in brackets.
        flow: bool,
        /// Its elements.
        items: Vec<Id>,
    },
    /// Pairs of key and value.
    Mapping {
        /// Whether it is written in braces.
        flow: bool,
        /// The pairs, in the order of the text.
        pairs: Vec<(Id, Id)>,
    },
    /// Stands for another node.
    Alias {
        /// Its name.
        name: String,
        /// The other node.
        target: Id,
    },
}

impl Document {
    /// The node that holds all others.
    pub const ROOT: Id = 0;

    /// A node of this document.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// The values of a mapping's member `key`; of equal keys the last counts.
    pub fn member(&self, mapping: Id, key: &str) -> Option<Id> {
        let Content::Mapping { pairs, .. } = &self.node(mapping).content else { return None };
        pairs.iter().rev().find(|(name, _)| self.text(*name) == Some(key)).map(|(_, value)| *value)
    }

    /// A scalar's text.
    pub fn text(&self, id: Id) -> Option<&str> {
        match &self.node(id).content {
            Content::Scalar { value, .. } => Some(value),
            _ => None,
        }
    }
}

/// The first document of a text; none if there is nothing in it.
pub fn compose(text: &[u8]) -> Result<Option<Document>, Error> {
    let mut parser = Parser::new(text);
    let mut composer = Composer::default();
    loop {
        let located = parser.next().map_err(Error::Syntax)?;
        let (start, end) = (located.start, located.end);
        match located.event {
            Event::Frame => {}
            Event::DocumentEnd | Event::StreamEnd => break,
            Event::Alias(name) => {
                let Some(&target) = composer.anchors.get(&name) else {
                    return Err(Error::Syntax(format!("unknown anchor '{name}' referenced")));
                };
                composer.leaf(Node { start, end, content: Content::Alias { name, target } }, None);
            }
            Event::Scalar { anchor, tag, value, implicit } => {
                composer.leaf(Node { start, end, content: Content::Scalar { tag, value, implicit } }, anchor);
            }
            Event::SequenceStart { anchor, flow } => {
                let content = Content::Sequence { flow, items: Vec::new() };
                composer.open(Node { start, end, content }, anchor)?;
            }
            Event::MappingStart { anchor, flow } => {
                let content = Content::Mapping { flow, pairs: Vec::new() };
                composer.open(Node { start, end, content }, anchor)?;
            }
            Event::End => composer.close(end),
        }
    }
    Ok((!composer.nodes.is_empty()).then_some(Document { nodes: composer.nodes }))
}

#[derive(Default)]
struct Composer {
    nodes: Vec<Node>,
    anchors: HashMap<String, Id>,
    /// The sequences and mappings that have begun and not ended, and the key that waits for its value.
    open: Vec<(Id, Option<Id>)>,
}

impl Composer {
    fn leaf(&mut self, node: Node, anchor: Option<String>) -> Id {
        let (id, end) = (self.nodes.len(), node.end);
        self.nodes.push(node);
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor, id);
        }
        if let Some((parent, waiting)) = self.open.last_mut() {
            match &mut self.nodes[*parent].content {
                Content::Sequence { items, .. } => items.push(id),
                Content::Mapping { pairs, .. } => match waiting.take() {
                    Some(key) => pairs.push((key, id)),
                    None => *waiting = Some(id),
                },
                Content::Scalar { .. } | Content::Alias { .. } => {}
            }
            self.nodes[*parent].end = end;
        }
        id
    }

    fn open(&mut self, node: Node, anchor: Option<String>) -> Result<(), Error> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Error::Syntax(format!("exceeded max depth of {MAX_DEPTH}")));
        }
        let id = self.leaf(node, anchor);
        self.open.push((id, None));
        Ok(())
    }

    /// A sequence or mapping in block style ends with its last child: the parser sees its end at what follows.
    fn close(&mut self, end: usize) {
        let Some((id, _)) = self.open.pop() else { return };
        let flow = match &self.nodes[id].content {
            Content::Sequence { flow, .. } | Content::Mapping { flow, .. } => *flow,
            Content::Scalar { .. } | Content::Alias { .. } => false,
        };
        if flow {
            self.nodes[id].end = end;
        }
        let end = self.nodes[id].end;
        if let Some((parent, _)) = self.open.last() {
            self.nodes[*parent].end = end;
        }
    }
}
