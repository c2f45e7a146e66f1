//! The rules that all kinds share: names, labels, metadata, addresses; and the words for what breaks them.
//!
//! Functions that are named `is_...` take a text and give upstream's sentences about what is wrong with it: none
//! if it is right. Functions that take a [`Path`] give [`Cause`]s, ready for [`Status::invalid`].
//!
//! No rule of a single kind lives here.
//!
//! [`Cause`]: crate::status::Cause
//! [`Status::invalid`]: crate::status::Status::invalid

pub mod address;
pub mod cause;
pub mod metadata;
pub mod names;
pub mod selectors;

use std::fmt;

/// Where something is: `spec.containers[0].image`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The first name.
    pub fn root(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// A member of it.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { self.with(".", name, "") }
    }

    /// An element of it.
    pub fn index(&self, index: usize) -> Self {
        self.with("[", &index.to_string(), "]")
    }

    /// A member of a map with free keys.
    pub fn key(&self, key: &str) -> Self {
        self.with("[", key, "]")
    }

    /// Paths are made for every field of every write, so without the detour of formatting.
    fn with(&self, before: &str, step: &str, behind: &str) -> Self {
        let mut path = String::with_capacity(self.0.len() + before.len() + step.len() + behind.len());
        for part in [self.0.as_str(), before, step, behind] {
            path.push_str(part);
        }
        Self(path)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Path {
    fn from(path: &str) -> Self {
        Self(path.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_upstreams() {
        let path = Path::root("spec").child("containers").index(0).child("env").key("a/b");
        assert_eq!(path.to_string(), "spec.containers[0].env[a/b]");
    }
}
