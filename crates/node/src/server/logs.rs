//! Reading containers' logs: CRI's format, across rotated files, followed by the kernel's notice of changes.

mod files;
mod follow;
mod records;

pub use follow::{Source, send};
pub use records::{Options, OptionsError};
