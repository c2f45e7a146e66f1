//! ServiceAccounts: what they name of Secrets, and an annotation that goes away.

use api::json;
use api::value::Value;

use super::{Context, Strategy};

const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

pub(super) struct ServiceAccounts;

impl Strategy for ServiceAccounts {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "serviceaccounts")]
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context<'_>) {
        only_names(object);
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value, _context: &Context<'_>) {
        only_names(new);
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let has = |object: &Value| object.at(&["metadata", "annotations", ENFORCE]).is_some();
        if !has(new) || old.is_some_and(has) {
            return Vec::new();
        }
        vec![format!(
            "metadata.annotations[{ENFORCE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to \
             mounted secrets"
        )]
    }
}

/// Secrets are those of the account's namespace, so their names are all that counts.
fn only_names(account: &mut Value) {
    let Some(secrets) = account.at_mut(&["secrets"]).and_then(Value::as_array_mut) else { return };
    for secret in secrets {
        *secret = match secret.get("name") {
            Some(name) => json!({"name": (name.clone())}),
            None => Value::object(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_is_warned_of_when_it_comes() {
        let plain = json!({"metadata": {}});
        let marked =
            json!({"metadata": {"annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}});
        assert_eq!(ServiceAccounts.warnings(&marked, None).len(), 1);
        assert_eq!(ServiceAccounts.warnings(&marked, Some(&plain)).len(), 1);
        assert!(ServiceAccounts.warnings(&marked, Some(&marked)).is_empty());
        assert!(ServiceAccounts.warnings(&plain, None).is_empty());
    }

    #[test]
    fn of_secrets_names_are_kept() {
        let mut account = json!({"secrets": [{"name": "a", "uid": "u", "kind": "Secret"}, {"uid": "u"}]});
        only_names(&mut account);
        assert_eq!(account.to_string(), r#"{"secrets":[{"name":"a"},{}]}"#);
    }
}
