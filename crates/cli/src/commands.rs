//! Verbs that ask a running instance.

mod image;
mod log;
mod status;
mod store;
mod why;

pub use image::image;
pub use log::logs;
pub use status::status;
pub use store::store;
pub use why::why;
