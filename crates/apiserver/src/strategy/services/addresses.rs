//! Cluster addresses: each is an IPAddress object, which comes and goes in the same transaction as its service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::json;
use api::names::{IP_ADDRESSES, SERVICE_CIDRS};
use api::status::{Cause, Status};
use api::validation::address::Cidr;
use api::validation::cause;
use api::value::{Str, Value};

use super::fields::{self, family, is_external_name, is_headless, texts};
use crate::lookups::Lookups;
use crate::strategy::Companion;

/// The name of the ServiceCIDR that the cluster begins with, whose first network says which family is the default.
const DEFAULT_CIDR: &str = "kubernetes";
/// Who made an IPAddress object; controllers leave those of others alone.
const MANAGED_BY: &str = "ipallocator.k8s.io";
/// How many addresses at the beginning of a range are given only to those who ask: at least, and at most.
const STATIC_BAND: (u128, u128) = (16, 256);
/// Of the addresses of a range, one in so many belongs to the static band.
const STATIC_SHARE: u128 = 16;

/// The networks that addresses are taken from.
pub(super) struct Ranges(Vec<Cidr>);

impl Ranges {
    /// Of all ServiceCIDRs that are ready, the cluster's own first.
    pub(super) fn read(lookups: &dyn Lookups) -> Self {
        let mut objects = lookups.list(&SERVICE_CIDRS, "");
        objects.retain(|object| !object.is_deleting());
        objects.sort_by_key(|object| object.name() != DEFAULT_CIDR);
        let trees = objects.iter().map(|object| object.to_tree()).filter(|tree| {
            let conditions = tree.array_at(&["status", "conditions"]);
            !conditions.iter().any(|condition| {
                condition.str_at(&["type"]) == Some("Ready") && condition.str_at(&["status"]) == Some("False")
            })
        });
        Self(trees.flat_map(|tree| cidrs(&tree)).collect())
    }

    pub(super) fn has(&self, family: &str) -> bool {
        self.of(family).next().is_some()
    }

    pub(super) fn default_family(&self) -> &'static str {
        self.0.first().map_or("IPv4", |cidr| fields::family(cidr.address))
    }

    pub(super) fn is_dual_stack(&self) -> bool {
        self.has("IPv4") && self.has("IPv6")
    }

    fn of<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a Cidr> {
        self.0.iter().filter(move |cidr| family(cidr.address) == wanted)
    }
}

fn cidrs(tree: &Value) -> Vec<Cidr> {
    tree.array_at(&["spec", "cidrs"]).iter().filter_map(|cidr| Cidr::parse(cidr.as_str()?)).collect()
}

/// Gives a service the addresses that it lacks and takes back what it no longer has.
pub(super) fn allocate(
    new: &mut Value,
    old: Option<&Value>,
    lookups: &dyn Lookups,
) -> Result<Vec<Companion>, Status> {
    let before = old.map(fields::addresses).unwrap_or_default();
    let mut companions = Vec::new();
    if !is_external_name(new) && !is_headless(new) {
        let ranges = Ranges::read(lookups);
        let families: Vec<Str> = texts(new, "ipFamilies").into_iter().map(Str::from).collect();
        let mut addresses: Vec<Str> = texts(new, "clusterIPs").into_iter().map(Str::from).collect();
        for (index, family) in families.iter().enumerate() {
            let asked = addresses.get(index).cloned().unwrap_or_default();
            if before.contains(&asked) {
                continue;
            }
            let address = if asked.is_empty() {
                next_free(&ranges, family, lookups).ok_or_else(|| full(new))?
            } else {
                claim(&ranges, &asked, lookups).map_err(|why| refused(new, &asked, &why))?
            };
            let text = address.to_string();
            companions.push(reservation(new, address));
            if index < addresses.len() {
                addresses[index] = if asked.is_empty() { text.into() } else { asked };
            } else {
                addresses.push(text.into());
            }
        }
        if let Some(first) = addresses.first().cloned() {
            new.set(&["spec", "clusterIP"], first);
            new.set(&["spec", "clusterIPs"], addresses);
        }
    }
    let after = fields::addresses(new);
    companions.extend(release(before.into_iter().filter(|address| !after.contains(address))));
    Ok(companions)
}

/// Takes addresses back.
pub(super) fn release(addresses: impl Iterator<Item = Str>) -> Vec<Companion> {
    addresses
        .map(|address| {
            // The object is named by the canonical form, which old services may not use.
            let name = address.parse::<IpAddr>().map_or_else(|_| address.clone(), |ip| ip.to_string().into());
            Companion::Delete { resource: IP_ADDRESSES, namespace: Str::default(), name }
        })
        .collect()
}

