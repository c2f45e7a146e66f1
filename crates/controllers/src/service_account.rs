//! The ServiceAccount `default` of every namespace.

use api::json;
use api::names::{NAMESPACES, SERVICE_ACCOUNTS};
use api::object::Object;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::world::World;
use jiff::Timestamp;

/// The account of pods that name none.
const DEFAULT: &str = "default";

/// The controller of ServiceAccounts. Its keys are namespaces.
pub struct ServiceAccounts;

impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![Watches::itself(&NAMESPACES), Watches::mapped(&SERVICE_ACCOUNTS, namespace_of_gone)]
    }

    fn plan(&self, world: &World, key: &Key, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let active = world.get(&NAMESPACES, "", &key.name).is_some_and(|namespace| is_active(&namespace));
        if active && world.get(&SERVICE_ACCOUNTS, &key.name, DEFAULT).is_none() {
            let account = json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": DEFAULT, "namespace": (key.name.as_str())}
            });
            plan.write(Write::create(&SERVICE_ACCOUNTS, &key.name, &account));
        }
        plan
    }
}

/// Whether things may still be made in a namespace.
pub fn is_active(namespace: &Object) -> bool {
    !namespace.is_deleting()
        && namespace.to_tree().str_at(&["status", "phase"]).is_none_or(|phase| phase == "Active")
}

fn namespace_of_gone(_: &World, change: &Change) -> Vec<Key> {
    let gone = change.old.as_deref().filter(|account| change.new.is_none() && account.name() == DEFAULT);
    gone.map(|account| Key::new("", account.namespace())).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Stage;

    #[test]
    fn an_active_namespace_has_its_account_and_gets_it_back() {
        let stage = Stage::new(ServiceAccounts);
        stage.put(&NAMESPACES, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "d"}}));
        stage.check(
            "/d",
            &[
                r#"create serviceaccounts d/ {"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default","namespace":"d"}}"#,
            ],
        );
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "d"}});
        stage.put(&SERVICE_ACCOUNTS, account.clone());
        stage.check("/d", &[]);
        assert_eq!(stage.keys_of_going(&SERVICE_ACCOUNTS, account), ["/d"]);
        assert_eq!(stage.plan("/d").writes().count(), 1);
    }

    #[test]
    fn a_namespace_that_goes_gets_nothing() {
        let stage = Stage::new(ServiceAccounts);
        stage.put(
            &NAMESPACES,
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "d"}, "status": {"phase": "Terminating"}}),
        );
        stage.check("/d", &[]);
    }
}
