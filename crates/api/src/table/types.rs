//! Types, fields and shapes.

use std::collections::HashMap;

/// Which [`Type`]; an index into [`Types`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeId(pub(super) u16);

impl TypeId {
    /// Its place in [`Types::iter`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Which [`Shape`]; an index into [`Types`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShapeId(pub(super) u16);

/// Which [`Named`]; an index into [`Types`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NamedId(pub(super) u16);

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `true` or `false`.
    Bool,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// A number.
    Float64,
    /// A text.
    String,
    /// Bytes, base64 in JSON.
    Bytes,
    /// A resource quantity.
    Quantity,
    /// A whole number of 32 bits or a text.
    IntOrString,
    /// A time to the second.
    Time,
    /// A time to the microsecond.
    MicroTime,
    /// A length of time as Go writes it.
    Duration,
    /// The field set of a managed fields entry: any object.
    FieldsV1,
    /// Another object, whatever its kind.
    Raw,
    /// Any JSON.
    Json,
    /// A JSON schema, or a list of them.
    SchemaOrArray,
    /// A JSON schema, or a truth value.
    SchemaOrBool,
    /// A JSON schema, or a list of texts.
    SchemaOrStrings,
    /// A struct.
    Struct(TypeId),
    /// A list.
    List(ShapeId),
    /// A map from texts (of the first shape) to values.
    Map(ShapeId, ShapeId),
    /// A value that may be absent, where absent differs from zero.
    Pointer(ShapeId),
    /// A scalar, list or map with a name of its own.
    Named(NamedId),
}

/// A struct.
#[derive(Debug)]
pub struct Type {
    /// As `core/v1.PodSpec`.
    pub name: &'static str,
    /// Whether apply takes it as one value.
    pub atomic: bool,
    /// The fields as JSON shows them, inline structs dissolved, in upstream's order.
    pub fields: Vec<Field>,
    /// The members as protobuf shows them, by number.
    pub parts: Vec<Part>,
    /// Indices of `fields`, by name.
    pub(super) by_name: Vec<u16>,
}

/// A member of a struct as protobuf shows it.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// The field at this index.
    Field(u16),
    /// A struct whose fields JSON dissolves: `len` fields from index `start`.
    Inline {
        /// Protobuf number; none if protobuf does not have it (kind and version).
        number: u32,
        /// The struct.
        ty: TypeId,
        /// Index of its first field.
        start: u16,
        /// How many fields it has.
        len: u16,
    },
}

/// A field of a struct. The many booleans are separate facts, not states.
#[derive(Debug)]
pub struct Field {
    /// Name in JSON.
    pub name: &'static str,
    /// Number in protobuf; 0 if protobuf does not have it.
    pub number: u32,
    /// What it holds.
    pub shape: ShapeId,
    /// Whether upstream writes it although it is zero.
    pub emit: bool,
    /// Whether the OpenAPI document requires it.
    pub required: bool,
    /// Whether declared to be immutable once set.
    pub immutable: bool,
    /// How apply merges the list.
    pub list: List,
    /// Whether apply takes the map or struct as one value.
    pub map_atomic: bool,
    /// Whether apply merges the struct member by member although its type says that it is one value.
    pub map_granular: bool,
    /// How a strategic merge patch merges it.
    pub patch: Patch,
    /// The gate, off by default, behind which the field is.
    pub off: Option<&'static str>,
    /// What appears when it is absent, as JSON.
    pub default: Option<&'static str>,
    /// What the server enforces of it by itself.
    pub bounds: Option<Box<Bounds>>,
}

/// How apply merges a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum List {
    /// No list, or none that says: as one value.
    #[default]
    Atomic,
    /// By value.
    Set,
    /// By keys; the names, separated by commas.
    Map(&'static str),
}

impl List {
    /// The names of the keys; none unless it is a map.
    pub fn keys(self) -> impl Iterator<Item = &'static str> {
        let names = if let Self::Map(names) = self { names } else { "" };
        names.split(',').filter(|name| !name.is_empty())
    }
}