fn reservation(service: &Value, address: IpAddr) -> Companion {
    let text = |key| service.str_at(&["metadata", key]).unwrap_or_default();
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {"labels": {"ipaddress.kubernetes.io/managed-by": MANAGED_BY}},
        "spec": {"parentRef": {"group": "", "resource": "services"}}
    });
    object.set(&["metadata", "name"], address.to_string());
    object.set(&["metadata", "labels", "ipaddress.kubernetes.io/ip-family"], family(address));
    object.set(&["spec", "parentRef", "namespace"], text("namespace"));
    object.set(&["spec", "parentRef", "name"], text("name"));
    Companion::Create { resource: IP_ADDRESSES, object }
}

fn is_free(address: IpAddr, lookups: &dyn Lookups) -> bool {
    lookups.get(&IP_ADDRESSES, "", &address.to_string()).is_none()
}

/// A free address: first of the upper band, from a random place on, so that those who ask for an address of the
/// lower one find it free.
fn next_free(ranges: &Ranges, family: &str, lookups: &dyn Lookups) -> Option<IpAddr> {
    ranges.of(family).find_map(|cidr| {
        let size = size(cidr);
        let offset = static_band(size);
        let upper = size.checked_sub(offset).filter(|count| *count > 0);
        let start = upper
            .map_or(0, |count| u128::from(lookups.random().below(u64::try_from(count).unwrap_or(u64::MAX))));
        let upper =
            upper.into_iter().flat_map(move |count| (0..count).map(move |i| offset + (start + i) % count));
        upper
            .chain(0..offset.min(size))
            .map(|index| nth(cidr, index))
            .find(|address| is_free(*address, lookups))
    })
}

fn claim(ranges: &Ranges, asked: &str, lookups: &dyn Lookups) -> Result<IpAddr, String> {
    let address: IpAddr = asked.parse().map_err(|_| format!("failed to parse service IP \"{asked}\""))?;
    let cidr = ranges
        .of(family(address))
        .find(|cidr| cidr.contains(address))
        .ok_or("the provided network does not match the current range")?;
    let in_range = bits(address).checked_sub(bits(nth(cidr, 0))).is_some_and(|index| index < size(cidr));
    if !in_range {
        return Err(format!(
            "the provided IP ({address}) is not in the valid range. The range of valid IPs is {}/{}",
            cidr.network(),
            cidr.prefix
        ));
    }
    if is_free(address, lookups) { Ok(address) } else { Err("provided IP is already allocated".to_owned()) }
}

fn full(service: &Value) -> Status {
    let name = service.str_at(&["metadata", "name"]).unwrap_or_default();
    Status::internal(format!("failed to allocate a serviceIP for Service \"{name}\": range is full"))
}

fn refused(service: &Value, asked: &str, why: &str) -> Status {
    let list = service.at(&["spec", "clusterIPs"]).cloned().unwrap_or_default();
    invalid(
        service,
        vec![cause::invalid("spec.clusterIPs", list, &format!("failed to allocate IP {asked}: {why}"))],
    )
}

/// A service that is refused at allocation.
pub(super) fn invalid(service: &Value, causes: Vec<Cause>) -> Status {
    Status::invalid("", "Service", service.str_at(&["metadata", "name"]).unwrap_or_default(), causes)
}

/// How many addresses can be given: all but the network's own and, of IPv4, the broadcast address.
fn size(cidr: &Cidr) -> u128 {
    let bits = if cidr.address.is_ipv4() { 32 } else { 128 } - u32::from(cidr.prefix);
    let all = if bits >= 64 { u128::from(u64::MAX) } else { 1 << bits };
    all.saturating_sub(if cidr.address.is_ipv4() { 2 } else { 1 })
}

fn static_band(size: u128) -> u128 {
    let (least, most) = STATIC_BAND;
    if size <= least { 0 } else { (size / STATIC_SHARE).clamp(least, most) }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address at `index`, counted from the first that can be given.
pub(crate) fn nth(cidr: &Cidr, index: u128) -> IpAddr {
    let number = bits(cidr.network()).saturating_add(1).saturating_add(index);
    match cidr.address {
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_and_sizes_are_upstreams() {
        let check = |cidr: &str, expect: (u128, u128, &str)| {
            let cidr = Cidr::parse(cidr).unwrap();
            let size = size(&cidr);
            assert_eq!((size, static_band(size), nth(&cidr, 0).to_string().as_str()), expect);
        };
        check("10.96.0.0/12", (1_048_574, 256, "10.96.0.1"));
        check("10.0.0.0/24", (254, 16, "10.0.0.1"));
        check("10.0.0.0/28", (14, 0, "10.0.0.1"));
        check("fd00::/112", (65535, 256, "fd00::1"));
    }
}
