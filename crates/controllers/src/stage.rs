//! A small world for the tests of one controller.

use std::sync::Arc;

use api::interface::{Call, WatchEvent};
use api::names::Resource;
use api::object::Object;
use api::value::Value;
use control::mirror::{Change, Key};
use control::plan::{Check, Controller, Plan};
use control::world::World;
use jiff::Timestamp;

/// One controller and exactly the mirrors that it says it watches.
pub struct Stage<C> {
    /// Who is tested.
    pub controller: C,
    /// What it sees.
    pub world: World,
    /// What time it is.
    pub now: Timestamp,
}

impl<C: Controller> Stage<C> {
    /// An empty world on the first of January 2026.
    pub fn new(controller: C) -> Self {
        let mut world = World::new();
        controller.watches().iter().for_each(|watches| world.ensure(&watches.resource));
        Self { controller, world, now: "2026-01-01T00:00:00Z".parse().unwrap() }
    }

    /// Sets the clock, as `2026-01-01T00:00:00Z`.
    pub fn at(&mut self, now: &str) {
        self.now = now.parse().unwrap();
    }

    /// Puts an object, new or changed.
    pub fn put(&self, resource: &Resource, tree: Value) {
        let object = Object::from_tree(&tree).unwrap();
        self.world.mirror(resource).apply(WatchEvent::Added(Arc::new(object)));
    }

    /// Takes an object away; gives the keys that its going leads to.
    pub fn keys_of_going(&self, resource: &Resource, tree: Value) -> Vec<String> {
        let object = Arc::new(Object::from_tree(&tree).unwrap());
        self.world.mirror(resource).apply(WatchEvent::Deleted(object.clone()));
        self.keys(resource, &Change { old: Some(object), new: None })
    }

    /// The keys that a change leads to, as `namespace/name`.
    pub fn keys(&self, resource: &Resource, change: &Change) -> Vec<String> {
        let watches = self.controller.watches();
        let of = watches.iter().filter(|watches| watches.resource == *resource);
        let keys = of.flat_map(|watches| (watches.keys)(&self.world, change));
        keys.map(|key| format!("{}/{}", key.namespace, key.name)).collect()
    }

    /// The plan for `namespace/name`.
    pub fn plan(&self, key: &str) -> Plan {
        let (namespace, name) = key.split_once('/').unwrap();
        self.controller.plan(&self.world, &Key::new(namespace, name), self.now)
    }

    /// Compares the plan's writes and notes, one line each: `merge nodes /a/status {…}`, `Warning Reason: words`.
    #[track_caller]
    pub fn check(&self, key: &str, expect: &[&str]) {
        assert_eq!(spell(&self.plan(key)), expect);
    }
}

/// A plan in lines.
pub fn spell(plan: &Plan) -> Vec<String> {
    let writes = plan.writes().map(|write| match &write.check {
        Some(Check::Present { .. }) => spell_call(&write.call).replacen("gone", "present", 1),
        _ => spell_call(&write.call),
    });
    let notes = plan.notes.iter().map(|note| {
        format!("{} {}: {}", if note.warning { "Warning" } else { "Normal" }, note.reason, note.message)
    });
    writes.chain(notes).collect()
}

fn spell_call(call: &Call) -> String {
    let (verb, target, body) = match call {
        Call::Get(target, _) => ("require gone", target, ""),
        Call::Create(target, body, _) => ("create", target, std::str::from_utf8(body).unwrap()),
        Call::Update(target, body, _) => ("update", target, std::str::from_utf8(body).unwrap()),
        Call::Patch(target, _, body, _) => ("patch", target, std::str::from_utf8(body).unwrap()),
        Call::Delete(target, options) => {
            let grace = options.grace_period_seconds.map(|seconds| format!(" in {seconds} s"));
            return format!(
                "delete {} {}/{}{}",
                target.resource.resource,
                target.namespace,
                target.name,
                grace.unwrap_or_default()
            );
        }
        Call::List(collection, _) | Call::DeleteCollection(collection, ..) => {
            return format!("collection {}", collection.resource.resource);
        }
    };
    let subresource =
        if target.subresource.is_empty() { String::new() } else { format!("/{}", target.subresource) };
    let line = format!(
        "{verb} {} {}/{}{subresource} {body}",
        target.resource.resource, target.namespace, target.name
    );
    line.trim_end().to_owned()
}
