//! Revisions: which template came when, for `kubectl rollout history` and `undo`.

use std::collections::BTreeMap;

use api::value::{Str, Value};

/// Number of the template, on sets and on the Deployment.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Numbers that the template of a set had before.
pub const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Total that a set was sized for.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// Largest total that a set was sized for.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// How long a history may get, in characters.
const HISTORY_CHARACTERS: usize = 2000;
/// Annotations of a Deployment that its sets do not get.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The annotations that the new set needs beside those it has: the Deployment's, its revision, its history.
pub fn annotations(deployment: &Value, present: &Value, revision: i64) -> BTreeMap<Str, Str> {
    let mut wanted = BTreeMap::new();
    let own = deployment.at(&["metadata", "annotations"]).and_then(Value::as_object);
    for (key, value) in own.into_iter().flat_map(api::value::Map::iter) {
        if !OWN.contains(&key.as_str()) && present.get(key) != Some(value) {
            wanted.insert(key.clone(), value.as_str().unwrap_or_default().into());
        }
    }
    let before = present.str_at(&[REVISION]);
    let number = match before {
        None | Some("") => 0,
        // A revision that somebody has made unreadable is theirs.
        Some(text) => match text.parse::<i64>() {
            Ok(number) => number,
            Err(_) => return wanted,
        },
    };
    if number < revision {
        wanted.insert(REVISION.into(), revision.to_string().into());
        if let Some(before) = before {
            wanted.insert(
                HISTORY.into(),
                longer(present.str_at(&[HISTORY]).unwrap_or_default(), before).into(),
            );
        }
    }
    wanted
}

/// `history` with `revision` at its end; the oldest go when it gets too long.
fn longer(history: &str, revision: &str) -> String {
    let mut numbers: Vec<&str> = history.split(',').filter(|number| !number.is_empty()).collect();
    numbers.push(revision);
    while numbers.iter().map(|number| number.len() + 1).sum::<usize>() > HISTORY_CHARACTERS + 1 {
        numbers.remove(0);
    }
    numbers.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn rolling_back_renumbers_and_remembers() {
        let deployment =
            json!({"metadata": {"annotations": {"a": "1", "deployment.kubernetes.io/revision": "5"}}});
        let present = json!({"deployment.kubernetes.io/revision": "2"});
        let wanted = annotations(&deployment, &present, 6);
        assert_eq!(wanted.get(REVISION).map(Str::as_str), Some("6"));
        assert_eq!(wanted.get(HISTORY).map(Str::as_str), Some("2"));
        assert_eq!(wanted.get("a").map(Str::as_str), Some("1"));
        let settled = json!({"deployment.kubernetes.io/revision": "6", "a": "1"});
        assert!(annotations(&deployment, &settled, 6).is_empty());
    }

    #[test]
    fn history_loses_its_oldest_when_it_gets_long() {
        let long = (0..800).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let longer = longer(&long, "801");
        assert!(longer.len() <= HISTORY_CHARACTERS && longer.ends_with(",801"));
    }
}
