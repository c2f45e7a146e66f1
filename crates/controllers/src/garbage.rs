//! The garbage collector: what becomes of objects when their owners go.
//!
//! Upstream keeps a graph of all objects; here the mirrors' index of owners is that graph.

use std::sync::Arc;

use api::interface::{DeleteOptions, PatchKind, Propagation, Target};
use api::json;
use api::names::Resource;
use api::object::{Object, Owner};
use api::status::Reason;
use api::value::Value;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::recorder::Note;
use control::world::World;
use jiff::Timestamp;

use crate::every;

/// Finalizer of an owner whose dependents stay.
const ORPHAN: &str = "orphan";
/// Finalizer of an owner that goes after its dependents.
const FOREGROUND: &str = "foregroundDeletion";

/// The garbage collector. Its keys name kinds too ([`every::key_of`]).
pub struct Garbage;

impl Controller for Garbage {
    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        every::resources().into_iter().map(|kind| Watches::mapped(&every::resource(kind), keys)).collect()
    }

    fn plan(&self, world: &World, key: &Key, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some((resource, name)) = every::read_key(key) else { return plan };
        let Some(object) = world.get(&resource, &key.namespace, name) else { return plan };
        if object.is_deleting() {
            let finalizers = finalizers(&object);
            if finalizers.iter().any(|finalizer| finalizer == ORPHAN) {
                return orphan_dependents(world, &resource, &object, &finalizers);
            }
            if finalizers.iter().any(|finalizer| finalizer == FOREGROUND) {
                return delete_dependents_first(world, &resource, &object, &finalizers);
            }
            return plan;
        }
        if !object.owners().is_empty() {
            collect(&mut plan, world, &resource, &object);
        }
        plan
    }
}

/// An object leads to itself; one that goes, or begins to, also to its dependents; one that holds owners up no longer,
/// because it is gone, was released or blocks them no more, to those owners, which may have waited for it.
fn keys(world: &World, change: &Change) -> Vec<Key> {
    let mut keys: Vec<Key> = change.new.as_deref().and_then(every::key_of).into_iter().collect();
    let going = change.new.as_deref().is_none_or(Object::is_deleting);
    let object = change.old.as_deref().or(change.new.as_deref());
    if let Some(object) = object.filter(|_| going) {
        keys.extend(
            dependents(world, object.uid()).iter().filter_map(|(_, dependent)| every::key_of(dependent)),
        );
    }
    if let Some(old) = change.old.as_deref() {
        let left = change.new.as_deref().map(Object::owners).unwrap_or_default();
        let still = |owner: &Owner| left.iter().any(|now| now.uid == owner.uid && now.block_owner_deletion);
        let freed = old.owners().iter().filter(|owner| !still(owner));
        let owners = freed.filter_map(|owner| find_owner(world, old, owner));
        keys.extend(owners.filter_map(|(_, owner)| every::key_of(&owner)));
    }
    keys
}

fn finalizers(object: &Object) -> Vec<String> {
    let tree = object.to_tree();
    let finalizers = tree.array_at(&["metadata", "finalizers"]).iter();
    finalizers.filter_map(|finalizer| finalizer.as_str().map(str::to_owned)).collect()
}

/// Whether an object waits for its dependents before it goes.
fn goes_in_foreground(object: &Object) -> bool {
    object.is_deleting() && finalizers(object).iter().any(|finalizer| finalizer == FOREGROUND)
}

fn dependents(world: &World, uid: &str) -> Vec<(Resource, Arc<Object>)> {
    let owned = world.mirrors().flat_map(|mirror| {
        let resource = mirror.resource().clone();
        mirror.owned_by(uid).into_iter().map(move |object| (resource.clone(), object))
    });
    owned.collect()
}

/// The owner itself, if the mirrors know it. An owner without a namespace may own everywhere; one with a namespace
/// only in its own.
fn find_owner(world: &World, dependent: &Object, owner: &Owner) -> Option<(Resource, Arc<Object>)> {
    let target = owner_target(dependent, owner)?;
    let found = world.try_mirror(&target.resource)?.get(&target.namespace, &target.name)?;
    (found.uid() == owner.uid).then_some((target.resource, found))
}

