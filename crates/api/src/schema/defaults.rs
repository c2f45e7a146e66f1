//! Adds what is missing.

use super::derived;
use super::plan::plan;
use crate::table::{Shape, ShapeId, TypeId, Types, types};
use crate::value::{Map, Str, Value};

/// Adds the defaults of an object of type `ty`, in its sparse form, as upstream does when it reads one.
pub fn apply_defaults(ty: TypeId, value: &mut Value) {
    let types = types();
    if let Value::Object(map) = value {
        derived::before(types.get(ty).name, map);
        Filler { types, root: types.get(ty).name }.structure(ty, map);
    }
}

struct Filler {
    types: &'static Types,
    root: &'static str,
}

impl Filler {
    fn structure(&self, id: TypeId, map: &mut Map) {
        let (ty, plan) = (self.types.get(id), plan(id));
        for (at, default) in &plan.defaults {
            let name = ty.fields[usize::from(*at)].name;
            if map.get(name).is_none_or(Value::is_null) {
                map.insert(Str::const_new(name), default.clone());
            }
        }
        if plan.has_rules {
            derived::within(self.root, ty, map);
        }
        for at in &plan.defaulted_below {
            let field = &ty.fields[usize::from(*at)];
            let Shape::Struct(inner) = self.types.shape(field.shape) else {
                if let Some(value) = map.get_mut(field.name) {
                    self.shape(field.shape, value);
                }
                continue;
            };
            // A struct that is no pointer is always there, so its defaults are, too.
            match map.get_mut(field.name) {
                Some(Value::Object(members)) if !members.is_empty() => self.structure(inner, members),
                Some(Value::Null) => drop(map.remove(field.name)),
                _ => {
                    let mut members = Map::new();
                    self.structure(inner, &mut members);
                    if members.is_empty() {
                        map.remove(field.name);
                    } else {
                        map.insert(Str::const_new(field.name), members);
                    }
                }
            }
        }
    }

    fn shape(&self, shape: ShapeId, value: &mut Value) {
        match (self.types.bare(shape), value) {
            (Shape::Struct(ty), Value::Object(map)) if plan(ty).is_defaulted => self.structure(ty, map),
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
