//! Reads `types.txt`. The file is part of the program, so what is wrong in it is a bug and panics; a test reads it.

use std::collections::HashMap;

use super::types::{Bounds, Field, List, Named, NamedId, Part, Patch, Shape, ShapeId, Type, TypeId, Types};

/// Reads the text of `types.txt`.
pub(super) fn read(text: &'static str) -> Types {
    let mut reader = Reader::default();
    reader.collect_names(text);
    let mut raw: Vec<RawType> = Vec::with_capacity(reader.out.by_name.len());
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "package" => {
                reader.out.packages.push(rest.split_once(' ').expect("a package line has two names"));
            }
            "named" => reader.named(rest),
            "type" => {
                let (name, atomic) = rest.split_once(' ').unwrap_or((rest, ""));
                raw.push(RawType { name, atomic: atomic == "atomic", members: Vec::new() });
            }
            "" => {
                let member = reader.member(rest);
                raw.last_mut().expect("a member belongs to a type").members.push(member);
            }
            other => unreachable!("types.txt begins a line with {other}"),
        }
    }
    let types = (0..raw.len()).map(|index| flatten(&raw, index)).collect();
    reader.out.types = types;
    reader.out
}

struct RawType {
    name: &'static str,
    atomic: bool,
    members: Vec<Member>,
}

enum Member {
    Field(Box<RawField>),
    Inline(u32, TypeId),
}

/// A field line; copied into every type that has it inline.
#[derive(Clone)]
struct RawField {
    name: &'static str,
    number: u32,
    shape: ShapeId,
    words: &'static str,
}

#[derive(Default)]
struct Reader {
    out: Types,
    named_by_name: HashMap<&'static str, NamedId>,
    shapes_by_text: HashMap<&'static str, ShapeId>,
}

impl Reader {
    fn collect_names(&mut self, text: &'static str) {
        for line in text.lines() {
            let mut words = line.split(' ');
            match words.next() {
                Some("type") => {
                    let id = TypeId(u16::try_from(self.out.by_name.len()).expect("fewer than 65,536 types"));
                    self.out.by_name.insert(words.next().unwrap_or_default(), id);
                }
                Some("named") => {
                    let id =
                        NamedId(u16::try_from(self.named_by_name.len()).expect("fewer than 65,536 names"));
                    self.named_by_name.insert(words.next().unwrap_or_default(), id);
                }
                _ => {}
            }
        }
    }

    fn named(&mut self, rest: &'static str) {
        let mut words = rest.splitn(3, ' ');
        let name = words.next().unwrap_or_default();
        let shape = self.shape(words.next().unwrap_or_default());
        let rest = words.next().unwrap_or_default();
        let values = rest.split('"').skip(1).step_by(2).collect();
        self.out.named.push(Named { name, shape, message: rest == "message", values });
    }

    fn member(&mut self, rest: &'static str) -> Member {
        let mut words = rest.splitn(4, ' ');
        let name = words.next().unwrap_or_default();
        let number = words.next().unwrap_or_default();
        let number = if number == "-" { 0 } else { number.parse().expect("a member's number") };
        let shape = self.shape(words.next().unwrap_or_default());
        if name == "+" {
            let Shape::Struct(ty) = self.out.shape(shape) else { unreachable!("only structs are inline") };
            return Member::Inline(number, ty);
        }
        Member::Field(Box::new(RawField { name, number, shape, words: words.next().unwrap_or_default() }))
    }

    fn shape(&mut self, text: &'static str) -> ShapeId {
        if let Some(known) = self.shapes_by_text.get(text) {
            return *known;
        }
        let shape = self.read_shape(text);
        let id = ShapeId(u16::try_from(self.out.shapes.len()).expect("fewer than 65,536 shapes"));
        self.out.shapes.push(shape);
        self.shapes_by_text.insert(text, id);
        id
    }

    fn read_shape(&mut self, text: &'static str) -> Shape {
        if let Some(inner) = text.strip_prefix('*') {
            return Shape::Pointer(self.shape(inner));
        }
        if let Some(element) = text.strip_prefix("[]") {
            return Shape::List(self.shape(element));
        }
        if let Some((key, value)) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            return Shape::Map(self.shape(key), self.shape(value));
        }
        match text {
            "bool" => Shape::Bool,
            "int32" => Shape::Int32,
            "int64" => Shape::Int64,
            "float64" => Shape::Float64,
            "string" => Shape::String,
            "bytes" => Shape::Bytes,
            "quantity" => Shape::Quantity,
            "intorstring" => Shape::IntOrString,
            "time" => Shape::Time,
            "microtime" => Shape::MicroTime,
            "duration" => Shape::Duration,
            "fieldsv1" => Shape::FieldsV1,
            "raw" => Shape::Raw,
            "json" => Shape::Json,
            "schemaorarray" => Shape::SchemaOrArray,
            "schemaorbool" => Shape::SchemaOrBool,
            "schemaorstrings" => Shape::SchemaOrStrings,
            name => match (self.out.by_name.get(name), self.named_by_name.get(name)) {
                (Some(ty), _) => Shape::Struct(*ty),
                (_, Some(named)) => Shape::Named(*named),
                _ => unreachable!("types.txt names no type {name}"),
            },
        }
    }
}

