//! `place(pod, nodes) -> node`, with reasons.
//!
//! [`filters`] say which nodes will do and [`scores`] which of them is best; both are tables to which a rule is
//! added as one function. [`cluster::Cluster`] holds what they look at, kept up to date change by change, and
//! [`place`] is pure: the same cluster, pod and seed give the same node. [`worker`] binds.
//!
//! What is deliberately absent: preemption (a later issue), and any reading of objects while a pod is placed.

pub mod cluster;
pub mod filters;
pub mod place;
pub mod pod;
pub mod resources;
pub mod scores;
pub mod worker;
