//! Names, label keys and values, ports, percentages: each rule gives upstream's sentences about what is wrong.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const LABEL_KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";

const SUBDOMAIN_WORDS: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
    '-' or '.', and must start and end with an alphanumeric character";
const LABEL_KEY_WORDS: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
    with an alphanumeric character";

/// Longest name that is one DNS label.
pub const LABEL_MAX_BYTES: usize = 63;
/// Longest name that is a DNS subdomain.
pub const SUBDOMAIN_MAX_BYTES: usize = 253;
/// Longest name of a port (RFC 6335).
pub const PORT_NAME_MAX_BYTES: usize = 15;

/// How names of a kind must look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// A DNS subdomain (RFC 1123): most kinds.
    Subdomain,
    /// One DNS label (RFC 1123): namespaces, services.
    Label,
    /// One DNS label that starts with a letter (RFC 1035).
    Label1035,
    /// Whatever can be a segment of a path: roles and their bindings.
    PathSegment,
    /// An IP address in canonical form: `IPAddress`.
    Address,
}

impl NameRule {
    /// What is wrong with `name`; a `prefix` gets characters appended, so it may end in a dash.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked;
        let name = if prefix && self != Self::PathSegment {
            masked = mask_trailing_dash(name);
            masked.as_str()
        } else {
            name
        };
        match self {
            Self::Subdomain => is_subdomain(name),
            Self::Label => is_label(name),
            Self::Label1035 => is_label_1035(name),
            Self::PathSegment => is_path_segment(name, prefix),
            Self::Address => super::address::is_canonical_ip(name),
        }
    }
}

/// Upstream replaces the last two characters, not one; for texts that are right otherwise it is all the same.
fn mask_trailing_dash(name: &str) -> String {
    match name.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let mut kept: String = rest.chars().collect();
            kept.pop();
            kept.push('a');
            kept
        }
        _ => name.to_owned(),
    }
}

fn with_examples(words: &str, pattern: &str, examples: &[&str]) -> String {
    let mut out = words.to_owned();
    out.push_str(" (");
    for (index, example) in examples.iter().enumerate() {
        out.push_str(if index == 0 { "e.g. " } else { " or " });
        out.push_str(&format!("'{example}', "));
    }
    out.push_str(&format!("regex used for validation is '{pattern}')"));
    out
}

/// The sentence for a text of too many characters.
pub fn max_length(characters: usize) -> String {
    format!("must be no more than {characters} characters")
}

fn max_bytes(bytes: usize) -> String {
    format!("must be no more than {bytes} bytes")
}

/// The sentence for a number out of bounds.
pub fn inclusive_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether `text` is of the pattern of a DNS label (RFC 1123), whatever its length.
fn label_matches(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(&first), Some(&last))
        if lower_alphanumeric(first) && lower_alphanumeric(last))
        && bytes.iter().all(|&byte| lower_alphanumeric(byte) || byte == b'-')
}

fn subdomain_matches(text: &str) -> bool {
    text.split('.').all(label_matches)
}

