//! All that was ever committed, over all lives of the server, in the order of revisions.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use apiserver::Record;
use store::{Entry, Event, Key, Page, Revision};

/// One commit of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// When.
    pub revision: u64,
    /// What.
    pub key: String,
    /// A mark of the bytes that it became; nothing if it was deleted.
    pub mark: Option<u64>,
    /// The gist of it, for whoever looks for a fault.
    pub gist: String,
}

/// What was committed, and what is there since.
#[derive(Default)]
pub struct History {
    commits: Vec<Commit>,
    present: BTreeMap<Key, Version>,
    seen: u64,
}

/// One version of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    modified: u64,
    mark: u64,
}

impl History {
    /// Takes in a change, whose gist is told.
    pub fn note(&mut self, event: &Event<Record>, gist: String) {
        let version = event.current.as_ref().map(|entry| Version::of(entry));
        match version {
            Some(version) => drop(self.present.insert(event.key().clone(), version)),
            None => drop(self.present.remove(event.key())),
        }
        self.seen = event.revision.0;
        self.commits.push(Commit {
            revision: event.revision.0,
            key: event.key().to_string(),
            mark: version.map(|version| version.mark),
            gist,
        });
    }

    /// Everything so far.
    pub fn commits(self) -> Vec<Commit> {
        self.commits
    }

    /// What is still there of a namespace.
    pub fn left_in(&self, namespace: &str) -> impl Iterator<Item = &Key> {
        self.present.keys().filter(move |key| key.namespace == namespace)
    }

    /// Compares what was told of with what is there at the same moment: neither may lack anything of the other.
    pub fn compare(&self, found: &Page<Record>) -> Vec<String> {
        let there: BTreeMap<&Key, Version> =
            found.entries.iter().map(|entry| (&entry.key, Version::of(entry))).collect();
        let untold = there.iter().filter(|(key, version)| self.present.get(**key) != Some(*version));
        let untold = untold.map(|(key, _)| format!("the store's watch has not told how {key} is"));
        let vanished = self.present.keys().filter(|key| !there.contains_key(key));
        untold
            .chain(vanished.map(|key| format!("the store's watch has not told that {key} is gone")))
            .collect()
    }

    /// Compares what a crash has left with what was visible before it: nothing of that may be lost, nothing that was
    /// gone may be back, and only what is newer may be new. What is found is the beginning of the next life.
    pub fn goes_on(&mut self, found: &Page<Record>) -> Vec<String> {
        let mut broken = Vec::new();
        let Revision(at) = found.revision;
        if at < self.seen {
            broken.push(format!("after the crash the store is at {at}, though {} was visible", self.seen));
        }
        let left: BTreeMap<Key, Version> =
            found.entries.iter().map(|entry| (entry.key.clone(), Version::of(entry))).collect();
        for (key, before) in &self.present {
            match left.get(key) {
                Some(after) if after == before || after.modified > self.seen => {}
                Some(_) => broken.push(format!("after the crash {key} is not as it was")),
                // What was deleted in the last moment has gone without a word.
                None if at > self.seen => {}
                None => broken.push(format!("the crash has lost {key}")),
            }
        }
        let revived = left
            .iter()
            .filter(|(key, after)| after.modified <= self.seen && !self.present.contains_key(*key));
        broken.extend(revived.map(|(key, _)| format!("the crash has brought {key} back")));
        let mut newer: Vec<(&Key, &Version)> =
            left.iter().filter(|(_, version)| version.modified > self.seen).collect();
        newer.sort_by_key(|(_, version)| version.modified);
        self.commits.extend(newer.into_iter().map(|(key, version)| Commit {
            revision: version.modified,
            key: key.to_string(),
            mark: Some(version.mark),
            gist: "found after a crash".to_owned(),
        }));
        self.present = left;
        self.seen = at;
        broken
    }
}

impl Version {
    fn of(entry: &Entry<Record>) -> Self {
        // This hasher has no seed of its own.
        let mut hasher = DefaultHasher::new();
        store::Record::bytes(&*entry.record).hash(&mut hasher);
        Self { modified: entry.modified.0, mark: hasher.finish() }
    }
}
