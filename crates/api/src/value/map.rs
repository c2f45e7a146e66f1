//! The members of an object: a sorted vector as long as they are few or come in order, a tree when many are put or
//! taken in the middle. So no way of building a map of n keys, in whatever order, costs more than n log n, and the
//! small maps of which objects are made cost one block.

use std::collections::BTreeMap;

use super::{Str, Value};

/// The members of a JSON object, sorted by key, each key once.
#[derive(Clone, Debug)]
pub struct Map(Members);

#[derive(Clone, Debug)]
enum Members {
    Sorted(Vec<(Str, Value)>),
    #[expect(
        clippy::box_collection,
        reason = "so that a map, and with it every value, is as small as a vector"
    )]
    Tree(Box<BTreeMap<Str, Value>>),
}

/// So many members are looked through one by one.
const FEW_MEMBERS: usize = 12;
/// With more members than this, one that is put or taken before the last makes the map a tree.
const SORTED_MEMBERS_MAX: usize = 1024;

impl Map {
    /// No members.
    pub const fn new() -> Self {
        Self(Members::Sorted(Vec::new()))
    }

    /// From pairs in any order; of equal keys the last wins.
    pub fn from_pairs(mut pairs: Vec<(Str, Value)>) -> Self {
        if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            // A stable sort keeps equal keys in their order; the later one takes the earlier one's place.
            pairs.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    std::mem::swap(&mut later.1, &mut earlier.1);
                }
                same
            });
        }
        Self(Members::Sorted(pairs))
    }

    /// The member `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match &self.0 {
            Members::Sorted(pairs) => place(pairs, key).map(|at| &pairs[at].1),
            Members::Tree(tree) => tree.get(key),
        }
    }

    /// The member `key`, to change.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        match &mut self.0 {
            Members::Sorted(pairs) => place(pairs, key).map(|at| &mut pairs[at].1),
            Members::Tree(tree) => tree.get_mut(key),
        }
    }

    /// The member `key`, made `Null` if it was not there.
    pub fn entry(&mut self, key: &str) -> &mut Value {
        self.slot(key).0
    }

    /// Puts a member; gives back what it replaced.
    pub fn insert(&mut self, key: impl Into<Str>, value: impl Into<Value>) -> Option<Value> {
        let (slot, was_there) = self.slot::<Str>(key.into());
        let old = std::mem::replace(slot, value.into());
        was_there.then_some(old)
    }

    /// The member `key`, made `Null` if it was not there, and whether it was. What is there needs no key of its own, which
    /// might be long.
    fn slot<K: AsRef<str> + Into<Str>>(&mut self, key: K) -> (&mut Value, bool) {
        if let Members::Sorted(pairs) = &self.0
            && pairs.len() > SORTED_MEMBERS_MAX
            && find(pairs, key.as_ref()).is_err_and(|at| at < pairs.len())
        {
            self.grow_into_tree();
        }
        match &mut self.0 {
            Members::Sorted(pairs) => {
                let found = find(pairs, key.as_ref());
                let at = found.unwrap_or_else(|at| {
                    count_moved(pairs.len() - at);
                    pairs.insert(at, (key.into(), Value::Null));
                    at
                });
                (&mut pairs[at].1, found.is_ok())
            }
            Members::Tree(tree) => {
                let there = tree.contains_key(key.as_ref());
                (tree.entry(key.into()).or_default(), there)
            }
        }
    }

    /// Takes a member away.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        if let Members::Sorted(pairs) = &self.0
            && pairs.len() > SORTED_MEMBERS_MAX
            && find(pairs, key).is_ok_and(|at| at + 1 < pairs.len())
        {
            self.grow_into_tree();
        }
        match &mut self.0 {
            Members::Sorted(pairs) => {
                let at = find(pairs, key).ok()?;
                count_moved(pairs.len() - at);
                Some(pairs.remove(at).1)
            }
            Members::Tree(tree) => tree.remove(key),
        }
    }

    fn grow_into_tree(&mut self) {
        let pairs = std::mem::take(self).into_iter();
        self.0 = Members::Tree(Box::new(pairs.collect()));
    }

    /// Whether there is a member `key`.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Members::Sorted(pairs) => pairs.len(),
            Members::Tree(tree) => tree.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The members by key.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Str, &Value)> + ExactSizeIterator {
        match &self.0 {
            Members::Sorted(pairs) => Either::Sorted(pairs.iter().map(|(key, value)| (key, value))),
            Members::Tree(tree) => Either::Tree(tree.iter()),
        }
    }

    /// The members by key, values to change.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (&Str, &mut Value)> + ExactSizeIterator {
        match &mut self.0 {
            Members::Sorted(pairs) => Either::Sorted(pairs.iter_mut().map(|(key, value)| (&*key, value))),
            Members::Tree(tree) => Either::Tree(tree.iter_mut()),
        }
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &Str> {
        self.iter().map(|(key, _)| key)
    }

    /// Keeps the members of which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &mut Value) -> bool) {
        match &mut self.0 {
            Members::Sorted(pairs) => pairs.retain_mut(|(key, value)| keep(key, value)),
            Members::Tree(tree) => tree.retain(|key, value| keep(key, value)),
        }
    }
}

