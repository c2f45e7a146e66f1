//! Namespaces: emptying those that go away.

use api::interface::{Collection, DeleteOptions, Propagation, Target};
use api::json;
use api::names::NAMESPACES;
use api::object::Object;
use api::value::Value;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::world::World;
use jiff::Timestamp;

use crate::condition;
use crate::every;

/// The finalizer that is ours.
const FINALIZER: &str = "kubernetes";

/// The namespace controller.
pub struct Namespaces;

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        let contents = every::resources().into_iter().filter(|kind| kind.namespaced);
        let contents = contents.map(|kind| Watches::mapped(&every::resource(kind), namespace_of_gone));
        std::iter::once(Watches::itself(&NAMESPACES)).chain(contents).collect()
    }

    fn plan(&self, world: &World, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(object) = world.get(&NAMESPACES, "", &key.name) else { return plan };
        let tree = object.to_tree();
        let finalizers = tree.array_at(&["spec", "finalizers"]);
        let ours = finalizers.iter().any(|finalizer| finalizer.as_str() == Some(FINALIZER));
        if !object.is_deleting() || !ours {
            return plan;
        }
        let contents = contents(world, &key.name);
        report(&mut plan, &object, &tree, &contents, now);
        plan.then();
        for (collection, objects) in &contents {
            // What is already on its way needs no second push.
            if objects.iter().any(|object| !object.is_deleting()) {
                let options =
                    DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
                plan.write(Write::delete_collection(collection.clone(), options));
            }
        }
        if contents.is_empty() {
            finalize(&mut plan, &object, &tree, finalizers);
        }
        plan
    }
}

/// What is left in a namespace, by resource.
fn contents(world: &World, namespace: &str) -> Vec<(Collection, Vec<std::sync::Arc<Object>>)> {
    let kinds = every::resources().into_iter().filter(|kind| kind.namespaced);
    let listed = kinds.map(|kind| {
        let resource = every::resource(kind);
        let objects = world.list(&resource, namespace);
        (Collection::new(&resource, namespace), objects)
    });
    listed.filter(|(_, objects)| !objects.is_empty()).collect()
}

/// Lets the namespace go once the server itself says that nothing is left; the mirrors may not know the last
/// objects yet.
fn finalize(plan: &mut Plan, object: &Object, tree: &Value, finalizers: &[Value]) {
    plan.then();
    for kind in every::resources().into_iter().filter(|kind| kind.namespaced) {
        plan.write(Write::require_empty(Collection::new(&every::resource(kind), object.name())));
    }
    plan.then();
    let mut finalized = tree.clone();
    let left: Vec<Value> = finalizers.iter().filter(|f| f.as_str() != Some(FINALIZER)).cloned().collect();
    finalized.set(&["spec", "finalizers"], left);
    let target = Target::new(&NAMESPACES, "", object.name()).subresource("finalize");
    plan.write(Write::update(target, &finalized));
}

/// The conditions by which users see what a namespace waits for (KEP-4631's words).
fn report(
    plan: &mut Plan,
    object: &Object,
    tree: &Value,
    contents: &[(Collection, Vec<std::sync::Arc<Object>>)],
    now: Timestamp,
) {
    let mut conditions = tree.array_at(&["status", "conditions"]).to_vec();
    let found = [
        ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
    ];
    for (kind, reason, message) in found {
        condition::update(&mut conditions, condition::new(kind, "False", reason, message, now));
    }
    // What has been asked to go and is still there; before anything was asked, all.
    let asked = contents.iter().any(|(_, objects)| objects.iter().any(|object| object.is_deleting()));
    let remaining: Vec<String> = contents
        .iter()
        .map(|(collection, objects)| {
            (collection, objects.iter().filter(|object| !asked || object.is_deleting()).count())
        })
        .filter(|(_, count)| *count > 0)
        .map(|(collection, count)| {
            let (resource, group) = (&collection.resource.resource, &collection.resource.group);
            format!("{resource}.{group} has {count} resource instances")
        })
        .collect();
    let new = if remaining.is_empty() {
        condition::new(
            "NamespaceContentRemaining",
            "False",
            "ContentRemoved",
            "All content successfully removed",
            now,
        )
    } else {
        let message = format!("Some resources are remaining: {}", remaining.join(", "));
        condition::new("NamespaceContentRemaining", "True", "SomeResourcesRemain", &message, now)
    };
    condition::update(&mut conditions, new);
    let waiting = finalizers_of(contents);
    let new = if waiting.is_empty() {
        let message = "All content-preserving finalizers finished";
        condition::new("NamespaceFinalizersRemaining", "False", "ContentHasNoFinalizers", message, now)
    } else {
        let message =
            format!("Some content in the namespace has finalizers remaining: {}", waiting.join(", "));
        condition::new("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", &message, now)
    };
    condition::update(&mut conditions, new);
    if conditions != tree.array_at(&["status", "conditions"]) {
        let patch = json!({"metadata": {"uid": (object.uid())}, "status": {"conditions": conditions}});
        let target = Target::new(&NAMESPACES, "", object.name()).subresource("status");
        plan.write(Write::merge(target, &patch));
    }
}

fn finalizers_of(contents: &[(Collection, Vec<std::sync::Arc<Object>>)]) -> Vec<String> {
    let mut counts: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    // Only those that are on their way and wait: the others have not been asked yet.
    for object in contents.iter().flat_map(|(_, objects)| objects).filter(|object| object.is_deleting()) {
        for finalizer in object.to_tree().array_at(&["metadata", "finalizers"]) {
            *counts.entry(finalizer.as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    counts
        .into_iter()
        .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
        .collect()
}

/// Whatever goes from a namespace that is going may have been the last thing in it.
fn namespace_of_gone(world: &World, change: &Change) -> Vec<Key> {
    let Some(object) = change.either() else { return Vec::new() };
    let namespace = world.get(&NAMESPACES, "", object.namespace());
    let going = namespace.is_some_and(|namespace| namespace.is_deleting());
    // Pods report often while they end; only their going matters.
    let matters = change.new.is_none() || *object.kind().kind != *"Pod";
    if going && matters { vec![Key::new("", object.namespace())] } else { Vec::new() }
}
