//! What is asked of a pod's log or ports, read and judged before anybody looks for the pod.

use api::status::{Cause, Status};
use api::validation::cause;
use jiff::Timestamp;

use crate::query::Query;

/// The moment that Go holds for none: what `sinceTime=` means.
const NO_TIME: &str = "0001-01-01T00:00:00Z";
/// What Go calls the form of a moment.
const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";

/// What is asked of a log (`v1.PodLogOptions`).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LogOptions {
    pub(super) container: String,
    follow: bool,
    previous: bool,
    timestamps: bool,
    since_seconds: Option<i64>,
    since_time: Option<String>,
    tail_lines: Option<i64>,
    limit_bytes: Option<i64>,
}

impl LogOptions {
    /// Reads the options for the pod `name`, in upstream's order: first what cannot be read, then what may not be.
    pub(super) fn read(query: Query<'_>, name: &str) -> Result<Self, Status> {
        let options = Self {
            container: query.get("container").unwrap_or_default().into_owned(),
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            since_seconds: number(query, "sinceSeconds")?,
            since_time: query.get("sinceTime").map(|text| moment(&text)).transpose()?,
            timestamps: query.flag("timestamps"),
            tail_lines: number(query, "tailLines")?,
            limit_bytes: number(query, "limitBytes")?,
        };
        let causes = options.judge(query.get("stream").is_some());
        if causes.is_empty() { Ok(options) } else { Err(Status::invalid("", "PodLogOptions", name, causes)) }
    }

    fn judge(&self, names_stream: bool) -> Vec<Cause> {
        let mut causes = Vec::new();
        if let Some(lines) = self.tail_lines.filter(|lines| *lines < 0) {
            causes.push(cause::invalid("tailLines", lines, "must be greater than or equal to 0"));
        }
        if let Some(bytes) = self.limit_bytes.filter(|bytes| *bytes < 1) {
            causes.push(cause::invalid("limitBytes", bytes, "must be greater than 0"));
        }
        match self.since_seconds {
            Some(_) if self.since_time.is_some() => {
                let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
                // This is how upstream prints a path without a name.
                causes.push(cause::forbidden("[]", why));
            }
            Some(seconds) if seconds < 1 => {
                causes.push(cause::invalid("sinceSeconds", seconds, "must be greater than 0"));
            }
            _ => {}
        }
        // The gate of the separate streams is off, as upstream's is.
        if names_stream {
            causes.push(cause::forbidden("stream", "may not be specified"));
        }
        causes
    }

    /// The query by which the node's agent is asked.
    pub(super) fn to_query(&self) -> String {
        let flags = [("follow", self.follow), ("previous", self.previous), ("timestamps", self.timestamps)];
        let numbers = [
            ("sinceSeconds", self.since_seconds),
            ("tailLines", self.tail_lines),
            ("limitBytes", self.limit_bytes),
        ];
        let mut parts: Vec<String> =
            flags.iter().filter(|(_, set)| *set).map(|(name, _)| format!("{name}=true")).collect();
        parts.extend(numbers.iter().filter_map(|(name, value)| Some(format!("{name}={}", (*value)?))));
        parts.extend(self.since_time.iter().map(|time| format!("sinceTime={time}")));
        if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
    }
}

/// A whole number as Go reads one; an empty text is none.
fn number(query: Query<'_>, name: &str) -> Result<Option<i64>, Status> {
    let Some(text) = query.get(name) else { return Ok(None) };
    let signless = text.strip_prefix(['+', '-']).unwrap_or(&text);
    text.parse().map(Some).map_err(|_| unreadable("ParseInt", &text, signless, ""))
}

/// What Go says of a text that is no number, or of one that is too great.
fn unreadable(function: &str, text: &str, digits: &str, before: &str) -> Status {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let why = if is_number { "value out of range" } else { "invalid syntax" };
    Status::bad_request(format!("{before}strconv.{function}: parsing {}: {why}", cause::quoted(text)))
}

