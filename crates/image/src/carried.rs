//! The images that the binary carries.
