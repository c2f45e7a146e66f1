//! The fields of a new object, written straight away.
//!
//! Whoever creates an object owns all of it, so `fieldsV1` has the shape of the object itself: one walk through the two
//! trees, of values and of types, writes it, and no set is built. What it writes is the text of what [`compare`] finds
//! added and modified against an empty object; a test compares the two.
//!
//! [`compare`]: super::compare::compare

use crate::table::{self, Field, List, Shape, ShapeId, Type, TypeId, Types};
use crate::value::{Map, Str, Value, write_string};

use super::compare::{Level, Place, by_element, is_unowned, shows};
use super::element::PathElement;
use super::set::FieldSet;

/// How an object of fields begins that is owned itself.
const OWNED: &[u8] = br#"{".":{}"#;

/// The fields of an object that is about to be created, but for those that the write puts back (`reset`, which names
/// members of the root alone); `None` if there are none.
pub(super) fn of_new(object: &Value, ty: TypeId, reset: &FieldSet) -> Option<Value> {
    let mut writer = Writer { types: table::types(), out: Vec::with_capacity(2048) };
    writer.out.push(b'{');
    let root = writer.types.get(ty);
    let keeps = |field: &Field| reset.is_empty() || !reset.contains(&[PathElement::known(field.name)]);
    writer.changed_members(root, Level::Root, object.as_object()?, keeps);
    writer.out.push(b'}');
    // It is made of texts.
    let text = String::from_utf8(writer.out).ok()?;
    (text != "{}").then(|| Value::Written(text.into()))
}

struct Writer {
    types: &'static Types,
    out: Vec<u8>,
}

impl Writer {
    /// Begins a member; returns where.
    fn member(&mut self, name: &str) -> usize {
        let start = self.separate();
        self.out.extend_from_slice(b"\"f:");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        start
    }

    /// Begins an entry whose step is no plain name.
    fn step(&mut self, text: &str) {
        self.separate();
        write_string(text, &mut self.out);
        self.out.push(b':');
    }

    fn separate(&mut self) -> usize {
        let start = self.out.len();
        if self.out.last() != Some(&b'{') {
            self.out.push(b',');
        }
        start
    }

    /// The object of what is owned itself: `{}`, or what is below it and a mark for itself.
    fn owned(&mut self, below: impl FnOnce(&mut Self)) {
        let start = self.out.len();
        self.out.extend_from_slice(OWNED);
        below(self);
        if self.out.len() == start + OWNED.len() {
            self.out.truncate(start + 1);
        }
        self.out.push(b'}');
    }

    /// What was not there and now is `value`.
    fn added(&mut self, place: Place, value: &Value) {
        self.owned(|this| match (this.types.bare(place.shape), value) {
            (Shape::Struct(id), Value::Object(map)) => {
                let ty = this.types.get(id);
                if !place.atomic && !ty.atomic {
                    this.added_members(ty, place.level, map);
                }
            }
            (Shape::Map(_, element), Value::Object(map)) if !place.atomic => this.entries(element, map),
            (Shape::List(element), Value::Array(values)) if place.list != List::Atomic => {
                this.elements(place.list, element, values);
            }
            _ => {}
        });
    }

    /// What was not there and now is zero, though JSON does not show it.
    fn added_zero(&mut self, place: Place) {
        self.owned(|this| {
            if let Shape::Struct(id) = this.types.bare(place.shape) {
                let ty = this.types.get(id);
                if !place.atomic && !ty.atomic {
                    this.added_members(ty, place.level, &Map::new());
                }
            }
        });
    }

    fn added_members(&mut self, ty: &Type, level: Level, map: &Map) {
        let mut members = map.iter().peekable();
        for field in ty.by_name() {
            while members.next_if(|(name, _)| name.as_str() < field.name).is_some() {}
            let value = members.next_if(|(name, _)| name.as_str() == field.name).map(|(_, value)| value);
            match value.filter(|value| !value.is_null()) {
                Some(value) if shows(self.types, field, value) => {
                    self.member(field.name);
                    self.added(Place::of(field, level), value);
                }
                None if field.emit => {
                    self.member(field.name);
                    self.added_zero(Place::of(field, level));
                }
                _ => {}
            }
        }
    }

    /// The members of a struct that is held by value, and so was there already, as zero. `keeps` says which matter.
    fn changed_members(
        &mut self,
        ty: &'static Type,
        level: Level,
        map: &Map,
        keeps: impl Fn(&Field) -> bool,
    ) {
        let mut fields = ty.by_name().peekable();
        for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
            while fields.next_if(|field| field.name < name.as_str()).is_some() {}
            let Some(field) = fields.next_if(|field| field.name == name) else { continue };
            if is_unowned(level, name) || !keeps(field) {
                continue;
            }
            let place = Place::of(field, level);
            if !field.emit {
                if shows(self.types, field, value) {
                    self.member(name);
                    self.added(place, value);
                }
            } else if !value.is_empty() {
                self.changed(place, field.name, value);
            }
        }
    }

    /// What was zero and now is `value`. Not itself, but what is below it is owned, if anything is.
    fn changed(&mut self, place: Place, name: &str, value: &Value) {
        let start = self.member(name);
        self.out.push(b'{');
        let empty = self.out.len();
        match (self.types.bare(place.shape), value) {
            _ if place.atomic => return self.out.push(b'}'),
            (Shape::Struct(id), _) => {
                let ty = self.types.get(id);
                if ty.atomic {
                    return self.out.push(b'}');
                }
                if let Some(map) = value.as_object() {
                    self.changed_members(ty, place.level, map, |_| true);
                }
            }
            (Shape::Map(_, element), _) => {
                if let Some(map) = value.as_object() {
                    self.entries(element, map);
                }
            }
            (Shape::List(element), _) if place.list != List::Atomic => {
                self.elements(place.list, element, value.as_array().unwrap_or_default());
            }
            _ => return self.out.push(b'}'),
        }
        if self.out.len() == empty {
            self.out.truncate(start);
        } else {
            self.out.push(b'}');
        }
    }

    /// The entries of a map with free keys.
    fn entries(&mut self, element: ShapeId, map: &Map) {
        let mut step = String::with_capacity(64);
        for (name, value) in map.iter() {
            step.clear();
            step.push_str("f:");
            step.push_str(name);
            self.step(&step);
            self.added(Place::element(element), value);
        }
    }

    /// The elements of a set or of a list with keys.
    fn elements(&mut self, list: List, element: ShapeId, values: &[Value]) {
        let mut steps: Vec<(Str, &Value)> = by_element(self.types, list, element, values)
            .into_iter()
            .map(|(step, value)| (step.text(), value))
            .collect();
        steps.sort_by(|a, b| a.0.cmp(&b.0));
        let mut steps = steps.into_iter().peekable();
        while let Some((step, value)) = steps.next() {
            self.step(&step);
            let mut alone = true;
            while steps.next_if(|(other, _)| *other == step).is_some() {
                alone = false;
            }
            // Duplicates are one value.
            if alone {
                self.added(Place::element(element), value);
            } else {
                self.out.extend_from_slice(b"{}");
            }
        }
    }
}
