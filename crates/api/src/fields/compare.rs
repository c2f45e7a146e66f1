//! What differs between two objects, field by field, by the shapes of the table.
//!
//! Lists are compared by element where their type says so, atomic lists, maps and structs as one value. A Go struct
//! that is held by value is there even if JSON does not show it; the table says which fields those are (`emit`).

use std::cmp::Ordering;

use crate::table::{self, Field, List, Shape, ShapeId, Type, TypeId, Types};
use crate::value::{Map, Str, Value};

use super::element::PathElement;
use super::set::FieldSet;

/// What differs. No path is in more than one of the sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Only in the new object.
    pub added: FieldSet,
    /// In both, but different.
    pub modified: FieldSet,
    /// Only in the old object.
    pub removed: FieldSet,
}

impl Comparison {
    /// Whether the objects are the same.
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    fn push(&mut self, element: &PathElement, node: Node) {
        let Node { below, mark } = node;
        let sets = [
            (&mut self.added, below.added, Mark::Added),
            (&mut self.modified, below.modified, Mark::Modified),
            (&mut self.removed, below.removed, Mark::Removed),
        ];
        for (set, below, wanted) in sets {
            if mark == Some(wanted) || !below.is_empty() {
                set.push(element.clone(), mark == Some(wanted), below);
            }
        }
    }
}

/// Members of the root that nobody owns.
const UNOWNED: [&str; 2] = ["apiVersion", "kind"];
/// Members of `metadata` that nobody owns: the server writes them.
const UNOWNED_METADATA: [&str; 8] = [
    "creationTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Compares two objects of one type. An object that is not there yet is an empty one. Fields that nobody owns are
/// left out.
pub fn compare(old: &Value, new: &Value, ty: TypeId) -> Comparison {
    let types = table::types();
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let walk = Walk { types };
    walk.members(Members::Struct(types.get(ty), Level::Root), Side::Map(old), Side::Map(new))
}

/// The fields of an object, as if it were applied to nothing: leaves, and elements of lists by key.
pub fn set_of(object: &Value, ty: TypeId) -> FieldSet {
    compare(&Value::object(), object, ty).added
}

/// Whether a path itself is in one of the sets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Added,
    Modified,
    Removed,
}

#[derive(Default)]
struct Node {
    below: Comparison,
    mark: Option<Mark>,
}

/// One side of a comparison.
#[derive(Clone, Copy)]
enum Side<'a> {
    /// Not there.
    Absent,
    /// There with its zero value, though JSON does not show it.
    Zero,
    There(&'a Value),
    /// The object itself.
    Map(&'a Map),
}

impl<'a> Side<'a> {
    fn is_absent(self) -> bool {
        matches!(self, Self::Absent)
    }

    fn map(self) -> Option<&'a Map> {
        match self {
            Self::There(value) => value.as_object(),
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    fn elements(self) -> &'a [Value] {
        match self {
            Self::There(value) => value.as_array().unwrap_or(&[]),
            _ => &[],
        }
    }

    fn same(self, other: Self) -> bool {
        match (self, other) {
            (Self::Absent, Self::Absent) | (Self::Zero, Self::Zero) => true,
            (Self::There(a), Self::There(b)) => a == b,
            (Self::Zero, Self::There(value)) | (Self::There(value), Self::Zero) => value.is_empty(),
            (Self::Map(a), Self::Map(b)) => a == b,
            _ => false,
        }
    }
}

/// How deep a struct lies, as far as it matters for what nobody owns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Root,
    Metadata,
    Below,
}

/// Whose members are compared.
#[derive(Clone, Copy)]
enum Members {
    Struct(&'static Type, Level),
    Map(ShapeId),
}

/// Finds fields by names that come in order, which is several times faster than searching for each.
struct Cursor {
    ty: &'static Type,
    rank: usize,
}

impl Cursor {
    fn find(&mut self, name: &str) -> Option<&'static Field> {
        let mut rank = self.rank;
        while let Some(field) = self.ty.nth_by_name(rank) {
            rank += 1;
            if field.name == name {
                self.rank = rank;
                return Some(field);
            }
        }
        None
    }
}

/// What is known of a place beyond its shape.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) shape: ShapeId,
    pub(super) list: List,
    pub(super) atomic: bool,
    pub(super) level: Level,
}

