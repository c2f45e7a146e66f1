//! Why a node takes no pods, or cannot be drained.

use api::value::Value;
use jiff::Timestamp;

use super::Finding;
use super::world::{World, condition, has_labels, holds, lasting, message, name_of};

/// Headline and findings of a Node.
pub fn node(node: &Value, world: &World, now: Timestamp) -> (String, Vec<Finding>) {
    let name = name_of(node);
    let mut found = Vec::new();
    let ready = holds(node, "Ready");
    if !ready {
        let condition = condition(node, "Ready");
        let since = condition.map(|c| lasting(c, &["lastTransitionTime"], now)).unwrap_or_default();
        let silent = condition.is_none_or(|c| c.str_at(&["status"]) == Some("Unknown"));
        let words = condition.map(message).unwrap_or_default();
        found.push(if silent {
            Finding::new(
                format!("its agent has not been heard{since}"),
                "see whether it runs there (\"ondol status\", \"ondol logs\"); \"ondol up\" or \"ondol agent\" starts it",
            )
        } else {
            Finding::new(format!("its agent says{since} that it is not ready: {words}"), "\"ondol logs\" there tells more")
        });
    }
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
        if let Some(pressed) = condition(node, kind).filter(|c| c.str_at(&["status"]) == Some("True")) {
            let since = lasting(pressed, &["lastTransitionTime"], now);
            found.push(Finding::new(format!("{kind}{since}: {}", message(pressed)), pressure_advice(kind)));
        }
    }
    if node.bool_at(&["spec", "unschedulable"]) == Some(true) {
        found.push(Finding::new("it is cordoned: no new pods come", format!("kubectl uncordon {name}")));
        found.extend(budgets(name, world));
    }
    for taint in node.array_at(&["spec", "taints"]) {
        let key = taint.str_at(&["key"]).unwrap_or_default();
        if !key.starts_with("node.kubernetes.io/") {
            let effect = taint.str_at(&["effect"]).unwrap_or_default();
            found.push(Finding::new(
                format!("the taint {key}:{effect} keeps away pods that do not tolerate it"),
                format!("kubectl taint node {name} {key}-"),
            ));
        }
    }
    let headline = match (ready, found.is_empty()) {
        (true, true) => format!("node/{name} is ready and takes pods"),
        (true, false) => format!("node/{name} is ready, but:"),
        (false, _) => format!("node/{name} is not ready"),
    };
    (headline, found)
}

/// What to do about a condition that says that a node is short of something.
pub fn pressure_advice(kind: &str) -> &'static str {
    match kind {
        "MemoryPressure" => {
            "end programs or pods that use much memory, or give the pods limits; pods come again when there is enough"
        }
        "DiskPressure" => {
            "make room on the disk that holds the node's data (\"ondol status\" says where; other programs' files there \
             count too), or start Ondol on another disk: ondol up --data-dir; waiting pods then come by themselves"
        }
        _ => "end pods or programs that make many processes",
    }
}

/// Budgets that let no pod of a cordoned node go.
fn budgets(node: &str, world: &World) -> Vec<Finding> {
    let pods: Vec<&Value> =
        world.all("Pod").iter().filter(|pod| pod.str_at(&["spec", "nodeName"]) == Some(node)).collect();
    let spent = world
        .all("PodDisruptionBudget")
        .iter()
        .filter(|budget| budget.int_at(&["status", "disruptionsAllowed"]).unwrap_or_default() == 0);
    spent
        .filter_map(|budget| {
            let labels = budget.at(&["spec", "selector", "matchLabels"])?;
            let namespace = budget.str_at(&["metadata", "namespace"]);
            let held = pods
                .iter()
                .filter(|pod| pod.str_at(&["metadata", "namespace"]) == namespace && has_labels(pod, labels))
                .count();
            (held > 0).then(|| {
                Finding::new(
                    format!(
                        "the PodDisruptionBudget {} lets none of its {held} pods here go",
                        name_of(budget)
                    ),
                    "make more replicas ready, or allow more disruption in the budget",
                )
            })
        })
        .collect()
}
