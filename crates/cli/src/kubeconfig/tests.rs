use proptest::prelude::*;

use super::*;

const OTHERS: &str = "# mine\napiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    server: https://a # here\n    x-own: [1, two]\n  name: a\n\n# contexts\ncontexts:\n- context:\n    cluster: a\n    namespace: \"on\"\n    user: a\n  name: a\ncurrent-context: a\nusers:\n- name: a\n  user:\n    token: 'yes'\n# the end\n";

fn entry() -> Entry {
    Entry {
        name: "ondol".to_owned(),
        server: "https://127.0.0.1:6443".to_owned(),
        authority_pem: "pem".to_owned(),
        command: vec!["/usr/bin/ondol".to_owned(), "--instance".to_owned(), "no".to_owned()],
    }
}

fn read(text: &str) -> Value {
    Text::read(text).unwrap().value().clone()
}

#[test]
fn ours_is_added_and_removed_and_others_stay() {
    let added = with_entry(OTHERS, &entry()).unwrap();
    assert_eq!(with_entry(&added, &entry()).unwrap(), added, "a second time changes nothing");
    let document = read(&added);
    assert_eq!(document["current-context"], "ondol");
    assert_eq!(document["users"][1]["user"]["exec"]["args"], json!(["--instance", "no"]));
    for line in OTHERS.lines().filter(|line| !line.starts_with("current-context")) {
        assert!(added.contains(line), "{line} of\n{added}");
    }
    let (removed, changed) = without_entry(&added, "ondol").unwrap();
    assert!(changed);
    assert_eq!(removed, OTHERS.replace("current-context: a", "current-context: \"\""));
    assert_eq!(without_entry(OTHERS, "ondol").unwrap(), (OTHERS.to_owned(), false));
}

#[test]
fn an_entry_that_changed_is_replaced_where_it_stands() {
    let added = with_entry(OTHERS, &entry()).unwrap();
    let other = Entry { server: "https://127.0.0.1:7443".to_owned(), ..entry() };
    assert_eq!(with_entry(&added, &other).unwrap(), added.replace(":6443", ":7443"));
}

#[test]
fn a_namespace_that_the_user_chose_stays() {
    let added = with_entry("", &entry()).unwrap().replace("user: ondol", "user: ondol\n    namespace: shop");
    assert!(with_entry(&added, &entry()).unwrap().contains("namespace: shop"));
    let other = added.replace("cluster: ondol", "cluster: other");
    assert_eq!(read(&with_entry(&other, &entry()).unwrap()), read(&added));
}

#[test]
fn an_empty_file_becomes_a_kubeconfig() {
    for text in ["", "\n", "# mine\n", "# mine", "---\n", "null\n"] {
        let added = with_entry(text, &entry()).unwrap();
        assert_eq!(read(&added)["clusters"][0]["name"], "ondol", "{added}");
        assert_eq!(read(&added)["kind"], "Config", "{added}");
    }
}

#[test]
fn what_cannot_be_changed_in_place_is_written_anew_and_means_the_same() {
    let text = "x: &none []\nclusters: *none\ncontexts: *none\nusers: *none\n";
    let (removed, _) = without_entry(&with_entry(text, &entry()).unwrap(), "ondol").unwrap();
    assert_eq!(read(&removed)["users"], json!([]));
    assert_eq!(read(&removed)["x"], json!([]));
}