/// Where an owner would be; `None` if its kind is unknown to us, and then nobody is collected for it.
fn owner_target(dependent: &Object, owner: &Owner) -> Option<Target> {
    let kind = every::resource_of(&owner.api_version, &owner.kind)?;
    let preferred = api::table::kinds().preferred(kind.group, kind.resource)?;
    let namespace = if kind.namespaced { dependent.namespace() } else { "" };
    Some(Target::new(&every::resource(preferred), namespace, &owner.name))
}

/// Deletes an object whose owners are all gone, or takes the gone ones off its list.
fn collect(plan: &mut Plan, world: &World, resource: &Resource, object: &Arc<Object>) {
    let (mut solid, mut waiting, mut dangling) = (0, Vec::new(), Vec::new());
    for owner in object.owners() {
        let Some(target) = owner_target(object, owner) else {
            solid += 1;
            continue;
        };
        // An owner with a namespace cannot own what has none; that is a mistake, not garbage.
        if object.namespace().is_empty()
            && every::resource_of(&owner.api_version, &owner.kind).is_some_and(|k| k.namespaced)
        {
            plan.note(elsewhere(object, owner));
            solid += 1;
            continue;
        }
        match find_owner(world, object, owner) {
            None => {
                if lives_elsewhere(world, owner, &target) {
                    plan.note(elsewhere(object, owner));
                }
                dangling.push((owner, target));
            }
            Some((_, found)) if goes_in_foreground(&found) => waiting.push(owner),
            Some(_) => solid += 1,
        }
    }
    if dangling.is_empty() && waiting.is_empty() {
        return;
    }
    // Mirrors may lag behind each other; the server decides whether an owner is really gone.
    for (owner, target) in &dangling {
        plan.write(Write::require_absent(target.clone(), &owner.uid));
    }
    plan.then();
    if solid > 0 {
        let gone = dangling.iter().map(|(owner, _)| *owner).chain(waiting);
        let references: Vec<Value> =
            gone.map(|owner| json!({"$patch": "delete", "uid": (owner.uid.clone())})).collect();
        plan.write(change_owners(resource, object, references));
        return;
    }
    let dependents = dependents(world, object.uid());
    let propagation = if !waiting.is_empty() && !dependents.is_empty() {
        // Owners in a circle would wait for each other: the object lets go of its own first, as upstream does.
        if dependents.iter().any(|(_, dependent)| goes_in_foreground(dependent)) {
            let blocking = object.owners().iter().filter(|owner| owner.block_owner_deletion);
            let references: Vec<Value> = blocking
                .map(|owner| json!({"uid": (owner.uid.clone()), "blockOwnerDeletion": false}))
                .collect();
            if !references.is_empty() {
                plan.write(change_owners(resource, object, references));
                plan.then();
            }
        }
        Propagation::Foreground
    } else {
        let finalizers = finalizers(object);
        let has = |name| finalizers.iter().any(|finalizer| finalizer == name);
        if has(ORPHAN) {
            Propagation::Orphan
        } else if has(FOREGROUND) {
            Propagation::Foreground
        } else {
            Propagation::Background
        }
    };
    let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
    plan.write(Write::delete(resource, object, options));
}

/// Whether an owner that is missing is in another namespace, where it owns nothing of this one.
fn lives_elsewhere(world: &World, owner: &Owner, target: &Target) -> bool {
    let mirror = world.try_mirror(&target.resource).filter(|_| !target.namespace.is_empty());
    mirror.is_some_and(|mirror| mirror.list("").iter().any(|other| other.uid() == owner.uid))
}

/// Says that an owner is not where its dependent is.
fn elsewhere(object: &Arc<Object>, owner: &Owner) -> Note {
    let Owner { api_version, kind, name, uid, .. } = owner;
    let namespace = object.namespace();
    let message = format!(
        "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in \
         namespace \"{namespace}\""
    );
    Note::warning(object, "OwnerRefInvalidNamespace", message)
}

/// Merges `references` into the owners of an object, by their uids.
fn change_owners(resource: &Resource, object: &Object, references: Vec<Value>) -> Write {
    let patch = json!({"metadata": {"uid": (object.uid()), "ownerReferences": references}});
    let target = Target::new(resource, object.namespace(), object.name());
    Write::patch(target, PatchKind::StrategicMerge, &patch)
}

