//! Amounts of resources: `100m`, `1.5Gi`, `12e6`, read and written as upstream's `resource.Quantity`.

use std::cmp::Ordering;
use std::fmt;

use crate::value::Str;

/// Digits that fit into our integer with room for a factor of a thousand.
const MAX_DIGITS: usize = 35;
/// The finest that can be told apart is 10^-9.
const NANO: i32 = -9;

/// How a quantity is written out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `1k`, `1M`, ...
    #[default]
    DecimalSi,
    /// `1Ki`, `1Mi`, ...
    BinarySi,
    /// `1e3`
    DecimalExponent,
}

/// An amount: `number * 10^scale`. Compared by amount alone.
#[derive(Clone, Debug, Default)]
pub struct Quantity {
    number: i128,
    scale: i32,
    format: Format,
    /// The text as given, where upstream gives it back unchanged.
    text: Option<Str>,
}

/// Why a text is no quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It does not look like one.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number is none, or has more digits than any amount needs.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// No such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { number: 0, scale: 0, format: Format::DecimalSi, text: None };

    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.is_empty() {
            return Err(ParseError::Format);
        }
        let Parts { negative, whole, fraction, suffix } = split(text)?;
        let (base_two, exponent, mut format) = suffix_meaning(suffix).ok_or(ParseError::Suffix)?;
        let fraction_digits = fraction.trim_end_matches('0');
        if whole.len() + fraction_digits.len() > MAX_DIGITS {
            // Beyond the largest binary amount, upstream caps, whatever the digits.
            if base_two && whole.len() > MAX_DIGITS {
                let number = if negative { -i128::from(i64::MAX) } else { i128::from(i64::MAX) };
                return Ok(Self { number, scale: 0, format, text: None });
            }
            return Err(ParseError::Number);
        }
        let mut number: i128 = 0;
        for digit in whole.bytes().chain(fraction_digits.bytes()) {
            number = number * 10 + i128::from(digit - b'0');
        }
        let fraction_scale = i32::try_from(fraction_digits.len()).map_err(|_| ParseError::Number)?;
        let mut scale = -fraction_scale;
        if base_two {
            number = number.checked_mul(1 << exponent).unwrap_or(i128::MAX);
            (number, scale) = rounded_up(number, scale, NANO);
            if compare((number, scale), (i128::from(i64::MAX), 0)) == Ordering::Greater {
                (number, scale) = (i128::from(i64::MAX), 0);
            }
            if number > 0 && compare((number, scale), (1, 0)) == Ordering::Less {
                format = Format::DecimalSi;
            }
        } else {
            scale = scale.saturating_add(exponent);
            (number, scale) = rounded_up(number, scale, NANO);
        }
        let kept = keeps_its_text(whole, fraction, base_two, exponent, number == 0);
        let number = if negative { -number } else { number };
        Ok(Self { number, scale, format, text: kept.then(|| text.into()) })
    }

    /// `number` whole units.
    pub fn from_int(number: i64, format: Format) -> Self {
        Self { number: i128::from(number), scale: 0, format, text: None }
    }

    /// `number` thousandths.
    pub fn from_milli(number: i64, format: Format) -> Self {
        Self { number: i128::from(number), scale: -3, format, text: None }
    }

    /// Whole units, rounded away from zero, at most what an `i64` holds.
    pub fn value(&self) -> i64 {
        self.scaled_value(0)
    }

    /// Thousandths, rounded away from zero, at most what an `i64` holds.
    pub fn milli_value(&self) -> i64 {
        self.scaled_value(-3)
    }

    /// In units of 10^`scale`, rounded away from zero, at most what an `i64` holds.
    pub fn scaled_value(&self, scale: i32) -> i64 {
        let (number, own) = rounded_up(self.number, self.scale, scale);
        let limit = if number < 0 { i64::MIN } else { i64::MAX };
        times_ten(number, own - scale).and_then(|number| i64::try_from(number).ok()).unwrap_or(limit)
    }

    /// How it is written out.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.number == 0
    }

    /// Whether it is below nothing.
    pub fn is_negative(&self) -> bool {
        self.number < 0
    }

    /// Adds another; nothing takes over the other's format.
    pub fn add(&mut self, other: &Self) {
        self.combine(other.number, other);
    }

    /// Takes another away.
    pub fn sub(&mut self, other: &Self) {
        self.combine(-other.number, other);
    }

    fn combine(&mut self, number: i128, other: &Self) {
        self.text = None;
        if self.number == 0 {
            self.format = other.format;
        }
        let scale = self.scale.min(other.scale);
        let (own, theirs) =
            (times_ten(self.number, self.scale - scale), times_ten(number, other.scale - scale));
        let sum = own.zip(theirs).and_then(|(own, theirs)| own.checked_add(theirs));
        // What does not fit is capped: no cluster has 10^29 of anything.
        self.number =
            sum.unwrap_or(if self.number + number.signum() < 0 { i128::MIN + 1 } else { i128::MAX });
        self.scale = scale;
    }
}

