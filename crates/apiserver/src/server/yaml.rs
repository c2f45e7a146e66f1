//! Trees as YAML, in the block style that upstream writes. What any YAML reader, 1.1 or 1.2, might take for something
//! other than a text is quoted.

use api::value::Value;

/// Words that some YAML reader takes for a truth value or for nothing.
const WORDS: &[&str] = &["", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"];

/// Writes a document.
pub fn write(tree: &Value) -> String {
    let mut out = String::new();
    match tree {
        Value::Object(map) if !map.is_empty() => members(map, 0, &mut out),
        Value::Array(elements) if !elements.is_empty() => list(elements, 0, &mut out),
        scalar => {
            out.push_str(&scalar_text(scalar));
            out.push('\n');
        }
    }
    out
}

fn members(map: &api::value::Map, depth: usize, out: &mut String) {
    for (index, (key, value)) in map.iter().enumerate() {
        // The first member of a list's element stands behind its dash.
        if index > 0 || !out.ends_with("- ") {
            out.push_str(&"  ".repeat(depth));
        }
        out.push_str(&text(key));
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                members(inner, depth + 1, out);
            }
            Value::Array(elements) if !elements.is_empty() => {
                out.push('\n');
                list(elements, depth, out);
            }
            scalar => {
                out.push(' ');
                out.push_str(&scalar_text(scalar));
                out.push('\n');
            }
        }
    }
}

fn list(elements: &[Value], depth: usize, out: &mut String) {
    for element in elements {
        if !out.ends_with("- ") {
            out.push_str(&"  ".repeat(depth));
        }
        out.push_str("- ");
        match element {
            Value::Object(map) if !map.is_empty() => members(map, depth + 1, out),
            Value::Array(inner) if !inner.is_empty() => list(inner, depth + 1, out),
            scalar => {
                out.push_str(&scalar_text(scalar));
                out.push('\n');
            }
        }
    }
}

fn scalar_text(value: &Value) -> String {
    match value {
        Value::String(word) => text(word),
        // Empty lists and maps, numbers, truth values and null are written as in JSON.
        other => other.to_string(),
    }
}

/// A text, plain where nobody can mistake it, else in double quotes, whose escapes are JSON's.
fn text(word: &str) -> String {
    let first = word.chars().next().unwrap_or(' ');
    let plain = (first.is_ascii_alphabetic() || matches!(first, '/' | '_'))
        && !WORDS.contains(&word.to_ascii_lowercase().as_str())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" ._-/:+=@()$,;".contains(&byte))
        && !word.contains(": ")
        && !word.ends_with(':')
        && !word.ends_with(' ');
    // Records of managers are full of lone dots, and a lone dot is nothing but a text.
    if plain || word == "." { word.to_owned() } else { quoted(word) }
}

/// As JSON, and what YAML calls not printable is escaped beyond JSON's need.
fn quoted(word: &str) -> String {
    let json = Value::from(word).to_string();
    let strange = |c: char| {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    if !json.contains(strange) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 8);
    for c in json.chars() {
        if strange(c) { out.push_str(&format!("\\u{:04x}", u32::from(c))) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;
    use proptest::prelude::*;

    #[test]
    fn documents_are_written_in_blocks() {
        let tree = json!({"a": {"b": [1, {"c": "d", "e": []}, ["x", "y"]], "t": "2026-01-01T00:00:00Z"}, "n": "1",
            "s": "a b", "u": null, "z": "a: b"});
        let expect = "a:\n  b:\n  - 1\n  - c: d\n    e: []\n  - - x\n    - \"y\"\n  t: \"2026-01-01T00:00:00Z\"\n\"n\": \"1\"\ns: a b\nu: null\nz: \"a: b\"\n";
        assert_eq!(write(&tree), expect);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_equal(pairs in prop::collection::vec((".{0,12}", ".{0,20}"), 0..6)) {
            let map: api::value::Map = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
            let tree = json!({"list": [(Value::from(map.clone())), (Value::from(map))]});
            let json = api::schema::yaml_to_json(write(&tree).as_bytes()).unwrap();
            prop_assert_eq!(api::value::parse(&json).unwrap(), tree);
        }
    }
}
