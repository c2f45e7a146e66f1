//! Sets of paths, as a trie.

use std::cmp::Ordering;

use crate::value::{Str, Value, parse, write_string};

use super::element::{MalformedElement, PathElement};

/// A set of paths. The steps of each level are sorted and there once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldSet(Vec<Entry>);

/// One step: whether the path that ends here is in the set, and what goes on from here.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) element: PathElement,
    pub(super) member: bool,
    pub(super) children: FieldSet,
}

/// What becomes of an entry that is in one or both of two sets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Join {
    Intersection,
    Difference,
    RecursiveDifference,
}

impl FieldSet {
    /// No path.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// From paths of plain member names.
    pub fn of(paths: &[&[&str]]) -> Self {
        let mut set = Self::new();
        for path in paths {
            let steps: Vec<PathElement> = path.iter().map(|name| PathElement::field(name)).collect();
            set.insert(&steps);
        }
        set
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &[PathElement]) {
        let Some((first, rest)) = path.split_first() else { return };
        let entry = self.entry(first);
        if rest.is_empty() { entry.member = true } else { entry.children.insert(rest) }
    }

    fn entry(&mut self, element: &PathElement) -> &mut Entry {
        let at = self.0.binary_search_by(|entry| entry.element.compare(element)).unwrap_or_else(|at| {
            self.0.insert(at, Entry { element: element.clone(), member: false, children: Self::new() });
            at
        });
        &mut self.0[at]
    }

    /// Adds an entry, mostly behind all others.
    pub(super) fn push(&mut self, element: PathElement, member: bool, children: FieldSet) {
        let behind = self.0.last().is_none_or(|last| last.element.compare(&element) == Ordering::Less);
        if behind {
            self.0.push(Entry { element, member, children });
        } else {
            let entry = self.entry(&element);
            entry.member |= member;
            let present = std::mem::take(&mut entry.children);
            entry.children = present.union(children);
        }
    }

    /// Adds an entry that comes behind all others.
    pub(super) fn push_last(&mut self, element: PathElement, member: bool, children: FieldSet) {
        debug_assert!(self.0.last().is_none_or(|last| last.element.compare(&element).is_lt()));
        self.0.push(Entry { element, member, children });
    }

    /// Makes room for so many entries.
    pub(super) fn reserve(&mut self, entries: usize) {
        self.0.reserve_exact(entries);
    }

    /// Whether a path is in it.
    pub fn contains(&self, path: &[PathElement]) -> bool {
        let Some((first, rest)) = path.split_first() else { return false };
        let Ok(at) = self.0.binary_search_by(|entry| entry.element.compare(first)) else { return false };
        if rest.is_empty() { self.0[at].member } else { self.0[at].children.contains(rest) }
    }

    /// Whether no path is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The paths of either.
    pub fn union(self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        join(self.0, other.0)
    }

    /// The paths of both.
    pub fn intersection(&self, other: &Self) -> Self {
        self.combined(other, Join::Intersection)
    }

    /// The paths that are not in the other.
    pub fn difference(&self, other: &Self) -> Self {
        self.combined(other, Join::Difference)
    }

    /// The paths that are neither in the other nor below one of its paths.
    pub fn recursive_difference(&self, other: &Self) -> Self {
        self.combined(other, Join::RecursiveDifference)
    }

    /// [`Self::recursive_difference`] of a set that is not needed any more: nothing is copied.
    pub fn without(mut self, other: &Self) -> Self {
        let mut theirs = other.0.iter().peekable();
        self.0.retain_mut(|mine| {
            while theirs.next_if(|entry| entry.element.compare(&mine.element) == Ordering::Less).is_some() {}
            let same = theirs.peek().filter(|entry| entry.element.compare(&mine.element) == Ordering::Equal);
            let Some(same) = same else { return true };
            if same.member {
                return false;
            }
            mine.children = std::mem::take(&mut mine.children).without(&same.children);
            mine.member || !mine.children.is_empty()
        });
        self
    }

    fn combined(&self, other: &Self, how: Join) -> Self {
        let mut out = Vec::new();
        let mut theirs = other.0.iter().peekable();
        for mine in &self.0 {
            while theirs.next_if(|entry| entry.element.compare(&mine.element) == Ordering::Less).is_some() {}
            let same = theirs.peek().filter(|entry| entry.element.compare(&mine.element) == Ordering::Equal);
            let Some(same) = same else {
                if how != Join::Intersection {
                    out.push(mine.clone());
                }
                continue;
            };
            if how == Join::RecursiveDifference && same.member {
                continue;
            }
            let member = mine.member && (same.member == (how == Join::Intersection));
            let children = mine.children.combined(&same.children, how);
            if member || !children.is_empty() {
                out.push(Entry { element: mine.element.clone(), member, children });
            }
        }
        Self(out)
    }

