//! `/metrics` in Prometheus' text: how the server is, by upstream's names where ours mean the same. Nothing is counted
//! for it while requests are worked on; it looks when somebody asks.

use std::fmt::Write as _;
use std::fs;

use store::List;

use crate::gate::Gate;
use crate::kinds;
use crate::storage::Storage;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How many of the kernel's ticks a second has, as it tells them to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// The text.
pub fn text(gate: &Gate) -> String {
    let mut out = String::new();
    let version = format!("git_version=\"{}\",major=\"1\",minor=\"37\"", crate::GIT_VERSION);
    family(&mut out, "kubernetes_build_info", "gauge", "What this server is.", &[(&version, 1.0)]);
    requests(gate, &mut out);
    let help = "Panics of requests, reconciles and tasks that were caught; each is a bug, and in the log.";
    family(&mut out, "ondol_panics_total", "counter", help, &[("", base::panics::count() as f64)]);
    stored(gate, &mut out);
    process(&mut out);
    out
}

/// A family of values, each with its labels.
fn family(out: &mut String, name: &str, ty: &str, help: &str, values: &[(&str, f64)]) {
    let mut write = || -> std::fmt::Result {
        writeln!(out, "# HELP {name} {help}")?;
        writeln!(out, "# TYPE {name} {ty}")?;
        for (labels, value) in values {
            match *labels {
                "" => writeln!(out, "{name} {value}")?,
                labels => writeln!(out, "{name}{{{labels}}} {value}")?,
            }
        }
        Ok(())
    };
    write().expect("a text can be written to");
}

fn requests(gate: &Gate, out: &mut String) {
    let mutating = gate.shares.taken(|share| &share.writes) as f64;
    let reading = gate.shares.taken(|share| &share.reads) as f64;
    let values = [("request_kind=\"mutating\"", mutating), ("request_kind=\"readOnly\"", reading)];
    let help = "Requests that are worked on now; watches and streams are not among them.";
    family(out, "apiserver_current_inflight_requests", "gauge", help, &values);
    let streams = gate.shares.taken(|share| &share.streams) as f64;
    family(out, "ondol_apiserver_streams", "gauge", "Watches and streams that are open.", &[("", streams)]);
}

fn stored(gate: &Gate, out: &mut String) {
    let store = gate.storage().store();
    let mut counts = Vec::new();
    for kind in kinds::iter().filter(|kind| !kind.is_virtual() && kind.is_stored_version()) {
        let first = List { limit: 1, ..List::all(Storage::scope(kind, "")) };
        if let Ok(page) = store.list(&first) {
            let labels = format!("group=\"{}\",resource=\"{}\"", kind.facts.group, kind.facts.resource);
            counts.push((labels, (page.entries.len() + page.remaining) as f64));
        }
    }
    let counts: Vec<(&str, f64)> = counts.iter().map(|(labels, count)| (labels.as_str(), *count)).collect();
    family(out, "apiserver_resource_objects", "gauge", "Objects that are stored, by kind.", &counts);
    let size = store.size();
    let values = [
        ("ondol_store_revision", "The revision of the last commit.", store.revision().0 as f64),
        ("ondol_store_live_bytes", "Bytes of all objects and their keys.", size.live_bytes as f64),
        ("ondol_store_history_events", "Events that watches can still begin at.", size.history_events as f64),
        ("ondol_store_history_bytes", "Bytes that only the history holds.", size.history_bytes as f64),
    ];
    for (name, help, value) in values {
        family(out, name, "gauge", help, &[("", value)]);
    }
}

/// What the kernel tells of this process. What it does not tell is left out.
fn process(out: &mut String) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(seconds) = processor_seconds(&stat) {
        let help = "Seconds of processors that this process has used.";
        family(out, "process_cpu_seconds_total", "counter", help, &[("", seconds)]);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (key, name, help) in [
        ("VmSize", "process_virtual_memory_bytes", "Bytes of addresses that this process has mapped."),
        ("VmRSS", "process_resident_memory_bytes", "Bytes of memory that this process holds."),
    ] {
        if let Some(bytes) = memory_bytes(&status, key) {
            family(out, name, "gauge", help, &[("", bytes)]);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        let help = "Files and connections that are open.";
        family(out, "process_open_fds", "gauge", help, &[("", open.count() as f64)]);
    }
}

/// The processor time in `/proc/self/stat`, whose second field is a name in parentheses and may hold anything.
fn processor_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11).map(str::parse::<f64>);
    Some((fields.next()?.ok()? + fields.next()?.ok()?) / TICKS_PER_SECOND)
}

/// A line of `/proc/self/status` that tells of memory.
fn memory_bytes(status: &str, key: &str) -> Option<f64> {
    let of_key =
        |line: &'_ str| line.strip_prefix(key).and_then(|rest| rest.strip_prefix(':')).map(str::to_owned);
    let kibibytes = status.lines().find_map(of_key)?;
    kibibytes.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kibibytes| kibibytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_as_scrapers_read_it() {
        let mut out = String::new();
        family(&mut out, "a_total", "counter", "Words.", &[("", 1.0), ("b=\"c\"", 2.5)]);
        assert_eq!(out, "# HELP a_total Words.\n# TYPE a_total counter\na_total 1\na_total{b=\"c\"} 2.5\n");
    }

    #[test]
    fn a_process_may_have_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 1 2 3 4 150 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(processor_seconds(stat), Some(2.0));
        assert_eq!(processor_seconds(""), None);
        assert_eq!(memory_bytes("VmRSSx:\t1 kB\nVmRSS:\t   12 kB\n", "VmRSS"), Some(12_288.0));
    }
}
