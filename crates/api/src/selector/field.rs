//! Field selectors: `metadata.name=a,spec.nodeName!=b`, with `\`, `,` and `=` escaped in values.

use std::fmt;

use crate::validation::cause::quoted;
use crate::value::Str;

use super::{SelectorError, wrong};

/// One condition on a field. A field that is not there is the empty text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The field's path, as `metadata.name`.
    pub field: Str,
    /// Its value.
    pub value: Str,
    /// Whether the value must be another.
    pub negated: bool,
}

/// Which objects are meant: those whose fields meet all terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Term>);

impl Selector {
    /// Reads a selector. An empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let Some((field, negated, value)) = split_term(part) else {
                return wrong(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            let value = unescape(value)?;
            // Upstream drops terms with neither field nor value.
            if !field.is_empty() || !value.is_empty() {
                terms.push(Term { field: field.into(), value, negated });
            }
        }
        Ok(Self(terms))
    }

    /// Refuses fields that the kind does not offer, in the words that upstream has for that kind. `fields` are the
    /// kind's selectable fields; every kind offers `metadata.name` and `metadata.namespace`.
    pub fn require_supported(&self, kind: &str, fields: &[&str]) -> Result<(), SelectorError> {
        for Term { field, .. } in &self.0 {
            if matches!(field.as_str(), "metadata.name" | "metadata.namespace")
                || fields.contains(&field.as_str())
            {
                continue;
            }
            let own = fields.iter().any(|field| !matches!(*field, "metadata.name" | "metadata.namespace"));
            return wrong(if !own {
                format!(
                    "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                    quoted(field)
                )
            } else if kind == "Job" {
                format!("field label {} not supported for Job", quoted(field))
            } else if kind == "ResourceSlice" {
                format!("field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: {field}")
            } else {
                format!("field label not supported: {field}")
            });
        }
        Ok(())
    }

    /// Whether the fields, as `lookup` gives them by path, meet all terms.
    pub fn matches<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|term| (lookup(&term.field).unwrap_or_default() == term.value) != term.negated)
    }

    /// Whether it selects all.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that a field must have, if the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|term| !term.negated && term.field == field).map(|term| term.value.as_str())
    }

    /// The terms.
    pub fn terms(&self) -> &[Term] {
        &self.0
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

/// Field, whether negated, and the value as written; split at the first operator.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (at, _) in term.char_indices() {
        let rest = &term[at..];
        if let Some(value) = rest.strip_prefix("!=") {
            return Some((&term[..at], true, value));
        }
        if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
            return Some((&term[..at], false, value));
        }
    }
    None
}

fn unescape(text: &str) -> Result<Str, SelectorError> {
    let mut out = Str::default();
    let mut escaped = false;
    for c in text.chars() {
        match (escaped, c) {
            (true, '\\' | ',' | '=') => {
                out.push(c);
                escaped = false;
            }
            (true, _) => {
                return wrong(format!("invalid field selector: invalid escape sequence: \\{c}"));
            }
            (false, '\\') => escaped = true,
            (false, ',' | '=') => {
                let code = u32::from(c);
                return wrong(format!("invalid field selector: unescaped character in value: {code}"));
            }
            (false, _) => out.push(c),
        }
    }
    if escaped {
        return wrong("invalid field selector: invalid escape sequence: \\");
    }
    Ok(out)
}

/// The value with `\`, `,` and `=` escaped.
pub fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if term.negated { "!=" } else { "=" };
            write!(f, "{comma}{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(field: &str) -> Option<&'static str> {
        match field {
            "metadata.name" => Some("a"),
            "x" => Some("1,2=3\\"),
            _ => None,
        }
    }

    #[test]
    fn text_selects_as_upstream() {
        let check = |text: &str, expect: bool| {
            assert_eq!(Selector::parse(text).unwrap().matches(lookup), expect, "{text}");
        };
        check("", true);
        check("metadata.name=a", true);
        check("metadata.name==b", false);
        check("metadata.name!=b,spec.nodeName=", true);
        check(r"x=1\,2\=3\\", true);
    }

    #[test]
    fn wrong_texts_are_refused_in_upstreams_words() {
        let check =
            |text: &str, expect: &str| assert_eq!(Selector::parse(text).unwrap_err().0, expect, "{text}");
        check("a", "invalid selector: 'a'; can't understand 'a'");
        check("a=b=c", "invalid field selector: unescaped character in value: 61");
        check(r"a=\b", r"invalid field selector: invalid escape sequence: \b");
        let selector = Selector::parse("spec.x=1").unwrap();
        assert_eq!(
            selector.require_supported("Pod", &["spec.nodeName"]).unwrap_err().0,
            "field label not supported: spec.x"
        );
        assert_eq!(
            selector.require_supported("Lease", &[]).unwrap_err().0,
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~\\PC]{0,40}") {
            let _ = Selector::parse(&text);
        }

        #[test]
        fn any_value_can_be_escaped(value in "\\PC{1,20}") {
            let selector = Selector::parse(&format!("a={}", escape(&value))).unwrap();
            prop_assert_eq!(selector.exact("a"), Some(value.as_str()));
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
    }
}
