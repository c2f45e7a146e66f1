//! The ground floor: what every room stands on and what the outside world would otherwise leak into.
//!
//! Clock and randomness are values that are passed in, so that the simulated world can replace them; tasks are
//! started through [`Tasks`], so that shutdown can join them. This crate knows nothing of Kubernetes, HTTP or the
//! kernel.

mod backoff;
mod clock;
pub mod descriptors;
mod error;
mod level;
pub mod mounts;
pub mod panics;
mod random;
mod tasks;
pub mod tree;

pub use backoff::Backoff;
pub use clock::Clock;
pub use error::with_causes;
pub use level::Level;
pub use random::Random;
pub use tasks::{Stop, Stopper, Tasks};
