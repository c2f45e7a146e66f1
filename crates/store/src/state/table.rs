//! What is alive of one resource: in the order of keys, and by the terms that it is found by.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use compact_str::CompactString;

use crate::key::{Key, Segment};
use crate::record::{Entry, Record};

/// The keys of one namespace.
pub(super) type Names<R> = BTreeMap<CompactString, Arc<Entry<R>>>;

/// Everything of one resource.
pub(super) struct Table<R> {
    pub(super) namespaces: BTreeMap<Segment, Names<R>>,
    /// How many keys there are.
    pub(super) count: usize,
    /// What is alive, by what it can be found by.
    pub(super) terms: HashMap<u64, BTreeSet<ByKey<R>>>,
}

/// An entry in the order of its key.
pub(super) struct ByKey<R>(pub(super) Arc<Entry<R>>);

impl<R> PartialEq for ByKey<R> {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl<R> Eq for ByKey<R> {}

impl<R> PartialOrd for ByKey<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> Ord for ByKey<R> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

impl<R: Record> Table<R> {
    pub(super) fn new() -> Self {
        Self { namespaces: BTreeMap::new(), count: 0, terms: HashMap::new() }
    }

    /// What is alive behind a key, in order.
    pub(super) fn range<'a>(
        &'a self,
        after: Option<&'a Key>,
    ) -> impl Iterator<Item = &'a Arc<Entry<R>>> + 'a {
        let first = after.map(|key| Segment(key.namespace.clone()));
        let from = first.clone().map_or(Bound::Unbounded, Bound::Included);
        self.namespaces.range((from, Bound::Unbounded)).flat_map(move |(namespace, names)| {
            let from = match after {
                Some(key) if first.as_ref() == Some(namespace) => Bound::Excluded(key.name.as_str()),
                _ => Bound::Unbounded,
            };
            names.range::<str, _>((from, Bound::Unbounded)).map(|(_, entry)| entry)
        })
    }

    /// Puts an entry in; gives back what it replaced.
    pub(super) fn insert(&mut self, entry: Arc<Entry<R>>) -> Option<Arc<Entry<R>>> {
        let names = self.namespaces.entry(Segment(entry.key.namespace.clone())).or_default();
        let replaced = names.insert(entry.key.name.clone(), Arc::clone(&entry));
        self.count += usize::from(replaced.is_none());
        let gone = replaced.iter().flat_map(|old| old.record.terms());
        for term in gone.filter(|term| !entry.record.terms().contains(term)) {
            forget(&mut self.terms, *term, replaced.as_ref());
        }
        for term in entry.record.terms() {
            self.terms.entry(*term).or_default().replace(ByKey(Arc::clone(&entry)));
        }
        replaced
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Entry<R>>> {
        let namespace = Segment(key.namespace.clone());
        let names = self.namespaces.get_mut(&namespace)?;
        let removed = names.remove(key.name.as_str());
        if names.is_empty() {
            self.namespaces.remove(&namespace);
        }
        self.count -= usize::from(removed.is_some());
        for term in removed.iter().flat_map(|old| old.record.terms()) {
            forget(&mut self.terms, *term, removed.as_ref());
        }
        removed
    }
}

/// Takes an entry from those that have a term.
fn forget<R>(terms: &mut HashMap<u64, BTreeSet<ByKey<R>>>, term: u64, entry: Option<&Arc<Entry<R>>>) {
    if let (Some(entry), Some(having)) = (entry, terms.get_mut(&term)) {
        having.remove(&ByKey(Arc::clone(entry)));
        if having.is_empty() {
            terms.remove(&term);
        }
    }
}
