//! All that is alive, in order, and what happened lately. Pure: it knows no disk, no lock and no task.

mod history;
mod table;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use jiff::Timestamp;

use crate::error::ReadError;
use crate::key::{Key, Resource, Revision, Scope, Segment};
use crate::limits;
use crate::record::{Entry, Event, Record};
use crate::watch::Registry;
use history::History;
pub use history::HistoryLimits;
pub(crate) use history::superseded_bytes;
use table::{ByKey, Names, Table};

/// What to list.
#[derive(Clone, Debug)]
pub struct List {
    /// Of which keys.
    pub scope: Scope,
    /// Only keys behind this one: the last of the page before.
    pub after: Option<Key>,
    /// At most so many; 0 means all.
    pub limit: usize,
    /// As it was at this revision; `None` means now.
    pub at: Option<Revision>,
    /// Only what has all of these terms (see [`Record::terms`]). This narrows the search and is no promise: a list
    /// at a past revision shows what has none of them too, so the layer above judges again.
    pub having: Vec<u64>,
}

impl List {
    /// All of a scope, now.
    pub fn all(scope: Scope) -> Self {
        Self { scope, after: None, limit: 0, at: None, having: Vec::new() }
    }
}

/// One part of a list.
pub struct Page<R> {
    /// In the order of keys.
    pub entries: Vec<Arc<Entry<R>>>,
    /// The revision at which all of this was so. Ask for the next page at this revision.
    pub revision: Revision,
    /// How many more follow.
    pub remaining: usize,
}

impl<R> std::fmt::Debug for Page<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Page({:?} at {}, {} more)", self.entries, self.revision, self.remaining)
    }
}

/// One key's transition, decided and durable.
pub(crate) struct Change<R> {
    pub(crate) revision: Revision,
    pub(crate) current: Option<Arc<Entry<R>>>,
    pub(crate) previous: Option<Arc<Entry<R>>>,
}

impl<R> Clone for Change<R> {
    fn clone(&self) -> Self {
        Self { revision: self.revision, current: self.current.clone(), previous: self.previous.clone() }
    }
}

pub(crate) struct State<R> {
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    pub(crate) closed: bool,
    pub(crate) watchers: Registry,
    tables: BTreeMap<Resource, Table<R>>,
    history: History<R>,
    live_bytes: u64,
    expiries: BTreeSet<(Timestamp, Key)>,
}

impl<R: Record> State<R> {
    /// Nothing, at `revision`.
    pub(crate) fn new(revision: Revision, limits: HistoryLimits) -> Self {
        Self {
            revision,
            compacted: revision,
            closed: false,
            watchers: Registry::default(),
            tables: BTreeMap::new(),
            history: History::new(limits),
            live_bytes: 0,
            expiries: BTreeSet::new(),
        }
    }

    /// The entry of a key, now.
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Entry<R>>> {
        self.tables
            .get(&key.resource)?
            .namespaces
            .get(&Segment(key.namespace.clone()))?
            .get(key.name.as_str())
    }

    /// The entry of a key as it was.
    pub(crate) fn get_at(&self, key: &Key, at: Revision) -> Result<Option<Arc<Entry<R>>>, ReadError> {
        self.check_readable(at)?;
        let change = self.events_after(Some(&key.resource), at).find(|event| event.key() == key);
        Ok(match change {
            Some(event) => event.previous.clone(),
            None => self.get(key).cloned(),
        })
    }

    /// One page of a list.
    pub(crate) fn list(&self, list: &List) -> Result<Page<R>, ReadError> {
        let at = list.at.unwrap_or(self.revision);
        self.check_readable(at)?;
        let limit = if list.limit == 0 { usize::MAX } else { list.limit };
        if at == self.revision
            && !list.having.is_empty()
            && let Some(resource) = list.scope.resource()
        {
            let mut found = self.found(resource, list);
            let entries: Vec<_> = found.by_ref().take(limit).cloned().collect();
            return Ok(Page { entries, revision: at, remaining: found.count() });
        }
        let mut live = self.range(&list.scope, list.after.as_ref());
        let (entries, remaining) = if at == self.revision {
            let entries: Vec<_> = live.by_ref().take(limit).cloned().collect();
            let remaining = match self.count(&list.scope) {
                Some(count) if list.after.is_none() => count - entries.len(),
                _ => live.count(),
            };
            (entries, remaining)
        } else {
            let events = self.events_after(list.scope.resource(), at);
            let mut past = history::past(&list.scope, list.after.as_ref(), events, live);
            let entries: Vec<_> = past.by_ref().take(limit).cloned().collect();
            (entries, past.count())
        };
        Ok(Page { entries, revision: at, remaining })
    }

