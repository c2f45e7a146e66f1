//! Lists of conditions in a status, as trees.

use api::json;
use api::time::seconds;
use api::value::Value;
use jiff::Timestamp;

/// A time read back; `None` if it is not there or no time.
pub fn read_time(value: Option<&Value>) -> Option<Timestamp> {
    value?.as_str()?.parse().ok()
}

/// The condition of a type.
pub fn find<'a>(conditions: &'a [Value], kind: &str) -> Option<&'a Value> {
    conditions.iter().find(|condition| condition.str_at(&["type"]) == Some(kind))
}

/// Takes the condition of a type away.
pub fn remove(conditions: &mut Vec<Value>, kind: &str) {
    conditions.retain(|condition| condition.str_at(&["type"]) != Some(kind));
}

/// A condition of now.
pub fn new(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": (seconds(now))
    })
}

/// Puts `condition` into its place, or behind the others; new words count too. The time of transition stays if the
/// status does.
pub fn update(conditions: &mut Vec<Value>, mut condition: Value) {
    let kind = condition.str_at(&["type"]);
    let Some(old) = conditions.iter_mut().find(|old| old.str_at(&["type"]) == kind) else {
        conditions.push(condition);
        return;
    };
    if old.str_at(&["status"]) == condition.str_at(&["status"])
        && let Some(at) = old.get("lastTransitionTime").cloned()
    {
        condition.set(&["lastTransitionTime"], at);
    }
    *old = condition;
}

/// Puts `condition` unless one of the same type, status and reason is there. The time of transition stays if the
/// status does. Replaced ones move to the end, as upstream's do.
pub fn set(conditions: &mut Vec<Value>, mut condition: Value) {
    let kind = condition.str_at(&["type"]).unwrap_or_default().to_owned();
    if let Some(old) = find(conditions, &kind) {
        let same = |field| old.str_at(&[field]) == condition.str_at(&[field]);
        if same("status") && same("reason") {
            return;
        }
        if same("status")
            && let Some(at) = old.get("lastTransitionTime").cloned()
        {
            condition.set(&["lastTransitionTime"], at);
        }
    }
    remove(conditions, &kind);
    conditions.push(condition);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_transition_moves_with_the_status_only() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut conditions = vec![new("Ready", "False", "A", "", at(0))];
        set(&mut conditions, new("Ready", "False", "B", "", at(5)));
        assert_eq!(conditions[0].str_at(&["lastTransitionTime"]), Some("1970-01-01T00:00:00Z"));
        set(&mut conditions, new("Ready", "True", "B", "", at(9)));
        assert_eq!(conditions[0].str_at(&["lastTransitionTime"]), Some("1970-01-01T00:00:09Z"));
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn new_words_alone_are_an_update_and_nothing_to_set() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let old = vec![new("A", "True", "R", "7 remain", at(0)), new("B", "True", "R", "", at(0))];
        let mut conditions = old.clone();
        set(&mut conditions, new("A", "True", "R", "1 remains", at(5)));
        assert_eq!(conditions, old);
        update(&mut conditions, new("A", "True", "R", "1 remains", at(5)));
        assert_eq!(conditions[0], new("A", "True", "R", "1 remains", at(0)));
        update(&mut conditions, new("A", "False", "R", "none", at(9)));
        assert_eq!(conditions[0], new("A", "False", "R", "none", at(9)));
        update(&mut conditions, new("C", "True", "R", "", at(9)));
        assert_eq!(conditions.len(), 3);
    }
}