    /// Whether the two share a path: cheaper than their intersection.
    pub fn intersects(&self, other: &Self) -> bool {
        let mut theirs = other.0.iter().peekable();
        for mine in &self.0 {
            while theirs.next_if(|entry| entry.element.compare(&mine.element) == Ordering::Less).is_some() {}
            let same = theirs.peek().filter(|entry| entry.element.compare(&mine.element) == Ordering::Equal);
            if same
                .is_some_and(|same| (mine.member && same.member) || mine.children.intersects(&same.children))
            {
                return true;
            }
        }
        false
    }

    /// Every path, in order, steps as their texts: for messages and tests.
    pub fn paths(&self) -> Vec<Vec<Str>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, at: &mut Vec<Str>, out: &mut Vec<Vec<Str>>) {
        for entry in &self.0 {
            at.push(entry.element.text());
            if entry.member {
                out.push(at.clone());
            }
            entry.children.collect(at, out);
            at.pop();
        }
    }

    /// As `fieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut out = Vec::with_capacity(1024);
        self.write(false, &mut out);
        // It is made of texts.
        Value::Written(String::from_utf8(out).unwrap_or_default().into())
    }

    fn write(&self, also_self: bool, out: &mut Vec<u8>) {
        out.push(b'{');
        if also_self && !self.is_empty() {
            out.extend_from_slice(br#"".":{}"#);
        }
        let mut texts: Vec<(Str, &Entry)> =
            self.0.iter().map(|entry| (entry.element.text(), entry)).collect();
        // The order of texts differs from that of steps where keys are numbers.
        texts.sort_by(|a, b| a.0.cmp(&b.0));
        for (text, entry) in texts {
            if out.last() != Some(&b'{') {
                out.push(b',');
            }
            write_string(&text, out);
            out.push(b':');
            entry.children.write(entry.member, out);
        }
        out.push(b'}');
    }

    /// Whether all of its paths have one step.
    pub(super) fn is_flat(&self) -> bool {
        self.0.iter().all(|entry| entry.member && entry.children.is_empty())
    }

    /// From `fieldsV1`.
    pub fn from_value(value: &Value) -> Result<Self, MalformedElement> {
        match value {
            Value::Written(text) => {
                let value = parse(text.as_bytes()).map_err(|_| MalformedElement(text.to_string()))?;
                Ok(read(&value)?.0)
            }
            value => Ok(read(value)?.0),
        }
    }
}

/// The paths below, and whether the path that ends here is a member too.
fn read(value: &Value) -> Result<(FieldSet, bool), MalformedElement> {
    let Value::Object(map) = value else { return Err(MalformedElement(value.to_string())) };
    let mut set = FieldSet(Vec::with_capacity(map.len()));
    let mut member = false;
    for (key, below) in map.iter() {
        if key == "." {
            member = true;
            continue;
        }
        let Some(element) = PathElement::parse(key)? else { continue };
        let (children, is_member) = read(below)?;
        set.0.push(Entry { element, member: is_member, children });
    }
    // The text's order differs from the steps' where keys are numbers.
    if !set.0.is_sorted_by(|a, b| a.element.compare(&b.element) == Ordering::Less) {
        set.0.sort_by(|a, b| a.element.compare(&b.element));
        set.0.dedup_by(|later, earlier| {
            let same = later.element.compare(&earlier.element) == Ordering::Equal;
            if same {
                earlier.member |= later.member;
                let children = std::mem::take(&mut earlier.children);
                earlier.children = children.union(std::mem::take(&mut later.children));
            }
            same
        });
    }
    member |= set.is_empty();
    Ok((set, member))
}

/// The union of two sorted levels.
fn join(mine: Vec<Entry>, theirs: Vec<Entry>) -> FieldSet {
    let mut out = Vec::with_capacity(mine.len().max(theirs.len()));
    let (mut mine, mut theirs) = (mine.into_iter().peekable(), theirs.into_iter().peekable());
    loop {
        let order = match (mine.peek(), theirs.peek()) {
            (Some(a), Some(b)) => a.element.compare(&b.element),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return FieldSet(out),
        };
        let entry = match order {
            Ordering::Less => mine.next(),
            Ordering::Greater => theirs.next(),
            Ordering::Equal => mine.next().zip(theirs.next()).map(|(a, b)| Entry {
                element: a.element,
                member: a.member || b.member,
                children: a.children.union(b.children),
            }),
        };
        out.extend(entry);
    }
}