/// Takes a text apart as upstream's scanner does, which is laxer than the expression that it names.
fn split(text: &str) -> Result<Parts<'_>, ParseError> {
    let bytes = text.as_bytes();
    let run = |from: usize, wanted: &dyn Fn(u8) -> bool| {
        from + bytes[from..].iter().take_while(|byte| wanted(**byte)).count()
    };
    let digit = |byte: u8| byte.is_ascii_digit();
    let mut at = usize::from(matches!(bytes[0], b'-' | b'+'));
    let negative = bytes[0] == b'-';
    at = run(at, &|byte| byte == b'0');
    let whole_end = run(at, &digit);
    let whole = &text[at..whole_end];
    at = whole_end;
    let mut fraction = "";
    if bytes.get(at) == Some(&b'.') {
        let end = run(at + 1, &digit);
        fraction = &text[at + 1..end];
        at = end;
    }
    let suffix = at;
    at = run(at, &|byte| b"eEinumkKMGTP".contains(&byte));
    if matches!(bytes.get(at), Some(b'-' | b'+')) {
        at += 1;
    }
    at = run(at, &digit);
    if at < bytes.len() {
        return Err(ParseError::Format);
    }
    Ok(Parts { negative, whole, fraction, suffix: &text[suffix..] })
}

/// Whether the base is two (else ten), the exponent, the format.
fn suffix_meaning(suffix: &str) -> Option<(bool, i32, Format)> {
    let decimal = |exponent| Some((false, exponent, Format::DecimalSi));
    let binary = |exponent| Some((true, exponent, Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            Some((false, exponent, Format::DecimalExponent))
        }
    }
}

/// Whether upstream gives the text back unchanged: where its fast path finds it canonical at first sight.
fn keeps_its_text(whole: &str, fraction: &str, base_two: bool, exponent: i32, zero: bool) -> bool {
    let whole = if whole.is_empty() { "0" } else { whole };
    let digits = whole.len() + fraction.len();
    if base_two {
        let fits = 15 - whole.len() as i32 - (exponent as f32 * 3.0 / 10.0) as i32 > 0;
        let odd = whole.bytes().rev().take(3).collect::<Vec<_>>();
        let last_three = odd.iter().rev().fold(0_u32, |value, digit| value * 10 + u32::from(digit - b'0'));
        return fits && fraction.is_empty() && !zero && last_three & 7 != 0;
    }
    let scale = exponent - fraction.len() as i32;
    digits <= 18
        && scale >= NANO
        && scale % 3 == 0
        && !(whole.starts_with('0'))
        && !format!("{whole}{fraction}").ends_with("000")
}

/// The number with a scale of at least `scale`, rounded away from zero.
fn rounded_up(number: i128, scale: i32, at_least: i32) -> (i128, i32) {
    if scale >= at_least {
        return (number, scale);
    }
    let places = at_least.saturating_sub(scale);
    let Some(divisor) = u32::try_from(places).ok().and_then(|places| 10_i128.checked_pow(places)) else {
        return (number.signum(), at_least);
    };
    let (quotient, rest) = (number / divisor, number % divisor);
    (quotient + rest.signum(), at_least)
}

/// `number * 10^places`, if it fits.
fn times_ten(number: i128, places: i32) -> Option<i128> {
    if number == 0 {
        return Some(0);
    }
    number.checked_mul(10_i128.checked_pow(u32::try_from(places).ok()?)?)
}

