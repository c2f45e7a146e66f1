//! What a scalar stands for: the words of YAML 1.1 as upstream's reader knows them, which has no numbers of base 60.

use super::Error;
use crate::schema::base64;

/// What a scalar stands for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    /// A whole number that only fits without a sign.
    Unsigned(u64),
    Float(f64),
    Text(String),
}

const TAGS: &str = "tag:yaml.org,2002:";

impl Scalar {
    fn tag(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::Unsigned(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
        }
    }
}

/// The meaning of a scalar. A tag that says what it is must fit its text.
pub(super) fn resolve(tag: Option<&str>, text: &str, implicit: bool) -> Result<Scalar, Error> {
    let Some(full) = tag else {
        return Ok(if implicit { plain(text) } else { Scalar::Text(text.to_owned()) });
    };
    let text_itself = || Scalar::Text(text.to_owned());
    let tag = full.strip_prefix(TAGS).unwrap_or_default();
    let found = match tag {
        "bool" | "int" | "float" | "null" => plain(text),
        "timestamp" if is_date(text) => return Ok(text_itself()),
        "timestamp" => plain(text),
        "binary" => return binary(text),
        _ => return Ok(text_itself()),
    };
    match found {
        found if found.tag() == tag => Ok(found),
        Scalar::Int(number) if tag == "float" => Ok(Scalar::Float(number as f64)),
        found => {
            let found = found.tag();
            Err(Error::Syntax(format!("cannot decode !!{found} `{text}` as a !!{tag}")))
        }
    }
}

fn plain(text: &str) -> Scalar {
    let infinite = |sign: f64| Scalar::Float(sign * f64::INFINITY);
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Scalar::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Scalar::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return infinite(1.0),
        "-.inf" | "-.Inf" | "-.INF" => return infinite(-1.0),
        _ => {}
    }
    let number = match text.as_bytes()[0] {
        b'.' => float(text),
        b'+' | b'-' | b'0'..=b'9' => {
            let digits = text.replace('_', "");
            whole(&digits).or_else(|| float(&digits))
        }
        _ => None,
    };
    number.unwrap_or_else(|| Scalar::Text(text.to_owned()))
}

/// A whole number as Go reads it: base 16, 8 or 2 after `0x`, `0o` or `0b`, and base 8 after a zero.
fn whole(text: &str) -> Option<Scalar> {
    let (sign, digits) = match text.as_bytes() {
        [b'+', ..] => (Some(false), &text[1..]),
        [b'-', ..] => (Some(true), &text[1..]),
        _ => (None, text),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', _, ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', _, ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let number = u64::from_str_radix(digits, base).ok()?;
    match (sign, i64::try_from(number)) {
        (Some(true), Ok(number)) => Some(Scalar::Int(-number)),
        (Some(true), Err(_)) => (number == i64::MIN.unsigned_abs()).then_some(Scalar::Int(i64::MIN)),
        (_, Ok(number)) => Some(Scalar::Int(number)),
        (None, Err(_)) => Some(Scalar::Unsigned(number)),
        (Some(false), Err(_)) => None,
    }
}

/// Digits with a point, an exponent, or both; what is too large for a number is none.
fn float(text: &str) -> Option<Scalar> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = all_digits(before) && all_digits(after) && !(before.is_empty() && after.is_empty());
    let exponent = exponent.is_none_or(|text| {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        !digits.is_empty() && all_digits(digits)
    });
    let number = (whole && exponent).then(|| text.parse::<f64>().ok()).flatten()?;
    number.is_finite().then_some(Scalar::Float(number))
}

fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 8 && bytes[..4].iter().all(u8::is_ascii_digit) && bytes[4] == b'-'
}

fn binary(text: &str) -> Result<Scalar, Error> {
    let text = base64::canonical(text)
        .map_err(|_| Error::Syntax("!!binary value contains invalid base64 data".to_owned()))?;
    Ok(Scalar::Text(String::from_utf8_lossy(&base64::bytes(&text)).into_owned()))
}