/// How a strategic merge patch merges a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Lists and maps are merged rather than replaced.
    pub merge: bool,
    /// Keys that the patch does not name go.
    pub retain_keys: bool,
    /// Field by which elements of a list are matched; empty for lists of scalars.
    pub key: &'static str,
}

/// What the server enforces of a value by itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Least number.
    pub min: Option<i64>,
    /// Greatest number.
    pub max: Option<i64>,
    /// Most elements.
    pub max_items: Option<usize>,
    /// Most characters.
    pub max_length: Option<usize>,
    /// Most bytes.
    pub max_bytes: Option<usize>,
    /// Name of a text's format, as `k8s-short-name`.
    pub format: Option<&'static str>,
    /// The server refuses an object without it; what its message says behind "Required value".
    pub needed: Option<&'static str>,
    /// The server refuses a text that is none of these, separated by `|`; empty for those of the named type.
    pub one_of: Option<&'static str>,
    /// The same for the elements of a list.
    pub each_of: Option<&'static str>,
    /// The server refuses a list in which this field of the elements (empty: an element) is there twice.
    pub unique: Option<&'static str>,
}

/// A scalar, list or map with a name.
#[derive(Debug)]
pub struct Named {
    /// As `core/v1.RestartPolicy`.
    pub name: &'static str,
    /// What it is made of.
    pub shape: ShapeId,
    /// Whether it is a list that protobuf wraps in a message of its own.
    pub message: bool,
    /// The values that it may have; empty if any.
    pub values: Vec<&'static str>,
}

/// All types.
#[derive(Debug, Default)]
pub struct Types {
    pub(super) types: Vec<Type>,
    pub(super) named: Vec<Named>,
    pub(super) shapes: Vec<Shape>,
    pub(super) by_name: HashMap<&'static str, TypeId>,
    pub(super) packages: Vec<(&'static str, &'static str)>,
}

impl Types {
    /// A type by its name, as `core/v1.PodSpec`.
    pub fn find(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    /// The type of a kind, whether a resource serves it (`Pod`) or not (`PodList`, `Scale`, `DeleteOptions`).
    pub fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeId> {
        let package = match group {
            "" => "core",
            _ => group.split('.').next().unwrap_or(group),
        };
        self.find(&format!("{package}/{version}.{kind}")).or_else(|| self.find(&format!("meta/v1.{kind}")))
    }

    /// The type behind an id.
    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[usize::from(id.0)]
    }

    /// All types by name.
    pub fn iter(&self) -> impl Iterator<Item = &Type> {
        self.types.iter()
    }

    /// The shape behind an id.
    pub fn shape(&self, id: ShapeId) -> Shape {
        self.shapes[usize::from(id.0)]
    }

    /// The named scalar, list or map behind an id.
    pub fn named(&self, id: NamedId) -> &Named {
        &self.named[usize::from(id.0)]
    }

    /// The shape without names and pointers around it.
    pub fn bare(&self, id: ShapeId) -> Shape {
        match self.shape(id) {
            Shape::Pointer(inner) => self.bare(inner),
            Shape::Named(named) => self.bare(self.named(named).shape),
            shape => shape,
        }
    }

    /// Whether absent differs from zero there.
    pub fn is_pointer(&self, id: ShapeId) -> bool {
        matches!(self.shape(id), Shape::Pointer(_))
    }

    /// The values that a text of this shape may have; empty if any.
    pub fn values(&self, id: ShapeId) -> &[&'static str] {
        match self.shape(id) {
            Shape::Pointer(inner) => self.values(inner),
            Shape::Named(named) => &self.named(named).values,
            _ => &[],
        }
    }

    /// The shape of a list's elements or a map's values.
    pub fn element(&self, id: ShapeId) -> Option<ShapeId> {
        match self.bare(id) {
            Shape::List(element) | Shape::Map(_, element) => Some(element),
            _ => None,
        }
    }

