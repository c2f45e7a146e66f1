//! What walks through objects need of the types, found once: most fields have no default, no bounds and nothing below
//! them that has, and need not be looked for in every object.

use std::sync::OnceLock;

use super::derived;
use crate::table::{Shape, ShapeId, Type, TypeId, Types, types};
use crate::value::{Value, parse};

/// What matters of a type. Fields are named by their index.
pub(super) struct Plan {
    /// The fields that have a default of their own.
    pub(super) defaults: Box<[(u16, Value)]>,
    /// Whether there are rules about defaults that depend on other fields.
    pub(super) has_rules: bool,
    /// Whether there are defaults or rules, here or below.
    pub(super) is_defaulted: bool,
    /// The fields below which there are.
    pub(super) defaulted_below: Box<[u16]>,
    /// The fields that are checked, or below which some are.
    pub(super) checked: Box<[u16]>,
    /// The fields that upstream writes although they are zero.
    pub(super) emitted: Box<[u16]>,
}

/// The plan of a type.
pub(super) fn plan(ty: TypeId) -> &'static Plan {
    static PLANS: OnceLock<Vec<Plan>> = OnceLock::new();
    &PLANS.get_or_init(|| all(types()))[ty.index()]
}

/// How many members an object of a type may get beside those that its text has.
pub(super) fn room(ty: TypeId) -> usize {
    let plan = plan(ty);
    plan.defaults.len() + plan.emitted.len()
}

fn all(types: &Types) -> Vec<Plan> {
    let is_defaulted = reaching(types, |ty| {
        ty.fields.iter().any(|field| field.default.is_some()) || derived::knows(ty.name)
    });
    let is_checked = reaching(types, |ty| ty.fields.iter().any(|field| field.bounds.is_some()));
    let plan = |(at, ty): (usize, &Type)| {
        let fields = || (0_u16..).zip(&ty.fields);
        let default = |text: &str| parse(text.as_bytes()).expect("a test reads every default of the table");
        Plan {
            defaults: fields().filter_map(|(at, field)| Some((at, default(field.default?)))).collect(),
            has_rules: derived::knows(ty.name),
            is_defaulted: is_defaulted[at],
            defaulted_below: fields()
                .filter(|(_, field)| reaches(types, field.shape, &is_defaulted))
                .map(|(at, _)| at)
                .collect(),
            checked: fields()
                .filter(|(_, field)| field.bounds.is_some() || reaches(types, field.shape, &is_checked))
                .map(|(at, _)| at)
                .collect(),
            emitted: fields().filter(|(_, field)| field.emit).map(|(at, _)| at).collect(),
        }
    };
    types.iter().enumerate().map(plan).collect()
}

/// Which types are `own`, or hold one that is, however deep.
fn reaching(types: &Types, own: impl Fn(&Type) -> bool) -> Vec<bool> {
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
}

fn reaches(types: &Types, shape: ShapeId, known: &[bool]) -> bool {
    match types.bare(shape) {
        Shape::Struct(ty) => known[ty.index()],
        Shape::List(element) | Shape::Map(_, element) => reaches(types, element, known),
        _ => false,
    }
}