fn label_key_matches(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last))
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// One DNS label (RFC 1123).
pub fn is_label(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > LABEL_MAX_BYTES {
        wrong.push(max_length(LABEL_MAX_BYTES));
    }
    if !label_matches(value) {
        wrong.push(if subdomain_matches(value) {
            "must not contain dots".to_owned()
        } else {
            with_examples(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                 start and end with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    wrong
}

/// A DNS subdomain (RFC 1123).
pub fn is_subdomain(value: &str) -> Vec<String> {
    subdomain(value, max_length)
}

fn subdomain(value: &str, too_long: fn(usize) -> String) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > SUBDOMAIN_MAX_BYTES {
        wrong.push(too_long(SUBDOMAIN_MAX_BYTES));
    }
    if !subdomain_matches(value) {
        wrong.push(with_examples(SUBDOMAIN_WORDS, SUBDOMAIN, &["example.com"]));
    }
    wrong
}

/// One DNS label that starts with a letter (RFC 1035).
pub fn is_label_1035(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > LABEL_MAX_BYTES {
        wrong.push(max_length(LABEL_MAX_BYTES));
    }
    if !label_matches(value) || !value.starts_with(|c: char| c.is_ascii_lowercase()) {
        wrong.push(with_examples(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            LABEL_1035,
            &["my-name", "abc-123"],
        ));
    }
    wrong
}

/// `*.` and a DNS subdomain.
pub fn is_wildcard_subdomain(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > SUBDOMAIN_MAX_BYTES {
        wrong.push(max_length(SUBDOMAIN_MAX_BYTES));
    }
    if !value.strip_prefix("*.").is_some_and(subdomain_matches) {
        wrong.push(with_examples(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must \
             consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!(r"\*\.{SUBDOMAIN}"),
            &["*.example.com"],
        ));
    }
    wrong
}

/// A segment of a URL's path, or the start of one.
pub fn is_path_segment(value: &str, prefix: bool) -> Vec<String> {
    if !prefix && matches!(value, "." | "..") {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|bad| value.contains(**bad))
        .map(|bad| format!("may not contain '{bad}'"))
        .collect()
}

/// A label's key, an annotation's (in lower case), a finalizer, a condition's type: what upstream calls a
/// qualified name.
pub fn is_label_key(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let key_words = |before: &str| {
        format!("{before}{}", with_examples(LABEL_KEY_WORDS, LABEL_KEY, &["MyName", "my.name", "123-abc"]))
    };
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                wrong.extend(
                    subdomain(prefix, max_bytes).into_iter().map(|words| format!("prefix part {words}")),
                );
            }
            name
        }
        _ => {
            let words = key_words("a valid label key ");
            return vec![format!(
                "{words} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX_BYTES {
        wrong.push(format!("name part {}", max_bytes(LABEL_MAX_BYTES)));
    }
    if !label_key_matches(name) {
        wrong.push(key_words("name part "));
    }
    wrong
}

/// A label's value.
pub fn is_label_value(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > LABEL_MAX_BYTES {
        wrong.push(max_bytes(LABEL_MAX_BYTES));
    }
    if !value.is_empty() && !label_key_matches(value) {
        wrong.push(with_examples(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
             must start and end with an alphanumeric character",
            LABEL_VALUE,
            &["MyValue", "my_value", "12345"],
        ));
    }
    wrong
}

/// The number of a port.
pub fn is_port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![inclusive_range(1, 65535)] }
}

/// The name of a port.
pub fn is_port_name(port: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if port.len() > PORT_NAME_MAX_BYTES {
        wrong.push(max_length(PORT_NAME_MAX_BYTES));
    }
    if port.is_empty() || !port.bytes().all(|byte| lower_alphanumeric(byte) || byte == b'-') {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !port.bytes().any(|byte| byte.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".to_owned());
    }
    if port.contains("--") {
        wrong.push("must not contain consecutive hyphens".to_owned());
    }
    if port.starts_with('-') || port.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".to_owned());
    }
    wrong
}

/// A percentage as `25%`.
pub fn is_percent(value: &str) -> Vec<String> {
    let right = value
        .strip_suffix('%')
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    if right {
        return Vec::new();
    }
    vec![with_examples(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// A key of a ConfigMap or Secret.
pub fn is_config_map_key(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > SUBDOMAIN_MAX_BYTES {
        wrong.push(max_length(SUBDOMAIN_MAX_BYTES));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if value.is_empty() || !value.bytes().all(plain) {
        wrong.push(with_examples(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match value {
        "." | ".." => wrong.push(format!("must not be '{value}'")),
        _ if value.starts_with("..") => wrong.push("must not start with '..'".to_owned()),
        _ => {}
    }
    wrong
}

/// The name of an environment variable, by the rule that 1.37 applies.
pub fn is_environment_name(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.is_empty() {
        wrong.push("environment variable name must be non-empty".to_owned());
    }
    if !value.chars().all(|c| matches!(c, ' '..='~') && c != '=') {
        wrong.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    wrong
}

/// The name of an HTTP header.
pub fn is_http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Vec::new();
    }
    vec![with_examples(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// A user's or group's number.
pub fn is_user_or_group_id(id: i64) -> Vec<String> {
    if (0..=i64::from(i32::MAX)).contains(&id) {
        Vec::new()
    } else {
        vec![inclusive_range(0, i64::from(i32::MAX))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        for good in ["a", "a-b", "0", "123-abc"] {
            assert!(is_label(good).is_empty(), "{good}");
            assert!(is_subdomain(good).is_empty(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a b", "é"] {
            assert_eq!(is_label(bad).len(), 1, "{bad}");
            assert_eq!(is_subdomain(bad).len(), 1, "{bad}");
        }
        assert_eq!(is_label("a.b"), ["must not contain dots"]);
        assert!(is_subdomain("a.b").is_empty());
        assert_eq!(is_subdomain("a..b").len(), 1);
        assert_eq!(is_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert_eq!(
            is_subdomain("A"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
              must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            is_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
              and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(is_label_1035("1a").len(), 1);
    }

    #[test]
    fn label_keys_and_values() {
        for good in ["a", "A.b_c-d", "example.com/Name", "1/2"] {
            assert!(is_label_key(good).is_empty(), "{good}");
        }
        for bad in ["", "a/", "/a", "a/b/c", "-a", "a b", "Example.com/a"] {
            assert!(!is_label_key(bad).is_empty(), "{bad}");
        }
        assert_eq!(is_label_key("/a"), ["prefix part must be non-empty"]);
        assert_eq!(is_label_key("")[0], "name part must be non-empty");
        assert!(is_label_value("").is_empty());
        assert_eq!(is_label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }

    #[test]
    fn a_prefix_may_end_in_a_dash() {
        assert!(NameRule::Subdomain.check("web-", true).is_empty());
        assert!(!NameRule::Subdomain.check("web-", false).is_empty());
        assert!(NameRule::PathSegment.check("system:a-", true).is_empty());
        assert_eq!(NameRule::PathSegment.check("a/%", false), ["may not contain '/'", "may not contain '%'"]);
    }

    #[test]
    fn ports_and_percentages() {
        assert!(is_port_name("http-1").is_empty());
        assert_eq!(is_port_name("80"), ["must contain at least one letter (a-z)"]);
        assert_eq!(
            is_port_name("a--"),
            ["must not contain consecutive hyphens", "must not begin or end with a hyphen"]
        );
        assert_eq!(is_port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert!(is_percent("25%").is_empty());
        assert_eq!(is_percent("%").len(), 1);
    }
}
