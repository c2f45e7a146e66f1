//! What has been told already, and what is therefore said of a further note; pure.
//!
//! The rules are upstream's (client-go's correlator). A source may say 25 things about an object at once, and one more
//! every five minutes. Of notes that differ in their message alone, the tenth within ten minutes and all after it are
//! one Event. Equal Events are one object, whose `count` rises.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::value::Str;
use jiff::Timestamp;

use super::{About, Note};

/// Events, groups of similar ones, and objects that are remembered, each.
const REMEMBERED: usize = 4096;
/// What a source may say about one object at once.
const BURST: f64 = 25.0;
/// Seconds until it may say one thing more.
const REFILL_SECONDS: f64 = 300.0;
/// Messages of a group from which on they are told as one.
const SIMILAR: usize = 10;
/// How long a group waits for its next message before it begins anew.
const SIMILAR_FOR: Duration = Duration::from_secs(600);
/// What precedes the newest message of a group.
const COMBINED: &str = "(combined from similar events): ";

/// What a note is about, who says it, and what kind of thing it is.
type Group = (Str, About, bool, Str);
/// A group with one part of the object and one message, or all of them.
type EventKey = (Group, Option<(Str, String)>);

/// What the writer remembers.
#[derive(Default)]
pub(super) struct Memory {
    events: Recent<EventKey, (Str, i64)>,
    groups: Recent<Group, (BTreeSet<String>, Timestamp)>,
    budgets: Recent<(Str, About), (f64, Timestamp)>,
}

/// What is to be told of a note.
#[derive(Debug, PartialEq)]
pub(super) struct Telling {
    key: EventKey,
    /// The Event's message.
    pub message: String,
    /// The Event that tells it already, and its new count.
    pub written: Option<(Str, i64)>,
}

impl Telling {
    /// The Event's count.
    pub fn count(&self) -> i64 {
        self.written.as_ref().map_or(1, |(_, count)| *count)
    }
}

impl Memory {
    /// What is to be told; nothing, if the source has said too much about the object.
    pub(super) fn decide(&mut self, source: &Str, note: &Note, now: Timestamp) -> Option<Telling> {
        // The revision differs each time something is seen; the thing is the same.
        let about =
            About { resource_version: Str::default(), field_path: Str::default(), ..note.about.clone() };
        let group: Group = (source.clone(), about.clone(), note.warning, note.reason.clone());
        let (message, key) = if self.is_one_of_many(&group, &note.message, now) {
            (format!("{COMBINED}{}", note.message), (group, None))
        } else {
            let one = (note.about.field_path.clone(), note.message.clone());
            (note.message.clone(), (group, Some(one)))
        };
        // What is not told counts, too.
        let written = self.events.get(&key).map(|(name, count)| {
            *count += 1;
            (name.clone(), *count)
        });
        self.afford((source.clone(), about), now).then_some(Telling { key, message, written })
    }

    /// Remembers the Event that now tells it.
    pub(super) fn written(&mut self, telling: &Telling, name: Str, count: i64) {
        self.events.put(telling.key.clone(), (name, count));
    }

    fn afford(&mut self, budget: (Str, About), now: Timestamp) -> bool {
        let (left, seen) = self.budgets.get_or_put(budget, || (BURST, now));
        let passed = Duration::try_from(now.duration_since(*seen)).unwrap_or_default().as_secs_f64();
        *left = (*left + passed / REFILL_SECONDS).min(BURST);
        *seen = now;
        let affords = *left >= 1.0;
        if affords {
            *left -= 1.0;
        }
        affords
    }

    fn is_one_of_many(&mut self, group: &Group, message: &str, now: Timestamp) -> bool {
        let (messages, seen) = self.groups.get_or_put(group.clone(), || (BTreeSet::new(), now));
        if Duration::try_from(now.duration_since(*seen)).unwrap_or_default() > SIMILAR_FOR {
            messages.clear();
        }
        *seen = now;
        messages.insert(message.to_owned());
        if messages.len() < SIMILAR {
            return false;
        }
        messages.pop_first();
        true
    }
}

