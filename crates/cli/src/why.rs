//! Why something is stuck: objects and events in, sentences out. Pure.
//!
//! An explanation begins with a headline; below it each finding says what is wrong and since when, and an arrow what
//! to do. A pod is explained by [`pod`], and what owns or selects pods explains itself by theirs; of all else its events
//! and conditions are told ([`told`]).

mod answers;
mod node;
mod pod;
mod service;
mod subject;
mod taints;
mod told;
mod workload;
mod world;

#[cfg(test)]
mod tests;

use jiff::Timestamp;

pub use answers::{Answer, doors};
pub use node::pressure_advice;
pub use subject::{CLUSTER_WIDE, Subject};
pub use world::World;

/// Findings of one explanation at most; pods of one workload mostly have the same trouble.
const FINDINGS_MAX: usize = 12;

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A sentence.
    pub what: String,
    /// What to do; may be empty.
    pub advice: String,
}

impl Finding {
    fn new(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), advice: advice.into() }
    }
}

/// What is stuck, since when, and what to do; or that there is no such object.
pub fn explain(subject: &Subject, world: &World, now: Timestamp) -> Result<Vec<String>, String> {
    let Some(object) = world.find(subject.kind, &subject.namespace, &subject.name) else {
        return Err(not_there(subject, world));
    };
    let (headline, findings) = match subject.kind {
        "Deployment" => workload::deployment(object, world, now),
        "ReplicaSet" => workload::replica_set(object, world, now),
        "Service" => service::service(object, world, now),
        "Node" => node::node(object, world, now),
        "Pod" => pod::pod(object, world, now),
        kind => told::told(kind, object, world, now),
    };
    let mut lines = vec![headline];
    for finding in findings.iter().take(FINDINGS_MAX) {
        lines.push(format!("  {}", finding.what));
        if !finding.advice.is_empty() {
            lines.push(format!("    → {}", finding.advice));
        }
    }
    if findings.len() > FINDINGS_MAX {
        lines.push(format!("  and {} more of this sort", findings.len() - FINDINGS_MAX));
    }
    Ok(lines)
}

fn not_there(subject: &Subject, world: &World) -> String {
    let lower = subject.kind.to_lowercase();
    let elsewhere = world.all(subject.kind).iter().filter_map(|object| object.str_at(&["metadata", "name"]));
    let near: Vec<&str> = elsewhere
        .filter(|name| name.contains(&subject.name) || subject.name.contains(name))
        .take(3)
        .collect();
    let place = if subject.namespace.is_empty() {
        String::new()
    } else {
        format!(" in namespace {}", subject.namespace)
    };
    if near.is_empty() {
        format!("there is no {lower}/{}{place}; \"kubectl get {lower}s -A\" shows all", subject.name)
    } else {
        format!("there is no {lower}/{}{place}; did you mean {}?", subject.name, near.join(", "))
    }
}
