use proptest::prelude::*;

use super::{Content, Document, compose, to_json};
use crate::value::parse;

/// What upstream's own reader makes of texts, recorded: lines of a text and its JSON, or `! ` and why there is none.
const GOLDEN: &str = include_str!("golden.jsonl");

/// Where our words for what is wrong are other than upstream's, which quotes types of Go.
const OTHER_WORDS: &[&str] = &["unsupported map key", "invalid map key"];

/// What our library takes beyond upstream's: documents that say that they are of version 1.2, and JSON's escaped slash.
const TAKEN: &[&str] = &["%YAML 1.2\n", "\\/"];

#[test]
fn texts_are_read_as_upstream_reads_them() {
    let mut wrong = Vec::new();
    for line in GOLDEN.lines() {
        let [text, expect]: [String; 2] = serde_json::from_str(line).unwrap();
        let got = to_json(text.as_bytes());
        let same = match (&got, expect.strip_prefix("! ")) {
            (Ok(json), None) => {
                let (got, expect) = (parse(json).unwrap(), parse(expect.as_bytes()).unwrap());
                got.to_string() == expect.to_string()
            }
            (Err(error), Some(reason)) => {
                let got = error.to_string();
                got == reason || OTHER_WORDS.iter().any(|words| got.contains(words) && reason.contains(words))
            }
            (Ok(_), Some(_)) => TAKEN.iter().any(|part| text.contains(part)),
            (Err(_), None) => false,
        };
        if !same {
            let got = got.map(|json| String::from_utf8(json).unwrap());
            wrong.push(format!("{text:?}\n  expect {expect}\n  got {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn aliases_make_no_mountains_of_molehills() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let before = format!("*a{}", level - 1);
        text += &format!("a{level}: &a{level} [{}]\n", vec![before; 9].join(", "));
    }
    assert_eq!(
        to_json(text.as_bytes()).unwrap_err().to_string(),
        "yaml: document contains excessive aliasing"
    );
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 90].join(", "));
    assert!(to_json(long.as_bytes()).unwrap_err().to_string().contains("excessive"));
    let deep = "[".repeat(100_000);
    assert!(to_json(deep.as_bytes()).unwrap_err().to_string().contains("depth"));
}

#[test]
fn nodes_know_the_bytes_that_they_stand_on() {
    let text = "# é\na: 'x' # c\nb:\n- k: v\n\n# d\n- {k: w}\n\nc: [1, 2]\n";
    let document = compose(text.as_bytes()).unwrap().unwrap();
    let check = |id, expect: &str| {
        let node = document.node(id);
        assert_eq!(&text[node.start..node.end], expect);
    };
    check(document.member(Document::ROOT, "a").unwrap(), "'x'");
    check(document.member(Document::ROOT, "c").unwrap(), "[1, 2]");
    let list = document.member(Document::ROOT, "b").unwrap();
    check(list, "- k: v\n\n# d\n- {k: w}");
    let Content::Sequence { flow: false, items } = &document.node(list).content else { panic!("a list") };
    check(items[0], "k: v");
    check(items[1], "{k: w}");
    assert!(compose(b"# nothing\n").unwrap().is_none());
}

proptest! {
    #[test]
    fn no_text_panics(text in "[-a-z0-9:,?&*!|>'\"%@`{}\\[\\] \\n\\t#<~.]{0,80}") {
        if let Ok(json) = to_json(text.as_bytes()) {
            prop_assert!(parse(&json).is_ok() || json.len() > 100, "{text:?}");
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = to_json(&bytes);
    }

    #[test]
    fn what_is_quoted_is_a_text(word in any::<String>()) {
        let json = serde_json::to_string(&word).unwrap();
        // Characters beyond the first plane are escaped in pairs by nobody here, and YAML has no control characters.
        prop_assume!(!word.chars().any(char::is_control));
        prop_assert_eq!(to_json(format!("a: {json}").as_bytes()).unwrap(), format!("{{\"a\":{json}}}").into_bytes());
    }
}
