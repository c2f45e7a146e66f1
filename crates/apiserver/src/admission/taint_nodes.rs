//! A new node takes no pods before it says that it is ready.

use api::json;
use api::status::Status;

use super::{Attributes, Operation, Plugin};
use crate::lookups::Lookups;

/// The taint of nodes that are not ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn mutate(&self, attributes: &mut Attributes<'_>, _lookups: &dyn Lookups) -> Result<(), Status> {
        if !attributes.is("", "nodes") || attributes.operation != Operation::Create {
            return Ok(());
        }
        let Some(node) = attributes.object.as_deref_mut() else { return Ok(()) };
        let mut taints = node.array_at(&["spec", "taints"]).to_vec();
        let there = taints.iter().any(|taint| {
            taint.str_at(&["key"]) == Some(NOT_READY) && taint.str_at(&["effect"]) == Some("NoSchedule")
        });
        if !there {
            taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
            node.set(&["spec", "taints"], taints);
        }
        Ok(())
    }
}
