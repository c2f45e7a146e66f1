//! Endpoints and EndpointSlices: where services lead to.

use std::collections::HashSet;
use std::net::IpAddr;

use api::status::Cause;
use api::validation::{Path, address, cause, names};
use api::value::Value;

use super::{Context, Strategy, words};

/// How many endpoints and ports a slice has at most, and zones and nodes an endpoint's hints.
const ENDPOINTS_PER_SLICE: usize = 1000;
const PORTS_PER_SLICE: usize = 20_000;
const HINTS: usize = 8;

pub(super) struct Endpoints;
pub(super) struct EndpointSlices;

impl Strategy for Endpoints {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "endpoints")]
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        for (index, subset) in object.array_at(&["subsets"]).iter().enumerate() {
            let path = Path::root("subsets").index(index);
            let lists = ["addresses", "notReadyAddresses"];
            if lists.iter().all(|list| subset.array_at(&[list]).is_empty()) {
                causes.push(cause::required(&path, "must specify `addresses` or `notReadyAddresses`"));
            }
            for list in lists {
                for (at, address) in subset.array_at(&[list]).iter().enumerate() {
                    endpoint_address(address, &path.child(list).index(at), &mut causes);
                }
            }
            let ports = subset.array_at(&["ports"]);
            for (at, port) in ports.iter().enumerate() {
                endpoint_port(port, ports.len() > 1, &path.child("ports").index(at), &mut causes);
            }
        }
        causes
    }

    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()]
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.str_at(&[key]).unwrap_or_default()
}

fn subdomain(value: &Value, field: &str, path: &Path, causes: &mut Vec<Cause>) {
    if let Some(name) = value.str_at(&[field]) {
        causes
            .extend(names::is_subdomain(name).iter().map(|why| cause::invalid(path.child(field), name, why)));
    }
}

fn hostname(value: &Value, path: &Path, causes: &mut Vec<Cause>) {
    if let Some(name) = value.str_at(&["hostname"]).filter(|name| !name.is_empty()) {
        causes.extend(
            names::is_label(name).iter().map(|why| cause::invalid(path.child("hostname"), name, why)),
        );
    }
}

fn endpoint_address(address: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let (ip, place) = (text(address, "ip"), path.child("ip"));
    causes.extend(address::ip_for_legacy_field(&place, ip));
    hostname(address, path, causes);
    subdomain(address, "nodeName", path, causes);
    causes.extend(words::endpoint_address(ip, &place));
}

fn endpoint_port(port: &Value, needs_name: bool, path: &Path, causes: &mut Vec<Cause>) {
    let name = text(port, "name");
    if name.is_empty() {
        if needs_name {
            causes.push(cause::required(path.child("name"), ""));
        }
    } else {
        causes.extend(names::is_label(name).iter().map(|why| cause::invalid(path.child("name"), name, why)));
    }
    words::port_number(port.int_at(&["port"]).unwrap_or_default(), &path.child("port"), causes);
    app_protocol(port, path, causes);
}

fn app_protocol(port: &Value, path: &Path, causes: &mut Vec<Cause>) {
    if let Some(protocol) = port.str_at(&["appProtocol"]) {
        let path = path.child("appProtocol");
        causes.extend(names::is_label_key(protocol).iter().map(|why| cause::invalid(&path, protocol, why)));
    }
}

impl Strategy for EndpointSlices {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("discovery.k8s.io", "endpointslices")]
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context<'_>) {
        drop_topology(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        if new.get("endpoints") != old.get("endpoints") {
            drop_topology(new);
        }
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let kind = text(object, "addressType");
        let known = ["FQDN", "IPv4", "IPv6"];
        let has_words = words::table_knows("discovery.k8s.io", "v1", "EndpointSlice", "addressType");
        if !kind.is_empty() && !known.contains(&kind) && !has_words {
            causes.push(cause::not_supported("addressType", kind, &known));
        }
        ports(object, &mut causes);
        endpoints(object, kind, &mut causes);
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let path = Path::root("addressType");
        words::immutable(new.get("addressType"), old.get("addressType"), &path).into_iter().collect()
    }
}

/// The topology of old versions is no longer written through v1, which has a field for each part of it.
fn drop_topology(slice: &mut Value) {
    for endpoint in slice.at_mut(&["endpoints"]).and_then(Value::as_array_mut).into_iter().flatten() {
        endpoint.remove(&["deprecatedTopology"]);
    }
}