/// Judges the ports that shall be forwarded.
pub(super) fn check_ports(query: Query<'_>) -> Result<(), Status> {
    for list in query.all("ports") {
        for port in list.split(',') {
            let is_number = !port.starts_with('+') && port.parse::<u16>().is_ok();
            if !is_number {
                return Err(unreadable("ParseUint", port, port, "cannot convert to []int32: "));
            }
        }
    }
    Ok(())
}

/// A moment, to the second, or what Go says of a text that is none.
fn moment(text: &str) -> Result<String, Status> {
    if matches!(text, "" | "null") {
        return Ok(NO_TIME.to_owned());
    }
    if let Err(why) = go_time(text) {
        return Err(Status::bad_request(format!("parsing time {}{why}", cause::quoted(text))));
    }
    let read: Result<Timestamp, _> = text.parse();
    read.map(api::time::seconds).map_err(|_| {
        Status::bad_request(format!("{} is no moment; write it like {LAYOUT}", cause::quoted(text)))
    })
}

/// Walks a moment as Go's parser does; the error is what its message says after the text itself.
fn go_time(text: &str) -> Result<(), String> {
    let mut rest = text;
    let year = digits(&mut rest, 4, "2006")?;
    expect(&mut rest, "-")?;
    let month = digits(&mut rest, 2, "01")?;
    in_range(1..=12, month, "month")?;
    expect(&mut rest, "-")?;
    let day = digits(&mut rest, 2, "02")?;
    expect(&mut rest, "T")?;
    for (most, form, name) in [(23, "15", "hour"), (59, "04", "minute"), (59, "05", "second")] {
        if form != "15" {
            expect(&mut rest, ":")?;
        }
        in_range(0..=most, digits(&mut rest, 2, form)?, name)?;
    }
    if let Some(fraction) = rest.strip_prefix(['.', ',']) {
        let end = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if end > 0 {
            rest = &fraction[end..];
        }
    }
    zone(&mut rest)?;
    if !rest.is_empty() {
        return Err(format!(": extra text: {}", cause::quoted(rest)));
    }
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + u32::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    in_range(1..=last, day, "day")
}

fn no_parse(rest: &str, form: &str) -> String {
    format!(" as \"{LAYOUT}\": cannot parse {} as {}", cause::quoted(rest), cause::quoted(form))
}

fn expect(rest: &mut &str, prefix: &str) -> Result<(), String> {
    *rest = rest.strip_prefix(prefix).ok_or_else(|| no_parse(rest, prefix))?;
    Ok(())
}

fn digits(rest: &mut &str, count: usize, form: &str) -> Result<u32, String> {
    let number = rest.get(..count).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|text| text.parse().ok()).ok_or_else(|| no_parse(rest, form))?;
    *rest = &rest[count..];
    Ok(number)
}

fn in_range(range: std::ops::RangeInclusive<u32>, number: u32, name: &str) -> Result<(), String> {
    if range.contains(&number) { Ok(()) } else { Err(format!(": {name} out of range")) }
}

