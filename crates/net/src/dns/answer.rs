//! From a question to the zone's answer. Pure.
//!
//! What names mean follows Kubernetes' DNS specification 1.1.0; where that is silent, CoreDNS.

use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::zone::{HeadlessEndpoint, Port, Service, Zone};

/// The version of the specification, as `dns-version` tells it.
const SPECIFICATION_VERSION: &str = "1.1.0";

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// The name is not the cluster's: others know.
    Elsewhere,
    /// The name does not exist.
    NoSuchName,
    /// These records; none means that the name has records of other types only.
    Records { answers: Vec<Record>, additional: Vec<Record> },
    /// Another name, which may have to be asked for elsewhere.
    Alias { record: Box<Record>, target: Name },
}

impl Answer {
    fn none() -> Self {
        Self::Records { answers: Vec::new(), additional: Vec::new() }
    }
}

/// Answers the question for `name` and `kind`. Records carry `name` as it was written.
pub(super) fn answer(zone: &Zone, name: &Name, kind: RecordType) -> Answer {
    if is_reverse(name) {
        return reverse(zone, name, kind);
    }
    let text = text_of(name);
    if text == zone.domain {
        return apex(zone, name, kind);
    }
    let Some(below) = text.strip_suffix(&zone.domain).and_then(|rest| rest.strip_suffix('.')) else {
        return Answer::Elsewhere;
    };
    let mut labels: Vec<&str> = below.split('.').collect();
    labels.reverse();
    match labels[..] {
        ["dns-version"] => match kind {
            RecordType::TXT => {
                let text = TXT::new(vec![SPECIFICATION_VERSION.to_owned()]);
                records(vec![record(zone, name, RData::TXT(text))])
            }
            _ => Answer::none(),
        },
        ["svc" | "pod"] => Answer::none(),
        ["svc" | "pod", namespace] => existing(zone.namespaces.contains(namespace)),
        ["pod", namespace, address] => pod(zone, name, kind, namespace, address),
        ["svc", namespace, service, ref rest @ ..] => {
            match zone.services.get(&(namespace.to_owned(), service.to_owned())) {
                Some(found) => {
                    let full = zone.service_name(namespace, service);
                    service_answer(zone, name, kind, found, &full, rest)
                }
                None => Answer::NoSuchName,
            }
        }
        _ => Answer::NoSuchName,
    }
}

/// Whether it is the name of an address.
pub(super) fn is_reverse(name: &Name) -> bool {
    let text = text_of(name);
    text.ends_with(".in-addr.arpa") || text.ends_with(".ip6.arpa")
}

/// The record that goes with "no such name" and "no such record", so that both can be kept for a while.
pub(super) fn start_of_authority(zone: &Zone) -> Option<Record> {
    let domain = Name::from_ascii(format!("{}.", zone.domain)).ok()?;
    let data = SOA::new(
        Name::from_ascii(format!("ns.dns.{}.", zone.domain)).ok()?,
        Name::from_ascii(format!("hostmaster.{}.", zone.domain)).ok()?,
        1,
        7200,
        1800,
        86_400,
        zone.ttl_s,
    );
    Some(record(zone, &domain, RData::SOA(data)))
}

/// The name in lower case, without its last dot.
pub(super) fn text_of(name: &Name) -> String {
    let mut text = name.to_ascii();
    text.make_ascii_lowercase();
    text.truncate(text.trim_end_matches('.').len());
    text
}

fn existing(exists: bool) -> Answer {
    if exists { Answer::none() } else { Answer::NoSuchName }
}

fn records(answers: Vec<Record>) -> Answer {
    Answer::Records { answers, additional: Vec::new() }
}

fn record(zone: &Zone, name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), zone.ttl_s, data)
}

fn apex(zone: &Zone, name: &Name, kind: RecordType) -> Answer {
    match kind {
        RecordType::SOA => records(start_of_authority(zone).into_iter().collect()),
        RecordType::NS => match Name::from_ascii(format!("ns.dns.{}.", zone.domain)) {
            Ok(server) => records(vec![record(zone, name, RData::NS(NS(server)))]),
            Err(_) => Answer::none(),
        },
        _ => Answer::none(),
    }
}

