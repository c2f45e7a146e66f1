//! What may change in a service.

use api::status::Cause;
use api::validation::{Path, cause};
use api::value::Value;

use super::fields::{SINGLE_STACK, is_external_name, is_headless, needs_health_check, text};

/// The rules of updates.
pub(super) fn service(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if !is_external_name(new) && !is_external_name(old) {
        addresses(new, old, &mut causes);
        families(new, old, &mut causes);
    }
    let class = |service: &Value| service.at(&["spec", "loadBalancerClass"]).cloned();
    let balanced = |service: &Value| text(service, "type") == "LoadBalancer";
    if balanced(new) && balanced(old) && class(new) != class(old) {
        let value = class(new).unwrap_or_default();
        causes.push(cause::invalid("spec.loadBalancerClass", value, "may not change once set"));
    }
    let port = |service: &Value| service.int_at(&["spec", "healthCheckNodePort"]).unwrap_or_default();
    if needs_health_check(new) && needs_health_check(old) && port(new) != port(old) {
        causes.push(cause::forbidden("spec.healthCheckNodePort", "field is immutable"));
    }
    causes
}

fn list(service: &Value, field: &str) -> Value {
    service.at(&["spec", field]).cloned().unwrap_or_default()
}

fn addresses(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    if is_headless(new) && is_headless(old) {
        return;
    }
    let path = Path::root("spec").child("clusterIPs");
    let (before, after) = (old.array_at(&["spec", "clusterIPs"]), new.array_at(&["spec", "clusterIPs"]));
    let changed =
        |at: usize| cause::invalid(path.index(at), list(new, "clusterIPs"), "may not change once set");
    if before.len() == after.len() {
        causes.extend((0..before.len()).filter(|at| before[*at] != after[*at]).map(changed));
        return;
    }
    if after.is_empty() {
        let why = "primary clusterIP can not be unset";
        causes.push(cause::invalid(path.index(0), list(new, "clusterIPs"), why));
    } else if before.first().is_some_and(|first| *first != after[0]) {
        causes.push(changed(0));
    }
    if after.len() < before.len() {
        released(new, after.len(), "clusterIP", causes);
    }
}

fn families(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    if is_headless(new) || is_headless(old) {
        return;
    }
    let path = Path::root("spec").child("ipFamilies").index(0);
    let (before, after) = (old.array_at(&["spec", "ipFamilies"]), new.array_at(&["spec", "ipFamilies"]));
    let changed = || cause::invalid(&path, list(new, "ipFamilies"), "may not change once set");
    if before.len() == after.len() {
        causes.extend((0..before.len()).filter(|at| before[*at] != after[*at]).map(|_| changed()));
        return;
    }
    if !before.is_empty() && !after.is_empty() && before[0] != after[0] {
        causes.push(changed());
    }
    if after.len() < before.len() {
        released(new, after.len(), "ipFamily", causes);
    }
}

/// Who gives one of two away must say that one is meant.
fn released(new: &Value, left: usize, what: &str, causes: &mut Vec<Cause>) {
    let policy = text(new, "ipFamilyPolicy");
    if left == 1 && policy != SINGLE_STACK {
        let why = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        causes.push(cause::invalid("spec.ipFamilyPolicy", policy, &why));
    }
}
