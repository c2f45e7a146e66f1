//! ComponentStatuses: parts of a control plane that upstream asks over the network how they are. Here store, scheduler
//! and controllers are tasks of the process that answers, so that whoever gets an answer has them.

use std::sync::Arc;

use api::json;
use api::names::GroupResource;
use api::object::Object;
use api::status::Status;

use crate::kinds::Kind;

/// What upstream calls the parts.
const PARTS: [&str; 3] = ["controller-manager", "etcd-0", "scheduler"];

/// All parts, if that is what a kind shows.
pub fn all(kind: &Kind) -> Result<Option<Vec<Arc<Object>>>, Status> {
    if kind.facts.kind != "ComponentStatus" {
        return Ok(None);
    }
    let part = |name: &&str| {
        let tree = json!({
            "apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": (*name)},
            "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]
        });
        Object::from_tree(&tree).map(Arc::new).map_err(Status::internal)
    };
    PARTS.iter().map(part).collect::<Result<_, _>>().map(Some)
}

/// One part, if that is what a kind shows.
pub fn one(kind: &Kind, name: &str) -> Result<Option<Arc<Object>>, Status> {
    let Some(all) = all(kind)? else { return Ok(None) };
    let found = all.into_iter().find(|part| part.name() == name);
    found.map(Some).ok_or_else(|| {
        // Upstream's word is not that of the path.
        let part = GroupResource { group: "".into(), resource: "componentstatus".into() };
        Status::not_found(&part, name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn the_parts_are_there_and_no_others() {
        let kind = kinds::find(&api::names::Resource::known("", "v1", "componentstatuses")).unwrap();
        assert_eq!(all(kind).unwrap().unwrap().len(), 3);
        assert_eq!(one(kind, "etcd-0").unwrap().unwrap().name(), "etcd-0");
        assert_eq!(one(kind, "x").unwrap_err().message, "componentstatus \"x\" not found");
        assert!(all(kinds::find(&api::names::PODS).unwrap()).unwrap().is_none());
    }
}