fn reverse(zone: &Zone, name: &Name, kind: RecordType) -> Answer {
    // Only whole addresses are ours; their ranges belong to whoever is asked next.
    let names = name.parse_arpa_name().ok().filter(|range| range.prefix_len() == range.max_prefix_len());
    let Some(names) = names.and_then(|range| zone.reverse.get(&range.addr())) else {
        return Answer::Elsewhere;
    };
    if kind != RecordType::PTR {
        return Answer::none();
    }
    let pointers = names.iter().filter_map(|target| Name::from_ascii(format!("{target}.")).ok());
    records(pointers.map(|target| record(zone, name, RData::PTR(PTR(target)))).collect())
}

fn address_record(zone: &Zone, name: &Name, kind: RecordType, address: IpAddr) -> Option<Record> {
    match (kind, address) {
        (RecordType::A, IpAddr::V4(a)) => Some(record(zone, name, RData::A(A(a)))),
        (RecordType::AAAA, IpAddr::V6(a)) => Some(record(zone, name, RData::AAAA(AAAA(a)))),
        _ => None,
    }
}

fn pod(zone: &Zone, name: &Name, kind: RecordType, namespace: &str, label: &str) -> Answer {
    let v4 = label.replace('-', ".").parse::<std::net::Ipv4Addr>().map(IpAddr::V4);
    let address = v4.or_else(|_| label.replace('-', ":").parse::<std::net::Ipv6Addr>().map(IpAddr::V6));
    match address {
        Ok(address) if zone.namespaces.contains(namespace) => {
            records(address_record(zone, name, kind, address).into_iter().collect())
        }
        _ => Answer::NoSuchName,
    }
}

/// `rest` are the labels below the Service's name, the nearest first.
fn service_answer(
    zone: &Zone,
    name: &Name,
    kind: RecordType,
    service: &Service,
    full: &str,
    rest: &[&str],
) -> Answer {
    let wanted = |port: &Port| match rest {
        [protocol, wanted] => {
            *wanted == format!("_{}", port.name) && *protocol == format!("_{}", port.protocol)
        }
        _ => true,
    };
    let by_port = matches!(rest, [protocol, port] if protocol.starts_with('_') && port.starts_with('_'));
    match (service, rest) {
        (Service::ExternalName(target), []) => {
            match Name::from_ascii(format!("{}.", target.trim_end_matches('.'))) {
                Ok(target) => {
                    let record = Box::new(record(zone, name, RData::CNAME(CNAME(target.clone()))));
                    Answer::Alias { record, target }
                }
                Err(_) => Answer::none(),
            }
        }
        (Service::Cluster { addresses, ports }, _) if rest.is_empty() || by_port => {
            let ports: Vec<&Port> = ports.iter().filter(|port| wanted(port)).collect();
            if by_port && ports.is_empty() {
                return Answer::NoSuchName;
            }
            if kind == RecordType::SRV {
                let numbers =
                    ports.iter().map(|port| (port.port, full.to_owned(), addresses.clone())).collect();
                return server_records(zone, name, numbers);
            }
            records(addresses.iter().filter_map(|a| address_record(zone, name, kind, *a)).collect())
        }
        (Service::Headless { endpoints }, [label]) if !label.starts_with('_') => {
            let named: Vec<&HeadlessEndpoint> = endpoints.iter().filter(|e| e.label() == *label).collect();
            if named.is_empty() {
                Answer::NoSuchName
            } else {
                headless(zone, name, kind, &named, full, |_| true)
            }
        }
        (Service::Headless { endpoints }, _) if rest.is_empty() || by_port => {
            let ready: Vec<&HeadlessEndpoint> =
                endpoints.iter().filter(|e| !by_port || e.ports.iter().any(wanted)).collect();
            // Without endpoints there is nothing that the name stands for (CoreDNS answers so as well).
            if ready.is_empty() {
                Answer::NoSuchName
            } else {
                headless(zone, name, kind, &ready, full, wanted)
            }
        }
        _ => Answer::NoSuchName,
    }
}

