//! The texts that version 1 of an autoscaler keeps in annotations: JSON as Go writes and reads the structs of
//! `autoscaling/v1` (members in the order of the struct, names in any case when read).

use api::json;
use api::quantity::Quantity;
use api::value::{Value, write_string};
use jiff::Timestamp;

/// What a member holds.
pub(super) enum Form {
    /// A string.
    Text,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// An amount.
    Quantity,
    /// A point in time.
    Time,
    /// Strings by key.
    Labels,
    /// A struct.
    Struct(&'static [Member]),
    /// A list.
    List(&'static Form),
}

/// What is written for a member that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// Go's zero value: the struct holds the member by value.
    Zero,
    /// Nothing, as for texts, lists and maps that are empty.
    Left,
    /// `null`
    Null,
}

/// One member of a struct.
pub(super) struct Member {
    /// Its name in the text.
    name: &'static str,
    /// Where version 2 has it.
    path: &'static [&'static str],
    form: Form,
    absent: Absent,
}

const fn member(name: &'static str, path: &'static [&'static str], form: Form, absent: Absent) -> Member {
    Member { name, path, form, absent }
}

use Absent::{Left, Null, Zero};
use Form::{Int32, Int64, Labels, List, Struct, Text, Time};

const SELECTOR: &[Member] = &[
    member("matchLabels", &["matchLabels"], Labels, Left),
    member("matchExpressions", &["matchExpressions"], List(&Struct(REQUIREMENT)), Left),
];
const REQUIREMENT: &[Member] = &[
    member("key", &["key"], Text, Zero),
    member("operator", &["operator"], Text, Zero),
    member("values", &["values"], List(&Text), Left),
];
const REFERENCE: &[Member] = &[
    member("kind", &["kind"], Text, Zero),
    member("name", &["name"], Text, Zero),
    member("apiVersion", &["apiVersion"], Text, Left),
];

/// A list of `MetricSpec`.
pub(super) const METRICS: Form = List(&Struct(&[
    member("type", &["type"], Text, Zero),
    member(
        "object",
        &["object"],
        Struct(&[
            member("target", &["describedObject"], Struct(REFERENCE), Zero),
            member("metricName", &["metric", "name"], Text, Zero),
            member("targetValue", &["target", "value"], Form::Quantity, Zero),
            member("selector", &["metric", "selector"], Struct(SELECTOR), Left),
            member("averageValue", &["target", "averageValue"], Form::Quantity, Left),
        ]),
        Left,
    ),
    member(
        "pods",
        &["pods"],
        Struct(&[
            member("metricName", &["metric", "name"], Text, Zero),
            member("targetAverageValue", &["target", "averageValue"], Form::Quantity, Zero),
            member("selector", &["metric", "selector"], Struct(SELECTOR), Left),
        ]),
        Left,
    ),
    member(
        "resource",
        &["resource"],
        Struct(&[
            member("name", &["name"], Text, Zero),
            member("targetAverageUtilization", &["target", "averageUtilization"], Int32, Left),
            member("targetAverageValue", &["target", "averageValue"], Form::Quantity, Left),
        ]),
        Left,
    ),
    member(
        "containerResource",
        &["containerResource"],
        Struct(&[
            member("name", &["name"], Text, Zero),
            member("targetAverageUtilization", &["target", "averageUtilization"], Int32, Left),
            member("targetAverageValue", &["target", "averageValue"], Form::Quantity, Left),
            member("container", &["container"], Text, Zero),
        ]),
        Left,
    ),
    member(
        "external",
        &["external"],
        Struct(&[
            member("metricName", &["metric", "name"], Text, Zero),
            member("metricSelector", &["metric", "selector"], Struct(SELECTOR), Left),
            member("targetValue", &["target", "value"], Form::Quantity, Left),
            member("targetAverageValue", &["target", "averageValue"], Form::Quantity, Left),
        ]),
        Left,
    ),
]));

/// A list of `MetricStatus`.
pub(super) const CURRENT_METRICS: Form = List(&Struct(&[
    member("type", &["type"], Text, Zero),
    member(
        "object",
        &["object"],
        Struct(&[
            member("target", &["describedObject"], Struct(REFERENCE), Zero),
            member("metricName", &["metric", "name"], Text, Zero),
            member("currentValue", &["current", "value"], Form::Quantity, Zero),
            member("selector", &["metric", "selector"], Struct(SELECTOR), Left),
            member("averageValue", &["current", "averageValue"], Form::Quantity, Left),
        ]),
        Left,
    ),
    member(
        "pods",
        &["pods"],
        Struct(&[
            member("metricName", &["metric", "name"], Text, Zero),
            member("currentAverageValue", &["current", "averageValue"], Form::Quantity, Zero),
            member("selector", &["metric", "selector"], Struct(SELECTOR), Left),
        ]),
        Left,
    ),
    member(
        "resource",
        &["resource"],
        Struct(&[
            member("name", &["name"], Text, Zero),
            member("currentAverageUtilization", &["current", "averageUtilization"], Int32, Left),
            member("currentAverageValue", &["current", "averageValue"], Form::Quantity, Zero),
        ]),
        Left,
    ),
    member(
        "containerResource",
        &["containerResource"],
        Struct(&[
            member("name", &["name"], Text, Zero),
            member("currentAverageUtilization", &["current", "averageUtilization"], Int32, Left),
            member("currentAverageValue", &["current", "averageValue"], Form::Quantity, Zero),
            member("container", &["container"], Text, Zero),
        ]),
        Left,
    ),
    member(
        "external",
        &["external"],
        Struct(&[
            member("metricName", &["metric", "name"], Text, Zero),
            member("metricSelector", &["metric", "selector"], Struct(SELECTOR), Left),
            member("currentValue", &["current", "value"], Form::Quantity, Zero),
            member("currentAverageValue", &["current", "averageValue"], Form::Quantity, Left),
        ]),
        Left,
    ),
]));

/// A list of `HorizontalPodAutoscalerCondition`.
pub(super) const CONDITIONS: Form = List(&Struct(&[
    member("type", &["type"], Text, Zero),
    member("status", &["status"], Text, Zero),
    member("lastTransitionTime", &["lastTransitionTime"], Time, Null),
    member("reason", &["reason"], Text, Left),
    member("message", &["message"], Text, Left),
    member("observedGeneration", &["observedGeneration"], Int64, Left),
]));

/// A behavior. Upstream writes a struct of its inside, which has no names for JSON: so they are Go's.
pub(super) const BEHAVIOR: Form = Struct(&[
    member("ScaleUp", &["scaleUp"], Struct(RULES), Null),
    member("ScaleDown", &["scaleDown"], Struct(RULES), Null),
]);
const RULES: &[Member] = &[
    member("StabilizationWindowSeconds", &["stabilizationWindowSeconds"], Int32, Null),
    member("SelectPolicy", &["selectPolicy"], Text, Null),
    member(
        "Policies",
        &["policies"],
        List(&Struct(&[
            member("Type", &["type"], Text, Zero),
            member("Value", &["value"], Int32, Zero),
            member("PeriodSeconds", &["periodSeconds"], Int32, Zero),
        ])),
        Null,
    ),
    member("Tolerance", &["tolerance"], Form::Quantity, Null),
];

/// The text of what version 2 has.
pub(super) fn write(form: &Form, value: &Value) -> String {
    let mut out = Vec::new();
    form.write(value, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// What version 2 has for a text; `None` if Go would not read it.
pub(super) fn read(form: &Form, text: &str) -> Option<Value> {
    form.read(&api::value::parse(text.as_bytes()).ok()?)
}

impl Form {
    fn write(&self, value: &Value, out: &mut Vec<u8>) {
        match (self, value) {
            (Self::Struct(members), value) => {
                out.push(b'{');
                members.iter().for_each(|member| member.write(value, out));
                out.push(b'}');
            }
            (Self::List(element), Value::Array(elements)) => {
                out.push(b'[');
                for (index, value) in elements.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    element.write(value, out);
                }
                out.push(b']');
            }
            (Self::Labels, Value::Object(map)) => {
                out.push(b'{');
                for (index, (key, value)) in map.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_text(key, out);
                    out.push(b':');
                    write_text(value.as_str().unwrap_or_default(), out);
                }
                out.push(b'}');
            }
            (Self::Text, value) => write_text(value.as_str().unwrap_or_default(), out),
            (Self::Quantity, Value::String(text)) => write_text(text, out),
            (Self::Quantity, _) => out.extend_from_slice(br#""0""#),
            (Self::Int32 | Self::Int64, value) => {
                Value::Int(value.as_int().unwrap_or_default()).write_to(out);
            }
            (Self::Time, Value::String(text)) => write_text(text, out),
            (Self::List(_) | Self::Labels | Self::Time, _) => out.extend_from_slice(b"null"),
        }
    }

    fn read(&self, value: &Value) -> Option<Value> {
        match (self, value) {
            (Self::Text, Value::String(_)) | (Self::Int64, Value::Int(_)) => Some(value.clone()),
            (Self::Int32, Value::Int(number)) => i32::try_from(*number).is_ok().then(|| value.clone()),
            (Self::Time, Value::String(text)) => {
                let at: Timestamp = text.parse().ok()?;
                Some(api::time::seconds(at).into())
            }
            (Self::Quantity, Value::String(text)) => {
                Some(Quantity::parse(text.trim()).ok()?.to_string().into())
            }
            (Self::Quantity, Value::Int(_) | Value::Float(_)) => {
                Some(Quantity::parse(&value.to_string()).ok()?.to_string().into())
            }
            (Self::Labels, Value::Object(map)) => {
                let texts = map.iter().all(|(_, value)| matches!(value, Value::String(_) | Value::Null));
                texts.then(|| value.clone())
            }
            (Self::List(element), Value::Array(elements)) => {
                let read = elements.iter().map(|value| match value {
                    // Go leaves an element as it was made: zero.
                    Value::Null => element.read(&Value::object()).or(Some(Value::Null)),
                    value => element.read(value),
                });
                Some(Value::Array(read.collect::<Option<_>>()?))
            }
            (Self::Struct(members), Value::Object(_)) => {
                let mut out = Value::object();
                for member in *members {
                    member.read(value, &mut out)?;
                }
                Some(out)
            }
            _ => None,
        }
    }

    /// Whether Go leaves the value out where it leaves out what is empty. Pointers are left out only where they are
    /// nil.
    fn is_left_out(&self, value: &Value) -> bool {
        matches!(self, Self::Text | Self::List(_) | Self::Labels) && value.is_empty()
    }
}

impl Member {
    fn write(&self, holder: &Value, out: &mut Vec<u8>) {
        let value = holder.at(self.path).filter(|value| !value.is_null());
        if self.absent == Left && value.is_none_or(|value| self.form.is_left_out(value)) {
            return;
        }
        if out.last() != Some(&b'{') {
            out.push(b',');
        }
        write_text(self.name, out);
        out.push(b':');
        match (value, self.absent) {
            (None, Null) => out.extend_from_slice(b"null"),
            (value, _) => self.form.write(value.unwrap_or(&Value::Null), out),
        }
    }

    fn read(&self, text: &Value, out: &mut Value) -> Option<()> {
        let members = text.as_object()?;
        let exact = members.get(self.name);
        let like = || members.iter().find(|(name, _)| name.eq_ignore_ascii_case(self.name));
        let found = exact.or_else(|| like().map(|(_, value)| value)).filter(|value| !value.is_null());
        match found {
            Some(value) => out.set(self.path, self.form.read(value)?),
            None if self.absent == Zero && matches!(self.form, Form::Quantity) => {
                out.set(self.path, json!("0"));
            }
            None => {}
        }
        Some(())
    }
}

/// A string as Go's `json.Marshal` writes it, safe inside of HTML.
fn write_text(text: &str, out: &mut Vec<u8>) {
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return write_string(text, out);
    }
    let mut plain = Vec::with_capacity(text.len() + 16);
    write_string(text, &mut plain);
    for letter in String::from_utf8(plain).unwrap_or_default().chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.extend_from_slice(format!("\\u{:04x}", u32::from(letter)).as_bytes());
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}
