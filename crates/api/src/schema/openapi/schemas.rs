//! The schemas of types.

use std::collections::BTreeSet;

use super::{Dialect, Subject, addresses, group_of_package, words};
use crate::json;
use crate::schema::descriptions::Descriptions;
use crate::table::{Field, KindFacts, Kinds, List, Part, Shape, ShapeId, Type, TypeId, Types};
use crate::value::{Value, parse};

/// Defaults that upstream declares at the field itself; others are set by code, and no document tells them.
const DECLARED: &[&str] = &[
    "AzureDiskVolumeSource.cachingMode",
    "AzureDiskVolumeSource.fsType",
    "AzureDiskVolumeSource.kind",
    "AzureDiskVolumeSource.readOnly",
    "ContainerPort.protocol",
    "DeviceToleration.operator",
    "FileKeySelector.optional",
    "GRPCAction.service",
    "ISCSIPersistentVolumeSource.iscsiInterface",
    "ISCSIVolumeSource.iscsiInterface",
    "PodCertificateRequestSpec.maxExpirationSeconds",
    "RBDPersistentVolumeSource.keyring",
    "RBDPersistentVolumeSource.pool",
    "RBDPersistentVolumeSource.user",
    "RBDVolumeSource.keyring",
    "RBDVolumeSource.pool",
    "RBDVolumeSource.user",
    "ReplicationControllerSpec.replicas",
    "ScaleIOPersistentVolumeSource.fsType",
    "ScaleIOPersistentVolumeSource.storageMode",
    "ScaleIOVolumeSource.fsType",
    "ScaleIOVolumeSource.storageMode",
    "ServicePort.protocol",
];

/// Members that may be left out, for which upstream declares the zero value nevertheless.
const DECLARED_ZERO: &[&str] = &[
    "ConfigMapEnvSource.name",
    "ConfigMapKeySelector.name",
    "ConfigMapProjection.name",
    "ConfigMapVolumeSource.name",
    "LocalObjectReference.name",
    "ReplicationControllerSpec.minReadySeconds",
    "ScaleSpec.replicas",
    "SecretEnvSource.name",
    "SecretKeySelector.name",
    "SecretProjection.name",
];

/// Unions that upstream declares: the type, the member that tells which, and the members that exclude one another.
const UNIONS: &[(&str, &str, &[&str])] = &[
    ("core/v1.AppArmorProfile", "type", &["localhostProfile"]),
    ("core/v1.PodSchedulingGroup", "", &["podGroupName"]),
    ("core/v1.SeccompProfile", "type", &["localhostProfile"]),
    ("flowcontrol/v1.LimitResponse", "type", &["queuing"]),
    ("flowcontrol/v1.PriorityLevelConfigurationSpec", "type", &["exempt", "limited"]),
    ("flowcontrol/v1.Subject", "kind", &["group", "serviceAccount", "user"]),
    ("scheduling/v1alpha3.WorkloadPodGroupDisruptionMode", "", &["all", "single"]),
    ("scheduling/v1alpha3.WorkloadPodGroupSchedulingPolicy", "", &["basic", "gang"]),
];

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

/// What a document holds of schemas.
#[derive(Default)]
pub(super) struct Wanted {
    /// Types by index.
    types: BTreeSet<usize>,
    /// Whether objects are patched.
    patch: bool,
    /// Whether the server's version is told.
    version: bool,
}

/// What the operations of some kinds, and the addresses of subjects, reach.
pub(super) fn closure(
    types: &Types,
    kinds: &Kinds,
    wanted: impl Fn(&KindFacts) -> bool,
    subjects: impl Iterator<Item = Subject>,
) -> Wanted {
    let mut out = Wanted::default();
    let mut visit = |ty: Option<TypeId>| {
        if let Some(ty) = ty {
            reach(types, ty, &mut out.types);
        }
    };
    let mut verbs: BTreeSet<&str> = BTreeSet::new();
    for kind in kinds.iter().filter(|kind| wanted(kind)) {
        visit(Some(kind.ty));
        if kind.can("list") {
            visit(types.of_kind(kind.group, kind.version, &format!("{}List", kind.kind)));
        }
        verbs.extend(kind.verbs.iter().copied());
        for sub in kind.subresources.iter().filter(|sub| !sub.kind.ends_with("Options")) {
            visit(types.of_kind(sub.group, sub.version, sub.kind));
            verbs.extend(sub.verbs.iter().copied());
        }
    }
    for subject in subjects {
        out.version |= subject == Subject::ServerVersion;
        visit(subject.answer().and_then(|name| types.find(name)));
    }
    for (verb, name) in
        [("delete", "meta/v1.DeleteOptions"), ("delete", "meta/v1.Status"), ("watch", "meta/v1.WatchEvent")]
    {
        visit(types.find(name).filter(|_| verbs.contains(verb)));
    }
    out.patch = verbs.contains("patch");
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
    /// The subject of the document; none if it is about everything.
    pub(super) subject: Option<Subject>,
    pub(super) words: &'a Descriptions<'a>,
}