/// A map that forgets what was used longest ago when it is full.
struct Recent<K, V> {
    values: BTreeMap<K, (V, u64)>,
    order: BTreeMap<u64, K>,
    turn: u64,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { values: BTreeMap::new(), order: BTreeMap::new(), turn: 0 }
    }
}

impl<K: Ord + Clone, V> Recent<K, V> {
    fn get(&mut self, key: &K) -> Option<&mut V> {
        let (value, used) = self.values.get_mut(key)?;
        self.turn += 1;
        self.order.remove(used);
        self.order.insert(self.turn, key.clone());
        *used = self.turn;
        Some(value)
    }

    fn get_or_put(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if self.get(&key).is_none() {
            self.put(key.clone(), make());
        }
        &mut self.values.get_mut(&key).expect("it was put there").0
    }

    fn put(&mut self, key: K, value: V) {
        self.turn += 1;
        self.order.insert(self.turn, key.clone());
        if let Some((_, used)) = self.values.insert(key, (value, self.turn)) {
            self.order.remove(&used);
        }
        if self.values.len() > REMEMBERED
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.values.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(object: &str, message: &str) -> Note {
        let about = About { name: object.into(), namespace: "a".into(), ..About::default() };
        Note { about, warning: false, reason: "R".into(), message: message.into() }
    }

    /// What is told of notes of one source at the start of time, and of their Events.
    fn tell(memory: &mut Memory, object: &str, message: &str, second: i64) -> Option<(String, i64)> {
        let now = Timestamp::from_second(second).unwrap();
        let telling = memory.decide(&"s".into(), &note(object, message), now)?;
        let name = telling.written.as_ref().map_or_else(|| Str::from(message), |(name, _)| name.clone());
        memory.written(&telling, name, telling.count());
        Some((telling.message.clone(), telling.count()))
    }

    fn told(message: &str, count: i64) -> Option<(String, i64)> {
        Some((message.to_owned(), count))
    }

    #[test]
    fn equal_notes_are_counted_and_chatter_is_quietened() {
        let mut memory = Memory::default();
        for count in 1..=25 {
            assert_eq!(tell(&mut memory, "p", "a", 0), told("a", count));
        }
        assert_eq!(tell(&mut memory, "p", "a", 0), None);
        assert_eq!(tell(&mut memory, "q", "a", 0), told("a", 1), "another object has a budget of its own");
        let mut elsewhere = note("p", "a");
        elsewhere.about.namespace = "b".into();
        assert!(memory.decide(&"s".into(), &elsewhere, Timestamp::UNIX_EPOCH).is_some());
        assert_eq!(tell(&mut memory, "p", "a", 301), told("a", 27));
        assert_eq!(tell(&mut memory, "p", "a", 301), None);
    }

    #[test]
    fn notes_that_differ_in_their_message_alone_become_one_event() {
        let mut memory = Memory::default();
        for number in 1..10 {
            let message = format!("try {number}");
            assert_eq!(tell(&mut memory, "p", &message, number), told(&message, 1));
        }
        assert_eq!(tell(&mut memory, "p", "try 10", 10), told("(combined from similar events): try 10", 1));
        assert_eq!(tell(&mut memory, "p", "try 11", 11), told("(combined from similar events): try 11", 2));
        assert_eq!(tell(&mut memory, "p", "try 12", 700), told("try 12", 1), "the group begins anew");
    }

    #[test]
    fn what_was_used_longest_ago_is_forgotten() {
        let mut recent = Recent::default();
        for number in 0..REMEMBERED {
            recent.put(number, ());
        }
        recent.get(&0).unwrap();
        recent.put(REMEMBERED, ());
        assert!(recent.get(&0).is_some() && recent.get(&1).is_none());
        assert_eq!((recent.values.len(), recent.order.len()), (REMEMBERED, REMEMBERED));
    }
}
