//! Reads JSON text as a type of the table, as upstream's decoder does.
//!
//! The paths in messages are Go's: of fields only, without indices, with the names of inline structs. The paths of
//! unknown and repeated fields are the user's: with indices, without inline structs.

use std::borrow::Cow;
use std::collections::HashSet;

use super::plan::room;
use super::scan::{Scanner, Sort, number_value};
use super::{DecodeError, base64, time};
use crate::quantity::Quantity;
use crate::table::{Field, Part, Shape, ShapeId, Type, TypeId, Types, types};
use crate::value::{Map, Str, Value};

/// How many unknown and repeated fields are reported, as upstream.
const MAX_STRICT_ERRORS: usize = 100;

/// So many members of a map are looked through for one of the same name; of more, the names are remembered.
const FEW_MEMBERS: usize = 16;

/// What to do about unknown and repeated fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Nothing.
    Ignore,
    /// Tell the client.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// An object that was read.
#[derive(Debug)]
pub struct Decoded {
    /// Its sparse form.
    pub value: Value,
    /// Unknown and repeated fields, worded for warnings.
    pub warnings: Vec<String>,
}

/// What a text says that it is; empty where it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeMeta {
    /// As `apps/v1`.
    pub api_version: Str,
    /// As `Deployment`.
    pub kind: Str,
}

/// Reads what a text says that it is, and checks the syntax of all of it.
pub fn type_meta(text: &[u8]) -> Result<TypeMeta, DecodeError> {
    let context = |error: DecodeError| {
        DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {error}"))
    };
    read_type_meta(text).map_err(context)
}

fn read_type_meta(text: &[u8]) -> Result<TypeMeta, DecodeError> {
    let mut scan = Scanner::new(text);
    let mut out = TypeMeta::default();
    let mut wrong = None;
    match scan.sort()? {
        Sort::Object => {
            scan.enter_object()?;
            let mut first = true;
            while let Some(key) = scan.next_key(first)? {
                first = false;
                let (slot, field) = match &*key {
                    "apiVersion" => (&mut out.api_version, "apiVersion"),
                    "kind" => (&mut out.kind, "kind"),
                    _ => {
                        scan.skip()?;
                        continue;
                    }
                };
                match scan.sort()? {
                    Sort::String => *slot = scan.string()?.into(),
                    sort => {
                        scan.skip()?;
                        if sort != Sort::Null && wrong.is_none() {
                            wrong = Some(format!("Go struct field .{field} of type string"));
                            wrong = wrong
                                .map(|rest| format!("json: cannot unmarshal {} into {rest}", sort.word()));
                        }
                    }
                }
            }
        }
        sort => {
            scan.skip()?;
            if sort != Sort::Null {
                wrong = Some(format!(
                    "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \
                     \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
                    sort.word()
                ));
            }
        }
    }
    scan.end()?;
    wrong.map_or(Ok(out), |message| Err(DecodeError::Type(message)))
}

/// The beginning of a body that upstream puts behind a message about it.
pub fn summary(body: &[u8]) -> String {
    /// How much of it upstream shows.
    const SHOWN_BYTES: usize = 30;
    let (shown, dots) = if body.len() > SHOWN_BYTES { (&body[..SHOWN_BYTES], " ...") } else { (body, "") };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{dots}", String::from_utf8_lossy(shown)),
        Some(_) => {
            let hex: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex}{dots}")
        }
    }
}

/// Reads a text as an object of type `ty`.
pub fn decode(ty: TypeId, text: &[u8], validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let mut decoder = Decoder {
        scan: Scanner::new(text),
        types: types(),
        tracking: validation != FieldValidation::Ignore,
        strict: Vec::new(),
        wrong: None,
        steps: Vec::with_capacity(16),
        pairs: Vec::with_capacity(64),
    };
    let value = match decoder.scan.sort()? {
        Sort::Object => decoder.structure(ty)?,
        Sort::Null => {
            decoder.scan.null()?;
            Value::object()
        }
        sort => {
            let name = go_name(decoder.types.get(ty));
            return Err(DecodeError::Type(format!(
                "json: cannot unmarshal {} into Go value of type {name}",
                sort.word()
            )));
        }
    };
    decoder.scan.end()?;
    if let Some(message) = decoder.wrong {
        return Err(DecodeError::Type(message));
    }
    if validation == FieldValidation::Strict && !decoder.strict.is_empty() {
        return Err(DecodeError::Strict(decoder.strict));
    }
    Ok(Decoded { value, warnings: decoder.strict })
}

/// `v1.PodSpec` of a type.
fn go_name(ty: &Type) -> &'static str {
    ty.name.rsplit('/').next().unwrap_or(ty.name)
}