impl<'a> Writer<'a> {
    /// The schemas of the types at these indices, and of what they are made of, one by one.
    pub(super) fn of(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = (String, Value)> + 'a {
        let Wanted { types: wanted, patch, version } = wanted;
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
        let patch = patch.then(|| {
            let mut schema = json!({"type": "object"});
            self.describe(&mut schema, PATCH, "");
            (PATCH.to_owned(), schema)
        });
        let version = version.then(|| addresses::server_version(self.dialect));
        let structs = self.types.iter().enumerate().filter(|(index, _)| wanted.contains(index));
        structs
            .map(move |(_, ty)| (self.types.openapi_name(ty), self.structure(ty)))
            .chain(special)
            .chain(patch)
            .chain(version)
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
        let union = UNIONS.iter().find(|(name, ..)| *name == ty.name);
        if let Some((_, discriminator, members)) = union {
            out.set(&["x-kubernetes-unions"], vec![declared_union(discriminator, members)]);
        }
        let named = group_version_kinds(self.types, self.kinds, self.subject, ty);
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
        let default = self.default_of(ty, field);
        let described = words::field(self.words, ty, field.name).is_some();
        let siblings = default.is_some() || field.map_granular || described;
        // A reference may have no siblings but in an allOf.
        if self.dialect == Dialect::V3 && out.get("$ref").is_some() && siblings {
            let mut all = Value::object();
            all.set(&["allOf"], vec![out]);
            out = all;
        }
        if let Some(words) = words::field(self.words, ty, field.name) {
            out.set(&["description"], words);
        }
        if field.name == "items"
            && let Some(kind) = self.listed(ty)
        {
            out.set(&["description"], words::items(kind.resource));
        }
        if let Some(default) = default {
            out.set(&["default"], default);
        }
        extend(self.types, ty, field, &mut out);
        out
    }

    /// The default that upstream's document tells: none in version 2; else what is declared, or the zero value of what
    /// is always there.
    fn default_of(&self, ty: &str, field: &Field) -> Option<Value> {
        if self.dialect == Dialect::V2 {
            return None;
        }
        let name = format!("{}.{}", ty.rsplit('.').next().unwrap_or_default(), field.name);
        if DECLARED.contains(&name.as_str()) {
            return field.default.and_then(|text| parse(text.as_bytes()).ok());
        }
        let is_always = field.emit && !matches!(self.types.shape(field.shape), Shape::Pointer(_));
        match self.types.bare(field.shape) {
            _ if !is_always && !DECLARED_ZERO.contains(&name.as_str()) => None,
            Shape::Struct(_) => Some(Value::object()),
            Shape::Bool => Some(false.into()),
            Shape::Int32 | Shape::Int64 => Some(0.into()),
            Shape::Float64 => Some(Value::Int(0)),
            Shape::String => Some("".into()),
            _ => None,
        }
    }
}

fn declared_union(discriminator: &str, members: &[&str]) -> Value {
    let mut out = Value::object();
    if !discriminator.is_empty() {
        out.set(&["discriminator"], discriminator);
    }
    for member in members {
        // The name of the member in Go.
        let (first, rest) = member.split_at(1);
        out.set(&["fields-to-discriminateBy", member], first.to_uppercase() + rest);
    }
    out
}

pub(super) fn innermost(types: &Types, mut shape: ShapeId) -> Shape {
    while let Some(element) = types.element(shape) {
        shape = element;
    }
    types.bare(shape)
}

/// What a type is called in requests; none if it is no kind.
fn group_version_kinds(types: &Types, kinds: &Kinds, subject: Option<Subject>, ty: &Type) -> Vec<Value> {
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
    let is_request = package == "meta/v1" && matches!(ty.short_name(), "DeleteOptions" | "WatchEvent");
    match (is_kind || is_request, package) {
        (false, _) => Vec::new(),
        // A document of one version tells of that alone.
        (true, _) if is_request && subject.is_some() => match subject {
            Some(Subject::Version("", "v1")) => vec![named("", "v1")],
            Some(Subject::Version(group, version)) => vec![named("", "v1"), named(group, version)],
            _ => Vec::new(),
        },
        // Options of requests exist in every group.
        (true, _) if is_request => kinds
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
fn extend(types: &Types, ty: &str, field: &Field, out: &mut Value) {
    // Of lists of objects upstream says nothing, nor of verbs.
    let is_silent = (field.name == "items" && ty.ends_with("List"))
        || (field.name == "verbs" && ty.ends_with(".APIResource"));
    if matches!(types.bare(field.shape), Shape::List(_)) && !(is_silent && field.list == List::Atomic) {
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
