//! What a suite of others' tests came to, test by test, as it is kept in conformance/.
//!
//! A line for each test: `pass NAME`, `fail NAME: why`, or `out NAME: why` for what is not tried at all. Words are a
//! person's; recording a run anew keeps them.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail};

/// All tests by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ledger(BTreeMap<String, Entry>);

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    state: State,
    words: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pass,
    Fail,
    Out,
}

impl State {
    const WORDS: [(&str, Self); 3] = [("pass", Self::Pass), ("fail", Self::Fail), ("out", Self::Out)];
}

impl Ledger {
    /// Reads it.
    pub fn read(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let entries = lines.map(|line| {
            let (word, rest) = line.split_once(' ').with_context(|| format!("\"{line}\" names no test"))?;
            let Some((_, state)) = State::WORDS.iter().find(|(other, _)| *other == word) else {
                bail!("\"{line}\" begins with none of pass, fail, out");
            };
            let (name, words) = rest.split_once(": ").unwrap_or((rest, ""));
            Ok((name.to_owned(), Entry { state: *state, words: words.trim().to_owned() }))
        });
        entries.collect::<Result<_>>().map(Self)
    }

    /// Takes in what a run of everything has told: of each test, whether it passed. What was left out stays so.
    pub fn record(&mut self, outcome: &BTreeMap<String, bool>) {
        self.0.retain(|name, entry| entry.state == State::Out || outcome.contains_key(name));
        self.amend(outcome);
    }

    /// Takes in what a run of some tests has told.
    pub fn amend(&mut self, outcome: &BTreeMap<String, bool>) {
        for (name, passed) in outcome {
            let before = self.0.remove(name).filter(|entry| !passed && entry.state != State::Pass);
            let entry = Entry {
                state: if *passed { State::Pass } else { State::Fail },
                words: before.map(|entry| entry.words).unwrap_or_default(),
            };
            self.0.insert(name.clone(), entry);
        }
    }

    /// Tests that passed and that have not in this run.
    pub fn lost(&self, outcome: &BTreeMap<String, bool>) -> Vec<&str> {
        let passed = self.0.iter().filter(|(_, entry)| entry.state == State::Pass);
        passed.map(|(name, _)| name.as_str()).filter(|name| outcome.get(*name) != Some(&true)).collect()
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, Entry { state, words }) in &self.0 {
            let word = State::WORDS.iter().find(|(_, other)| other == state).map_or("", |(word, _)| word);
            let gap = if words.is_empty() { "" } else { ": " };
            writeln!(f, "{word} {name}{gap}{words}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(tests: &[(&str, bool)]) -> BTreeMap<String, bool> {
        tests.iter().map(|(name, passed)| ((*name).to_owned(), *passed)).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = "fail edit: no editor\npass files::get\nout roles: RBAC\n";
        assert_eq!(Ledger::read(text).unwrap().to_string(), text);
        assert!(Ledger::read("maybe get\n").is_err());
    }

    #[test]
    fn recording_keeps_words_and_what_is_left_out() {
        let mut ledger =
            Ledger::read("fail edit: no editor\npass get\npass gone\nout roles: RBAC\n").unwrap();
        ledger.record(&outcome(&[("edit", false), ("get", false), ("wait", true)]));
        assert_eq!(ledger.to_string(), "fail edit: no editor\nfail get\nout roles: RBAC\npass wait\n");
    }

    #[test]
    fn a_run_of_some_tests_leaves_the_others_as_they_are() {
        let mut ledger = Ledger::read("fail edit: no editor\npass get\n").unwrap();
        ledger.amend(&outcome(&[("edit", true)]));
        assert_eq!(ledger.to_string(), "pass edit\npass get\n");
    }

    #[test]
    fn what_passed_and_does_not_is_lost_also_if_it_was_not_reached() {
        let ledger = Ledger::read("fail edit\npass get\npass wait\npass label\n").unwrap();
        assert_eq!(
            ledger.lost(&outcome(&[("edit", false), ("get", false), ("wait", true)])),
            ["get", "label"]
        );
    }
}
