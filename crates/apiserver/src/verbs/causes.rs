//! The order of what is wrong with an object. Upstream walks an object member by member; here the table says some of
//! it and the kind's strategy the rest, so the two are put together as that walk would meet them.

use api::status::Cause;
use api::table;

use crate::kinds::Kind;

/// Where a path leads, as numbers that sort like upstream's walk: the members' numbers and the indices of elements.
type Place = Vec<u32>;

/// The strategy's causes in their own order, with each of the table's before the first that comes later in an object.
pub fn merged(kind: &Kind, table: Vec<Cause>, strategy: Vec<Cause>) -> Vec<Cause> {
    // Alone, the table's causes are in its own order, which is upstream's where no type has another.
    let is_ordered = |cause: &Cause| ORDERS.iter().any(|(ty, _)| leads_through(kind, &cause.field, ty));
    if table.is_empty() || strategy.is_empty() && !table.iter().any(is_ordered) {
        return if table.is_empty() { strategy } else { table };
    }
    let mut all: Vec<(Place, Cause)> =
        strategy.into_iter().map(|cause| (place(kind, &cause.field), cause)).collect();
    let mut from = 0;
    let mut table: Vec<(Place, Cause)> =
        table.into_iter().map(|cause| (place(kind, &cause.field), cause)).collect();
    table.sort_by(|one, other| one.0.cmp(&other.0));
    for (place, cause) in table {
        let at = all[from..].iter().position(|(other, _)| *other >= place).map_or(all.len(), |at| from + at);
        all.insert(at, (place, cause));
        from = at + 1;
    }
    all.into_iter().map(|(_, cause)| cause).collect()
}

/// Whether a member of the type `wanted` is on the way of a path.
fn leads_through(kind: &Kind, path: &str, wanted: &str) -> bool {
    let types = table::types();
    let mut ty = types.get(kind.stored_facts.ty);
    for part in path.split('.') {
        if ty.name == wanted {
            return true;
        }
        let (name, indices) = part.split_once('[').unwrap_or((part, ""));
        let Some(field) = ty.field(name) else { return false };
        let mut shape = field.shape;
        for _ in indices.matches(']') {
            let Some(element) = types.element(shape) else { return false };
            shape = element;
        }
        let Some(next) = types.struct_of(shape) else { return false };
        ty = next;
    }
    false
}

/// The place of a path as `spec.containers[0].name`. What the table does not know ends it.
fn place(kind: &Kind, path: &str) -> Place {
    let types = table::types();
    let mut ty = Some(types.get(kind.stored_facts.ty));
    let mut place = Place::new();
    // What is said of metadata is in its order already.
    let parts = path.split('.').take(if path.starts_with("metadata.") { 1 } else { usize::MAX });
    for part in parts {
        let (name, indices) = part.split_once('[').unwrap_or((part, ""));
        let Some(field) = ty.and_then(|ty| ty.field(name)) else { break };
        place.push(ty.map_or(field.number, |ty| rank(ty.name, name, field.number)));
        let mut shape = field.shape;
        for index in indices.split('[').filter_map(|index| index.trim_end_matches(']').parse().ok()) {
            place.push(index);
            let Some(element) = types.element(shape) else { return place };
            shape = element;
        }
        ty = types.struct_of(shape);
    }
    place
}

/// Where upstream judges the members of a type in an order of its own, that order; those that it judges after all
/// others come behind `""`.
const ORDERS: [(&str, &[&str]); 4] = [
    (
        "core/v1.PodSpec",
        &[
            "volumes",
            "resourceClaims",
            "containers",
            "initContainers",
            "ephemeralContainers",
            "resources",
            "restartPolicy",
            "dnsPolicy",
            "nodeSelector",
            "securityContext",
            "shareProcessNamespace",
            "imagePullSecrets",
            "affinity",
            "dnsConfig",
            "readinessGates",
            "schedulingGates",
            "topologySpreadConstraints",
            "hostNetwork",
            "hostnameOverride",
            "serviceAccountName",
            "nodeName",
            "activeDeadlineSeconds",
            "hostname",
            "subdomain",
            "tolerations",
            "hostAliases",
            "priorityClassName",
            "runtimeClassName",
            "preemptionPolicy",
            "overhead",
            "os",
            "terminationGracePeriodSeconds",
        ],
    ),
    (
        "core/v1.Container",
        &[
            "name",
            "image",
            "terminationMessagePolicy",
            "ports",
            "env",
            "envFrom",
            "volumeMounts",
            "volumeDevices",
            "imagePullPolicy",
            "resources",
            "resizePolicy",
            "securityContext",
            "lifecycle",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "restartPolicy",
            "restartPolicyRules",
        ],
    ),
    ("core/v1.Volume", &["", "name"]),
    ("core/v1.FileKeySelector", &["key", "volumeName", "path"]),
];

/// When the member `name` of a type is judged; `number` is the place that it has in the type.
fn rank(ty: &str, name: &str, number: u32) -> u32 {
    let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let Some((_, order)) = ORDERS.iter().find(|(known, _)| *known == ty) else { return number };
    let last = order.first().is_some_and(|first| first.is_empty());
    match order.iter().position(|known| *known == name) {
        Some(at) if last => u32::MAX / 2 + place(at),
        Some(at) => place(at),
        None if last => number,
        None => u32::MAX / 2 + number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use api::names;

    #[test]
    fn the_causes_come_as_the_members_do() {
        let pods = kinds::find(&names::PODS).unwrap();
        let causes = |paths: &[&str]| -> Vec<Cause> {
            paths
                .iter()
                .map(|path| Cause { reason: "".into(), message: String::new(), field: (*path).to_owned() })
                .collect()
        };
        let table = causes(&[
            "spec.dnsPolicy",
            "spec.containers[0].image",
            "spec.containers[0].imagePullPolicy",
            "spec.containers[0].terminationMessagePolicy",
            "spec.containers[1].image",
            "spec.volumes[1].name",
        ]);
        let strategy = causes(&[
            "spec.volumes[1].hostPath.path",
            "spec.containers[0].name",
            "spec.containers[0].ports[0].containerPort",
            "spec.restartPolicy",
        ]);
        let paths: Vec<String> = merged(pods, table, strategy).into_iter().map(|cause| cause.field).collect();
        let expect = [
            "spec.volumes[1].hostPath.path",
            "spec.volumes[1].name",
            "spec.containers[0].name",
            "spec.containers[0].image",
            "spec.containers[0].terminationMessagePolicy",
            "spec.containers[0].ports[0].containerPort",
            "spec.containers[0].imagePullPolicy",
            "spec.containers[1].image",
            "spec.restartPolicy",
            "spec.dnsPolicy",
        ];
        assert_eq!(paths, expect);
    }
}