struct Decoder<'a> {
    scan: Scanner<'a>,
    types: &'static Types,
    tracking: bool,
    strict: Vec<String>,
    /// The first value of a wrong type; reading goes on, for syntax comes first.
    wrong: Option<String>,
    /// The way to where it is; put into words only when something is wrong there.
    steps: Vec<Step<'a>>,
    /// The members of the objects that are being read, the innermost last: so each gets a block of its size.
    pairs: Vec<(Str, Value)>,
}

/// One step of a way into the text.
enum Step<'a> {
    /// The field of a struct at an index.
    Field(&'static Type, usize),
    Element(usize),
    Member(Cow<'a, str>),
}

type Result<T, E = DecodeError> = std::result::Result<T, E>;

impl<'a> Decoder<'a> {
    /// A struct; stands at its brace.
    fn structure(&mut self, ty: TypeId) -> Result<Value> {
        let id = ty;
        let ty = self.types.get(id);
        self.scan.enter_object()?;
        let start = self.pairs.len();
        let (mut seen, mut guess) = (Seen::default(), Guess::default());
        let mut first = true;
        while let Some(key) = self.scan.next_key(first)? {
            first = false;
            let Some(index) = guess.field_index(ty, &key) else {
                self.strict_error("unknown field", &key);
                self.scan.skip()?;
                continue;
            };
            let field = &ty.fields[index];
            let again = seen.again(index);
            if again {
                self.strict_error("duplicate field", field.name);
            }
            self.steps.push(Step::Field(ty, index));
            let value = self.value(field.shape)?;
            self.steps.pop();
            // Null leaves what an earlier member of the same name said.
            if again
                && value != Value::Null
                && let Some(earlier) = self.pairs[start..].iter().position(|(name, _)| name == field.name)
            {
                self.pairs.remove(start + earlier);
            }
            if field.off.is_none() && !is_zero(self.types, field.shape, &value) {
                self.pairs.push((Str::const_new(field.name), value));
            }
        }
        Ok(self.object(start, room(id)))
    }

    /// The object of the members from `start` on, with room for some more.
    fn object(&mut self, start: usize, room: usize) -> Value {
        let mut pairs = Vec::with_capacity(self.pairs.len() - start + room);
        pairs.extend(self.pairs.drain(start..));
        Value::Object(Map::from_pairs(pairs))
    }

    fn strict_error(&mut self, word: &str, name: &str) {
        if !self.tracking || self.strict.len() >= MAX_STRICT_ERRORS {
            return;
        }
        let mut path = self.path();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        let message = format!("{word} {}", crate::validation::cause::quoted(&path));
        if !self.strict.contains(&message) {
            self.strict.push(message);
        }
    }

    /// The way as users write it.
    fn path(&self) -> String {
        let mut path = String::new();
        for step in &self.steps {
            let name = match step {
                Step::Field(ty, index) => ty.fields[*index].name,
                Step::Member(name) => name,
                Step::Element(index) => {
                    path.push_str(&format!("[{index}]"));
                    continue;
                }
            };
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
        }
        path
    }

    fn type_error(&self, what: &str, go_type: &str) -> String {
        let mut go_struct = "";
        let mut names = Vec::new();
        for step in &self.steps {
            if let Step::Field(ty, index) = step {
                go_struct = ty.short_name();
                push_inline_names(self.types, ty, *index, &mut names);
                names.push(ty.fields[*index].name);
            }
        }
        format!(
            "json: cannot unmarshal {what} into Go struct field {go_struct}.{} of type {go_type}",
            names.join(".")
        )
    }

    /// Notes a value of a wrong type and passes over it.
    fn mismatch(&mut self, sort: Sort, shape: ShapeId) -> Result<Value> {
        self.scan.skip()?;
        self.note(sort.word(), shape);
        Ok(Value::Null)
    }

    fn note(&mut self, what: &str, shape: ShapeId) {
        if self.wrong.is_none() {
            let mut shape = shape;
            while let Shape::Pointer(inner) = self.types.shape(shape) {
                shape = inner;
            }
            self.wrong = Some(self.type_error(what, &self.types.go_name(shape)));
        }
    }

    /// A value; `Null` where there is none, or a wrong one.
    fn value(&mut self, shape: ShapeId) -> Result<Value> {
        let sort = self.scan.sort()?;
        if sort == Sort::Null {
            self.scan.null()?;
            return Ok(Value::Null);
        }
        match (self.types.bare(shape), sort) {
            (Shape::Struct(ty), Sort::Object) => self.structure(ty),
            (Shape::List(element), Sort::Array) => self.list(element),
            (Shape::Map(_, element), Sort::Object) => {
                let map = self.map(element)?;
                Ok(if self.types.shape(element) == Shape::Quantity { thousandths(map) } else { map })
            }
            (Shape::String, Sort::String) => Ok(Value::String(self.scan.string()?.into())),
            (Shape::Bool, Sort::Bool) => Ok(Value::Bool(self.scan.bool()?)),
            (Shape::Int32, Sort::Number) => self.integer(shape, i64::from(i32::MIN), i64::from(i32::MAX)),
            (Shape::Int64, Sort::Number) => self.integer(shape, i64::MIN, i64::MAX),
            (Shape::Float64, Sort::Number) => Ok(number_value(self.scan.number()?)),
            (Shape::Bytes, Sort::String) => self.bytes(),
            (Shape::Quantity, _) => self.quantity(sort),
            (Shape::IntOrString, _) => self.int_or_string(sort),
            (Shape::Time, _) => self.time(sort, time::seconds),
            (Shape::MicroTime, _) => self.time(sort, time::micros),
            (Shape::FieldsV1 | Shape::Raw | Shape::Json, _) => self.scan.tree(),
            (Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings, _) => {
                self.schema_or(shape, sort)
            }
            (Shape::Duration, Sort::String) => Ok(Value::String(self.scan.string()?.into())),
            _ => self.mismatch(sort, shape),
        }
    }

    fn list(&mut self, element: ShapeId) -> Result<Value> {
        self.scan.enter_array()?;
        let mut elements = Vec::new();
        while self.scan.next_element(elements.is_empty())? {
            self.steps.push(Step::Element(elements.len()));
            let value = self.value(element)?;
            self.steps.pop();
            elements.push(or_zero(self.types, element, value));
        }
        Ok(Value::Array(elements))
    }

    fn map(&mut self, element: ShapeId) -> Result<Value> {
        self.scan.enter_object()?;
        let start = self.pairs.len();
        let mut names = HashSet::new();
        let mut first = true;
        while let Some(key) = self.scan.next_key(first)? {
            first = false;
            if self.tracking && is_again(&self.pairs[start..], &mut names, &key) {
                self.strict_error("duplicate field", &key);
            }
            let name = Str::from(&*key);
            self.steps.push(Step::Member(key));
            let value = self.value(element)?;
            self.steps.pop();
            self.pairs.push((name, or_zero(self.types, element, value)));
        }
        Ok(self.object(start, 0))
    }

    fn integer(&mut self, shape: ShapeId, min: i64, max: i64) -> Result<Value> {
        let text = self.scan.number()?;
        match text.parse::<i64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(Value::Int(number)),
            _ => {
                self.note(&format!("number {text}"), shape);
                Ok(Value::Null)
            }
        }
    }

    fn bytes(&mut self) -> Result<Value> {
        let text = self.scan.string()?;
        match base64::canonical(&text) {
            Ok(canonical) => Ok(canonical.into()),
            Err(at) => {
                self.wrong.get_or_insert_with(|| format!("illegal base64 data at input byte {at}"));
                Ok(Value::Null)
            }
        }
    }

    fn quantity(&mut self, sort: Sort) -> Result<Value> {
        let mark = self.scan.mark();
        let quantity = if sort == Sort::String {
            Quantity::parse(self.scan.string()?.trim())
        } else {
            self.scan.skip()?;
            Quantity::parse(&String::from_utf8_lossy(self.scan.since(mark)))
        };
        match quantity {
            Ok(quantity) => Ok(Value::String(quantity.to_string().into())),
            Err(error) => Err(DecodeError::Type(error.to_string())),
        }
    }

    fn int_or_string(&mut self, sort: Sort) -> Result<Value> {
        match sort {
            Sort::String => Ok(Value::String(self.scan.string()?.into())),
            Sort::Number => {
                let text = self.scan.number()?;
                text.parse::<i32>()
                    .map(Value::from)
                    .map_err(|_| DecodeError::Type(self.type_error(&format!("number {text}"), "int32")))
            }
            other => Err(DecodeError::Type(self.type_error(other.word(), "int32"))),
        }
    }

    fn time(&mut self, sort: Sort, read: fn(&str) -> std::result::Result<String, String>) -> Result<Value> {
        if sort != Sort::String {
            return Err(DecodeError::Type(self.type_error(sort.word(), "string")));
        }
        read(&self.scan.string()?).map(Value::from).map_err(DecodeError::Type)
    }

    /// A JSON schema, or what may stand in its place. Upstream's own reader of these reports no unknown fields.
    fn schema_or(&mut self, shape: ShapeId, sort: Sort) -> Result<Value> {
        let tracking = std::mem::replace(&mut self.tracking, false);
        let value = match (self.types.bare(shape), sort) {
            (_, Sort::Object) => match self.types.find("apiextensions/v1.JSONSchemaProps") {
                Some(schema) => self.structure(schema),
                None => self.scan.tree(),
            },
            (Shape::SchemaOrBool, Sort::Bool)
            | (Shape::SchemaOrArray | Shape::SchemaOrStrings, Sort::Array) => self.scan.tree(),
            _ => self.mismatch(sort, shape),
        };
        self.tracking = tracking;
        value
    }
}

