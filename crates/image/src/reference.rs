//! Names of images, normalised as docker normalises them.
//!
//! `nginx` is `docker.io/library/nginx:latest`; `me/app` is `docker.io/me/app:latest`; the first component is a
//! registry only if it has a dot or a colon, is `localhost`, or has an upper-case letter. The grammar is that of
//! the distribution project's reference specification.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{self, Digest};

/// The registry of names that name none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of names that have neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// The longest repository (registry and path), in bytes.
pub const REPOSITORY_MAX_BYTES: usize = 255;
/// The longest tag, in bytes.
pub const TAG_MAX_BYTES: usize = 128;

/// A complete name: registry, path, and a tag or a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing was written.
    #[error("an image name is empty: write one like nginx:1.27 or registry.example.com/team/app:v1")]
    Empty,
    /// 64 hexadecimal digits would be mistaken for an image id.
    #[error(
        "\"{0}\" is an image id, not a name: put a repository before it, or use the id where ids are taken"
    )]
    LooksLikeId(String),
    /// Upper case in the path.
    #[error("the repository \"{0}\" has upper-case letters: write \"{lower}\"", lower = .0.to_lowercase())]
    UpperCase(String),
    /// The part before the first slash is no host name.
    #[error("\"{0}\" is no registry: write a host name or address, with :port if it is not the usual one")]
    Registry(String),
    /// A component of the path breaks the grammar.
    #[error(
        "\"{component}\" in the image name \"{name}\" is not allowed: use lower-case letters and digits, with one \
         of . _ __ or dashes between them"
    )]
    Component {
        /// The whole name.
        name: String,
        /// The component that is wrong.
        component: String,
    },
    /// The tag breaks the grammar.
    #[error(
        "the tag \"{0}\" is not allowed: use at most 128 letters, digits, _ . - and begin with none of . -"
    )]
    Tag(String),
    /// The digest breaks the grammar.
    #[error(transparent)]
    Digest(#[from] digest::Error),
    /// Registry and path are too long.
    #[error("the image name has {0} bytes before its tag, more than 255: shorten it")]
    TooLong(usize),
}

impl Reference {
    /// The registry as it is written in the name, such as `docker.io` or `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry, such as `library/nginx`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if there is one. It decides: beside it the tag is only a remark.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and path: the name without tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }

