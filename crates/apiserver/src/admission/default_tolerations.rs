//! A pod stays for a while on a node that is lost, in case that the node comes back.

use api::json;
use api::status::Status;
use api::value::Value;

use super::{Attributes, Operation, Plugin};
use crate::lookups::Lookups;

/// The taints, and how long they are borne, in seconds.
const TOLERATED: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const TOLERATION_SECONDS: i64 = 300;

pub(super) struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn mutate(&self, attributes: &mut Attributes<'_>, _lookups: &dyn Lookups) -> Result<(), Status> {
        if !attributes.is("", "pods")
            || !matches!(attributes.operation, Operation::Create | Operation::Update)
        {
            return Ok(());
        }
        let Some(pod) = attributes.object.as_deref_mut() else { return Ok(()) };
        let mut tolerations = pod.array_at(&["spec", "tolerations"]).to_vec();
        let before = tolerations.len();
        for taint in TOLERATED {
            if !tolerations[..before].iter().any(|toleration| covers(toleration, taint)) {
                tolerations.push(json!({"key": taint, "operator": "Exists", "effect": "NoExecute",
                    "tolerationSeconds": TOLERATION_SECONDS}));
            }
        }
        if tolerations.len() > before {
            pod.set(&["spec", "tolerations"], tolerations);
        }
        Ok(())
    }
}

fn covers(toleration: &Value, taint: &str) -> bool {
    let text = |key: &str| toleration.str_at(&[key]).unwrap_or_default();
    (text("key") == taint || text("key").is_empty()) && matches!(text("effect"), "NoExecute" | "")
}

#[cfg(test)]
mod tests {
    use super::super::testing::Case;
    use super::*;

    #[test]
    fn what_is_tolerated_already_is_left() {
        let check = |tolerations: Value, expect: usize| {
            let mut pod = json!({"metadata": {"name": "p"}});
            pod.set(&["spec", "tolerations"], tolerations);
            let pod = Case::pod(pod).mutate(&DefaultTolerationSeconds).unwrap();
            assert_eq!(pod.array_at(&["spec", "tolerations"]).len(), expect);
        };
        check(json!([]), 2);
        check(json!([{"operator": "Exists"}]), 1);
        check(
            json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}]),
            2,
        );
    }
}
