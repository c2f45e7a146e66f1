//! Lengths of time for people.

use jiff::SignedDuration;

/// A length of time with two or three figures, as upstream's `HumanDuration`: `45s`, `3m20s`, `5h`, `2d3h`, `3y45d`.
/// Up to two seconds below zero is zero, for clocks differ.
pub fn human(length: SignedDuration) -> String {
    let seconds = length.as_secs();
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let two = |whole: i64, unit: &str, part: i64, part_unit: &str| {
        if part == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{part}{part_unit}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if days < 365 * 2 => format!("{days}d"),
        () if days < 365 * 8 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_two_or_three_figures() {
        let check =
            |seconds: i64, expect: &str| assert_eq!(human(SignedDuration::from_secs(seconds)), expect);
        check(-2, "<invalid>");
        check(-1, "0s");
        check(0, "0s");
        check(119, "119s");
        check(120, "2m");
        check(200, "3m20s");
        check(600, "10m");
        check(179 * 60, "179m");
        check(180 * 60, "3h");
        check(190 * 60, "3h10m");
        check(8 * 3600, "8h");
        check(48 * 3600, "2d");
        check(51 * 3600, "2d3h");
        check(8 * 86_400, "8d");
        check(729 * 86_400, "729d");
        check(731 * 86_400, "2y1d");
        check(8 * 365 * 86_400, "8y");
    }
}
