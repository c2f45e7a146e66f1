//! Times as the API writes them: in UTC, to the second or to the microsecond.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// `metav1.Time`: whole seconds, the rest is cut off.
pub fn seconds(at: Timestamp) -> String {
    let mut text = up_to_seconds(Offset::UTC.to_datetime(at));
    text.push('Z');
    text
}

/// `metav1.MicroTime`: always six digits behind the seconds.
pub fn micros(at: Timestamp) -> String {
    let time = Offset::UTC.to_datetime(at);
    let mut text = up_to_seconds(time);
    text.push('.');
    push_digits(&mut text, time.subsec_nanosecond().unsigned_abs() / 1000, 100_000);
    text.push('Z');
    text
}

/// By hand, for every write of the gate has a time in it and a general formatter reads its pattern each time.
fn up_to_seconds(time: DateTime) -> String {
    let mut text = String::with_capacity("2006-01-02T15:04:05.000000Z".len());
    push_digits(&mut text, u32::from(time.year().unsigned_abs()), 1000);
    for (before, number) in [
        ('-', time.month()),
        ('-', time.day()),
        ('T', time.hour()),
        (':', time.minute()),
        (':', time.second()),
    ] {
        text.push(before);
        push_digits(&mut text, u32::from(number.unsigned_abs()), 10);
    }
    text
}

/// The decimal digits of `number` from the one that counts `unit` on.
fn push_digits(text: &mut String, number: u32, unit: u32) {
    let mut unit = unit;
    while unit > 0 {
        text.push(char::from(b'0' + (number / unit % 10) as u8));
        unit /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_a_general_formatter_writes_them() {
        for (second, nanosecond) in [(0, 0), (1_767_225_599, 999_999_999), (951_782_400, 1_000), (-1, 0)] {
            let at = Timestamp::new(second, nanosecond).unwrap();
            assert_eq!(seconds(at), at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            assert_eq!(micros(at), at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string());
        }
    }
}