fn compare(a: (i128, i32), b: (i128, i32)) -> Ordering {
    if a.0.signum() != b.0.signum() || a.0 == 0 {
        return a.0.signum().cmp(&b.0.signum());
    }
    let scale = a.1.min(b.1);
    match (times_ten(a.0, a.1 - scale), times_ten(b.0, b.1 - scale)) {
        (Some(a), Some(b)) => a.cmp(&b),
        // The one that does not fit is farther from zero.
        (None, _) if a.0 > 0 => Ordering::Greater,
        (None, _) => Ordering::Less,
        (_, None) if b.0 > 0 => Ordering::Less,
        (_, None) => Ordering::Greater,
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        compare((self.number, self.scale), (other.number, other.scale))
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: the largest suffix without a fraction; or the text as given, where upstream keeps it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        if self.number == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi && compare((self.number.abs(), self.scale), (1024, 0)).is_ge() {
            let (rounded, scale) = rounded_up(self.number, self.scale, 0);
            let whole = times_ten(rounded, scale);
            if let Some(mut number) =
                whole.filter(|_| compare((rounded, scale), (self.number, self.scale)).is_eq())
            {
                let mut power = 0;
                while number % 1024 == 0 {
                    number /= 1024;
                    power += 1;
                }
                let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].get(power).copied().unwrap_or_default();
                return write!(f, "{number}{suffix}");
            }
        }
        let (mut number, mut exponent) = (self.number, self.scale);
        while number % 10 == 0 {
            number /= 10;
            exponent += 1;
        }
        while exponent % 3 != 0 {
            number *= 10;
            exponent -= 1;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{number}") } else { write!(f, "{number}e{exponent}") };
        }
        // Upstream writes no suffix where it has none.
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            18 => "E",
            _ => "",
        };
        write!(f, "{number}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_become_canonical() {
        let check = |text: &str, expect: &str| {
            assert_eq!(Quantity::parse(text).map(|q| q.to_string()).as_deref(), Ok(expect), "{text}");
        };
        check("0", "0");
        check("0Ki", "0");
        check("100m", "100m");
        check("1000m", "1");
        check("0.5", "500m");
        check("1.5", "1500m");
        check("1.500", "1.500");
        check("+5", "+5");
        check("1Ki", "1Ki");
        check("1024Ki", "1Mi");
        check("2048", "2048");
        check("1.5Gi", "1536Mi");
        check("0.5Mi", "512Ki");
        check("0.1Ki", "102400m");
        check("1e3", "1e3");
        check("1000e3", "1e6");
        check("12E6", "12E6");
        check("1E", "1E");
        check("100000k", "100M");
        check("1n", "1n");
        check("0.1n", "1n");
        check("-0.1n", "-1n");
        check("1e-10", "1e-9");
        check("9999999999999999Ki", "9223372036854775807");
        check("-1.5", "-1500m");
        check("k", "0");
    }

    #[test]
    fn wrong_texts_are_refused() {
        for text in ["", "a", "1a", "1.2.3", "1 ", " 1", "1k1x", "0x1"] {
            assert_eq!(Quantity::parse(text), Err(ParseError::Format), "{text}");
        }
        for text in ["1mm", "1K", "1ki", "1e", "1i", "1m5"] {
            assert_eq!(Quantity::parse(text), Err(ParseError::Suffix), "{text}");
        }
    }

    #[test]
    fn values_round_away_from_zero() {
        let check = |text: &str, value: i64, milli: i64| {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!((quantity.value(), quantity.milli_value()), (value, milli), "{text}");
        };
        check("1", 1, 1000);
        check("1m", 1, 1);
        check("1u", 1, 1);
        check("-1m", -1, -1);
        check("1.1", 2, 1100);
        check("1Gi", 1 << 30, (1 << 30) * 1000);
        check("100E", i64::MAX, i64::MAX);
        check("1e100", i64::MAX, i64::MAX);
    }

    #[test]
    fn sums_keep_the_first_format() {
        let add = |a: &str, b: &str| {
            let mut sum = Quantity::parse(a).unwrap();
            sum.add(&Quantity::parse(b).unwrap());
            sum.to_string()
        };
        assert_eq!(add("0", "1Ki"), "1Ki");
        assert_eq!(add("1Ki", "1k"), "2024");
        assert_eq!(add("1Ki", "1Ki"), "2Ki");
        assert_eq!(add("100m", "900m"), "1");
        assert_eq!(add("1", "1Mi"), "1048577");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-+.0-9eEinumkKMGTP \\PC]{0,50}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                let _ = (quantity.to_string(), quantity.value(), quantity.milli_value());
            }
        }

        #[test]
        fn the_canonical_form_is_the_same_amount(
            number in -1_000_000_000_000_i64..1_000_000_000_000,
            suffix in prop::sample::select(vec!["n", "u", "m", "", "k", "M", "G", "Ki", "Mi", "e3", "e-3"]),
        ) {
            let quantity = Quantity::parse(&format!("{number}{suffix}")).unwrap();
            let again = Quantity::parse(&quantity.to_string()).unwrap();
            prop_assert_eq!(&again, &quantity);
            prop_assert_eq!(again.to_string(), quantity.to_string());
        }

        #[test]
        fn order_follows_nanos(a in -100_000_i64..100_000, b in -100_000_i64..100_000) {
            let (qa, qb) = (Quantity::from_milli(a, Format::DecimalSi), Quantity::from_milli(b, Format::BinarySi));
            prop_assert_eq!(qa.cmp(&qb), a.cmp(&b));
            let mut sum = qa.clone();
            sum.add(&qb);
            sum.sub(&qa);
            prop_assert_eq!(sum, qb);
        }
    }
}
