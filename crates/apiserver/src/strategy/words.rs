//! Rules that several kinds share and that `api::validation` leaves to them.

use std::net::IpAddr;

use api::status::Cause;
use api::validation::{Path, cause, names};
use api::value::Value;

/// A word that must be one of those that are known, and must be there.
pub(super) fn one_of(word: &str, known: &[&str], path: &Path, causes: &mut Vec<Cause>) {
    if word.is_empty() {
        causes.push(cause::required(path, ""));
    } else if !known.contains(&word) {
        causes.push(cause::not_supported(path, word, known));
    }
}

/// A number of a port.
pub(super) fn port_number(port: i64, path: &Path, causes: &mut Vec<Cause>) {
    causes.extend(names::is_port_number(port).iter().map(|why| cause::invalid(path, port, why)));
}

/// The number or the name of a port.
pub(super) fn port_number_or_name(port: Option<&Value>, path: &Path, causes: &mut Vec<Cause>) {
    match port {
        Some(Value::String(name)) => {
            causes
                .extend(names::is_port_name(name).iter().map(|why| cause::invalid(path, name.as_str(), why)));
        }
        other => port_number(other.and_then(Value::as_int).unwrap_or_default(), path, causes),
    }
}

/// A number that must not be below zero.
pub(super) fn non_negative(number: i64, path: &Path, causes: &mut Vec<Cause>) {
    if number < 0 {
        causes.push(cause::invalid(path, number, "must be greater than or equal to 0"));
    }
}

/// An address that traffic may be sent to: no loopback, no multicast.
pub(super) fn endpoint_address(text: &str, path: &Path) -> Vec<Cause> {
    let Ok(ip) = text.parse::<IpAddr>() else {
        return vec![cause::invalid(path, text, "must be a valid IP address")];
    };
    let local_multicast = match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let rules = [
        (ip.is_unspecified(), format!("may not be unspecified ({text})")),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (
            local_multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        ),
    ];
    rules.into_iter().filter(|(wrong, _)| *wrong).map(|(_, why)| cause::invalid(path, text, &why)).collect()
}

/// A value that may not change.
pub(super) fn immutable(new: Option<&Value>, old: Option<&Value>, path: &Path) -> Option<Cause> {
    let present = |value: Option<&Value>| value.filter(|value| !value.is_empty()).cloned();
    let (new, old) = (present(new), present(old));
    (new != old).then(|| cause::invalid(path, new.unwrap_or_default(), "field is immutable"))
}

/// A count, or a share in percent.
pub(super) fn number_or_percent(value: Option<&Value>, path: &Path, causes: &mut Vec<Cause>) {
    match value {
        Some(Value::String(text)) => {
            causes.extend(names::is_percent(text).iter().map(|why| cause::invalid(path, text.as_str(), why)));
        }
        Some(value) => non_negative(value.as_int().unwrap_or_default(), path, causes),
        None => {}
    }
}

/// The number of a share.
fn percent(value: Option<&Value>) -> Option<i64> {
    value?.as_str()?.strip_suffix('%')?.parse().ok()
}

/// Whether a count or share amounts to nothing.
pub(super) fn is_nothing(value: Option<&Value>) -> bool {
    percent(value).or_else(|| value.and_then(Value::as_int)).unwrap_or_default() == 0
}

/// A share of at most all.
pub(super) fn at_most_all(value: Option<&Value>, path: &Path, causes: &mut Vec<Cause>) {
    if percent(value).is_some_and(|share| share > 100) {
        let shown = value.cloned().unwrap_or_default();
        causes.push(cause::invalid(path, shown, "must not be greater than 100%"));
    }
}

/// Whether the table itself checks the words of a field, so that nothing is said twice.
pub(super) fn table_knows(group: &str, version: &str, kind: &str, field: &str) -> bool {
    let types = api::table::types();
    types
        .of_kind(group, version, kind)
        .and_then(|ty| types.get(ty).field(field))
        .and_then(|field| field.bounds.as_ref())
        .is_some_and(|bounds| bounds.one_of.is_some())
}

/// A cause that shows a struct as upstream does: by the names that its members have inside the server, in order.
pub(super) fn shown(
    reason: &'static str,
    path: &Path,
    word: &str,
    members: &[(&str, Option<&Value>)],
    why: &str,
) -> Cause {
    let null = Value::Null;
    let members: Vec<String> =
        members.iter().map(|(name, value)| format!("\"{name}\":{}", value.unwrap_or(&null))).collect();
    Cause {
        reason: reason.into(),
        message: format!("{word}: {{{}}}: {why}", members.join(",")),
        field: path.to_string(),
    }
}
