//! Adds what is missing.

use std::sync::OnceLock;

use super::derived;
use crate::table::{Shape, ShapeId, Type, TypeId, Types, types};
use crate::value::{Map, Str, Value, parse};

/// Adds the defaults of an object of type `ty`, in its sparse form, as upstream does when it reads one.
pub fn apply_defaults(ty: TypeId, value: &mut Value) {
    let types = types();
    if let Value::Object(map) = value {
        derived::before(types.get(ty).name, map);
        Filler { types, root: types.get(ty).name, matters: matters(types) }.structure(ty, map);
    }
}

struct Filler {
    types: &'static Types,
    root: &'static str,
    matters: &'static [bool],
}

impl Filler {
    fn structure(&self, id: TypeId, map: &mut Map) {
        let ty = self.types.get(id);
        for field in &ty.fields {
            let Some(default) = field.default else { continue };
            if map.get(field.name).is_none_or(Value::is_null) {
                let value = parse(default.as_bytes()).expect("a test reads every default of the table");
                map.insert(Str::const_new(field.name), value);
            }
        }
        derived::within(self.root, ty, map);
        for field in &ty.fields {
            match self.types.shape(field.shape) {
                // A struct that is no pointer is always there, so its defaults are, too.
                Shape::Struct(inner) if self.matters[inner.index()] => {
                    let mut value = map.remove(field.name).unwrap_or_else(Value::object);
                    if let Value::Object(members) = &mut value {
                        self.structure(inner, members);
                    }
                    if !value.is_empty() {
                        map.insert(Str::const_new(field.name), value);
                    }
                }
                _ => {
                    if let Some(value) = map.get_mut(field.name) {
                        self.shape(field.shape, value);
                    }
                }
            }
        }
    }

    fn shape(&self, shape: ShapeId, value: &mut Value) {
        match (self.types.bare(shape), value) {
            (Shape::Struct(ty), Value::Object(map)) if self.matters[ty.index()] => self.structure(ty, map),
            (Shape::List(element), Value::Array(elements)) => {
                for each in elements {
                    self.shape(element, each);
                }
            }
            (Shape::Map(_, element), Value::Object(map)) if self.types.struct_of(element).is_some() => {
                for (_, each) in map.iter_mut() {
                    self.shape(element, each);
                }
            }
            _ => {}
        }
    }
}

/// Which types have defaults in them, however deep.
fn matters(types: &'static Types) -> &'static [bool] {
    static MATTERS: OnceLock<Vec<bool>> = OnceLock::new();
    MATTERS.get_or_init(|| {
        let own =
            |ty: &Type| ty.fields.iter().any(|field| field.default.is_some()) || derived::knows(ty.name);
        let mut out: Vec<bool> = types.iter().map(own).collect();
        loop {
            let mut changed = false;
            for (index, ty) in types.iter().enumerate() {
                if !out[index] && ty.fields.iter().any(|field| reaches(types, field.shape, &out)) {
                    out[index] = true;
                    changed = true;
                }
            }
            if !changed {
                return out;
            }
        }
    })
}

fn reaches(types: &Types, shape: ShapeId, known: &[bool]) -> bool {
    match types.bare(shape) {
        Shape::Struct(ty) => known[ty.index()],
        Shape::List(element) | Shape::Map(_, element) => reaches(types, element, known),
        _ => false,
    }
}
