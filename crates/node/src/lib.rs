//! The node agent: pods and services turned into calls of the hands.
pub mod pod;
pub mod volume;
