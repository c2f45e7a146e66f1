//! Owner references: who belongs to whom, who is adopted, who is let go.

use std::sync::Arc;

use api::interface::{PatchKind, Target};
use api::json;
use api::names::Resource;
use api::object::Object;
use api::selector::label::Selector;
use api::value::Value;
use control::plan::Write;

/// The reference by which `owner` controls an object (`metav1.NewControllerRef`).
pub fn controller_reference(owner: &Object) -> Value {
    json!({
        "apiVersion": (owner.kind().api_version()),
        "kind": (owner.kind().kind.clone()),
        "name": (owner.name()),
        "uid": (owner.uid()),
        "controller": true,
        "blockOwnerDeletion": true
    })
}

/// Who of some candidates belongs to an owner, and what makes it so.
#[derive(Debug, Default)]
pub struct Claim {
    /// Controlled by the owner, or about to be.
    pub owned: Vec<Arc<Object>>,
    /// Adoptions and releases.
    pub writes: Vec<Write>,
}

/// Sorts `candidates` as upstream's controller reference manager does: those that the owner controls stay if the
/// selector matches them and are released otherwise; matching ones that nobody controls are adopted. An owner that
/// is going away adopts and releases nobody.
pub fn claim(
    owner: &Object,
    selector: &Selector,
    resource: &Resource,
    candidates: Vec<Arc<Object>>,
) -> Claim {
    let mut claim = Claim::default();
    for candidate in candidates {
        let matches = selector.matches(candidate.labels());
        match candidate.controller() {
            Some(controller) if controller.uid != owner.uid() => {}
            Some(_) if matches => claim.owned.push(candidate),
            Some(_) => {
                if !owner.is_deleting() {
                    let reference = json!({"$patch": "delete", "uid": (owner.uid())});
                    claim.writes.push(own(resource, &candidate, reference));
                }
            }
            None => {
                if matches && !owner.is_deleting() && !candidate.is_deleting() {
                    claim.writes.push(own(resource, &candidate, controller_reference(owner)));
                    claim.owned.push(candidate);
                }
            }
        }
    }
    claim
}

fn own(resource: &Resource, object: &Object, reference: Value) -> Write {
    let references = Value::Array(vec![reference]);
    let patch = json!({"metadata": {"uid": (object.uid()), "ownerReferences": references}});
    let target = Target::new(resource, object.namespace(), object.name());
    Write::patch(target, PatchKind::StrategicMerge, &patch)
}
