//! The schemas of types.

use std::collections::BTreeSet;

use super::{Dialect, group_of_package, words};
use crate::json;
use crate::schema::descriptions::Descriptions;
use crate::table::{Field, KindFacts, Kinds, List, Part, Shape, ShapeId, Type, TypeId, Types};
use crate::value::{Value, parse};

/// Types that every document holds, because every resource's operations use them.
const COMMON: &[&str] =
    &["meta/v1.APIResourceList", "meta/v1.DeleteOptions", "meta/v1.Status", "meta/v1.WatchEvent"];

/// What a scalar with a JSON form of its own is called in documents, and its schema.
const SPECIAL: &[(Shape, &str, &str)] = &[
    (
        Shape::Quantity,
        "io.k8s.apimachinery.pkg.api.resource.Quantity",
        r#"{"oneOf":[{"type":"string"},{"type":"number"}]}"#,
    ),
    (
        Shape::IntOrString,
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        r#"{"format":"int-or-string","oneOf":[{"type":"integer"},{"type":"string"}]}"#,
    ),
    (Shape::Time, "io.k8s.apimachinery.pkg.apis.meta.v1.Time", r#"{"type":"string","format":"date-time"}"#),
    (
        Shape::MicroTime,
        "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
        r#"{"type":"string","format":"date-time"}"#,
    ),
    (Shape::Duration, "io.k8s.apimachinery.pkg.apis.meta.v1.Duration", r#"{"type":"string"}"#),
    (Shape::FieldsV1, "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", r#"{"type":"object"}"#),
    (Shape::Raw, "io.k8s.apimachinery.pkg.runtime.RawExtension", r#"{"type":"object"}"#),
    (Shape::Json, "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "{}"),
    (
        Shape::SchemaOrArray,
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
        "{}",
    ),
    (
        Shape::SchemaOrBool,
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
        "{}",
    ),
    (
        Shape::SchemaOrStrings,
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
        "{}",
    ),
];

/// The name of the schema of a patch's body.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// The types that the operations of some kinds reach, by index.
pub(super) fn closure(types: &Types, kinds: &Kinds, wanted: impl Fn(&KindFacts) -> bool) -> BTreeSet<usize> {
    let mut out = BTreeSet::new();
    let mut visit = |ty: Option<TypeId>| {
        if let Some(ty) = ty {
            reach(types, ty, &mut out);
        }
    };
    for kind in kinds.iter().filter(|kind| wanted(kind)) {
        visit(Some(kind.ty));
        if kind.can("list") {
            visit(types.of_kind(kind.group, kind.version, &format!("{}List", kind.kind)));
        }
        for sub in kind.subresources.iter().filter(|sub| !sub.kind.ends_with("Options")) {
            visit(types.of_kind(sub.group, sub.version, sub.kind));
        }
    }
    for name in COMMON {
        visit(types.find(name));
    }
    out
}

fn reach(types: &Types, ty: TypeId, out: &mut BTreeSet<usize>) {
    if !out.insert(ty.index()) {
        return;
    }
    for field in &types.get(ty).fields {
        let mut shape = field.shape;
        while let Some(element) = types.element(shape) {
            shape = element;
        }
        if let Shape::Struct(inner) = types.bare(shape) {
            reach(types, inner, out);
        }
    }
}

/// Makes schemas.
pub(super) struct Writer<'a> {
    pub(super) types: &'a Types,
    pub(super) kinds: &'a Kinds,
    pub(super) dialect: Dialect,
    pub(super) words: &'a Descriptions<'a>,
}

impl<'a> Writer<'a> {
    /// The schemas of the types at these indices, and of what they are made of, one by one.
    pub(super) fn of(&'a self, wanted: &'a BTreeSet<usize>) -> impl Iterator<Item = (String, Value)> + 'a {
        let special = SPECIAL.iter().filter_map(move |(shape, name, schema)| {
            let used = wanted.iter().filter_map(|index| self.types.iter().nth(*index));
            used.flat_map(|ty| &ty.fields).any(|field| innermost(self.types, field.shape) == *shape).then(
                || {
                    let mut schema = parse(schema.as_bytes()).expect("a test reads the special schemas");
                    // Swagger has no oneOf; upstream calls such scalars strings there.
                    if self.dialect == Dialect::V2 && schema.get("oneOf").is_some() {
                        schema.remove(&["oneOf"]);
                        schema.set(&["type"], "string");
                    }
                    self.describe(&mut schema, name, "");
                    ((*name).to_owned(), schema)
                },
            )
        });
        let patch = std::iter::once_with(|| {
            let mut schema = json!({"type": "object"});
            self.describe(&mut schema, PATCH, "");
            (PATCH.to_owned(), schema)
        });
        let structs = self.types.iter().enumerate().filter(|(index, _)| wanted.contains(index));
        structs
            .map(move |(_, ty)| (self.types.openapi_name(ty), self.structure(ty)))
            .chain(special)
            .chain(patch)
    }

    fn describe(&self, schema: &mut Value, ty: &str, field: &str) {
        if let Some(words) = self.words.of(ty, field) {
            schema.set(&["description"], words);
        }
    }

    fn structure(&self, ty: &Type) -> Value {
        let mut out = json!({"type": "object"});
        let name = self.types.openapi_name(ty);
        self.describe(&mut out, &name, "");
        let required: Vec<Value> =
            ty.fields.iter().filter(|field| field.required).map(|field| field.name.into()).collect();
        if !required.is_empty() {
            out.set(&["required"], required);
        }
        for field in &ty.fields {
            out.set(&["properties", field.name], self.property(&name, field));
        }
        if ty.atomic {
            out.set(&["x-kubernetes-map-type"], "atomic");
        }
        let named = group_version_kinds(self.types, self.kinds, ty);
        if !named.is_empty() {
            out.set(&["x-kubernetes-group-version-kind"], named);
        }
        out
    }

    /// The kind that a type is the list of.
    fn listed(&self, ty: &str) -> Option<&KindFacts> {
        let of = ty.strip_suffix("List")?;
        self.kinds.iter().find(|kind| self.types.openapi_name(self.types.get(kind.ty)) == of)
    }

    fn property(&self, ty: &str, field: &Field) -> Value {
        let mut out = shape(self.types, self.dialect, field.shape);
        let default = field.default.and_then(|text| parse(text.as_bytes()).ok());
        let described = self.words.of(ty, field.name).is_some();
        let siblings = default.is_some() || field.map_granular || described;
        // A reference may have no siblings but in an allOf.
        if self.dialect == Dialect::V3 && out.get("$ref").is_some() && siblings {
            let mut all = Value::object();
            all.set(&["allOf"], vec![out]);
            out = all;
        }
        self.describe(&mut out, ty, field.name);
        if field.name == "items"
            && let Some(kind) = self.listed(ty)
        {
            out.set(&["description"], words::items(kind.resource));
        }
        if let Some(default) = default.filter(|_| out.get("$ref").is_none()) {
            out.set(&["default"], default);
        }
        extend(self.types, field, &mut out);
        out
    }
}

fn innermost(types: &Types, mut shape: ShapeId) -> Shape {
    while let Some(element) = types.element(shape) {
        shape = element;
    }
    types.bare(shape)
}

/// What a type is called in requests; none if it is no kind.
fn group_version_kinds(types: &Types, kinds: &Kinds, ty: &Type) -> Vec<Value> {
    let is_kind = ty.parts.iter().any(|part| {
        matches!(part, Part::Inline { number: 0, ty, .. } if types.get(*ty).name == "meta/v1.TypeMeta")
    });
    let package = ty.name.split('.').next().unwrap_or_default();
    let named = |group: &str, version: &str| {
        let mut out = Value::object();
        out.set(&["group"], group);
        out.set(&["version"], version);
        out.set(&["kind"], ty.short_name());
        out
    };
    match (is_kind, package) {
        (false, _) => Vec::new(),
        // Options of requests exist in every group.
        (true, "meta/v1") if matches!(ty.short_name(), "DeleteOptions" | "WatchEvent") => kinds
            .groups()
            .iter()
            .flat_map(|group| group.versions.iter().map(|version| named(group.name, version)))
            .collect(),
        (true, "meta/v1") => vec![named("", "v1")],
        (true, package) => group_of_package(kinds, package)
            .map(|(group, version)| named(group, version))
            .into_iter()
            .collect(),
    }
}

/// Says how lists, maps and structs of a field are merged.
fn extend(types: &Types, field: &Field, out: &mut Value) {
    if matches!(types.bare(field.shape), Shape::List(_)) {
        let kind = match field.list {
            List::Atomic => "atomic",
            List::Set => "set",
            List::Map(_) => "map",
        };
        out.set(&["x-kubernetes-list-type"], kind);
        let keys: Vec<Value> = field.list.keys().map(Value::from).collect();
        if !keys.is_empty() {
            out.set(&["x-kubernetes-list-map-keys"], keys);
        }
    }
    if field.map_atomic {
        out.set(&["x-kubernetes-map-type"], "atomic");
    }
    if field.map_granular {
        out.set(&["x-kubernetes-map-type"], "granular");
    }
    if !field.patch.key.is_empty() {
        out.set(&["x-kubernetes-patch-merge-key"], field.patch.key);
    }
    let strategy = match (field.patch.merge, field.patch.retain_keys) {
        (true, true) => "merge,retainKeys",
        (true, false) => "merge",
        (false, true) => "retainKeys",
        (false, false) => return,
    };
    out.set(&["x-kubernetes-patch-strategy"], strategy);
}

fn shape(types: &Types, dialect: Dialect, id: ShapeId) -> Value {
    let bare = types.bare(id);
    if let Some((_, name, _)) = SPECIAL.iter().find(|(shape, ..)| *shape == bare) {
        return dialect.reference(name);
    }
    match bare {
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Int32 => json!({"type": "integer", "format": "int32"}),
        Shape::Int64 => json!({"type": "integer", "format": "int64"}),
        Shape::Float64 => json!({"type": "number", "format": "double"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Struct(ty) => dialect.reference(&types.openapi_name(types.get(ty))),
        Shape::List(element) => {
            let mut out = json!({"type": "array"});
            out.set(&["items"], shape(types, dialect, element));
            out
        }
        Shape::Map(_, element) => {
            let mut out = json!({"type": "object"});
            out.set(&["additionalProperties"], shape(types, dialect, element));
            out
        }
        _ => {
            let mut out = json!({"type": "string"});
            let values = types.values(id);
            if !values.is_empty() {
                out.set(&["enum"], values.iter().map(|value| Value::from(*value)).collect::<Vec<_>>());
            }
            out
        }
    }
}