fn ports(slice: &Value, causes: &mut Vec<Cause>) {
    let (ports, path) = (slice.array_at(&["ports"]), Path::root("ports"));
    if ports.len() > PORTS_PER_SLICE {
        causes.push(cause::too_many(path, ports.len(), PORTS_PER_SLICE));
        return;
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let (name, path) = (text(port, "name"), path.index(index));
        if !name.is_empty() {
            causes.extend(
                names::is_label(name).iter().map(|why| cause::invalid(path.child("name"), name, why)),
            );
        }
        if !seen.insert(name) {
            causes.push(cause::duplicate(path.child("name"), name));
        }
        app_protocol(port, &path, causes);
    }
}

fn endpoints(slice: &Value, kind: &str, causes: &mut Vec<Cause>) {
    let (endpoints, path) = (slice.array_at(&["endpoints"]), Path::root("endpoints"));
    if endpoints.len() > ENDPOINTS_PER_SLICE {
        causes.push(cause::too_many(path, endpoints.len(), ENDPOINTS_PER_SLICE));
        return;
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(index);
        let addresses = path.child("addresses");
        for (at, text) in endpoint.array_at(&["addresses"]).iter().filter_map(Value::as_str).enumerate() {
            slice_address(text, kind, &addresses, at, causes);
        }
        subdomain(endpoint, "nodeName", &path, causes);
        hostname(endpoint, &path, causes);
        if let Some(hints) = endpoint.get("hints").filter(|hints| !hints.is_null()) {
            for (list, is_wrong) in [
                ("forZones", names::is_label_value as fn(&str) -> Vec<String>),
                ("forNodes", names::is_subdomain as fn(&str) -> Vec<String>),
            ] {
                hinted(hints.array_at(&[list]), is_wrong, &path.child("hints").child(list), causes);
            }
        }
    }
}

fn hinted(hints: &[Value], is_wrong: fn(&str) -> Vec<String>, path: &Path, causes: &mut Vec<Cause>) {
    if hints.len() > HINTS {
        causes.push(cause::too_many(path, hints.len(), HINTS));
        return;
    }
    for (index, hint) in hints.iter().enumerate() {
        let (name, path) = (text(hint, "name"), path.index(index).child("name"));
        causes.extend(is_wrong(name).iter().map(|why| cause::invalid(&path, name, why)));
    }
}

fn slice_address(text: &str, kind: &str, list: &Path, at: usize, causes: &mut Vec<Cause>) {
    let path = list.index(at);
    match kind {
        "IPv4" | "IPv6" => {
            let wrong = if kind == "IPv4" {
                address::ip_for_legacy_field(&path, text)
            } else {
                address::is_canonical_ip(text).iter().map(|why| cause::invalid(&path, text, why)).collect()
            };
            if !wrong.is_empty() {
                causes.extend(wrong);
                return;
            }
            if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() != (kind == "IPv4")) {
                causes.push(cause::invalid(list, text, &format!("must be an {kind} address")));
            }
            causes.extend(words::endpoint_address(text, &path));
        }
        "FQDN" => {
            let name = text.strip_suffix('.').unwrap_or(text);
            let wrong = names::is_subdomain(name);
            causes.extend(wrong.iter().map(|why| cause::invalid(&path, text, why)));
            if wrong.is_empty() && !name.contains('.') {
                let why = "should be a domain with at least two segments separated by dots";
                causes.push(cause::invalid(&path, text, why));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::lookups::fake::Fake;
    use api::json;

    #[test]
    fn the_old_topology_is_dropped() {
        let mut slice =
            json!({"endpoints": [{"addresses": ["10.0.0.1"], "deprecatedTopology": {"a": "b"}}, {}]});
        drop_topology(&mut slice);
        assert_eq!(slice.to_string(), r#"{"endpoints":[{"addresses":["10.0.0.1"]},{}]}"#);
    }

    #[test]
    fn addresses_fit_their_type() {
        let lookups = Fake::new(Vec::new());
        let context =
            Context { identity: &Identity::admin(), lookups: &lookups, subresource: "", dry_run: false };
        let check = |kind: &str, text: &str, expect: &str| {
            let mut slice = json!({"endpoints": [{}]});
            slice.set(&["addressType"], kind);
            slice.set(&["endpoints"], vec![json!({"addresses": [text]})]);
            let causes = EndpointSlices.validate(&slice, &context);
            let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
            assert_eq!(causes.join("; "), expect);
        };
        check("IPv4", "10.0.0.1", "");
        check(
            "IPv4",
            "fd00::1",
            "endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address",
        );
        check(
            "IPv4",
            "127.0.0.1",
            "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
             ::1/128)",
        );
    }
}
