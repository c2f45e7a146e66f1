//! What is done to a container from outside: probes and hooks.

use api::status::Cause;
use api::validation::{Path, cause, names};
use api::value::Value;

use super::text;
use crate::strategy::words;

/// The ways, in upstream's order.
const WAYS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

pub(super) fn probe(probe: &Value, grace: Option<i64>, kind: &str, path: &Path, causes: &mut Vec<Cause>) {
    handler(probe, grace, path, causes);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        words::non_negative(probe.int_at(&[field]).unwrap_or_default(), &path.child(field), causes);
    }
    let own = probe.int_at(&["terminationGracePeriodSeconds"]);
    if let Some(seconds) = own.filter(|seconds| *seconds <= 0) {
        causes.push(cause::invalid(
            path.child("terminationGracePeriodSeconds"),
            seconds,
            "must be greater than 0",
        ));
    }
    let successes = probe.int_at(&["successThreshold"]).unwrap_or_default();
    if kind == "readinessProbe" {
        if own.is_some() {
            let why = "must not be set for readinessProbes";
            let seconds = own.unwrap_or_default();
            causes.push(cause::invalid(path.child("terminationGracePeriodSeconds"), seconds, why));
        }
    } else if successes != 1 {
        causes.push(cause::invalid(path.child("successThreshold"), successes, "must be 1"));
    }
}

pub(super) fn handler(handler: &Value, grace: Option<i64>, path: &Path, causes: &mut Vec<Cause>) {
    let mut count = 0;
    for way in WAYS {
        let Some(action) = handler.get(way).filter(|action| !action.is_null()) else { continue };
        let path = path.child(way);
        count += 1;
        if count > 1 {
            causes.push(cause::forbidden(path, "may not specify more than 1 handler type"));
            continue;
        }
        match way {
            "httpGet" => http(action, &path, causes),
            "tcpSocket" => words::port_number_or_name(action.get("port"), &path.child("port"), causes),
            "grpc" => {
                words::port_number(action.int_at(&["port"]).unwrap_or_default(), &path.child("port"), causes);
            }
            "sleep" => sleep(action, grace, &path, causes),
            _ => {}
        }
    }
    if count == 0 {
        causes.push(cause::required(path, "must specify a handler type"));
    }
}

fn http(action: &Value, path: &Path, causes: &mut Vec<Cause>) {
    words::port_number_or_name(action.get("port"), &path.child("port"), causes);
    for header in action.array_at(&["httpHeaders"]) {
        let name = text(header, "name");
        let wrong = names::is_http_header_name(name);
        causes.extend(wrong.iter().map(|why| cause::invalid(path.child("httpHeaders"), name, why)));
    }
}

fn sleep(action: &Value, grace: Option<i64>, path: &Path, causes: &mut Vec<Cause>) {
    let seconds = action.int_at(&["seconds"]).unwrap_or_default();
    if let Some(grace) = grace.filter(|grace| !(0..=*grace).contains(&seconds)) {
        let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        causes.push(cause::invalid(path, seconds, &why));
    }
}