/// Whether a member of that name was read before. `names` holds the names of all `members` once they are many.
fn is_again(members: &[(Str, Value)], names: &mut HashSet<Str>, key: &str) -> bool {
    if members.len() <= FEW_MEMBERS {
        return members.iter().any(|(name, _)| name == key);
    }
    if names.is_empty() {
        names.extend(members.iter().map(|(name, _)| name.clone()));
    }
    !names.insert(Str::from(key))
}

/// A resource list whose amounts are no finer than a thousandth, to which upstream rounds them up.
fn thousandths(mut list: Value) -> Value {
    for (_, amount) in list.as_object_mut().into_iter().flat_map(Map::iter_mut) {
        if let Some(rounded) = amount.as_str().and_then(super::derived::round_up_to_milli) {
            *amount = rounded.into();
        }
    }
    list
}

/// The names of the inline structs on the way to a field, which Go puts into its paths.
fn push_inline_names(types: &Types, ty: &Type, index: usize, out: &mut Vec<&'static str>) {
    for part in &ty.parts {
        if let Part::Inline { ty: inner, start, len, .. } = part {
            let start = usize::from(*start);
            if (start..start + usize::from(*len)).contains(&index) {
                let inner = types.get(*inner);
                out.push(inner.short_name());
                push_inline_names(types, inner, index - start, out);
            }
        }
    }
}