impl Place {
    pub(super) fn element(shape: ShapeId) -> Self {
        Self { shape, list: List::Atomic, atomic: false, level: Level::Below }
    }

    /// That of a member of a struct at `level`.
    pub(super) fn of(field: &Field, level: Level) -> Self {
        let metadata = level == Level::Root && field.name == "metadata";
        Self {
            shape: field.shape,
            list: field.list,
            atomic: field.map_atomic,
            level: if metadata { Level::Metadata } else { Level::Below },
        }
    }
}

/// Whether nobody owns a member of a struct at `level`.
pub(super) fn is_unowned(level: Level, name: &str) -> bool {
    match level {
        Level::Root => UNOWNED.contains(&name),
        Level::Metadata => UNOWNED_METADATA.contains(&name),
        Level::Below => false,
    }
}

/// Whether Go has a member that JSON shows: not if it is a zero that Go leaves out.
pub(super) fn shows(types: &Types, field: &Field, value: &Value) -> bool {
    field.emit
        || !value.is_empty()
        || types.is_pointer(field.shape)
        || matches!(types.bare(field.shape), Shape::Struct(_) | Shape::Raw | Shape::Json | Shape::IntOrString)
}

#[derive(Clone, Copy)]
struct Walk {
    types: &'static Types,
}

impl Walk {
    fn node(self, place: Place, old: Side<'_>, new: Side<'_>) -> Node {
        // Most of what is created or removed is so as a whole.
        match (old, new) {
            (Side::Absent, Side::There(value)) => {
                let below = Comparison { added: self.whole(place, value), ..Comparison::default() };
                return Node { below, mark: Some(Mark::Added) };
            }
            (Side::There(value), Side::Absent) => {
                let below = Comparison { removed: self.whole(place, value), ..Comparison::default() };
                return Node { below, mark: Some(Mark::Removed) };
            }
            _ => {}
        }
        let mark = match (old.is_absent(), new.is_absent()) {
            (true, _) => Some(Mark::Added),
            (_, true) => Some(Mark::Removed),
            _ => None,
        };
        let leaf = || {
            let modified = (mark.is_none() && !old.same(new)).then_some(Mark::Modified);
            Node { below: Comparison::default(), mark: mark.or(modified) }
        };
        let below = match self.types.bare(place.shape) {
            Shape::Struct(id) => {
                let ty = self.types.get(id);
                let is_empty = |side: Side<'_>| side.map().is_none_or(Map::is_empty);
                let emits = || ty.fields.iter().any(|field| field.emit);
                if ty.atomic || place.atomic || (is_empty(old) && is_empty(new) && !emits()) {
                    return leaf();
                }
                self.members(Members::Struct(ty, place.level), old, new)
            }
            Shape::Map(_, element) => {
                let is_empty = |side: Side<'_>| side.map().is_none_or(Map::is_empty);
                if place.atomic || (is_empty(old) && is_empty(new)) {
                    return leaf();
                }
                self.members(Members::Map(element), old, new)
            }
            Shape::List(element) => {
                if place.list == List::Atomic || (old.elements().is_empty() && new.elements().is_empty()) {
                    return leaf();
                }
                self.elements(place.list, element, old.elements(), new.elements())
            }
            _ => return leaf(),
        };
        Node { below, mark }
    }

    /// All paths below a value that the other side does not have.
    fn whole(self, place: Place, value: &Value) -> FieldSet {
        let mut out = FieldSet::new();
        match (self.types.bare(place.shape), value) {
            (Shape::Struct(id), Value::Object(map)) if !place.atomic && !self.types.get(id).atomic => {
                self.whole_struct(self.types.get(id), place.level, map, &mut out);
            }
            (Shape::Map(_, element), Value::Object(map)) if !place.atomic => {
                out.reserve(map.len());
                for (name, value) in map.iter() {
                    out.push(
                        PathElement::Field(name.clone()),
                        true,
                        self.whole(Place::element(element), value),
                    );
                }
            }
            (Shape::List(element), Value::Array(values)) if place.list != List::Atomic => {
                let mut elements = by_element(self.types, place.list, element, values).into_iter().peekable();
                out.reserve(elements.len());
                while let Some((step, value)) = elements.next() {
                    let mut alone = true;
                    while elements.next_if(|(other, _)| other.compare(&step).is_eq()).is_some() {
                        alone = false;
                    }
                    // Duplicates are one value.
                    let below =
                        if alone { self.whole(Place::element(element), value) } else { FieldSet::new() };
                    out.push_last(step, true, below);
                }
            }
            _ => {}
        }
        out
    }