/// Dissolves inline structs into the fields of the struct around them.
fn flatten(raw: &[RawType], index: usize) -> Type {
    let mut fields = Vec::new();
    let mut parts = Vec::new();
    for member in &raw[index].members {
        let start = fields.len();
        match member {
            Member::Field(field) => {
                parts.push(Part::Field(narrow(start)));
                fields.push(read_field(field));
            }
            Member::Inline(number, ty) => {
                append_inline(raw, *ty, &mut fields);
                let len = narrow(fields.len() - start);
                parts.push(Part::Inline { number: *number, ty: *ty, start: narrow(start), len });
            }
        }
    }
    parts.sort_by_key(|part| match part {
        Part::Field(at) => fields[usize::from(*at)].number,
        Part::Inline { number, .. } => *number,
    });
    let mut by_name: Vec<u16> = (0..narrow(fields.len())).collect();
    by_name.sort_by_key(|at| fields[usize::from(*at)].name);
    Type { name: raw[index].name, atomic: raw[index].atomic, fields, parts, by_name }
}

fn append_inline(raw: &[RawType], ty: TypeId, fields: &mut Vec<Field>) {
    for member in &raw[usize::from(ty.0)].members {
        match member {
            Member::Field(field) => fields.push(read_field(field)),
            Member::Inline(_, inner) => append_inline(raw, *inner, fields),
        }
    }
}

fn narrow(number: usize) -> u16 {
    u16::try_from(number).expect("no struct has 65,536 fields")
}

fn read_field(raw: &RawField) -> Field {
    let mut field = Field {
        name: raw.name,
        number: raw.number,
        shape: raw.shape,
        emit: false,
        required: false,
        immutable: false,
        list: List::Atomic,
        map_atomic: false,
        map_granular: false,
        patch: Patch::default(),
        off: None,
        default: None,
        bounds: None,
    };
    let mut rest = raw.words;
    while !rest.is_empty() {
        // A default is the last word, and may hold blanks.
        if let Some(default) = rest.strip_prefix("default=") {
            field.default = Some(default);
            break;
        }
        // What a message says may hold blanks, too.
        if let Some((message, more)) = rest.strip_prefix("needed=<").and_then(|more| more.split_once('>')) {
            field.bounds.get_or_insert_default().needed = Some(message);
            rest = more.trim_start();
            continue;
        }
        let (word, more) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = more;
        read_word(&mut field, word);
    }
    field
}

fn read_word(field: &mut Field, word: &'static str) {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    match key {
        "emit" => field.emit = true,
        "required" => field.required = true,
        "immutable" => field.immutable = true,
        "map" => {
            field.map_atomic = value == "atomic";
            field.map_granular = value == "granular";
        }
        "list" => {
            field.list = match value.split_once(':') {
                Some((_, keys)) => List::Map(keys),
                None if value == "set" => List::Set,
                None => List::Atomic,
            };
        }
        "patch" => {
            field.patch.merge = value.split(',').any(|strategy| strategy == "merge");
            field.patch.retain_keys = value.split(',').any(|strategy| strategy == "retainKeys");
        }
        "patchkey" => field.patch.key = value,
        "off" => field.off = Some(value),
        _ => read_bound(field.bounds.get_or_insert_default(), key, value),
    }
}

fn read_bound(bounds: &mut Bounds, key: &str, value: &'static str) {
    let size = || value.parse().expect("a size in types.txt");
    match key {
        "min" => bounds.min = Some(value.parse().expect("a least number in types.txt")),
        "max" => bounds.max = Some(value.parse().expect("a greatest number in types.txt")),
        "maxitems" => bounds.max_items = Some(size()),
        "maxlength" => bounds.max_length = Some(size()),
        "maxbytes" => bounds.max_bytes = Some(size()),
        "format" => bounds.format = Some(value),
        "needed" => bounds.needed = Some(value),
        "oneof" => bounds.one_of = Some(value),
        "eachof" => bounds.each_of = Some(value),
        "unique" => bounds.unique = Some(value),
        other => unreachable!("types.txt has a word {other}"),
    }
}