/// Which fields of a struct were read.
#[derive(Default)]
struct Seen([u64; 4]);

impl Seen {
    fn again(&mut self, index: usize) -> bool {
        let (word, bit) = (index / 64, 1u64 << (index % 64));
        let before = self.0[word] & bit != 0;
        self.0[word] |= bit;
        before
    }
}

/// Finds fields by names that mostly come in the order of the struct, as Go's clients write them, or sorted.
#[derive(Default)]
struct Guess {
    /// The index behind the last field.
    next: usize,
    /// The rank behind the last field, in the order of names.
    rank: usize,
}

impl Guess {
    /// How many that are left out a guess gets over.
    const LEFT_OUT: usize = 3;

    fn field_index(&mut self, ty: &Type, name: &str) -> Option<usize> {
        let near = ty.fields.iter().enumerate().skip(self.next).take(Self::LEFT_OUT);
        let index =
            near.into_iter().find(|(_, field)| field.name == name).map(|(index, _)| index).or_else(|| {
                let (index, rank) = ty.find(self.rank, Self::LEFT_OUT, name)?;
                self.rank = rank + 1;
                Some(index)
            })?;
        self.next = index + 1;
        Some(index)
    }
}

/// Whether Go would call the value of such a field its zero value, which the sparse form leaves out.
pub(super) fn is_zero(types: &Types, shape: ShapeId, value: &Value) -> bool {
    match types.shape(shape) {
        Shape::Pointer(_) | Shape::FieldsV1 | Shape::Raw | Shape::Json => value.is_null(),
        _ => value.is_empty(),
    }
}

/// What a list or map holds where its text says null.
fn or_zero(types: &Types, shape: ShapeId, value: Value) -> Value {
    if value.is_null() { zero(types, shape) } else { value }
}

/// What upstream writes for the zero value of a shape.
pub(super) fn zero(types: &Types, shape: ShapeId) -> Value {
    match types.shape(shape) {
        Shape::Pointer(_) => Value::Null,
        Shape::Named(named) => zero(types, types.named(named).shape),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::IntOrString | Shape::Float64 => Value::Int(0),
        Shape::String => Value::from(""),
        Shape::Quantity => Value::from("0"),
        Shape::Duration => Value::from("0s"),
        Shape::Struct(_) => Value::object(),
        _ => Value::Null,
    }
}

/// Whether a field's value is the struct itself, not a pointer to one, so that it is always there.
pub(super) fn embedded_struct(types: &Types, field: &Field) -> Option<TypeId> {
    match types.shape(field.shape) {
        Shape::Struct(ty) => Some(ty),
        _ => None,
    }
}