    /// The same repository by digest, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The name that the store keeps: a name with a tag and a digest is the one by digest.
    pub fn key(&self) -> Self {
        match self.digest {
            Some(digest) => self.with_digest(digest),
            None => self.clone(),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::Empty);
        }
        if text.len() == 64 && Digest::from_hex(text).is_some() {
            return Err(Error::LooksLikeId(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (registry, rest) = split_registry(rest)?;
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(check_tag(tag)?)),
            _ => (rest, None),
        };
        let path = match (registry.as_str(), path.contains('/')) {
            (DEFAULT_REGISTRY, false) => format!("library/{path}"),
            _ => path.to_owned(),
        };
        check_path(text, &path)?;
        let length = registry.len() + 1 + path.len();
        if length > REPOSITORY_MAX_BYTES {
            return Err(Error::TooLong(length));
        }
        let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { registry, path, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn split_registry(text: &str) -> Result<(String, &str), Error> {
    let Some((first, rest)) = text.split_once('/') else {
        return Ok((DEFAULT_REGISTRY.to_owned(), text));
    };
    let upper = first.bytes().any(|byte| byte.is_ascii_uppercase());
    if !(first.contains(['.', ':', '[']) || first == "localhost" || upper) {
        return Ok((DEFAULT_REGISTRY.to_owned(), text));
    }
    if !is_registry(first) {
        return Err(Error::Registry(first.to_owned()));
    }
    // Docker's older name of its registry stays an alias, so that old manifests mean what they meant.
    let registry = if first == "index.docker.io" { DEFAULT_REGISTRY } else { first };
    Ok((registry.to_owned(), rest))
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn is_registry(text: &str) -> bool {
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let Some((address, after)) = bracketed.split_once(']') else { return false };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match after.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if after.is_empty() => (None, None),
            None => return false,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        }
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.is_none_or(|host| host.split('.').all(label))
        && port.is_none_or(|port| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
}

fn check_tag(tag: &str) -> Result<String, Error> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let first = tag.bytes().next().is_some_and(word);
    if first
        && tag.len() <= TAG_MAX_BYTES
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
    {
        return Ok(tag.to_owned());
    }
    Err(Error::Tag(tag.chars().take(TAG_MAX_BYTES + 1).collect()))
}

fn check_path(name: &str, path: &str) -> Result<(), Error> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) && check_path(name, &path.to_lowercase()).is_ok() {
        return Err(Error::UpperCase(path.to_owned()));
    }
    match path.split('/').find(|component| !is_component(component)) {
        Some(component) => {
            Err(Error::Component { name: name.chars().take(300).collect(), component: component.to_owned() })
        }
        None => Ok(()),
    }
}

/// Letters and digits, separated by one dot, one or two underscores, or any number of dashes.
fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(first)
        && alphanumeric(last)
        && bytes.split(|&byte| alphanumeric(byte)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(text: &str, expect: &str) {
        let parsed: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(parsed.to_string(), expect);
    }

    fn refuse(text: &str, expect: &str) {
        let error = text.parse::<Reference>().expect_err(text);
        assert!(error.to_string().contains(expect), "{text}: {error}");
    }

    #[test]
    fn short_names_mean_dockers_registry() {
        check("nginx", "docker.io/library/nginx:latest");
        check("nginx:1.27", "docker.io/library/nginx:1.27");
        check("me/app", "docker.io/me/app:latest");
        check("docker.io/nginx", "docker.io/library/nginx:latest");
        check("index.docker.io/nginx", "docker.io/library/nginx:latest");
        check("a_b/c__d/e--f.g", "docker.io/a_b/c__d/e--f.g:latest");
    }

    #[test]
    fn the_first_component_is_a_registry_only_if_it_looks_like_one() {
        check("localhost/app", "localhost/app:latest");
        check("localhost:5000/app:v1", "localhost:5000/app:v1");
        check("ondol.local/echo:v1", "ondol.local/echo:v1");
        check("[::1]:5000/app", "[::1]:5000/app:latest");
        check("Example/app", "Example/app:latest");
        check("app:5000", "docker.io/library/app:5000");
        check("10.0.0.1:5000/a/b/c", "10.0.0.1:5000/a/b/c:latest");
    }

    #[test]
    fn a_digest_needs_no_tag_and_outranks_it() {
        check(&format!("nginx@sha256:{HEX}"), &format!("docker.io/library/nginx@sha256:{HEX}"));
        let both: Reference = format!("nginx:1@sha256:{HEX}").parse().unwrap();
        assert_eq!(both.to_string(), format!("docker.io/library/nginx:1@sha256:{HEX}"));
        assert_eq!(both.key().to_string(), format!("docker.io/library/nginx@sha256:{HEX}"));
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        refuse("", "empty");
        refuse(HEX, "image id");
        refuse("Nginx", "write \"library/nginx\"");
        refuse("me/App:v1", "upper-case");
        refuse("nginx:", "tag \"\"");
        refuse("nginx:-x", "tag \"-x\"");
        refuse(&format!("nginx:{}", "x".repeat(129)), "128");
        refuse("nginx@sha256:12", "64 hexadecimal");
        refuse(&format!("nginx@sha512:{HEX}"), "sha512");
        refuse("a..b", "\"a..b\"");
        refuse("a//b", "\"\"");
        refuse("-a.b/c", "no registry");
        refuse("host.x:99999/c", "no registry");
        refuse("nginx latest", "nginx latest");
        refuse(&format!("x.y/{}", "a".repeat(255)), "more than 255");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,300}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let shown = reference.to_string();
                prop_assert_eq!(shown.parse::<Reference>().unwrap(), reference);
            }
        }

        #[test]
        fn what_is_shown_parses_to_the_same(
            text in "([a-z]{1,5}(\\.[a-z]{1,4}){0,2}(:[1-9][0-9]{0,3})?/)?[a-z0-9]{1,5}([._-][a-z0-9]{1,4}){0,2}(/[a-z]{1,4}){0,2}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,9})?"
        ) {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference.clone());
                prop_assert!(reference.tag().is_some());
                prop_assert_eq!(reference.path().to_lowercase(), reference.path());
            }
        }
    }
}
