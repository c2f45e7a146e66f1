//! Label selectors: `a=b,c!=d,e in (x,y),!f,g>1`, and the object with `matchLabels` and `matchExpressions`.

mod parse;

use std::fmt;

use crate::status::Cause;
use crate::validation::{cause, names};
use crate::value::{Map, Str, Value};

use super::{SelectorError, wrong};

/// How a requirement's key and values relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label is one of the values.
    In,
    /// The label is none of the values, or not there.
    NotIn,
    /// `=`
    Equals,
    /// `==`
    DoubleEquals,
    /// `!=`: the label is another, or not there.
    NotEquals,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// The label is a whole number above the value.
    GreaterThan,
    /// The label is a whole number below the value.
    LessThan,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: Str,
    /// The relation.
    pub operator: Operator,
    /// What it is related to.
    pub values: Vec<Str>,
}

/// Which objects are meant: those whose labels meet all requirements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    nothing: bool,
    requirements: Vec<Requirement>,
}

impl Requirement {
    /// A requirement that obeys the rules of keys and values.
    pub fn new(key: &str, operator: Operator, values: Vec<Str>) -> Result<Self, SelectorError> {
        let mut causes = Vec::new();
        check_key("key", key, &mut causes);
        let count_wrong = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        };
        if let Some(words) = count_wrong {
            causes.push(cause::invalid("values", values.clone(), words));
        }
        if matches!(operator, Operator::GreaterThan | Operator::LessThan) {
            for (index, value) in values.iter().enumerate().filter(|(_, value)| whole_number(value).is_none())
            {
                let words = "for 'Gt', 'Lt' operators, the value must be an integer";
                causes.push(cause::invalid(format_args!("values[{index}]"), value.clone(), words));
            }
        }
        for (index, value) in values.iter().enumerate() {
            let problems = names::is_label_value(value);
            if !problems.is_empty() {
                let at = format!("values[{index}][{key}]");
                causes.push(cause::invalid(at, value.clone(), &problems.join("; ")));
            }
        }
        match causes.as_slice() {
            [] => Ok(Self { key: key.into(), operator, values }),
            [one] => wrong(one.to_string()),
            many => {
                let all: Vec<String> = many.iter().map(ToString::to_string).collect();
                wrong(format!("[{}]", all.join(", ")))
            }
        }
    }

    fn matches(&self, label: Option<&str>) -> bool {
        let among = |label: &str| self.values.iter().any(|value| value == label);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => label.is_some_and(among),
            Operator::NotIn | Operator::NotEquals => !label.is_some_and(among),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let wanted = self.values.first().and_then(|value| whole_number(value));
                match (label.and_then(whole_number), wanted) {
                    (Some(label), Some(wanted)) if self.operator == Operator::GreaterThan => label > wanted,
                    (Some(label), Some(wanted)) => label < wanted,
                    _ => false,
                }
            }
        }
    }
}

/// Upstream takes a leading sign, as Rust does.
fn whole_number(text: &str) -> Option<i64> {
    text.parse().ok()
}

fn check_key(field: &str, key: &str, causes: &mut Vec<Cause>) {
    let problems = names::is_label_key(key);
    if !problems.is_empty() {
        causes.push(cause::invalid(field, key, &problems.join("; ")));
    }
}

impl Selector {
    /// Selects all.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects none.
    pub fn nothing() -> Self {
        Self { nothing: true, requirements: Vec::new() }
    }

    /// Reads the text form. An empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(Self::of(parse::requirements(text)?))
    }

    /// From requirements.
    pub fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { nothing: false, requirements }
    }

    /// From the object form (`metav1.LabelSelector`). No object selects nothing, an empty one everything.
    pub fn from_object(selector: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(selector) = selector.filter(|selector| !selector.is_null()) else {
            return Ok(Self::nothing());
        };
        let mut requirements = Vec::new();
        for (key, value) in
            selector.get("matchLabels").and_then(Value::as_object).into_iter().flat_map(Map::iter)
        {
            let value = value.as_str().unwrap_or_default();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.into()])?);
        }
        for expression in selector.array_at(&["matchExpressions"]) {
            let operator = match expression.str_at(&["operator"]).unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return wrong(format!("{} is not a valid label selector operator", cause::quoted(other)));
                }
            };
            let values =
                expression.array_at(&["values"]).iter().filter_map(Value::as_str).map(Str::from).collect();
            let key = expression.str_at(&["key"]).unwrap_or_default();
            requirements.push(Requirement::new(key, operator, values)?);
        }
        Ok(Self::of(requirements))
    }

    /// From a map of labels that must all be there, as Services and ReplicationControllers have it. An empty map
    /// selects everything, so callers for whom it means nothing must ask first.
    pub fn from_map(labels: &Map) -> Self {
        let requirement = |(key, value): (&Str, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or_default().into()],
        };
        Self { nothing: false, requirements: labels.iter().map(requirement).collect() }
    }

    /// Whether the labels (sorted by key, each key once) meet all requirements.
    pub fn matches(&self, labels: &[(Str, Str)]) -> bool {
        let find = |key: &str| {
            let at = labels.binary_search_by(|(other, _)| other.as_str().cmp(key)).ok()?;
            Some(labels[at].1.as_str())
        };
        !self.nothing
            && self.requirements.iter().all(|requirement| requirement.matches(find(&requirement.key)))
    }

    /// Whether the labels of a tree (`metadata.labels`) meet all requirements.
    pub fn matches_map(&self, labels: Option<&Map>) -> bool {
        let find = |key: &str| labels?.get(key)?.as_str();
        !self.nothing
            && self.requirements.iter().all(|requirement| requirement.matches(find(&requirement.key)))
    }

    /// Whether it selects all.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether it selects none for sure.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The requirements, by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The one value that the label `key` must have, if the selector says so: for an index.
    pub fn exact(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements.iter().find(|requirement| requirement.key == key)?;
        match (requirement.operator, requirement.values.as_slice()) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [one]) => Some(one),
            _ => None,
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values: Vec<&str> = self.values.iter().map(Str::as_str).collect();
        values.sort_unstable();
        let (key, values) = (&self.key, values.join(","));
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

