//! Why something is stuck: objects and events in, sentences out. Pure.

mod subject;

use std::collections::BTreeMap;

use api::value::Value;
use jiff::Timestamp;

pub use subject::Subject;

/// What is known: objects by kind.
#[derive(Default)]
pub struct World(BTreeMap<&'static str, Vec<Value>>);

impl World {
    /// Adds objects of a kind.
    pub fn add(&mut self, kind: &'static str, items: Vec<Value>) {
        self.0.insert(kind, items);
    }

    /// All of a kind.
    pub fn all(&self, kind: &str) -> &[Value] {
        self.0.get(kind).map(Vec::as_slice).unwrap_or_default()
    }
}

/// What is stuck, since when, and what to do.
pub fn explain(subject: &Subject, world: &World, _now: Timestamp) -> Vec<String> {
    let _ = world.all("Pod");
    vec![format!("{} {}", subject.kind, subject.name)]
}