/// Frees all dependents, then lets the owner go.
fn orphan_dependents(world: &World, resource: &Resource, owner: &Object, finalizers: &[String]) -> Plan {
    let mut plan = Plan::nothing();
    for (dependent_resource, dependent) in dependents(world, owner.uid()) {
        let reference = json!({"$patch": "delete", "uid": (owner.uid())});
        let write = change_owners(&dependent_resource, &dependent, vec![reference]);
        plan.write(write.tolerating(&[Reason::NotFound]));
    }
    plan.then();
    plan.write(without_finalizer(resource, owner, finalizers, ORPHAN));
    plan
}

/// Waits for the dependents that block, then lets the owner go. Their own plans delete them.
fn delete_dependents_first(
    world: &World,
    resource: &Resource,
    owner: &Object,
    finalizers: &[String],
) -> Plan {
    let mut plan = Plan::nothing();
    let blocks = |dependent: &Object| {
        dependent
            .owners()
            .iter()
            .any(|reference| reference.uid == owner.uid() && reference.block_owner_deletion)
    };
    let dependents = dependents(world, owner.uid());
    if !dependents.iter().any(|(_, dependent)| blocks(dependent)) {
        plan.write(without_finalizer(resource, owner, finalizers, FOREGROUND));
    }
    plan
}