    fn whole_struct(self, ty: &'static Type, level: Level, map: &Map, out: &mut FieldSet) {
        out.reserve(map.len());
        let mut cursor = Cursor { ty, rank: 0 };
        for (name, value) in map.iter() {
            let Some(field) = cursor.find(name) else { continue };
            let Side::There(value) = self.side(Some(field), Some(value), Side::Zero) else { continue };
            out.push_last(PathElement::known(field.name), true, self.whole(Place::of(field, level), value));
        }
        for field in ty.fields.iter().filter(|field| field.emit) {
            if map.get(field.name).is_none_or(Value::is_null) {
                let node = self.node(Place::of(field, level), Side::Absent, Side::Zero);
                out.push(PathElement::known(field.name), true, node.below.added);
            }
        }
    }

    /// Compares members; both sides sorted, so one walk through both.
    fn members(self, whose: Members, old: Side<'_>, new: Side<'_>) -> Comparison {
        let mut out = Comparison::default();
        let empty = Map::new();
        let mut olds = old.map().unwrap_or(&empty).iter().peekable();
        let mut news = new.map().unwrap_or(&empty).iter().peekable();
        let mut cursor = match whose {
            Members::Struct(ty, _) => Some(Cursor { ty, rank: 0 }),
            Members::Map(_) => None,
        };
        loop {
            let order = match (olds.peek(), news.peek()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let before = if order.is_le() { olds.next() } else { None };
            let after = if order.is_ge() { news.next() } else { None };
            let Some((name, _)) = before.or(after) else { break };
            let sides = (before.map(|(_, value)| value), after.map(|(_, value)| value));
            let field = match &mut cursor {
                None => None,
                Some(cursor) => match cursor.find(name) {
                    None => continue,
                    found => found,
                },
            };
            self.member(whose, (name, field), sides, (old, new), &mut out);
        }
        if let Members::Struct(ty, level) = whose
            && old.is_absent() != new.is_absent()
        {
            self.unseen_zeroes(ty, level, old, new, &mut out);
        }
        out
    }

    fn member(
        self,
        whose: Members,
        (name, field): (&Str, Option<&'static Field>),
        (before, after): (Option<&Value>, Option<&Value>),
        (old, new): (Side<'_>, Side<'_>),
        out: &mut Comparison,
    ) {
        let place = match (whose, field) {
            (Members::Map(element), _) => Place::element(element),
            (Members::Struct(_, level), _) if is_unowned(level, name) => return,
            (Members::Struct(_, level), Some(field)) => Place::of(field, level),
            (Members::Struct(..), None) => return,
        };
        let before = self.side(field, before, old);
        let after = self.side(field, after, new);
        if before.is_absent() && after.is_absent() {
            return;
        }
        // Most fields of an update are as they were.
        if before.same(after) {
            return;
        }
        let step =
            field.map_or_else(|| PathElement::Field(name.clone()), |field| PathElement::known(field.name));
        out.push(&step, self.node(place, before, after));
    }

    /// What Go sees of a member: zero where JSON shows nothing but the struct holds a value, nothing where JSON
    /// shows a zero that Go leaves out.
    fn side<'a>(self, field: Option<&Field>, value: Option<&'a Value>, parent: Side<'_>) -> Side<'a> {
        let Some(field) = field else {
            return value.map_or(Side::Absent, Side::There);
        };
        match value {
            Some(Value::Null) | None if field.emit && !parent.is_absent() => Side::Zero,
            Some(Value::Null) | None => Side::Absent,
            Some(value) if shows(self.types, field, value) => Side::There(value),
            Some(_) => Side::Absent,
        }
    }

    /// Fields that one side holds by value without showing them, where the other side is not there at all.
    fn unseen_zeroes(
        self,
        ty: &'static Type,
        level: Level,
        old: Side<'_>,
        new: Side<'_>,
        out: &mut Comparison,
    ) {
        let shown = |side: Side<'_>, name: &str| {
            side.map().and_then(|map| map.get(name)).is_some_and(|value| !value.is_null())
        };
        for field in ty.fields.iter().filter(|field| field.emit) {
            if shown(old, field.name) || shown(new, field.name) {
                continue;
            }
            let (before, after) = (self.side(Some(field), None, old), self.side(Some(field), None, new));
            out.push(&PathElement::known(field.name), self.node(Place::of(field, level), before, after));
        }
    }

    /// Compares the elements of a set or of a list with keys.
    fn elements(self, list: List, element: ShapeId, old: &[Value], new: &[Value]) -> Comparison {
        let mut out = Comparison::default();
        let olds = by_element(self.types, list, element, old);
        let news = by_element(self.types, list, element, new);
        let (mut olds, mut news) = (olds.as_slice(), news.as_slice());
        let place = Place::element(element);
        loop {
            let order = match (olds.first(), news.first()) {
                (Some((a, _)), Some((b, _))) => a.compare(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return out,
            };
            let before = if order.is_le() { take_same(&mut olds) } else { &[] };
            let after = if order.is_ge() { take_same(&mut news) } else { &[] };
            let Some((at, _)) = before.first().or(after.first()) else { return out };
            match (before.len(), after.len()) {
                (0..=1, 0..=1) => {
                    let (before, after) = (only(before), only(after));
                    out.push(at, self.node(place, before, after));
                }
                // Duplicates are compared as one value.
                (2.., 2..) => {
                    let mark = (before != after).then_some(Mark::Modified);
                    out.push(at, Node { mark, ..Node::default() });
                }
                (2.., _) => {
                    if !after.is_empty() {
                        out.push(at, self.node(place, Side::Absent, only(after)));
                    }
                    out.push(at, Node { mark: Some(Mark::Removed), ..Node::default() });
                }
                (_, _) => {
                    if !before.is_empty() {
                        out.push(at, self.node(place, only(before), Side::Absent));
                    }
                    out.push(at, Node { mark: Some(Mark::Added), ..Node::default() });
                }
            }
        }
    }
}

/// The elements with their steps, sorted by them. Elements without any key are left out.
pub(super) fn by_element<'a>(
    types: &Types,
    list: List,
    element: ShapeId,
    values: &'a [Value],
) -> Vec<(PathElement, &'a Value)> {
    let ty = types.struct_of(element);
    let step = |value: &Value| match (list, ty) {
        (List::Set, _) if !matches!(value, Value::Object(_) | Value::Array(_) | Value::Null) => {
            Some(PathElement::Value(Box::new(value.clone())))
        }
        (List::Map(_), Some(ty)) => key_of(list, ty, value.as_object()?),
        _ => None,
    };
    let mut elements: Vec<_> = values.iter().filter_map(|value| Some((step(value)?, value))).collect();
    elements.sort_by(|a, b| a.0.compare(&b.0));
    elements
}

/// The element that is there, if any.
fn only<'a>(elements: &[(PathElement, &'a Value)]) -> Side<'a> {
    elements.first().map_or(Side::Absent, |(_, value)| Side::There(value))
}

