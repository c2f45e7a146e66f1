//! Times in the two forms of the API.

use jiff::Timestamp;

/// Go's name for the form of `metav1.Time`.
const SECONDS_LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
/// Go's name for the form of `metav1.MicroTime`.
const MICROS_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// A time to the second in its canonical form, or Go's sentence about it.
pub(super) fn seconds(text: &str) -> Result<String, String> {
    parse(text, SECONDS_LAYOUT).map(crate::time::seconds)
}

/// A time to the microsecond in its canonical form, or Go's sentence about it.
pub(super) fn micros(text: &str) -> Result<String, String> {
    parse(text, MICROS_LAYOUT).map(crate::time::micros)
}

/// Seconds and nanoseconds since 1970 of a canonical time.
pub(super) fn to_unix(text: &str) -> Option<(i64, i32)> {
    let time: Timestamp = text.parse().ok()?;
    Some((time.as_second(), time.subsec_nanosecond()))
}

/// The canonical form of seconds and nanoseconds since 1970, to the microsecond if `micros`.
pub(super) fn from_unix(seconds: i64, nanos: i32, micros: bool) -> Option<String> {
    let time = Timestamp::new(seconds, nanos).ok()?;
    Some(if micros { crate::time::micros(time) } else { crate::time::seconds(time) })
}

fn parse(text: &str, layout: &str) -> Result<Timestamp, String> {
    if let Some((rest, part)) = mismatch(text, layout == MICROS_LAYOUT) {
        let (text, rest) = (quoted(text), quoted(rest));
        return Err(format!("parsing time {text} as \"{layout}\": cannot parse {rest} as \"{part}\""));
    }
    // The form is right, so what jiff refuses is a number out of its range.
    text.parse().map_err(|_| format!("parsing time {}: {} out of range", quoted(text), out_of_range(text)))
}

/// A text as Go's package of times quotes it: each byte that is no printable ASCII by its number.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

/// The first part of the layout that the text does not follow, and the text from there.
fn mismatch(text: &str, micros: bool) -> Option<(&str, &'static str)> {
    let mut rest = text;
    for part in ["2006", "-", "01", "-", "02", "T", "15", ":", "04", ":", "05"] {
        let fits = match part.len() {
            1 => rest.starts_with(part),
            length => rest.len() >= length && rest.as_bytes()[..length].iter().all(u8::is_ascii_digit),
        };
        if !fits {
            return Some((rest, part));
        }
        rest = &rest[part.len()..];
    }
    let digits = rest.strip_prefix('.').map_or(0, |more| more.bytes().take_while(u8::is_ascii_digit).count());
    if micros && digits != 6 {
        return Some((rest, ".000000"));
    }
    if digits > 0 {
        rest = &rest[1 + digits..];
    }
    let zone = rest.as_bytes();
    let offset = zone.len() >= 6
        && matches!(zone[0], b'+' | b'-')
        && zone[3] == b':'
        && [1, 2, 4, 5].iter().all(|at| zone[*at].is_ascii_digit());
    match zone {
        [b'Z'] => None,
        [b'Z', ..] => Some((rest, "Z07:00")),
        _ if offset && zone.len() == 6 => None,
        _ => Some((rest, "Z07:00")),
    }
}

fn out_of_range(text: &str) -> &'static str {
    let number =
        |from: usize| text.get(from..from + 2).and_then(|digits| digits.parse::<u8>().ok()).unwrap_or(0);
    match () {
        () if !(1..=12).contains(&number(5)) => "month",
        () if number(11) > 23 => "hour",
        () if number(14) > 59 => "minute",
        () if number(17) > 59 => "second",
        () => "day",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_and_cut() {
        assert_eq!(seconds("2026-01-02T03:04:05.987+01:00").unwrap(), "2026-01-02T02:04:05Z");
        assert_eq!(micros("2026-01-02T03:04:05.123456Z").unwrap(), "2026-01-02T03:04:05.123456Z");
    }

    #[test]
    fn what_is_wrong_is_said_in_gos_words() {
        let check = |text: &str, expect: &str| assert_eq!(seconds(text).unwrap_err(), expect);
        check(
            "a\né",
            r#"parsing time "a\x0a\xc3\xa9" as "2006-01-02T15:04:05Z07:00": cannot parse "a\x0a\xc3\xa9" as "2006""#,
        );
        check("x", "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"");
        check(
            "2026-01-02",
            "parsing time \"2026-01-02\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"T\"",
        );
        check("2026-13-02T00:00:00Z", "parsing time \"2026-13-02T00:00:00Z\": month out of range");
        assert!(micros("2026-01-02T03:04:05Z").unwrap_err().ends_with("cannot parse \"Z\" as \".000000\""));
    }
}