fn find(pairs: &[(Str, Value)], key: &str) -> Result<usize, usize> {
    pairs.binary_search_by(|(other, _)| other.as_str().cmp(key))
}

/// Where the member `key` is. Among few, most names differ by their length already, which is cheaper to see than an
/// order.
fn place(pairs: &[(Str, Value)], key: &str) -> Option<usize> {
    if pairs.len() > FEW_MEMBERS {
        return find(pairs, key).ok();
    }
    pairs.iter().position(|(other, _)| other.as_str() == key)
}

impl Default for Map {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl IntoIterator for Map {
    type Item = (Str, Value);
    type IntoIter = IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        IntoIter(match self.0 {
            Members::Sorted(pairs) => Either::Sorted(pairs.into_iter()),
            Members::Tree(tree) => Either::Tree(tree.into_iter()),
        })
    }
}

impl FromIterator<(Str, Value)> for Map {
    fn from_iter<I: IntoIterator<Item = (Str, Value)>>(pairs: I) -> Self {
        Self::from_pairs(pairs.into_iter().collect())
    }
}

/// The members of a map that is taken apart, by key.
pub struct IntoIter(
    Either<std::vec::IntoIter<(Str, Value)>, std::collections::btree_map::IntoIter<Str, Value>>,
);

impl Iterator for IntoIter {
    type Item = (Str, Value);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for IntoIter {}

/// One of two iterators over the same.
enum Either<A, B> {
    Sorted(A),
    Tree(B),
}

impl<T, A: Iterator<Item = T>, B: Iterator<Item = T>> Iterator for Either<A, B> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self {
            Self::Sorted(pairs) => pairs.next(),
            Self::Tree(tree) => tree.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Self::Sorted(pairs) => pairs.size_hint(),
            Self::Tree(tree) => tree.size_hint(),
        }
    }
}

impl<T, A, B> DoubleEndedIterator for Either<A, B>
where
    A: DoubleEndedIterator<Item = T>,
    B: DoubleEndedIterator<Item = T>,
{
    fn next_back(&mut self) -> Option<T> {
        match self {
            Self::Sorted(pairs) => pairs.next_back(),
            Self::Tree(tree) => tree.next_back(),
        }
    }
}

impl<T, A, B> ExactSizeIterator for Either<A, B>
where
    A: ExactSizeIterator<Item = T>,
    B: ExactSizeIterator<Item = T>,
{
}

#[cfg(not(test))]
fn count_moved(_members: usize) {}

