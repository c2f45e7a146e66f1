//! Secrets of type `kubernetes.io/service-account-token`: filled with a lasting token, deleted with their account.
//!
//! What is deliberately absent: making such Secrets. Pods get bound tokens that expire; these are for users who ask
//! for one by making the Secret.

use api::interface::{DeleteOptions, Target};
use api::json;
use api::names::{SECRETS, SERVICE_ACCOUNTS};
use api::object::Object;
use api::value::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches, Write};
use control::recorder::Note;
use control::world::World;
use jiff::Timestamp;

use crate::guard;
use crate::settings::{TokenClaims, TokenSigner};

/// The type of Secrets that are ours.
const TYPE: &str = "kubernetes.io/service-account-token";
/// Annotations that say whose token it is.
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// When a signature that failed is tried again.
const RETRY: std::time::Duration = std::time::Duration::from_secs(60);

/// The controller of lasting tokens.
pub struct Tokens {
    ca_pem: String,
    sign: TokenSigner,
}

impl Tokens {
    /// Fills Secrets with these certificates and with tokens that `sign` makes.
    pub fn new(ca_pem: &str, sign: TokenSigner) -> Self {
        Self { ca_pem: ca_pem.to_owned(), sign }
    }

    /// The fields that a Secret lacks.
    fn missing(&self, secret: &Object, tree: &Value, account: &Object) -> Result<Value, String> {
        let mut data = Value::object();
        let given = |field: &str| tree.str_at(&["data", field]).unwrap_or_default();
        let encoded_ca = STANDARD.encode(&self.ca_pem);
        if !self.ca_pem.is_empty() && given("ca.crt") != encoded_ca {
            data.set(&["ca.crt"], encoded_ca);
        }
        if given("namespace").is_empty() {
            data.set(&["namespace"], STANDARD.encode(secret.namespace()));
        }
        if given("token").is_empty() {
            let token = (self.sign)(&TokenClaims {
                namespace: secret.namespace().to_owned(),
                service_account: account.name().to_owned(),
                service_account_uid: account.uid().to_owned(),
                secret: secret.name().to_owned(),
            })?;
            data.set(&["token"], STANDARD.encode(token));
        }
        Ok(data)
    }
}

impl Controller for Tokens {
    fn name(&self) -> &'static str {
        "legacy-serviceaccount-token-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![Watches::itself(&SECRETS), Watches::mapped(&SERVICE_ACCOUNTS, secrets_of_account)]
    }

    fn plan(&self, world: &World, key: &Key, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(secret) = world.get(&SECRETS, &key.namespace, &key.name) else { return plan };
        let tree = secret.to_tree();
        let Some(name) = account_of(&tree).filter(|_| !secret.is_deleting()) else { return plan };
        let uid = tree.str_at(&["metadata", "annotations", ACCOUNT_UID]).unwrap_or_default();
        let account = world.get(&SERVICE_ACCOUNTS, &key.namespace, name);
        let Some(account) = account.filter(|account| uid.is_empty() || account.uid() == uid) else {
            let target = Target::new(&SERVICE_ACCOUNTS, &key.namespace, name);
            plan.write(if uid.is_empty() {
                guard::require_gone(target)
            } else {
                Write::require_absent(target, uid)
            });
            plan.then();
            plan.write(Write::delete(&SECRETS, &secret, DeleteOptions::default()));
            return plan;
        };
        match self.missing(&secret, &tree, &account) {
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                let mut patch = json!({"metadata": {"uid": (secret.uid())}, "data": data});
                patch.set(&["metadata", "annotations", ACCOUNT_NAME], account.name());
                patch.set(&["metadata", "annotations", ACCOUNT_UID], account.uid());
                plan.write(Write::merge(Target::new(&SECRETS, &key.namespace, &key.name), &patch));
            }
            Err(error) => {
                let words = format!("The token of {name} cannot be signed: {error}; it is tried again");
                plan.note(Note::warning(&secret, "FailedToSignToken", words));
                plan.again_after(RETRY);
            }
        }
        plan
    }
}

/// The account that a Secret is for, if it is one of ours.
fn account_of(secret: &Value) -> Option<&str> {
    let ours = secret.str_at(&["type"]) == Some(TYPE);
    secret.str_at(&["metadata", "annotations", ACCOUNT_NAME]).filter(|name| ours && !name.is_empty())
}

/// An account that comes, goes or is another one now leads to the Secrets made for it.
fn secrets_of_account(world: &World, change: &Change) -> Vec<Key> {
    let uid = |side: &Option<std::sync::Arc<Object>>| side.as_ref().map(|account| account.uid().to_owned());
    let Some(account) = change.either().filter(|_| uid(&change.old) != uid(&change.new)) else {
        return Vec::new();
    };
    let secrets = world.list(&SECRETS, account.namespace());
    let of_account = secrets.iter().filter(|secret| account_of(&secret.to_tree()) == Some(account.name()));
    of_account.map(|secret| Key::of(secret)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::stage::Stage;

    fn stage() -> Stage<Tokens> {
        let sign: TokenSigner = Arc::new(|claims: &TokenClaims| {
            Ok(format!(
                "{}/{}/{}/{}",
                claims.namespace, claims.service_account, claims.service_account_uid, claims.secret
            ))
        });
        Stage::new(Tokens::new("PEM", sign))
    }

    fn secret(data: Value) -> Value {
        let mut secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "t", "namespace": "d", "uid": "s1"},
            "type": TYPE, "data": data
        });
        secret.set(&["metadata", "annotations", ACCOUNT_NAME], "a");
        secret
    }

    fn account() -> Value {
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "namespace": "d", "uid": "u1"}})
    }

    #[test]
    fn a_secret_is_filled_once_and_goes_with_its_account() {
        let stage = stage();
        stage.put(&SERVICE_ACCOUNTS, account());
        stage.put(&SECRETS, secret(json!({"extra": "eA=="})));
        stage.check(
            "d/t",
            &[
                r#"patch secrets d/t {"data":{"ca.crt":"UEVN","namespace":"ZA==","token":"ZC9hL3UxL3Q="},"metadata":{"annotations":{"kubernetes.io/service-account.name":"a","kubernetes.io/service-account.uid":"u1"},"uid":"s1"}}"#,
            ],
        );
        let mut full = secret(json!({"ca.crt": "UEVN", "namespace": "ZA==", "token": "b2xk"}));
        full.set(&["metadata", "annotations", ACCOUNT_UID], "u1");
        stage.put(&SECRETS, full);
        stage.check("d/t", &[]);
        assert_eq!(stage.keys_of_going(&SERVICE_ACCOUNTS, account()), ["d/t"]);
        stage.check("d/t", &["require gone serviceaccounts d/a", "delete secrets d/t"]);
    }

    #[test]
    fn secrets_of_other_types_are_left_alone() {
        let stage = stage();
        let mut other = secret(json!({}));
        other.set(&["type"], "Opaque");
        stage.put(&SECRETS, other);
        stage.check("d/t", &[]);
    }
}
