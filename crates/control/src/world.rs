//! All mirrors that a set of controllers reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::interface::Api;
use api::names::Resource;
use api::object::Object;
use api::status::Status;
use base::{Clock, Stop, Tasks};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing::error;

use crate::mirror::Mirror;

/// Mirrors by resource. Made once, then shared.
#[derive(Default)]
pub struct World {
    mirrors: BTreeMap<Resource, Arc<Mirror>>,
}

impl World {
    /// No mirrors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a mirror; a second one of the same resource is a bug.
    pub fn add(&mut self, mirror: Mirror) {
        let before = self.mirrors.insert(mirror.resource().clone(), Arc::new(mirror));
        assert!(before.is_none(), "a resource is mirrored once in a world");
    }

    /// Adds a plain mirror of a resource unless there is one.
    pub fn ensure(&mut self, resource: &Resource) {
        self.mirrors.entry(resource.clone()).or_insert_with(|| Arc::new(Mirror::new(resource)));
    }

    /// The mirror of a resource, if there is one.
    pub fn try_mirror(&self, resource: &Resource) -> Option<&Arc<Mirror>> {
        self.mirrors.get(resource)
    }

    /// The mirror of a resource. Reading what no mirror was made for is a bug in the controller's `watches`.
    pub fn mirror(&self, resource: &Resource) -> &Arc<Mirror> {
        self.try_mirror(resource)
            .unwrap_or_else(|| panic!("no mirror of {resource}; add it to the controller's watches"))
    }

    /// One object.
    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.mirror(resource).get(namespace, name)
    }

    /// One object as its typed view.
    pub fn view<T>(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<T>>
    where
        T: DeserializeOwned,
    {
        view(&*self.get(resource, namespace, name)?)
    }

    /// All objects of a namespace, or (empty) of all.
    pub fn list(&self, resource: &Resource, namespace: &str) -> Vec<Arc<Object>> {
        self.mirror(resource).list(namespace)
    }

    /// The same as typed views, each beside its object.
    pub fn views<T>(&self, resource: &Resource, namespace: &str) -> Vec<(Arc<Object>, Arc<T>)>
    where
        T: DeserializeOwned,
    {
        self.list(resource, namespace)
            .into_iter()
            .filter_map(|object| view(&object).map(|typed| (object, typed)))
            .collect()
    }

    /// The mirrors.
    pub fn mirrors(&self) -> impl Iterator<Item = &Arc<Mirror>> {
        self.mirrors.values()
    }

    /// Starts feeding all mirrors.
    pub fn start(&self, api: &Arc<dyn Api>, clock: &Clock, tasks: &Tasks, stop: &Stop) {
        for mirror in self.mirrors.values() {
            let (mirror, api, clock, stop) = (mirror.clone(), api.clone(), clock.clone(), stop.clone());
            tasks.spawn("mirror", async move { mirror.run(&*api, &clock, &stop).await });
        }
    }

    /// Returns when every mirror has its first list.
    pub async fn synced(&self) {
        for mirror in self.mirrors.values() {
            mirror.synced().await;
        }
    }
}

/// A typed view; one that cannot be made is a bug, told once here and then skipped.
pub fn view<T: DeserializeOwned>(object: &Object) -> Option<Arc<T>> {
    told(object.view())
}

/// A part of an object; one that cannot be read is a bug too.
pub fn part<'a, T: Deserialize<'a>>(object: &'a Object) -> Option<T> {
    told(object.part())
}

fn told<T>(read: Result<T, Status>) -> Option<T> {
    read.inspect_err(|status| error!(error = %status, "an object cannot be viewed; skipping it")).ok()
}
