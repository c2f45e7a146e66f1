//! Controllers that look at every kind.

use api::names::Resource;
use api::object::Object;
use api::table::{KindFacts, kinds};
use control::mirror::Key;

/// All resources that are stored, each once (in its preferred version) however many groups and versions show it.
pub fn resources() -> Vec<&'static KindFacts> {
    let mut stored: Vec<&KindFacts> = Vec::new();
    for kind in kinds().iter().filter(|kind| kind.storage.is_some() && kind.can("list") && kind.can("delete"))
    {
        let known = stored.iter().any(|other| other.storage == kind.storage && other.kind == kind.kind);
        let preferred =
            kinds().preferred(kind.group, kind.resource).is_some_and(|best| std::ptr::eq(best, kind));
        if !known && preferred {
            stored.push(kind);
        }
    }
    stored
}

/// The resource of a kind.
pub fn resource(kind: &KindFacts) -> Resource {
    Resource::known(kind.group, kind.version, kind.resource)
}

/// The resource that an owner reference or an object names by `apiVersion` and `kind`; the kind may be in small
/// letters, as upstream's mapper takes it.
pub fn resource_of(api_version: &str, kind: &str) -> Option<&'static KindFacts> {
    let (group, version) = api::names::split_api_version(api_version);
    let small = |known: &&KindFacts| {
        known.group == group && known.version == version && known.kind.to_lowercase() == kind
    };
    kinds().by_kind(group, version, kind).or_else(|| kinds().iter().find(small))
}

/// A key that also says of what kind the object is: `deployments.apps/web`.
pub fn key_of(object: &Object) -> Option<Key> {
    let kind = kinds().by_kind(&object.kind().group, &object.kind().version, &object.kind().kind)?;
    let name = format!("{}.{}/{}", kind.resource, kind.group, object.name());
    Some(Key::new(object.namespace(), &name))
}

/// What a key of [`key_of`] names: the resource and the object's name.
pub fn read_key(key: &Key) -> Option<(Resource, &str)> {
    let (kind, name) = key.name.split_once('/')?;
    let (resource_name, group) = kind.split_once('.')?;
    Some((resource(kinds().preferred(group, resource_name)?), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_in_their_own_and_in_small_letters() {
        let found = |kind: &str| resource_of("v1", kind).map(|kind| kind.resource);
        assert_eq!(found("ConfigMap"), Some("configmaps"));
        assert_eq!(found("configmap"), Some("configmaps"));
        assert_eq!((found("configMap"), found("CONFIGMAP"), found("deployment")), (None, None, None));
    }

    #[test]
    fn every_stored_kind_is_listed_once() {
        let all = resources();
        let count = |name: &str| all.iter().filter(|kind| kind.resource == name).count();
        assert_eq!((count("events"), count("horizontalpodautoscalers"), count("pods")), (1, 1, 1));
        assert_eq!(count("tokenreviews"), 0, "what is only asked is not stored");
    }
}
