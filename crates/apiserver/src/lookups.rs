//! What strategies and admission may read while a request is worked on.

use std::sync::Arc;

use api::names::Resource;
use api::object::Object;
use base::Random;
use jiff::Timestamp;

/// The present state, read without waiting: the store keeps everything resident. Tests pass a fake.
pub trait Lookups: Send + Sync {
    /// An object, or nothing. For kinds without namespaces, `namespace` is empty.
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>>;

    /// All objects of a sort, in one namespace or (empty) in all, in the order of namespace and name.
    fn list(&self, resource: &Resource, namespace: &str) -> Vec<Arc<Object>>;

    /// The time of the request.
    fn now(&self) -> Timestamp;

    /// Random choices.
    fn random(&self) -> &Random;
}

#[cfg(test)]
pub(crate) mod fake {
    //! Lookups over a list of trees.

    use super::*;
    use api::value::Value;

    /// Answers from a list of objects, whose resources are given beside them.
    pub(crate) struct Fake {
        objects: Vec<(Resource, Arc<Object>)>,
        random: Random,
    }

    impl Fake {
        pub(crate) fn new(objects: Vec<(Resource, Value)>) -> Self {
            let objects = objects
                .into_iter()
                .map(|(resource, tree)| {
                    (resource, Arc::new(Object::from_tree(&tree).expect("a test's object")))
                })
                .collect();
            Self { objects, random: Random::seeded(1) }
        }
    }

    impl Lookups for Fake {
        fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
            self.list(resource, namespace).into_iter().find(|object| object.name() == name)
        }

        fn list(&self, resource: &Resource, namespace: &str) -> Vec<Arc<Object>> {
            let there = |object: &Object| namespace.is_empty() || object.namespace() == namespace;
            self.objects
                .iter()
                .filter(|(other, object)| other == resource && there(object))
                .map(|(_, object)| Arc::clone(object))
                .collect()
        }

        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn random(&self) -> &Random {
            &self.random
        }
    }
}