    /// What is alive of a resource and has the terms, in order: those that have the rarest of them, looked through.
    fn found<'a>(&'a self, resource: &Resource, list: &'a List) -> impl Iterator<Item = &'a Arc<Entry<R>>> {
        let table = self.tables.get(resource);
        let rarest = table.and_then(|table| {
            let sets = list.having.iter().map(|term| table.terms.get(term));
            // A term that nobody has leaves nothing.
            sets.min_by_key(|set| set.map_or(0, BTreeSet::len)).flatten()
        });
        let wanted = move |entry: &&'a Arc<Entry<R>>| {
            list.scope.contains(&entry.key)
                && list.after.as_ref().is_none_or(|after| *after < entry.key)
                && list.having.iter().all(|term| entry.record.terms().contains(term))
        };
        rarest.into_iter().flatten().map(|ByKey(entry)| entry).filter(wanted)
    }

    fn check_readable(&self, at: Revision) -> Result<(), ReadError> {
        if at < self.compacted {
            return Err(ReadError::Compacted { requested: at, compacted: self.compacted });
        }
        if at > self.revision {
            return Err(ReadError::Future { requested: at, current: self.revision });
        }
        Ok(())
    }

    /// How many keys a scope has now, where that is known without counting.
    fn count(&self, scope: &Scope) -> Option<usize> {
        match scope {
            Scope::All => Some(self.tables.values().map(|table| table.count).sum()),
            Scope::Resource(resource) => Some(self.tables.get(resource).map_or(0, |table| table.count)),
            Scope::Namespace(resource, namespace) => {
                let table = self.tables.get(resource);
                Some(table.and_then(|t| t.namespaces.get(&Segment(namespace.clone()))).map_or(0, Names::len))
            }
            Scope::Key(_) => None,
        }
    }

    /// What is alive in a scope behind a key, in order.
    fn range<'a>(
        &'a self,
        scope: &Scope,
        after: Option<&'a Key>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Entry<R>>> + 'a> {
        match scope {
            Scope::All => {
                let from = after.map_or(Bound::Unbounded, |key| Bound::Included(&key.resource));
                let tables = self.tables.range::<Resource, _>((from, Bound::Unbounded));
                Box::new(tables.flat_map(move |(resource, table)| {
                    table.range(after.filter(|key| key.resource == *resource))
                }))
            }
            Scope::Resource(resource) => match self.tables.get(resource) {
                Some(table) => {
                    let after = match after {
                        Some(key) if key.resource < *resource => None,
                        Some(key) if key.resource > *resource => return Box::new(std::iter::empty()),
                        other => other,
                    };
                    Box::new(table.range(after))
                }
                None => Box::new(std::iter::empty()),
            },
            Scope::Namespace(resource, namespace) => {
                let namespace = Segment(namespace.clone());
                let names = self.tables.get(resource).and_then(|table| table.namespaces.get(&namespace));
                let Some(names) = names else { return Box::new(std::iter::empty()) };
                let place = |key: &Key| {
                    key.resource.cmp(resource).then_with(|| Segment(key.namespace.clone()).cmp(&namespace))
                };
                let from = match after {
                    Some(key) => match place(key) {
                        Ordering::Less => Bound::Unbounded,
                        Ordering::Equal => Bound::Excluded(key.name.as_str()),
                        Ordering::Greater => return Box::new(std::iter::empty()),
                    },
                    None => Bound::Unbounded,
                };
                Box::new(names.range::<str, _>((from, Bound::Unbounded)).map(|(_, entry)| entry))
            }
            Scope::Key(key) => {
                let wanted = after.is_none_or(|after| after < key);
                Box::new(self.get(key).filter(|_| wanted).into_iter())
            }
        }
    }

    /// Events younger than `revision`, oldest first.
    pub(crate) fn events_after<'a>(
        &'a self,
        resource: Option<&Resource>,
        revision: Revision,
    ) -> Box<dyn Iterator<Item = &'a Arc<Event<R>>> + 'a> {
        self.history.after(resource, revision)
    }

    /// All that is alive, in order.
    pub(crate) fn live(&self) -> Vec<Arc<Entry<R>>> {
        self.tables.values().flat_map(|table| table.range(None)).cloned().collect()
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.tables.values().map(|table| table.count).sum()
    }

    /// How many bytes the live values and their keys have.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// How many events the history has, and how many bytes only it holds.
    pub(crate) fn history_size(&self) -> (usize, usize) {
        self.history.size()
    }

    /// The same resource, sharing the text of the one that is known already.
    pub(crate) fn intern(&self, resource: &Resource) -> Resource {
        self.tables.get_key_value(resource).map_or(resource, |(known, _)| known).clone()
    }

    /// Puts an entry in, without history: for recovery from a snapshot.
    pub(crate) fn load(&mut self, entry: Arc<Entry<R>>) {
        self.replace(None, Some(&entry));
    }

    /// Remembers a change that was made before: for recovery. They come in the order of revisions.
    pub(crate) fn recall(&mut self, change: Change<R>, at_ms: i64) {
        let Change { revision, current, previous } = change;
        let event = Event { revision, current, previous, encodings: crate::record::Slot::default() };
        self.history.push(Arc::new(event), at_ms);
    }

    /// Makes one change and remembers it. Changes come in the order of revisions.
    pub(crate) fn apply(&mut self, change: Change<R>, at_ms: i64) {
        assert!(change.revision >= self.revision, "changes come in the order of revisions");
        let Change { revision, current, previous } = change;
        self.revision = revision;
        self.replace(previous.as_ref(), current.as_ref());
        let event =
            Arc::new(Event { revision, current, previous, encodings: crate::record::Slot::default() });
        self.watchers.notify(event.key(), revision);
        self.history.push(event, at_ms);
    }

    fn table(&mut self, resource: &Resource) -> &mut Table<R> {
        if !self.tables.contains_key(resource) {
            self.tables.insert(resource.clone(), Table::new());
        }
        self.tables.get_mut(resource).expect("it was put in above")
    }

    fn replace(&mut self, previous: Option<&Arc<Entry<R>>>, current: Option<&Arc<Entry<R>>>) {
        let Some(key) = current.or(previous).map(|entry| &entry.key) else { return };
        let table = self.table(&key.resource);
        let replaced = match current {
            Some(entry) => table.insert(Arc::clone(entry)),
            None => table.remove(key),
        };
        debug_assert_eq!(replaced.as_ref().map(|e| e.modified), previous.map(|e| e.modified));
        if let Some(old) = replaced {
            self.live_bytes -= footprint(&old);
            if let Some(expires) = old.expires {
                self.expiries.remove(&(expires, old.key.clone()));
            }
        }
        if let Some(entry) = current {
            self.live_bytes += footprint(entry);
            if let Some(expires) = entry.expires {
                self.expiries.insert((expires, entry.key.clone()));
            }
        }
    }

    /// Forgets what the limits do not keep. What comes back is to be dropped outside of any lock, for it may be much.
    #[must_use]
    pub(crate) fn trim(&mut self, now_ms: i64) -> Vec<Arc<Event<R>>> {
        self.history.surplus(now_ms).map_or_else(Vec::new, |until| self.compact(until))
    }

    /// Forgets what happened up to `revision`, which itself stays readable. What comes back is to be dropped outside of
    /// any lock.
    #[must_use]
    pub(crate) fn compact(&mut self, revision: Revision) -> Vec<Arc<Event<R>>> {
        self.compacted = self.compacted.max(revision.min(self.revision));
        self.history.forget(revision)
    }

    /// Drops what was encoded of events that are not young any more.
    pub(crate) fn drop_encodings(&self, now_ms: i64) {
        self.history.drop_encodings(now_ms);
    }

    /// When the next key expires.
    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// Keys that have expired, the oldest first.
    pub(crate) fn expired(&self, now: Timestamp) -> Vec<Key> {
        let due = self.expiries.iter().take_while(|(at, _)| *at <= now);
        due.take(limits::EXPIRY_KEYS_MAX).map(|(_, key)| key.clone()).collect()
    }
}

