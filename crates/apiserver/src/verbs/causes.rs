//! The order of what is wrong with an object. Upstream walks an object member by member; here the table says some of
//! it and the kind's strategy the rest, so the two are put together as that walk would meet them.

use api::status::Cause;
use api::table;

use crate::kinds::Kind;

/// Where a path leads, as numbers that sort like upstream's walk: the members' numbers and the indices of elements.
type Place = Vec<u32>;

/// The strategy's causes in their own order, with each of the table's before the first that comes later in an object.
pub fn merged(kind: &Kind, table: Vec<Cause>, strategy: Vec<Cause>) -> Vec<Cause> {
    if table.is_empty() || strategy.is_empty() {
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

/// The place of a path as `spec.containers[0].name`. What the table does not know ends it.
fn place(kind: &Kind, path: &str) -> Place {
    let types = table::types();
    let mut ty = Some(types.get(kind.stored_facts.ty));
    let mut place = Place::new();
    for part in path.split('.') {
        let (name, indices) = part.split_once('[').unwrap_or((part, ""));
        let Some(field) = ty.and_then(|ty| ty.field(name)) else { break };
        place.push(field.number);
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
        let table = causes(&["spec.dnsPolicy", "spec.containers[0].image", "spec.containers[1].image"]);
        let strategy = causes(&[
            "spec.containers[0].name",
            "spec.containers[0].ports[0].containerPort",
            "spec.restartPolicy",
        ]);
        let paths: Vec<String> = merged(pods, table, strategy).into_iter().map(|cause| cause.field).collect();
        let expect = [
            "spec.containers[0].name",
            "spec.containers[0].image",
            "spec.containers[0].ports[0].containerPort",
            "spec.containers[1].image",
            "spec.restartPolicy",
            "spec.dnsPolicy",
        ];
        assert_eq!(paths, expect);
    }
}
