//! The facts of the built-in kinds.
