//! One write of a pod before a plugin, for tests.

use api::names::{GroupVersionKind, PODS, Resource};
use api::status::Status;
use api::value::Value;

use super::{Attributes, Operation, Plugin};
use crate::identity::Identity;
use crate::lookups::fake::Fake;

/// A pod that is created among other objects.
pub(super) struct Case {
    pod: Value,
    namespace: &'static str,
    others: Vec<(Resource, Value)>,
}

impl Case {
    pub(super) fn pod(pod: Value) -> Self {
        Self { pod, namespace: "", others: Vec::new() }
    }

    pub(super) fn within(mut self, namespace: &str) -> Self {
        self.namespace = String::leak(namespace.to_owned());
        self
    }

    pub(super) fn having(mut self, resource: Resource, object: Value) -> Self {
        self.others.push((resource, object));
        self
    }

    /// The pod as the plugin leaves it.
    pub(super) fn mutate(self, plugin: &dyn Plugin) -> Result<Value, Status> {
        self.pass(plugin, false)
    }

    /// The pod as the plugin leaves it, if it then finds nothing wrong with it.
    pub(super) fn admit(self, plugin: &dyn Plugin) -> Result<Value, Status> {
        self.pass(plugin, true)
    }

    fn pass(mut self, plugin: &dyn Plugin, judges: bool) -> Result<Value, Status> {
        let lookups = Fake::new(self.others);
        let name = self.pod.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
        let kind = GroupVersionKind::parse("v1", "Pod");
        let mut attributes = Attributes {
            identity: &Identity::admin(),
            operation: Operation::Create,
            resource: &PODS,
            kind: &kind,
            namespace: self.namespace,
            name: &name,
            subresource: "",
            object: Some(&mut self.pod),
            old: None,
            stored: None,
            dry_run: false,
            warnings: &mut Vec::new(),
        };
        plugin.mutate(&mut attributes, &lookups)?;
        if judges {
            plugin.validate(&attributes, &lookups)?;
        }
        Ok(self.pod)
    }
}