#[cfg(test)]
fn count_moved(members: usize) {
    tests::MOVED.with(|moved| moved.set(moved.get() + members));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::json;

    thread_local! {
        /// How many members had to make room on this thread.
        pub(super) static MOVED: Cell<usize> = const { Cell::new(0) };
    }

    /// How many members a piece of work moves.
    fn moved(work: impl FnOnce()) -> usize {
        let before = MOVED.get();
        work();
        MOVED.get() - before
    }

    const MANY: usize = 200_000;

    fn key(number: usize) -> Str {
        // Neither rising nor falling: every number is met once.
        format!("{:08}", number * 7919 % MANY).into()
    }

    #[test]
    fn of_equal_keys_the_last_wins() {
        let map =
            Map::from_pairs(vec![("b".into(), 1.into()), ("a".into(), 2.into()), ("b".into(), 3.into())]);
        assert_eq!(Value::from(map).to_string(), r#"{"a":2,"b":3}"#);
    }

    #[test]
    fn many_members_are_put_and_taken_in_any_order_without_moving_the_others() {
        let work = moved(|| {
            let mut map = Map::new();
            (0..MANY).for_each(|number| drop(map.insert(key(number), 1)));
            assert_eq!(map.len(), MANY);
            (0..MANY).rev().for_each(|number| *map.entry(&key(number)) = 2.into());
            assert!(map.keys().is_sorted());
            (0..MANY).for_each(|number| assert_eq!(map.remove(&key(number)), Some(2.into())));
            assert!(map.is_empty());
        });
        assert!(work <= SORTED_MEMBERS_MAX * SORTED_MEMBERS_MAX, "{work} members moved");
    }

    #[test]
    fn patches_and_wire_formats_of_many_keys_cost_their_number() {
        let pairs = || (0..MANY).map(|number| (key(number), Value::from("x")));
        let document = json!({"data": (Map::from_pairs(pairs().step_by(2).collect()))});
        let set = json!({"data": (Map::from_pairs(pairs().collect()))});
        let unset = json!({"data": (pairs().map(|(key, _)| (key, Value::Null)).collect::<Map>())});
        let ty = crate::table::types().of_kind("", "v1", "ConfigMap").unwrap();
        let work = moved(|| {
            for (patch, left) in [(&set, MANY), (&unset, 0)] {
                let merged = crate::patch::merge::apply(document.clone(), patch.clone()).unwrap();
                assert_eq!(merged.get("data").and_then(Value::as_object).unwrap().len(), left);
                let merged = crate::patch::strategic::apply(document.clone(), patch.clone(), ty).unwrap();
                assert_eq!(merged.get("data").and_then(Value::as_object).unwrap().len(), left);
            }
        });
        assert!(work <= 8 * SORTED_MEMBERS_MAX * SORTED_MEMBERS_MAX, "{work} members moved");
    }

    #[test]
    fn a_tree_equals_the_vector_of_the_same_members() {
        let pairs: Vec<(Str, Value)> =
            (0..3000).map(|number: usize| (format!("{number:05}").into(), Value::from(1))).collect();
        let sorted = Map::from_pairs(pairs.clone());
        let mut tree = Map::new();
        pairs.into_iter().rev().for_each(|(key, value)| drop(tree.insert(key, value)));
        assert!(matches!(tree.0, Members::Tree(_)) && matches!(sorted.0, Members::Sorted(_)));
        assert_eq!(tree, sorted);
        assert_eq!(Value::from(tree.clone()).to_string(), Value::from(sorted.clone()).to_string());
        tree.retain(|key, _| key != "00001");
        assert_ne!(tree, sorted);
        assert!(tree.into_iter().map(|(key, _)| key).is_sorted());
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_map(steps in prop::collection::vec((0_u32..4000, any::<bool>()), 0..6000)) {
            let (mut map, mut model) = (Map::new(), BTreeMap::new());
            for (number, puts) in steps {
                let key = Str::from(number.to_string());
                if puts {
                    prop_assert_eq!(map.insert(key.clone(), 1), model.insert(key, Value::from(1)));
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
            }
            prop_assert!(map.iter().eq(model.iter()));
            prop_assert!(map.iter().rev().eq(model.iter().rev()));
        }
    }
}
