//! Which pods use which images, so that nothing is taken away from under what runs.

use api::value::Value as Tree;
use image::{Digest, Reference};

use crate::agent::Node;

/// The pod that names this image and has not come to its end, as `namespace/name`.
pub fn user_of(node: &Node, image: &Reference) -> Option<String> {
    let key = image.key();
    let workers = node.agent.workers();
    let user = workers.iter().map(|worker| worker.desired().object).find(|object| {
        let tree = object.to_tree();
        let over = matches!(tree.str_at(&["status", "phase"]), Some("Succeeded" | "Failed"));
        !over && images_of(&tree).any(|name| name.key() == key)
    })?;
    Some(format!("{}/{}", user.namespace(), user.name()))
}

/// The manifests that containers run. `None` if one runs what no name leads to any more: an agent that has been started
/// anew knows only what the pod's status says, and that may be an index, whose parts would be lost.
pub fn pins(node: &Node) -> Option<Vec<Digest>> {
    let named = node.images.list();
    let mut pins = Vec::new();
    for worker in node.agent.workers() {
        let own = worker.pins();
        for id in image_ids(&worker.desired().object.to_tree()) {
            let found = named.iter().find(|named| {
                id == named.image_id.to_string()
                    || [named.manifest, named.target].iter().any(|digest| id.ends_with(&digest.to_string()))
            });
            match found {
                Some(named) => pins.push(named.manifest),
                None if own.is_empty() => return None,
                None => {}
            }
        }
        pins.extend(own);
    }
    Some(pins)
}

fn images_of(pod: &Tree) -> impl Iterator<Item = Reference> {
    let containers = ["containers", "initContainers"].into_iter();
    let containers = containers.flat_map(|list| pod.array_at(&["spec", list]));
    containers.filter_map(|container| container.str_at(&["image"])?.parse().ok())
}

fn image_ids(pod: &Tree) -> Vec<String> {
    let statuses = ["containerStatuses", "initContainerStatuses"].into_iter();
    let statuses = statuses.flat_map(|list| pod.array_at(&["status", list]));
    let ids = statuses.filter_map(|status| status.str_at(&["imageID"]).filter(|id| !id.is_empty()));
    ids.map(str::to_owned).collect()
}