fn without_finalizer(resource: &Resource, object: &Object, finalizers: &[String], finalizer: &str) -> Write {
    let left: Vec<Value> =
        finalizers.iter().filter(|name| *name != finalizer).map(|name| Value::from(name.as_str())).collect();
    // Guarded by the revision: a finalizer that somebody has added meanwhile must not be lost.
    let patch = json!({"metadata": {
        "uid": (object.uid()), "resourceVersion": (object.revision().to_string()), "finalizers": left
    }});
    Write::merge(Target::new(resource, object.namespace(), object.name()), &patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Stage;
    use api::names::CONFIG_MAPS;

    /// A ConfigMap with owners (blocking), and with finalizers if it is going.
    fn map(name: &str, owners: &[&str], finalizers: &[&str]) -> Value {
        let owners: Vec<Value> = owners
            .iter()
            .map(|owner| {
                json!({"apiVersion": "v1", "kind": "ConfigMap", "name": (*owner), "uid": (*owner),
                    "blockOwnerDeletion": true})
            })
            .collect();
        let mut tree = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
            "name": name, "namespace": "d", "uid": name, "resourceVersion": "7", "ownerReferences": owners}});
        if !finalizers.is_empty() {
            let finalizers: Vec<Value> = finalizers.iter().map(|name| Value::from(*name)).collect();
            tree.set(&["metadata", "finalizers"], finalizers);
            tree.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
        }
        tree
    }

    fn stage(maps: &[Value]) -> Stage<Garbage> {
        let stage = Stage::new(Garbage);
        maps.iter().for_each(|map| stage.put(&CONFIG_MAPS, map.clone()));
        stage
    }

    #[test]
    fn what_has_lost_its_owners_goes_and_what_has_one_left_stays() {
        let stage = stage(&[map("b", &["a"], &[]), map("c", &["a", "x"], &[]), map("x", &[], &[])]);
        stage.check("d/configmaps./b", &["require gone configmaps d/a", "delete configmaps d/b"]);
        stage.check(
            "d/configmaps./c",
            &[
                "require gone configmaps d/a",
                r#"patch configmaps d/c {"metadata":{"ownerReferences":[{"$patch":"delete","uid":"a"}],"uid":"c"}}"#,
            ],
        );
        stage.check("d/configmaps./x", &[]);
    }

    #[test]
    fn an_owner_in_another_namespace_owns_nothing_here_and_that_is_said() {
        let mut owner = map("a", &[], &[]);
        owner.set(&["metadata", "namespace"], "e");
        let stage = stage(&[owner, map("b", &["a"], &[])]);
        stage.check(
            "d/configmaps./b",
            &[
                "require gone configmaps d/a",
                "delete configmaps d/b",
                r#"Warning OwnerRefInvalidNamespace: ownerRef [v1/ConfigMap, namespace: d, name: a, uid: a] does not exist in namespace "d""#,
            ],
        );
    }

    #[test]
    fn an_owner_in_the_foreground_waits_for_what_blocks_it() {
        let stage = stage(&[map("a", &[], &[FOREGROUND]), map("b", &["a"], &[])]);
        stage.check("d/configmaps./a", &[]);
        stage.check("d/configmaps./b", &["delete configmaps d/b"]);
        let free = stage.keys_of_going(&CONFIG_MAPS, map("b", &["a"], &[]));
        assert!(free.contains(&"d/configmaps./a".to_owned()), "{free:?}");
        stage.check(
            "d/configmaps./a",
            &[r#"patch configmaps d/a {"metadata":{"finalizers":[],"resourceVersion":"7","uid":"a"}}"#],
        );
    }

    /// Puts a changed object, and requires that the change leads to an owner in the foreground, which then goes.
    #[track_caller]
    fn check_freed(stage: &Stage<Garbage>, old: Value, new: Value, owner: &str) {
        let object = |tree: &Value| Some(Arc::new(Object::from_tree(tree).expect("it is an object")));
        stage.put(&CONFIG_MAPS, new.clone());
        let keys = stage.keys(&CONFIG_MAPS, &Change { old: object(&old), new: object(&new) });
        let key = format!("d/configmaps./{owner}");
        assert!(keys.contains(&key), "{keys:?} lead nobody to {owner}");
        let free = format!(
            r#"patch configmaps d/{owner} {{"metadata":{{"finalizers":[],"resourceVersion":"7","uid":"{owner}"}}}}"#
        );
        stage.check(&key, &[&free]);
    }

    #[test]
    fn an_owner_in_the_foreground_goes_when_what_blocks_it_is_released() {
        let both = map("d", &["a", "b"], &[]);
        let stage = stage(&[map("a", &[], &[FOREGROUND]), map("b", &[], &[]), both.clone()]);
        stage.check("d/configmaps./a", &[]);
        stage.check(
            "d/configmaps./d",
            &[r#"patch configmaps d/d {"metadata":{"ownerReferences":[{"$patch":"delete","uid":"a"}],"uid":"d"}}"#],
        );
        check_freed(&stage, both, map("d", &["b"], &[]), "a");
        // Somebody else may release it too, and it may be going itself, held by a finalizer of its own.
        stage.put(&CONFIG_MAPS, map("e", &["a"], &["x/y"]));
        stage.check("d/configmaps./a", &[]);
        check_freed(&stage, map("e", &["a"], &["x/y"]), map("e", &[], &["x/y"]), "a");
    }

    #[test]
    fn an_owner_in_the_foreground_goes_when_a_dependent_blocks_it_no_more() {
        // A ring of three: a is owned by b, b by c, c by a. All go in the foreground; b lets go of c.
        let free = |mut tree: Value| {
            let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "c",
                "blockOwnerDeletion": false});
            tree.set(&["metadata", "ownerReferences"], vec![reference]);
            tree
        };
        let b = map("b", &["c"], &[]);
        let stage = stage(&[map("a", &["b"], &[FOREGROUND]), b.clone(), map("c", &["a"], &[FOREGROUND])]);
        stage.check("d/configmaps./c", &[]);
        check_freed(&stage, b.clone(), free(b), "c");
        // What changes and blocks on leads nobody to its owner: that would be every status of every pod.
        let same = Arc::new(Object::from_tree(&map("b", &["c"], &[])).expect("it is an object"));
        let keys = stage.keys(&CONFIG_MAPS, &Change { old: Some(same.clone()), new: Some(same) });
        assert_eq!(keys, ["d/configmaps./b"]);
    }

    #[test]
    fn owners_in_a_circle_do_not_wait_for_each_other() {
        let stage = stage(&[map("a", &["b"], &[FOREGROUND]), map("b", &["a"], &[])]);
        stage.check(
            "d/configmaps./b",
            &[
                r#"patch configmaps d/b {"metadata":{"ownerReferences":[{"blockOwnerDeletion":false,"uid":"a"}],"uid":"b"}}"#,
                "delete configmaps d/b",
            ],
        );
    }

    #[test]
    fn orphans_are_freed_before_their_owner_goes() {
        let stage = stage(&[map("a", &[], &[ORPHAN]), map("b", &["a"], &[])]);
        stage.check(
            "d/configmaps./a",
            &[
                r#"patch configmaps d/b {"metadata":{"ownerReferences":[{"$patch":"delete","uid":"a"}],"uid":"b"}}"#,
                r#"patch configmaps d/a {"metadata":{"finalizers":[],"resourceVersion":"7","uid":"a"}}"#,
            ],
        );
    }
}