/// A selector object in text form, as printers show it (`<none>` if it selects everything or is absent).
pub fn format(selector: Option<&Value>) -> String {
    match Selector::from_object(selector) {
        Err(_) => "<error>".to_owned(),
        Ok(selector) => {
            let text = selector.to_string();
            if text.is_empty() { "<none>".to_owned() } else { text }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json;

    fn labels(pairs: &[(&str, &str)]) -> Vec<(Str, Str)> {
        let mut labels: Vec<(Str, Str)> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        labels.sort();
        labels
    }

    #[test]
    fn text_selects_as_upstream() {
        let check = |text: &str, pairs: &[(&str, &str)], expect: bool| {
            let selector = Selector::parse(text).unwrap();
            assert_eq!(selector.matches(&labels(pairs)), expect, "{text} {pairs:?}");
            assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector, "{text}");
        };
        check("", &[("a", "b")], true);
        check("a=b", &[("a", "b")], true);
        check("a==b", &[("a", "c")], false);
        check("a = b , c", &[("a", "b"), ("c", "")], true);
        check("a!=b", &[], true);
        check("a!=b", &[("a", "b")], false);
        check("a in (x, y)", &[("a", "y")], true);
        check("a in (x, y)", &[], false);
        check("a notin (x)", &[], true);
        check("a in ()", &[("a", "")], true);
        check("a in (,x)", &[("a", "")], true);
        check("!a", &[("a", "")], false);
        check("!a", &[], true);
        check("a>1", &[("a", "2")], true);
        check("a<1", &[("a", "2")], false);
        check("a>1", &[("a", "x")], false);
        check("a=", &[("a", "")], true);
        check("in in (in)", &[("in", "in")], true);
        check("example.com/a=b", &[("example.com/a", "b")], true);
    }

    #[test]
    fn wrong_texts_are_refused_in_upstreams_words() {
        let check =
            |text: &str, expect: &str| assert_eq!(Selector::parse(text).unwrap_err().0, expect, "{text}");
        check("a,", "found '', expected: identifier after ','");
        check("=b", "found '=', expected: !, identifier, or 'end of string'");
        check("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        check("a in b", "unable to parse requirement: found 'b' expected: '('");
        check("a in (b", "unable to parse requirement: found '', expected: ',' or ')'");
        check("a=b c", "found 'c', expected: ',' or 'end of string'");
        check("!", "unable to parse requirement: found '', expected: identifier");
        check(
            "a>b",
            "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value \
             must be an integer",
        );
        assert!(Selector::parse("a/b/c").unwrap_err().0.starts_with(
            "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key must consist of"
        ));
    }

    #[test]
    fn objects_select_as_upstream() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["y", "x"]}, {"key": "d", "operator": "DoesNotExist"}]});
        let selector = Selector::from_object(Some(&selector)).unwrap();
        assert_eq!(selector.to_string(), "a=b,c in (x,y),!d");
        assert!(selector.matches(&labels(&[("a", "b"), ("c", "x")])));
        assert!(!selector.matches(&labels(&[("a", "b"), ("c", "x"), ("d", "")])));
        assert!(Selector::from_object(None).unwrap().is_nothing());
        assert!(Selector::from_object(Some(&json!({}))).unwrap().is_everything());
        assert_eq!(selector.exact("a"), Some("b"));
        assert_eq!(selector.exact("c"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~\\n\\PC]{0,40}") {
            let _ = Selector::parse(&text);
        }

        #[test]
        fn what_is_printed_reads_back(text in "(!?[a-z]{1,3}|[a-z]{1,3}(=|==|!=)[a-z]{0,3}|[a-z] (in|notin) \\([a-z,]{0,5}\\))(,[a-z]=b){0,3}") {
            if let Ok(selector) = Selector::parse(&text) {
                prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap().to_string(), selector.to_string());
            }
        }
    }
}
