//! One pod.

pub mod container;
pub mod environment;
pub mod machine;
pub mod quality;
pub mod sources;
