//! The ConfigMap `kube-root-ca.crt` of every namespace, by which pods know the API server.

use api::interface::Target;
use api::json;
use api::names::{CONFIG_MAPS, NAMESPACES};
use api::value::{Map, Value};
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::world::World;
use jiff::Timestamp;

use crate::service_account::is_active;

/// Its name.
const NAME: &str = "kube-root-ca.crt";
/// The field with the certificates.
const FIELD: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
/// What upstream's says of itself; tools compare it.
const WORDS: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
    endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
    distributions of Kubernetes clusters.";

/// The publisher of the root certificates. Its keys are namespaces.
pub struct RootCa {
    ca_pem: String,
}

impl RootCa {
    /// Publishes these certificates.
    pub fn new(ca_pem: &str) -> Self {
        Self { ca_pem: ca_pem.to_owned() }
    }
}

impl Controller for RootCa {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![Watches::itself(&NAMESPACES), Watches::mapped(&CONFIG_MAPS, namespace_of)]
    }

    fn plan(&self, world: &World, key: &Key, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        if !world.get(&NAMESPACES, "", &key.name).is_some_and(|namespace| is_active(&namespace)) {
            return plan;
        }
        let Some(object) = world.get(&CONFIG_MAPS, &key.name, NAME) else {
            let mut map = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": NAME, "namespace": (key.name.as_str()), "annotations": {}}
            });
            map.set(&["metadata", "annotations", DESCRIPTION], WORDS);
            map.set(&["data", FIELD], self.ca_pem.as_str());
            plan.write(Write::create(&CONFIG_MAPS, &key.name, &map));
            return plan;
        };
        let tree = object.to_tree();
        let empty = Map::new();
        let data = tree.get("data").and_then(Value::as_object).unwrap_or(&empty);
        let right = data.len() == 1 && data.get(FIELD).and_then(Value::as_str) == Some(&self.ca_pem);
        let described = tree.str_at(&["metadata", "annotations", DESCRIPTION]).is_some_and(|w| !w.is_empty());
        if right && described {
            return plan;
        }
        let mut patch = json!({"metadata": {"uid": (object.uid())}});
        patch.set(&["metadata", "annotations", DESCRIPTION], WORDS);
        // What others have put in goes: pods mount the whole map.
        data.keys().for_each(|field| patch.set(&["data", field], Value::Null));
        patch.set(&["data", FIELD], self.ca_pem.as_str());
        plan.write(Write::merge(Target::new(&CONFIG_MAPS, &key.name, NAME), &patch));
        plan
    }
}

fn namespace_of(_: &World, change: &Change) -> Vec<Key> {
    let map = change.either().filter(|map| map.name() == NAME);
    map.map(|map| Key::new("", map.namespace())).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Stage;

    fn stage() -> Stage<RootCa> {
        let stage = Stage::new(RootCa::new("PEM"));
        stage.put(&NAMESPACES, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "d"}}));
        stage
    }

    fn made(stage: &Stage<RootCa>) -> Value {
        let plan = stage.plan("/d");
        let write = plan.writes().next().unwrap();
        let api::interface::Call::Create(_, body, _) = &write.call else { panic!("a creation is expected") };
        api::value::parse(body).unwrap()
    }

    #[test]
    fn every_namespace_gets_it_once() {
        let stage = stage();
        let map = made(&stage);
        assert_eq!(map.str_at(&["data", FIELD]), Some("PEM"));
        stage.put(&CONFIG_MAPS, map.clone());
        stage.check("/d", &[]);
        assert_eq!(stage.keys_of_going(&CONFIG_MAPS, map), ["/d"]);
    }

    #[test]
    fn what_others_change_is_restored() {
        let stage = stage();
        let mut map = made(&stage);
        map.set(&["data"], json!({"ca.crt": "other", "more": "x"}));
        stage.put(&CONFIG_MAPS, map);
        let plan = stage.plan("/d");
        let line = crate::stage::spell(&plan).remove(0);
        assert!(line.contains(r#""data":{"ca.crt":"PEM","more":null}"#), "{line}");
    }

    #[test]
    fn a_description_of_ones_own_may_stay() {
        let stage = stage();
        let mut map = made(&stage);
        map.set(&["metadata", "annotations", DESCRIPTION], "mine");
        stage.put(&CONFIG_MAPS, map);
        stage.check("/d", &[]);
    }
}
