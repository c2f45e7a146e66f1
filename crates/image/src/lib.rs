//! The image hand: the one content store, and all ways in and out of it.
//!
//! Images come in by [`pull`] from a registry, by [`import`] from an archive, or are put together by [`builder`];
//! they leave by [`save`]. All three ways in end in the same blobs, the same verification, and the same
//! [`unpack`], which turns a layer into a directory that overlayfs takes as a lower directory as it is.
//!
//! Invariants:
//! - A blob is under its digest only if its bytes have that digest; a layer is under its chain id only if it was
//!   unpacked to the end, has the diff id that the image names, and is on disk. Both arrive by `rename`.
//! - A name is always a normalised [`reference::Reference`]; no text that a person typed is a key.
//! - This crate knows no Kubernetes. Pull policies appear in [`policy`] as three plain cases.
//! - Nothing outside this crate derives a path from a digest: [`store::Rootfs`] hands out the paths.

pub mod archive;
pub mod builder;
pub mod carried;
pub mod credentials;
pub mod digest;
pub mod document;
pub mod error;
pub mod import;
pub mod layer;
pub mod policy;
pub mod pull;
pub mod reference;
pub mod save;
pub mod store;
pub mod unpack;

pub use digest::Digest;
pub use error::Error;
pub use reference::Reference;
pub use store::Store;