/// `Z`, or an offset as `+02:00`.
fn zone(rest: &mut &str) -> Result<(), String> {
    const FORM: &str = "Z07:00";
    if let Some(after) = rest.strip_prefix('Z') {
        *rest = after;
        return Ok(());
    }
    let whole = *rest;
    let number = |from: usize| whole.get(from..from + 2).and_then(|text| text.parse::<u32>().ok());
    let parts = (number(1), whole.get(3..4), number(4));
    let (true, (Some(hour), Some(":"), Some(minute))) = (whole.starts_with(['+', '-']), parts) else {
        return Err(no_parse(whole, FORM));
    };
    in_range(0..=24, hour, "time zone offset hour")?;
    in_range(0..=60, minute, "time zone offset minute")?;
    *rest = &whole[6..];
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(query: &str) -> String {
        LogOptions::read(Query::new(query), "p").unwrap_err().message
    }

    #[test]
    fn options_that_make_no_sense_are_refused_in_upstreams_words() {
        let check = |query: &str, words: &str| {
            let status = LogOptions::read(Query::new(query), "p").unwrap_err();
            assert_eq!(status.message, format!("PodLogOptions \"p\" is invalid: {words}"));
            assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"), "{query}");
        };
        check("sinceSeconds=0", "sinceSeconds: Invalid value: 0: must be greater than 0");
        check(
            "tailLines=-1&limitBytes=0",
            "[tailLines: Invalid value: -1: must be greater than or equal to 0, limitBytes: Invalid value: 0: must be \
             greater than 0]",
        );
        let both = "[]: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified";
        check("sinceTime=2020-01-01T00:00:00Z&sinceSeconds=5", both);
        check("sinceTime=&sinceSeconds=1", both);
        check("stream=Stderr", "stream: Forbidden: may not be specified");
    }

    #[test]
    fn options_that_cannot_be_read_are_told_as_upstream_does() {
        let number = |text: &str, why: &str| format!("strconv.ParseInt: parsing \"{text}\": {why}");
        assert_eq!(refused("tailLines=abc"), number("abc", "invalid syntax"));
        assert_eq!(refused("tailLines="), number("", "invalid syntax"));
        assert_eq!(refused("limitBytes=1.5"), number("1.5", "invalid syntax"));
        assert_eq!(
            refused("tailLines=99999999999999999999"),
            number("99999999999999999999", "value out of range")
        );
        let time = |text: &str, why: &str| {
            assert_eq!(refused(&format!("sinceTime={text}")), format!("parsing time \"{text}\"{why}"));
        };
        let layout = "as \"2006-01-02T15:04:05Z07:00\": cannot parse";
        time("abc", &format!(" {layout} \"abc\" as \"2006\""));
        time("20-01-01", &format!(" {layout} \"20-01-01\" as \"2006\""));
        time("2020-01-01", &format!(" {layout} \"\" as \"T\""));
        time("2020-1-01T00:00:00Z", &format!(" {layout} \"1-01T00:00:00Z\" as \"01\""));
        time("2020-13-01T00:00:00Z", ": month out of range");
        time("2020-02-30T00:00:00Z", ": day out of range");
        time("2020-01-01T25:00:00Z", ": hour out of range");
        time("2020-01-01T00:00:00Zx", ": extra text: \"x\"");
        assert_eq!(
            refused("sinceTime=2020-01-01T00:00:00%2B99:00"),
            "parsing time \"2020-01-01T00:00:00+99:00\": time zone offset hour out of range"
        );
    }

    #[test]
    fn the_agent_is_asked_what_was_meant() {
        let asked = |query: &str| LogOptions::read(Query::new(query), "p").unwrap().to_query();
        assert_eq!(asked("container=c"), "");
        assert_eq!(asked("follow=maybe&previous=0&timestamps=False"), "?follow=true");
        assert_eq!(asked("tailLines=5&tailLines=x&limitBytes=1"), "?tailLines=5&limitBytes=1");
        assert_eq!(
            asked("sinceTime=2020-01-01T02:00:00.5%2B02:00&pretty=1"),
            "?sinceTime=2020-01-01T00:00:00Z"
        );
        assert_eq!(asked("sinceTime="), "?sinceTime=0001-01-01T00:00:00Z");
    }

    #[test]
    fn ports_are_numbers() {
        let check = |ports: &str, wrong: &str, why: &str| {
            let status = check_ports(Query::new(&format!("ports={ports}"))).unwrap_err();
            let words = format!("cannot convert to []int32: strconv.ParseUint: parsing \"{wrong}\": {why}");
            assert_eq!((status.code, status.message), (400, words));
        };
        check("abc", "abc", "invalid syntax");
        check("80,", "", "invalid syntax");
        check("%2B5", "+5", "invalid syntax");
        check("99999", "99999", "value out of range");
        assert!(check_ports(Query::new("ports=80,443&ports=1")).is_ok());
        assert!(check_ports(Query::new("")).is_ok());
    }

    proptest! {
        #[test]
        fn any_query_is_answered(query in "[ -~]{0,60}", time in "[0-9TZ:+.,é-]{0,30}") {
            let _ = LogOptions::read(Query::new(&query), "p");
            let _ = moment(&time);
        }
    }
}
