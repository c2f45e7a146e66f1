//! Request paths: split first, decoded second, so that an encoded slash never makes a segment.

use std::borrow::Cow;

/// A path that no handler should see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("the path does not begin with /; send an absolute path")]
    NotAbsolute,
    /// A `%` without two hexadecimal digits.
    #[error("the path has a broken % escape; write %25 for a percent sign")]
    Escape,
    /// What is decoded is no text.
    #[error("the path is not UTF-8 once decoded; encode its text as UTF-8")]
    NotText,
    /// A control character.
    #[error("the path has a control character; remove it")]
    Control,
    /// `.` or `..`, plain or encoded.
    #[error("the path has a . or .. segment; send the path that is meant")]
    Dots,
}

/// The decoded segments of an absolute path. One trailing slash is ignored; empty segments between are kept, and
/// match no name.
pub fn segments(path: &str) -> Result<Vec<Cow<'_, str>>, PathError> {
    let inner = path.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() {
        return Ok(Vec::new());
    }
    inner.split('/').map(segment).collect()
}

fn segment(raw: &str) -> Result<Cow<'_, str>, PathError> {
    let text = decode(raw, false).map_err(|error| match error {
        DecodeError::Escape => PathError::Escape,
        DecodeError::NotText => PathError::NotText,
    })?;
    if text.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    if matches!(&*text, "." | "..") {
        return Err(PathError::Dots);
    }
    Ok(text)
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    Escape,
    NotText,
}

/// Undoes percent encoding (RFC 3986, 2.1); with `plus_is_space` as in a query.
pub(crate) fn decode(raw: &str, plus_is_space: bool) -> Result<Cow<'_, str>, DecodeError> {
    let plain = |byte: &u8| *byte != b'%' && !(plus_is_space && *byte == b'+');
    if raw.bytes().all(|byte| plain(&byte)) {
        return Ok(Cow::Borrowed(raw));
    }
    let mut bytes = raw.bytes();
    let mut decoded = Vec::with_capacity(raw.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit =
                    || bytes.next().and_then(|b| char::from(b).to_digit(16)).ok_or(DecodeError::Escape);
                (digit()? * 16 + digit()?) as u8
            }
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| DecodeError::NotText)
}

/// Encodes everything but unreserved characters (RFC 3986, 2.3).
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(path: &str, expect: Result<&[&str], PathError>) {
        let got = segments(path);
        let got = got.as_ref().map(|all| all.iter().map(|s| &**s).collect::<Vec<_>>()).map_err(|e| *e);
        assert_eq!(got, expect.map(<[&str]>::to_vec), "{path}");
    }

    #[test]
    fn paths_are_split_then_decoded() {
        check("/", Ok(&[]));
        check("/api/v1/", Ok(&["api", "v1"]));
        check("/a//b", Ok(&["a", "", "b"]));
        check("/a%2Fb/c%20d", Ok(&["a/b", "c d"]));
        check("/a+b", Ok(&["a+b"]));
        check("api", Err(PathError::NotAbsolute));
        check("*", Err(PathError::NotAbsolute));
        check("/a%2", Err(PathError::Escape));
        check("/a%zz", Err(PathError::Escape));
        check("/a%+1", Err(PathError::Escape));
        check("/%ff", Err(PathError::NotText));
        check("/a%00", Err(PathError::Control));
        check("/a/%2e%2E/b", Err(PathError::Dots));
    }

    proptest! {
        #[test]
        fn encoded_text_comes_back(names in proptest::collection::vec("\\PC{1,12}", 1..5)) {
            prop_assume!(names.iter().all(|n| n != "." && n != ".." && !n.chars().any(char::is_control)));
            let path: String = names.iter().map(|name| format!("/{}", encode(name))).collect();
            prop_assert_eq!(segments(&path).unwrap(), names);
        }

        #[test]
        fn no_path_panics(path in "[/%.a-f0-9+\\PC]{0,60}") {
            let _ = segments(&path);
        }
    }
}
