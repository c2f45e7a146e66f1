//! Node ports: one number of every node, for one service.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use api::names::SERVICES;
use api::status::Status;
use api::validation::{Path, cause};
use api::value::Value;

use super::addresses::invalid;
use super::fields::{needs_health_check, needs_node_ports, node_ports};
use crate::lookups::Lookups;
use crate::strategy::Context;

/// The numbers that are given; upstream's `--service-node-port-range`.
pub(super) const RANGE: RangeInclusive<i64> = 30000..=32767;
/// How many of them, at the beginning, are given only to those who ask.
const STATIC_BAND: i64 = 86;

/// The numbers in use, read once for a write that needs one.
struct Used(HashSet<i64>);

/// Gives a service the ports that it lacks. Nothing is kept of it but the service itself.
pub(super) fn allocate(new: &mut Value, old: Option<&Value>, context: &Context<'_>) -> Result<(), Status> {
    let wants_ports = needs_node_ports(new);
    let wants_check = needs_health_check(new);
    if !wants_ports && !wants_check {
        return Ok(());
    }
    let own = old.filter(|old| needs_node_ports(old)).map(node_ports).unwrap_or_default();
    let mut used = None;
    if wants_ports {
        allocate_ports(new, &own, &mut used, context)?;
    }
    if wants_check && !old.is_some_and(needs_health_check) {
        allocate_health_check(new, &mut used, context)?;
    }
    Ok(())
}

fn allocate_ports(
    new: &mut Value,
    own: &[i64],
    used: &mut Option<Used>,
    context: &Context<'_>,
) -> Result<(), Status> {
    let automatic = new.str_at(&["spec", "type"]) != Some("LoadBalancer")
        || new.bool_at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(false);
    let mut given: Vec<(i64, i64)> = Vec::new();
    for index in 0..new.array_at(&["spec", "ports"]).len() {
        let port = &new.array_at(&["spec", "ports"])[index];
        let asked = port.int_at(&["nodePort"]).unwrap_or_default();
        let number = port.int_at(&["port"]).unwrap_or_default();
        let mine =
            |node_port: i64| own.contains(&node_port) || given.iter().any(|(_, other)| *other == node_port);
        let node_port = if asked != 0 {
            if !mine(asked) {
                let used = used.get_or_insert_with(|| Used::read(new, context.lookups));
                used.claim(asked, context.dry_run).map_err(|why| {
                    let path = Path::root("spec").child("ports").index(index).child("nodePort");
                    invalid(new, vec![cause::invalid(path, asked, &why)])
                })?;
            }
            asked
        } else if !automatic {
            continue;
        } else if let Some((_, same)) = given.iter().find(|(other, _)| *other == number) {
            // One number serves a port over both TCP and UDP.
            *same
        } else {
            let used = used.get_or_insert_with(|| Used::read(new, context.lookups));
            used.next(context.lookups)
                .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?
        };
        given.push((number, node_port));
        if let Some(port) = new.at_mut(&["spec", "ports"]).and_then(Value::as_array_mut) {
            port[index].set(&["nodePort"], node_port);
        }
    }
    Ok(())
}

fn allocate_health_check(
    new: &mut Value,
    used: &mut Option<Used>,
    context: &Context<'_>,
) -> Result<(), Status> {
    let asked = new.int_at(&["spec", "healthCheckNodePort"]).unwrap_or_default();
    let used = used.get_or_insert_with(|| Used::read(new, context.lookups));
    if asked != 0 {
        return used.claim(asked, context.dry_run).map_err(|why| {
            Status::internal(format!("failed to allocate requested HealthCheck NodePort {asked}: {why}"))
        });
    }
    let port = used
        .next(context.lookups)
        .ok_or_else(|| Status::internal("failed to allocate a HealthCheck NodePort 0: range is full"))?;
    new.set(&["spec", "healthCheckNodePort"], port);
    Ok(())
}

impl Used {
    /// The numbers of all services, and those that `own` asks for itself.
    fn read(own: &Value, lookups: &dyn Lookups) -> Self {
        let identity = |key| own.str_at(&["metadata", key]).unwrap_or_default();
        let mut used = HashSet::new();
        for service in lookups.list(&SERVICES, "") {
            let mine = service.namespace() == identity("namespace") && service.name() == identity("name");
            let tree = service.to_tree();
            if mine {
                // Its own stay taken for what is new in it, and are compared before.
                used.extend(node_ports(&tree));
                continue;
            }
            used.extend(node_ports(&tree));
            used.extend(tree.int_at(&["spec", "healthCheckNodePort"]).filter(|port| *port != 0));
        }
        Self(used)
    }

    /// A dry run allocates nothing, so that the range has no say in it.
    fn claim(&mut self, port: i64, dry_run: bool) -> Result<(), String> {
        if !dry_run && !RANGE.contains(&port) {
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                RANGE.start(),
                RANGE.end()
            ));
        }
        if self.0.insert(port) { Ok(()) } else { Err("provided port is already allocated".to_owned()) }
    }

    /// A free number of the upper band, from a random place on, then of the lower.
    fn next(&mut self, lookups: &dyn Lookups) -> Option<i64> {
        let first = RANGE.start() + STATIC_BAND;
        let count = RANGE.end() - first + 1;
        let start = i64::try_from(lookups.random().below(count.unsigned_abs())).unwrap_or_default();
        let upper = (0..count).map(|i| first + (start + i) % count);
        let port = upper.chain(*RANGE.start()..first).find(|port| !self.0.contains(port))?;
        self.0.insert(port);
        Some(port)
    }
}
