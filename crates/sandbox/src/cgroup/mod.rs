//! Control groups, both versions behind one set of words.
//!
//! [`layout`] reads what the machine has mounted, [`plan`] computes what to write where (pure, so that both
//! versions are tested on any machine), [`tree`] does it. Two branches hang below the instance's root: `pods`, with
//! a group a pod and one a container in it, and `processes`, with a leaf for each pod process, so that no limit of
//! a pod ever hits the process that holds it.

pub mod layout;
pub mod plan;
pub mod stats;
pub mod tree;
