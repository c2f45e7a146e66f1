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

use smallvec::SmallVec;

/// Where something is: `spec.containers[0].image`. Paths are made for every field of every write and looked at only when
/// something is wrong, so those of the usual length need no heap block.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Path(SmallVec<[u8; PATH_USUAL_BYTES]>);

/// How long most paths are at most.
const PATH_USUAL_BYTES: usize = 96;

impl Path {
    /// The first name.
    pub fn root(name: &str) -> Self {
        Self(SmallVec::from_slice(name.as_bytes()))
    }

    /// A member of it.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self::root(name) } else { self.with(".", name, "") }
    }

    /// An element of it.
    pub fn index(&self, index: usize) -> Self {
        self.with("[", &index.to_string(), "]")
    }

    /// A member of a map with free keys.
    pub fn key(&self, key: &str) -> Self {
        self.with("[", key, "]")
    }

    fn with(&self, before: &str, step: &str, behind: &str) -> Self {
        let mut path = SmallVec::from_slice(&self.0);
        for part in [before, step, behind] {
            path.extend_from_slice(part.as_bytes());
        }
        Self(path)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        // It was put together of texts.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Path({:?})", self.as_str())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<&str> for Path {
    fn from(path: &str) -> Self {
        Self::root(path)
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