#[test]
fn what_is_no_kubeconfig_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    for text in ["- a\n- b\n", "clusters: {a: b}\n", "a: [\n"] {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(add(&path, &entry()), Err(Error::Malformed { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn the_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new").join("config");
    add(&path, &entry()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(remove(&path, "ondol").unwrap());
    assert!(!path.exists(), "nothing was left in it");
    std::fs::write(&path, OTHERS).unwrap();
    add(&path, &entry()).unwrap();
    assert!(remove(&path, "ondol").unwrap() && path.exists());
}

/// Scalars that some reader of YAML takes for something else, or that hold what edits look for.
fn odd() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "'on'",
        "\"yes\"",
        "yes",
        "off",
        "'y'",
        "\"=\"",
        "'2001-01-01'",
        "2001-01-01",
        "12:30:45",
        "\"12:30:45\"",
        "'0777'",
        "0o17",
        "1_000",
        "'1e3'",
        "'<<'",
        "~",
        "\"\"",
        "'# no comment'",
        "\"a\\n- b\"",
        "x # comment",
        "é",
        "{a: b}",
        "[a, 'no']",
        "plain words",
        "\"- name: ondol\"",
    ])
}

/// A list of entries in one of the ways in which people and programs write them.
fn any_list(list: &'static str, field: &'static str) -> impl Strategy<Value = String> {
    let comment = prop::sample::select(vec!["", "\n", "# c\n", "  # c\n\n"]);
    let entries = prop::collection::vec((odd(), odd(), comment), 0..4);
    (entries, 0..5).prop_map(move |(entries, style)| {
        let in_block = |margin: &str, after: &str| {
            let mut text = format!("{list}:{after}\n");
            for (number, (one, two, comment)) in entries.iter().enumerate() {
                text += comment;
                text += &format!("{margin}- {field}:\n{margin}    one: {one}\n{margin}    two: {two}\n");
                text += &format!("{margin}  name: n{number}\n");
            }
            text
        };
        match style {
            _ if entries.is_empty() => format!("{list}: []\n"),
            0 => in_block("", ""),
            1 => in_block("  ", " "),
            2 => in_block("    ", " # all of them"),
            _ => {
                let entry = |number| format!("{{name: n{number}, {field}: {{one: 'on', two: y}}}}");
                let entries: Vec<String> = (0..entries.len()).map(entry).collect();
                let separator = if style == 3 { ", " } else { ",\n  " };
                format!("{list}: [{}] # c\n", entries.join(separator))
            }
        }
    })
}

fn any_kubeconfig() -> impl Strategy<Value = String> {
    let lists = (
        any_list("clusters", "cluster"),
        any_list("contexts", "context"),
        any_list("users", "user"),
        Just("current-context: \"\" # c\n".to_owned()),
        odd().prop_map(|odd| format!("preferences: {{}}\nextensions:\n- name: {odd}\n")),
        Just("last: |\n  - a\n\n  b\n".to_owned()),
    );
    let parts = lists.prop_map(|(a, b, c, d, e, f)| vec![a, b, c, d, e, f]).prop_shuffle();
    (parts, any::<bool>(), any::<bool>(), prop::sample::select(vec!["", "---\n", "# top\n", "\n"])).prop_map(
        |(parts, carriage, open, top)| {
            let mut text = format!("{top}apiVersion: v1\nkind: Config\n{}", parts.concat());
            if open {
                text.truncate(text.trim_end().len());
            }
            if carriage { text.replace('\n', "\r\n") } else { text }
        },
    )
}

proptest! {
    #[test]
    fn every_other_byte_stays(text in any_kubeconfig()) {
        let before = read(&text);
        let added = with_entry(&text, &entry()).unwrap();
        let mut after = read(&added);
        for list in ["clusters", "contexts", "users"] {
            prop_assert_eq!(after[list].as_array_mut().unwrap().pop().unwrap()["name"].clone(), "ondol", "{}", &added);
        }
        after["current-context"] = json!("");
        prop_assert_eq!(after, before, "{}", &added);
        prop_assert_eq!(with_entry(&added, &entry()).unwrap(), added.clone());
        let (removed, found) = without_entry(&added, "ondol").unwrap();
        prop_assert!(found);
        prop_assert_eq!(removed, text, "{}", &added);
    }

    #[test]
    fn json_stays_json(open in any::<bool>(), entries in 0usize..3) {
        let list: Vec<Value> = (0..entries).map(|number| json!({"name": format!("n{number}"), "x": "on"})).collect();
        let value = json!({"clusters": list, "contexts": list, "users": list, "current-context": "", "z": [{}]});
        let text = if open { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let added = with_entry(&text, &entry()).unwrap();
        prop_assert!(serde_json::from_str::<Value>(&added).is_ok(), "{added}");
        prop_assert_eq!(without_entry(&added, "ondol").unwrap().0, text);
    }

    #[test]
    fn lists_that_are_not_there_are_made(text in "(clusters:|clusters: null|users: ~ # c|)\n(contexts:\n|current-context:\n)?") {
        let added = with_entry(&text, &entry()).unwrap();
        let (removed, _) = without_entry(&added, "ondol").unwrap();
        prop_assert_eq!(&read(&removed)["users"], &json!([]), "{}", &added);
        prop_assert_eq!(read(&added)["current-context"].clone(), "ondol");
    }
}

#[test]
fn the_namespace_is_that_of_the_current_context_if_it_leads_to_the_instance() {
    let folder = tempfile::tempdir().unwrap();
    let check = |texts: &[&str], expect: Option<&str>| {
        let mut files = Vec::new();
        for (number, text) in texts.iter().enumerate() {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, text).unwrap();
            files.push(path.display().to_string());
        }
        let found = namespace(Some(&files.join(":")), folder.path(), "ondol");
        assert_eq!(found.as_deref(), expect, "{texts:?}");
    };
    let own =
        "current-context: ondol\ncontexts:\n- {name: ondol, context: {cluster: ondol, namespace: shop}}\n";
    check(&[own], Some("shop"));
    check(&["{}", own], Some("shop"));
    check(&["{", own], Some("shop"));
    check(
        &["current-context: x\ncontexts: [{name: x, context: {cluster: x, namespace: far}}]", own],
        Some("shop"),
    );
    check(
        &["current-context: x\ncontexts: [{name: x, context: {cluster: ondol, namespace: near}}]", own],
        Some("near"),
    );
    check(&["contexts: [{name: ondol, context: {cluster: ondol}}]", own], None);
    check(&["contexts: 5"], None);
    assert_eq!(namespace(None, folder.path(), "ondol"), None);
}
