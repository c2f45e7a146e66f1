//! Names of stored things, and sets of them.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use compact_str::CompactString;

use crate::limits::KEY_BYTES_MAX;

/// What every path begins with.
const ROOT: &str = "/registry/";

/// A point in the store's history. The first commit makes 2, as in etcd: an empty store is at 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of a store that was never written to.
    pub const FIRST: Self = Self(1);

    /// The revision that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The first part of a key, such as `pods` or `deployments.apps`. The store attaches no meaning to it. Cloning
/// shares the text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Resource(Arc<str>);

impl Ord for Resource {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_segments(&self.0, &other.0)
    }
}

impl PartialOrd for Resource {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Resource {
    /// Names a resource.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self(Arc::from(name.as_ref()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of one stored thing. Keys order as their paths do, byte by byte, so that lists come in etcd's order.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// What sort of thing it is.
    pub resource: Resource,
    /// Empty for things outside of namespaces.
    pub namespace: CompactString,
    /// Unique within resource and namespace.
    pub name: CompactString,
}

impl Key {
    /// The key of a thing in a namespace.
    pub fn namespaced(resource: &Resource, namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        Self {
            resource: resource.clone(),
            namespace: CompactString::from(namespace.as_ref()),
            name: CompactString::from(name.as_ref()),
        }
    }

    /// The key of a thing outside of namespaces.
    pub fn cluster(resource: &Resource, name: impl AsRef<str>) -> Self {
        Self::namespaced(resource, "", name)
    }

    /// `/registry/<resource>/<namespace>/<name>`, or `/registry/<resource>/<name>` outside of namespaces.
    pub fn path(&self) -> String {
        let mut path = String::with_capacity(self.path_len());
        self.write_path(&mut path);
        path
    }

    pub(crate) fn write_path(&self, path: &mut String) {
        path.push_str(ROOT);
        path.push_str(self.resource.as_str());
        path.push('/');
        if !self.namespace.is_empty() {
            path.push_str(&self.namespace);
            path.push('/');
        }
        path.push_str(&self.name);
    }

    pub(crate) fn path_len(&self) -> usize {
        let namespace = if self.namespace.is_empty() { 0 } else { self.namespace.len() + 1 };
        ROOT.len() + self.resource.as_str().len() + 1 + namespace + self.name.len()
    }

    /// Reads a path; `None` if it is not one that [`Key::path`] writes.
    pub fn from_path(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix(ROOT)?.split('/');
        let (resource, second, third) = (parts.next()?, parts.next()?, parts.next());
        let (namespace, name) = match third {
            Some(name) if second.is_empty() || name.is_empty() => return None,
            Some(name) => (second, name),
            None => ("", second),
        };
        let key = Self {
            resource: Resource::new(resource),
            namespace: CompactString::from(namespace),
            name: CompactString::from(name),
        };
        (parts.next().is_none() && key.is_valid()).then_some(key)
    }

    /// Whether the path leads back to this key and is not too long.
    pub fn is_valid(&self) -> bool {
        let part = |part: &str| !part.bytes().any(|byte| byte == b'/' || byte == 0);
        !self.resource.as_str().is_empty()
            && !self.name.is_empty()
            && part(self.resource.as_str())
            && part(&self.namespace)
            && part(&self.name)
            && self.path_len() <= KEY_BYTES_MAX
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.resource
            .cmp(&other.resource)
            .then_with(|| compare_segments(&self.namespace, &other.namespace))
            .then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

/// Compares path segments that a slash follows: `a-b/` comes before `a/`, because `-` comes before `/`.
pub(crate) fn compare_segments(a: &str, b: &str) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    a.bytes().chain(std::iter::once(b'/')).cmp(b.bytes().chain(std::iter::once(b'/')))
}

/// A path segment as the key of an ordered map, in the order of paths.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Segment(pub(crate) CompactString);

impl Ord for Segment {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_segments(&self.0, &other.0)
    }
}

impl PartialOrd for Segment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A set of keys that can be listed and watched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything.
    All,
    /// All of one resource, in all namespaces.
    Resource(Resource),
    /// All of one resource in one namespace.
    Namespace(Resource, CompactString),
    /// One key.
    Key(Key),
}

impl Scope {
    /// Whether `key` is in the set.
    pub fn contains(&self, key: &Key) -> bool {
        match self {
            Self::All => true,
            Self::Resource(resource) => *resource == key.resource,
            Self::Namespace(resource, namespace) => *resource == key.resource && *namespace == key.namespace,
            Self::Key(own) => own == key,
        }
    }

    /// The one resource that the set is of; `None` for all.
    pub fn resource(&self) -> Option<&Resource> {
        match self {
            Self::All => None,
            Self::Resource(resource) | Self::Namespace(resource, _) => Some(resource),
            Self::Key(key) => Some(&key.resource),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_readable_and_lead_back() {
        let pods = Resource::new("pods");
        let key = Key::namespaced(&pods, "default", "web-0");
        assert_eq!(key.path(), "/registry/pods/default/web-0");
        assert_eq!(Key::from_path(&key.path()), Some(key));
        let node = Key::cluster(&Resource::new("nodes"), "a");
        assert_eq!(node.path(), "/registry/nodes/a");
        assert_eq!(Key::from_path("/registry/nodes/a"), Some(node));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in ["", "/registry/", "/registry/a", "/registry/a/", "/registry//b", "/registry/a//b"] {
            assert_eq!(Key::from_path(path), None, "{path}");
        }
        for path in ["/registry/a/b/c/d", "/registry/a/b/", "/else/a/b", "registry/a/b"] {
            assert_eq!(Key::from_path(path), None, "{path}");
        }
        assert!(!Key::cluster(&Resource::new("nodes"), "a/b").is_valid());
        assert!(!Key::cluster(&Resource::new("nodes"), "").is_valid());
        assert!(!Key::cluster(&Resource::new("nodes"), "x".repeat(KEY_BYTES_MAX)).is_valid());
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_a_path_that_leads_back_or_refused(path in "(/registry/)?[a-c./-]{0,12}") {
            if let Some(key) = Key::from_path(&path) {
                prop_assert_eq!(key.path(), path);
            }
        }

        #[test]
        fn keys_order_as_their_paths(
            a in ("[a-b.-]{1,3}", "[a-b.-]{1,3}", "[a-b.-]{1,3}"),
            b in ("[a-b.-]{1,3}", "[a-b.-]{1,3}", "[a-b.-]{1,3}"),
        ) {
            let key = |(resource, namespace, name): (String, String, String)| {
                Key::namespaced(&Resource::new(resource), namespace, name)
            };
            let (a, b) = (key(a), key(b));
            prop_assert_eq!(a.cmp(&b), a.path().cmp(&b.path()));
        }
    }
}
