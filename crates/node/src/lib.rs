//! The node agent: pods and services turned into calls of the hands.
pub mod context;
pub mod machine;
pub mod network;
pub mod pod;
pub mod references;
pub mod register;
pub mod volume;
