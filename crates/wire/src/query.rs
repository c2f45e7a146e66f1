//! Query strings: pairs in their order, duplicates kept.

use std::borrow::Cow;

use crate::path::{DecodeError, decode};

/// More pairs than any client sends.
pub const PAIRS_MAX: usize = 1000;

/// A query that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A `%` without two hexadecimal digits.
    #[error("the query has a broken % escape; write %25 for a percent sign")]
    Escape,
    /// What is decoded is no text.
    #[error("the query is not UTF-8 once decoded; encode its text as UTF-8")]
    NotText,
    /// Semicolons separated pairs once; to read them so now is to be deceived.
    #[error("the query has a semicolon; write %3B, or & between pairs")]
    Semicolon,
    /// Too many pairs.
    #[error("the query has more than {PAIRS_MAX} pairs; send fewer")]
    TooMany,
}

/// The decoded pairs of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Pairs<'a> {
    /// Reads what follows the `?`, if anything.
    pub fn parse(query: Option<&'a str>) -> Result<Self, QueryError> {
        let decode = |raw| {
            decode(raw, true).map_err(|error| match error {
                DecodeError::Escape => QueryError::Escape,
                DecodeError::NotText => QueryError::NotText,
            })
        };
        let mut pairs = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            if pair.contains(';') {
                return Err(QueryError::Semicolon);
            }
            if pairs.len() == PAIRS_MAX {
                return Err(QueryError::TooMany);
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Self(pairs))
    }

    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of `name`, in their order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter().filter(move |(key, _)| *key == name).map(|(_, value)| value)
    }

    /// All pairs, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::encode;
    use proptest::prelude::*;

    #[test]
    fn pairs_keep_order_and_duplicates() {
        let pairs = Pairs::parse(Some("command=sh&command=-c&command=a+b%26c&tty&&x=1=2")).unwrap();
        assert_eq!(pairs.all("command").collect::<Vec<_>>(), ["sh", "-c", "a b&c"]);
        assert_eq!((pairs.get("tty"), pairs.get("x"), pairs.get("y")), (Some(""), Some("1=2"), None));
        assert_eq!(Pairs::parse(None).unwrap(), Pairs::default());
    }

    #[test]
    fn broken_queries_are_refused() {
        assert_eq!(Pairs::parse(Some("a=%4")), Err(QueryError::Escape));
        assert_eq!(Pairs::parse(Some("%ff=1")), Err(QueryError::NotText));
        assert_eq!(Pairs::parse(Some("a=1;b=2")), Err(QueryError::Semicolon));
        assert_eq!(Pairs::parse(Some(&"a&".repeat(PAIRS_MAX + 1))), Err(QueryError::TooMany));
    }

    proptest! {
        #[test]
        fn encoded_pairs_come_back(pairs in proptest::collection::vec(("\\PC{1,9}", "\\PC{0,9}"), 0..6)) {
            let query: Vec<_> = pairs.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
            let query = query.join("&");
            let parsed = Pairs::parse(Some(&query)).unwrap();
            let expect: Vec<_> = pairs.iter().map(|(k, v)| (&**k, &**v)).collect();
            prop_assert_eq!(parsed.iter().collect::<Vec<_>>(), expect);
        }

        #[test]
        fn no_query_panics(query in "[&=%;+a-f0-9\\PC]{0,60}") {
            let _ = Pairs::parse(Some(&query));
        }
    }
}