    /// The struct of this shape, if it is one.
    pub fn struct_of(&self, id: ShapeId) -> Option<&Type> {
        match self.bare(id) {
            Shape::Struct(ty) => Some(self.get(ty)),
            _ => None,
        }
    }

    /// What upstream's OpenAPI calls a type: `io.k8s.api.core.v1.PodSpec`.
    pub fn openapi_name(&self, ty: &Type) -> String {
        let (package, name) = ty.name.split_once('.').unwrap_or(("", ty.name));
        let prefix =
            self.packages.iter().find(|(short, _)| *short == package).map_or(package, |(_, long)| long);
        format!("{prefix}.{name}")
    }

    /// What Go calls a shape in its messages: `[]v1.Container`, `map[string]string`, `int32`.
    pub fn go_name(&self, id: ShapeId) -> String {
        match self.shape(id) {
            Shape::Bool => "bool".into(),
            Shape::Int32 => "int32".into(),
            Shape::Int64 => "int64".into(),
            Shape::Float64 => "float64".into(),
            Shape::String => "string".into(),
            Shape::Bytes => "[]uint8".into(),
            Shape::Quantity => "resource.Quantity".into(),
            Shape::IntOrString => "intstr.IntOrString".into(),
            Shape::Time => "v1.Time".into(),
            Shape::MicroTime => "v1.MicroTime".into(),
            Shape::Duration => "v1.Duration".into(),
            Shape::FieldsV1 => "v1.FieldsV1".into(),
            Shape::Raw => "runtime.RawExtension".into(),
            Shape::Json => "interface {}".into(),
            Shape::SchemaOrArray => "v1.JSONSchemaPropsOrArray".into(),
            Shape::SchemaOrBool => "v1.JSONSchemaPropsOrBool".into(),
            Shape::SchemaOrStrings => "v1.JSONSchemaPropsOrStringArray".into(),
            Shape::Struct(ty) => go_type(self.get(ty).name).into(),
            Shape::List(element) => format!("[]{}", self.go_name(element)),
            Shape::Map(key, value) => format!("map[{}]{}", self.go_name(key), self.go_name(value)),
            Shape::Pointer(inner) => format!("*{}", self.go_name(inner)),
            Shape::Named(named) => go_type(self.named(named).name).into(),
        }
    }
}

/// `v1.PodSpec` of `core/v1.PodSpec`.
fn go_type(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

impl Type {
    /// The field of that name in JSON.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.field_index(name).map(|index| &self.fields[index])
    }

    /// The field at a rank in the order of names, for walks beside sorted members.
    pub fn nth_by_name(&self, rank: usize) -> Option<&Field> {
        self.by_name.get(rank).map(|index| &self.fields[usize::from(*index)])
    }

    /// The fields in the order of their names, for walks beside sorted members.
    pub fn by_name(&self) -> impl Iterator<Item = &Field> {
        self.by_name.iter().map(|index| &self.fields[usize::from(*index)])
    }

    /// The index in `fields` of the field of that name.
    pub fn field_index(&self, name: &str) -> Option<usize> {
        self.by_name
            .binary_search_by(|index| self.fields[usize::from(*index)].name.cmp(name))
            .ok()
            .map(|at| usize::from(self.by_name[at]))
    }

    /// The field of that name by its index in `fields` and its rank in the order of names, looked for first among the
    /// `near` ones from a rank on.
    pub(crate) fn find(&self, rank: usize, near: usize, name: &str) -> Option<(usize, usize)> {
        let named = |rank: &usize| self.nth_by_name(*rank).is_some_and(|field| field.name == name);
        let rank = (rank..rank + near).find(named).or_else(|| {
            self.by_name.binary_search_by(|index| self.fields[usize::from(*index)].name.cmp(name)).ok()
        })?;
        Some((usize::from(self.by_name[rank]), rank))
    }

    /// The last word of the name: `PodSpec`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}