fn headless(
    zone: &Zone,
    name: &Name,
    kind: RecordType,
    endpoints: &[&HeadlessEndpoint],
    full: &str,
    wanted: impl Fn(&Port) -> bool,
) -> Answer {
    if kind == RecordType::SRV {
        let mut targets = Vec::new();
        for endpoint in endpoints {
            for port in endpoint.ports.iter().filter(|port| wanted(port)) {
                targets.push((port.port, format!("{}.{full}", endpoint.label()), vec![endpoint.address]));
            }
        }
        return server_records(zone, name, targets);
    }
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        if !addresses.contains(&endpoint.address) {
            addresses.push(endpoint.address);
        }
    }
    records(addresses.into_iter().filter_map(|a| address_record(zone, name, kind, a)).collect())
}

/// SRV records, with the addresses of their targets beside them.
fn server_records(zone: &Zone, name: &Name, targets: Vec<(u16, String, Vec<IpAddr>)>) -> Answer {
    let weight = (100 / targets.len().max(1)).max(1) as u16;
    let (mut answers, mut additional) = (Vec::new(), Vec::new());
    for (port, target, addresses) in targets {
        let Ok(target) = Name::from_ascii(format!("{target}.")) else { continue };
        answers.push(record(zone, name, RData::SRV(SRV::new(0, weight, port, target.clone()))));
        for address in addresses {
            let kind = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
            let beside = address_record(zone, &target, kind, address);
            additional.extend(beside.filter(|beside| !additional.contains(beside)));
        }
    }
    Answer::Records { answers, additional }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Protocol;

    fn zone() -> Zone {
        let mut zone = Zone::new("cluster.local");
        zone.namespaces.extend(["default".to_owned(), "empty".to_owned()]);
        let key = |name: &str| ("default".to_owned(), name.to_owned());
        let port = |name: &str, protocol, port| Port { name: name.to_owned(), protocol, port };
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        zone.services.insert(
            key("web"),
            Service::Cluster {
                addresses: vec![ip("10.96.0.7"), ip("fd00::7")],
                ports: vec![port("http", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)],
            },
        );
        let endpoint = |hostname: Option<&str>, address: &str| HeadlessEndpoint {
            hostname: hostname.map(str::to_owned),
            address: ip(address),
            ports: vec![port("db", Protocol::Tcp, 5432)],
        };
        zone.services.insert(
            key("db"),
            Service::Headless {
                endpoints: vec![endpoint(Some("db-0"), "10.1.0.2"), endpoint(None, "10.1.0.3")],
            },
        );
        zone.services.insert(key("none"), Service::Headless { endpoints: vec![] });
        zone.services.insert(key("out"), Service::ExternalName("example.com".to_owned()));
        zone.index();
        zone
    }

    fn check(name: &str, kind: RecordType, expect: &[&str]) {
        let zone = zone();
        let found = match answer(&zone, &Name::from_ascii(name).expect("a name"), kind) {
            Answer::Elsewhere => vec!["elsewhere".to_owned()],
            Answer::NoSuchName => vec!["no such name".to_owned()],
            Answer::Alias { record, .. } => vec![show(&record)],
            Answer::Records { answers, additional } => {
                let beside = additional.iter().map(|r| format!("+ {}", show(r)));
                answers.iter().map(show).chain(beside).collect()
            }
        };
        assert_eq!(found, expect, "{name} {kind}");
    }

    fn show(record: &Record) -> String {
        format!("{} {} {} {}", record.name, record.ttl, record.record_type(), record.data)
    }

    #[test]
    fn services_have_their_addresses_and_keep_the_questions_case() {
        check(
            "web.default.svc.cluster.local.",
            RecordType::A,
            &["web.default.svc.cluster.local. 5 A 10.96.0.7"],
        );
        check(
            "WEB.Default.svc.CLUSTER.local.",
            RecordType::A,
            &["WEB.Default.svc.CLUSTER.local. 5 A 10.96.0.7"],
        );
        check(
            "web.default.svc.cluster.local.",
            RecordType::AAAA,
            &["web.default.svc.cluster.local. 5 AAAA fd00::7"],
        );
        check("web.default.svc.cluster.local.", RecordType::TXT, &[]);
    }

    #[test]
    fn names_that_are_not_there_differ_from_names_without_records() {
        check("nope.default.svc.cluster.local.", RecordType::A, &["no such name"]);
        check("web.other.svc.cluster.local.", RecordType::A, &["no such name"]);
        check("x.web.default.svc.cluster.local.", RecordType::A, &["no such name"]);
        check("empty.svc.cluster.local.", RecordType::A, &[]);
        check("other.svc.cluster.local.", RecordType::A, &["no such name"]);
        check("svc.cluster.local.", RecordType::A, &[]);
        check("none.default.svc.cluster.local.", RecordType::A, &["no such name"]);
        check("web.default.svc.cluster.local.example.com.", RecordType::A, &["elsewhere"]);
        check("notcluster.local.", RecordType::A, &["elsewhere"]);
        check(".", RecordType::NS, &["elsewhere"]);
    }

    #[test]
    fn named_ports_have_server_records() {
        check(
            "_http._tcp.web.default.svc.cluster.local.",
            RecordType::SRV,
            &[
                "_http._tcp.web.default.svc.cluster.local. 5 SRV 0 100 80 web.default.svc.cluster.local.",
                "+ web.default.svc.cluster.local. 5 A 10.96.0.7",
                "+ web.default.svc.cluster.local. 5 AAAA fd00::7",
            ],
        );
        check("_http._udp.web.default.svc.cluster.local.", RecordType::SRV, &["no such name"]);
        check(
            "_db._tcp.db.default.svc.cluster.local.",
            RecordType::SRV,
            &[
                "_db._tcp.db.default.svc.cluster.local. 5 SRV 0 50 5432 db-0.db.default.svc.cluster.local.",
                "_db._tcp.db.default.svc.cluster.local. 5 SRV 0 50 5432 10-1-0-3.db.default.svc.cluster.local.",
                "+ db-0.db.default.svc.cluster.local. 5 A 10.1.0.2",
                "+ 10-1-0-3.db.default.svc.cluster.local. 5 A 10.1.0.3",
            ],
        );
    }

    #[test]
    fn headless_services_are_their_endpoints() {
        check(
            "db.default.svc.cluster.local.",
            RecordType::A,
            &["db.default.svc.cluster.local. 5 A 10.1.0.2", "db.default.svc.cluster.local. 5 A 10.1.0.3"],
        );
        check(
            "db-0.db.default.svc.cluster.local.",
            RecordType::A,
            &["db-0.db.default.svc.cluster.local. 5 A 10.1.0.2"],
        );
        check("db-1.db.default.svc.cluster.local.", RecordType::A, &["no such name"]);
    }

    #[test]
    fn external_names_are_aliases() {
        check(
            "out.default.svc.cluster.local.",
            RecordType::A,
            &["out.default.svc.cluster.local. 5 CNAME example.com."],
        );
    }

    #[test]
    fn pods_have_names_made_of_their_addresses() {
        check(
            "10-1-0-2.default.pod.cluster.local.",
            RecordType::A,
            &["10-1-0-2.default.pod.cluster.local. 5 A 10.1.0.2"],
        );
        check(
            "fd00--2.default.pod.cluster.local.",
            RecordType::AAAA,
            &["fd00--2.default.pod.cluster.local. 5 AAAA fd00::2"],
        );
        check("10-1-0-2.other.pod.cluster.local.", RecordType::A, &["no such name"]);
        check("10-1-0.default.pod.cluster.local.", RecordType::A, &["no such name"]);
    }

    #[test]
    fn addresses_have_names() {
        check(
            "7.0.96.10.in-addr.arpa.",
            RecordType::PTR,
            &["7.0.96.10.in-addr.arpa. 5 PTR web.default.svc.cluster.local."],
        );
        check(
            "2.0.1.10.in-addr.arpa.",
            RecordType::PTR,
            &["2.0.1.10.in-addr.arpa. 5 PTR db-0.db.default.svc.cluster.local."],
        );
        check("9.9.9.9.in-addr.arpa.", RecordType::PTR, &["elsewhere"]);
        check("0.96.10.in-addr.arpa.", RecordType::PTR, &["elsewhere"]);
    }

    #[test]
    fn the_zone_names_its_version_and_authority() {
        check("dns-version.cluster.local.", RecordType::TXT, &["dns-version.cluster.local. 5 TXT 1.1.0"]);
        check(
            "cluster.local.",
            RecordType::SOA,
            &["cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"],
        );
        check("cluster.local.", RecordType::NS, &["cluster.local. 5 NS ns.dns.cluster.local."]);
    }
}