/// What an entry takes on disk, roughly.
fn footprint<R: Record>(entry: &Entry<R>) -> u64 {
    (entry.record.bytes().len() + entry.key.path_len() + 48) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value that is found by its terms.
    struct Termed(Vec<u64>);

    impl Record for Termed {
        fn bytes(&self) -> &[u8] {
            b""
        }

        fn terms(&self) -> &[u64] {
            &self.0
        }
    }

    fn entry(name: &str, revision: u64, terms: &[u64]) -> Arc<Entry<Termed>> {
        Arc::new(Entry {
            key: Key::namespaced(&Resource::new("pods"), "a", name),
            created: Revision(revision),
            modified: Revision(revision),
            version: 1,
            expires: None,
            record: Arc::new(Termed(terms.to_vec())),
        })
    }

    fn found(state: &State<Termed>, having: &[u64], limit: usize) -> (Vec<String>, usize) {
        let scope = Scope::Resource(Resource::new("pods"));
        let list = List { having: having.to_vec(), limit, ..List::all(scope) };
        let page = state.list(&list).unwrap();
        (page.entries.iter().map(|entry| entry.key.name.to_string()).collect(), page.remaining)
    }

    #[test]
    fn terms_lead_to_what_has_them_now_and_in_order() {
        let mut state = State::new(Revision(1), HistoryLimits::default());
        let put = |state: &mut State<Termed>, revision, current: Option<Arc<Entry<Termed>>>, previous| {
            state.apply(Change { revision: Revision(revision), current, previous }, 0);
        };
        let (c, a) = (entry("c", 2, &[1, 2]), entry("a", 3, &[1]));
        put(&mut state, 2, Some(Arc::clone(&c)), None);
        put(&mut state, 3, Some(Arc::clone(&a)), None);
        put(&mut state, 4, Some(entry("b", 4, &[1, 3])), None);
        assert_eq!(found(&state, &[1], 0), (vec!["a".into(), "b".into(), "c".into()], 0));
        assert_eq!(found(&state, &[1], 2), (vec!["a".into(), "b".into()], 1));
        assert_eq!(found(&state, &[1, 3], 0), (vec!["b".into()], 0));
        assert_eq!(found(&state, &[1, 9], 0), (Vec::new(), 0));
        // A change of terms and a deletion are followed at once.
        put(&mut state, 5, Some(entry("c", 5, &[2])), Some(c));
        put(&mut state, 6, None, Some(a));
        assert_eq!(found(&state, &[1], 0), (vec!["b".into()], 0));
        assert_eq!(found(&state, &[2], 0), (vec!["c".into()], 0));
    }
}
