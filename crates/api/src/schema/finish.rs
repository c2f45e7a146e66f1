//! Makes an object what upstream writes.

use super::decode::{embedded_struct, is_zero, zero};
use super::plan::plan;
use crate::table::{Shape, ShapeId, TypeId, Types, types};
use crate::value::{Map, Str, Value};

/// Drops null and zero members that upstream does not write, and adds the empty ones that it always writes
/// (`status: {}`, `rules: null`). Doing it twice changes nothing.
pub fn finish(ty: TypeId, value: &mut Value) {
    if let Value::Object(map) = value {
        structure(types(), ty, map);
    }
}

fn structure(types: &Types, id: TypeId, map: &mut Map) {
    let ty = types.get(id);
    let mut fields = ty.by_name().peekable();
    map.retain(|key, value| {
        while fields.next_if(|field| field.name < key).is_some() {}
        let Some(field) = fields.next_if(|field| field.name == key) else { return true };
        shape_of(types, field.shape, value);
        field.emit || !is_zero(types, field.shape, value)
    });
    for at in &plan(id).emitted {
        let field = &ty.fields[usize::from(*at)];
        if let Some(value) = map.get(field.name) {
            // An empty list does not survive upstream's storage: it comes back as none.
            if value.is_empty() && matches!(types.bare(field.shape), Shape::List(_) | Shape::Map(..)) {
                map.insert(Str::const_new(field.name), Value::Null);
            }
            continue;
        }
        let mut value = zero(types, field.shape);
        if let (Some(inner), Value::Object(members)) = (embedded_struct(types, field), &mut value) {
            structure(types, inner, members);
        }
        map.insert(Str::const_new(field.name), value);
    }
}

fn shape_of(types: &Types, shape: ShapeId, value: &mut Value) {
    match (types.bare(shape), value) {
        (Shape::Struct(ty), Value::Object(map)) => structure(types, ty, map),
        (Shape::List(element), Value::Array(elements)) if holds_structs(types, element) => {
            for each in elements {
                shape_of(types, element, each);
            }
        }
        (Shape::Map(_, element), Value::Object(map)) if holds_structs(types, element) => {
            for (_, each) in map.iter_mut() {
                shape_of(types, element, each);
            }
        }
        _ => {}
    }
}

fn holds_structs(types: &Types, shape: ShapeId) -> bool {
    matches!(types.bare(shape), Shape::Struct(_) | Shape::List(_) | Shape::Map(..))
}
