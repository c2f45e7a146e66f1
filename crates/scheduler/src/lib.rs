//! `place(pod, nodes) -> node`, with reasons.
//!
//! [`filters`] say which nodes will do and [`scores`] which of them is best; both are tables to which a rule is
//! added as one function. [`cluster::Cluster`] holds what they look at, kept up to date change by change: what pods
//! count of each other, for spreading and affinity, is kept in [`counts`] and never counted anew for a pod.
//! [`place`] is pure: the same cluster, pod and seed give the same node; if there is none, [`preempt`] says whom to send
//! away. [`worker`] binds, and [`waiting`] says which pods a change may help.
//!
//! What is deliberately absent: any reading of objects while a pod is placed.

pub mod affinity;
pub mod cluster;
pub mod counts;
pub mod filters;
pub mod place;
pub mod pod;
pub mod preempt;
pub mod resources;
pub mod rule;
pub mod scores;
pub mod selectors;
pub mod spread;
pub mod surroundings;
pub mod tally;
pub mod waiting;
pub mod worker;
pub mod writes;
