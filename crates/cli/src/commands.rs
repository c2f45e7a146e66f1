//! Verbs that ask a running instance.

mod image;
mod log;
mod status;
mod why;

pub use image::image;
pub use log::logs;
pub use status::{pressures, status};
pub use why::why;
