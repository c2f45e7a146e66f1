//! Says what is wrong with single values: what is missing, unsupported, repeated, or out of its bounds.
//!
//! Rules that look at several fields or at the object's past are a strategy's. Metadata has its own rules
//! ([`crate::validation::metadata`]), and status is not looked at: upstream checks little of it, and by hand.

use std::collections::HashSet;

use super::plan::plan;
use crate::status::Cause;
use crate::table::{Bounds, Field, Shape, ShapeId, TypeId, Types, types};
use crate::validation::{Path, cause, names};
use crate::value::{Map, Value};

/// Checks an object in its sparse form, with its defaults.
pub fn validate(ty: TypeId, value: &Value) -> Vec<Cause> {
    let mut checker = Checker { types: types(), causes: Vec::new() };
    if let Value::Object(map) = value {
        checker.structure(ty, map, &Path::default(), true);
    }
    checker.causes
}

struct Checker {
    types: &'static Types,
    causes: Vec<Cause>,
}

impl Checker {
    fn structure(&mut self, ty: TypeId, map: &Map, path: &Path, root: bool) {
        let nothing = Value::object();
        let fields = &self.types.get(ty).fields;
        for field in plan(ty).checked.iter().map(|at| &fields[usize::from(*at)]) {
            if root && matches!(field.name, "metadata" | "status") {
                continue;
            }
            let value = map.get(field.name).filter(|value| !value.is_null());
            let at = || path.child(field.name);
            if let Some(bounds) = &field.bounds {
                if let Some(message) = bounds.needed
                    && value.is_none_or(|value| self.missing(field, value))
                {
                    self.causes.push(cause::required(at(), message));
                    continue;
                }
                if let Some(value) = value {
                    self.bounds(field, bounds, value, &at());
                }
            }
            match (value, self.types.shape(field.shape)) {
                (Some(value), _) => {
                    let key = field.bounds.as_ref().and_then(|bounds| bounds.unique);
                    if key.is_some() || self.goes_deeper(field.shape, value) {
                        self.shape(field.shape, value, &at(), key);
                    }
                }
                // A struct that is no pointer is there, with all that it lacks.
                (None, Shape::Struct(_)) => self.shape(field.shape, &nothing, &at(), None),
                _ => {}
            }
        }
    }

    /// Whether a value is as good as none: empty lists and maps are, and zero where there is no pointer.
    fn missing(&self, field: &Field, value: &Value) -> bool {
        let list = matches!(self.types.bare(field.shape), Shape::List(_) | Shape::Map(..));
        let text = matches!(self.types.bare(field.shape), Shape::String);
        value.is_empty() && (list || text || !self.types.is_pointer(field.shape))
    }

    fn goes_deeper(&self, shape: ShapeId, value: &Value) -> bool {
        match self.types.bare(shape) {
            Shape::Struct(_) => value.as_object().is_some(),
            Shape::List(element) | Shape::Map(_, element) => {
                matches!(self.types.bare(element), Shape::Struct(_) | Shape::List(_) | Shape::Map(..))
            }
            _ => false,
        }
    }

    /// `key` is the part of a list's elements that may not be repeated.
    fn shape(&mut self, shape: ShapeId, value: &Value, path: &Path, key: Option<&str>) {
        match (self.types.bare(shape), value) {
            (Shape::Struct(ty), Value::Object(map)) => self.structure(ty, map, path, false),
            (Shape::List(element), Value::Array(elements)) => {
                let mut seen = HashSet::new();
                for (index, each) in elements.iter().enumerate() {
                    self.shape(element, each, &path.index(index), None);
                    // Upstream, too, says what is wrong with an element before it says that it is there twice.
                    self.causes.extend(key.and_then(|key| repeated(elements, index, key, &mut seen, path)));
                }
            }
            (Shape::Map(_, element), Value::Object(map)) => {
                for (key, each) in map.iter() {
                    self.shape(element, each, &path.key(key), None);
                }
            }
            _ => {}
        }
    }

    fn bounds(&mut self, field: &Field, bounds: &Bounds, value: &Value, at: &Path) {
        if let Some(known) = bounds.one_of {
            self.one_of(known, field.shape, value, at);
        }
        if let Some(known) = bounds.each_of {
            let element = self.types.element(field.shape).unwrap_or(field.shape);
            for (index, each) in value.as_array().unwrap_or_default().iter().enumerate() {
                self.one_of(known, element, each, &at.index(index));
            }
        }
        if let Some(number) = value.as_int() {
            if let Some(min) = bounds.min.filter(|min| number < *min) {
                let message = format!("must be greater than or equal to {min}");
                self.causes.push(cause::invalid(at, number, &message));
            }
            if let Some(max) = bounds.max.filter(|max| number > *max) {
                let message = format!("must be less than or equal to {max}");
                self.causes.push(cause::invalid(at, number, &message));
            }
        }
        if let Some(text) = value.as_str() {
            self.text(bounds, text, at);
        }
        let count = value.as_array().map_or(0, <[Value]>::len);
        if let Some(max) = bounds.max_items.filter(|max| count > *max) {
            self.causes.push(cause::too_many(at, count, max));
        }
    }

    fn one_of(&mut self, known: &'static str, shape: ShapeId, value: &Value, at: &Path) {
        let Some(text) = value.as_str() else { return };
        let named = self.types.values(shape);
        if known.is_empty() {
            if !named.contains(&text) {
                self.causes.push(cause::not_supported(at, text, named));
            }
        } else if !known.split('|').any(|word| word == text) {
            let known: Vec<&str> = known.split('|').collect();
            self.causes.push(cause::not_supported(at, text, &known));
        }
    }

    fn text(&mut self, bounds: &Bounds, text: &str, at: &Path) {
        if let Some(max) = bounds.max_length.filter(|max| text.chars().count() > *max) {
            self.causes.push(cause::too_long_characters(at, max));
        }
        if let Some(max) = bounds.max_bytes.filter(|max| text.len() > *max) {
            self.causes.push(cause::too_long(at, max));
        }
        let wrong = match bounds.format {
            Some("k8s-short-name") => names::is_label(text),
            Some("k8s-long-name") => names::is_subdomain(text),
            _ => Vec::new(),
        };
        self.causes.extend(wrong.iter().map(|message| cause::invalid(at, text, message)));
    }
}

/// So many elements of a list are compared one by one; of more, the texts of their keys are remembered.
const FEW_ELEMENTS: usize = 16;

/// What is wrong if the part `key` of the element at `index` (empty: all of it) is there in one before it. `seen`
/// holds those parts of the elements of a long list that were asked about.
fn repeated(
    elements: &[Value],
    index: usize,
    key: &str,
    seen: &mut HashSet<Vec<u8>>,
    list: &Path,
) -> Option<Cause> {
    fn part<'a>(element: &'a Value, key: &str) -> Option<&'a Value> {
        let part = if key.is_empty() { Some(element) } else { element.get(key) };
        part.filter(|part| !part.is_empty())
    }
    let own = part(&elements[index], key)?;
    let again = if elements.len() <= FEW_ELEMENTS {
        elements[..index].iter().any(|other| part(other, key) == Some(own))
    } else {
        !seen.insert(own.to_bytes())
    };
    again.then(|| {
        let place = list.index(index);
        cause::duplicate(if key.is_empty() { place } else { place.child(key) }, own.clone())
    })
}