/// The first elements that have the same step; what is left comes behind them.
fn take_same<'a, 'b>(elements: &mut &'b [(PathElement, &'a Value)]) -> &'b [(PathElement, &'a Value)] {
    let same = elements.iter().take_while(|(step, _)| step.compare(&elements[0].0).is_eq()).count();
    let (taken, left) = elements.split_at(same);
    *elements = left;
    taken
}

/// The step to an element of a list with keys: the keys that it has, or that have defaults.
fn key_of(list: List, ty: &Type, element: &Map) -> Option<PathElement> {
    let mut members: Vec<(Str, Value)> = Vec::with_capacity(2);
    for name in list.keys() {
        let field = ty.field(name);
        let value = element.get(name).filter(|value| !value.is_null()).cloned().or_else(|| {
            let default = field?.default?;
            crate::value::parse(default.as_bytes()).ok()
        });
        let value = value.or_else(|| {
            let types = table::types();
            let field = field.filter(|field| field.emit)?;
            Some(match types.bare(field.shape) {
                Shape::String => Value::String(Str::default()),
                Shape::Int32 | Shape::Int64 => Value::Int(0),
                _ => return None,
            })
        });
        members.extend(value.map(|value| (Str::const_new(name), value)));
    }
    members.sort_by(|a, b| a.0.cmp(&b.0));
    (!members.is_empty()).then(|| PathElement::Key(members.into()))
}
