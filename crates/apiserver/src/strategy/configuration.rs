//! ConfigMaps and Secrets: keys, sizes, and what a Secret's type asks of it.

mod pem;

use api::status::Cause;
use api::validation::{Path, cause, names};
use api::value::{Map, Value};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Context, Strategy, words};

/// How many bytes of data one object holds; upstream's `MaxSecretSize`.
const DATA_BYTES: usize = 1024 * 1024;
/// What is shown of a secret's contents.
const REDACTED: &str = "<secret contents redacted>";
/// The annotation that names the account of a token.
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

pub(super) struct ConfigMaps;
pub(super) struct Secrets;

impl Strategy for ConfigMaps {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "configmaps")]
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let (text, bytes) = (members(object, "data"), members(object, "binaryData"));
        keys(text, "data", &mut causes);
        for (key, _) in text.iter().filter(|(key, _)| bytes.contains_key(key)) {
            let path = Path::root("data").key(key);
            causes.push(cause::invalid(path, key.as_str(), "duplicate of key present in binaryData"));
        }
        keys(bytes, "binaryData", &mut causes);
        let size: usize = text.iter().map(|(_, value)| value.as_str().map_or(0, str::len)).sum();
        if size + decoded_bytes(bytes) > DATA_BYTES {
            causes.push(cause::too_long("[]", DATA_BYTES));
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        frozen(new, old, &["data", "binaryData"])
    }
}

impl Strategy for Secrets {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "secrets")]
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        // A client that does not name the type means the one that is there.
        if new.str_at(&["type"]).unwrap_or_default().is_empty()
            && let Some(kind) = old.get("type")
        {
            new.set(&["type"], kind.clone());
        }
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let data = members(object, "data");
        keys(data, "data", &mut causes);
        if decoded_bytes(data) > DATA_BYTES {
            causes.push(cause::too_long("data", DATA_BYTES));
        }
        of_type(object, data, &mut causes);
        causes
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        if new.str_at(&["type"]) != Some("kubernetes.io/tls") {
            return Vec::new();
        }
        let bytes = |key: &str| {
            members(new, "data").get(key).and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok())
        };
        pem::pair_problem(&bytes("tls.crt").unwrap_or_default(), &bytes("tls.key").unwrap_or_default())
            .into_iter()
            .collect()
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let mut causes: Vec<Cause> =
            words::immutable(new.get("type"), old.get("type"), &Path::root("type")).into_iter().collect();
        causes.extend(frozen(new, old, &["data"]));
        causes
    }
}

fn members<'a>(object: &'a Value, key: &str) -> &'a Map {
    static NONE: std::sync::LazyLock<Map> = std::sync::LazyLock::new(Map::new);
    object.get(key).and_then(Value::as_object).unwrap_or(&NONE)
}

fn keys(data: &Map, field: &str, causes: &mut Vec<Cause>) {
    for key in data.keys() {
        let path = Path::root(field).key(key);
        causes
            .extend(names::is_config_map_key(key).iter().map(|why| cause::invalid(&path, key.as_str(), why)));
    }
}

/// How long base64 texts are once they are read.
fn decoded_bytes(data: &Map) -> usize {
    let length = |text: &str| text.trim_end_matches('=').len() * 3 / 4;
    data.iter().filter_map(|(_, value)| value.as_str()).map(length).sum()
}

fn frozen(new: &Value, old: &Value, fields: &[&str]) -> Vec<Cause> {
    let is_frozen = |object: &Value| object.bool_at(&["immutable"]) == Some(true);
    let mut causes = Vec::new();
    if !is_frozen(old) {
        return causes;
    }
    if !is_frozen(new) {
        causes.push(cause::forbidden("immutable", IMMUTABLE));
    }
    for field in fields.iter().filter(|field| members(new, field) != members(old, field)) {
        causes.push(cause::forbidden(field, IMMUTABLE));
    }
    causes
}

fn of_type(secret: &Value, data: &Map, causes: &mut Vec<Cause>) {
    let path = Path::root("data");
    let mut require = |keys: &[&str]| {
        causes.extend(
            keys.iter().filter(|key| !data.contains_key(key)).map(|key| cause::required(path.key(key), "")),
        );
    };
    match secret.str_at(&["type"]).unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            let account = secret.str_at(&["metadata", "annotations", ACCOUNT_NAME]).unwrap_or_default();
            if account.is_empty() {
                let path = Path::root("metadata").child("annotations").key(ACCOUNT_NAME);
                causes.push(cause::required(path, ""));
            }
        }
        "kubernetes.io/dockercfg" => docker(data, ".dockercfg", causes),
        "kubernetes.io/dockerconfigjson" => docker(data, ".dockerconfigjson", causes),
        "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => {
            require(&["username", "password"]);
        }
        "kubernetes.io/ssh-auth" if data.get("ssh-privatekey").is_none_or(Value::is_empty) => {
            causes.push(cause::required(path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => require(&["tls.crt", "tls.key"]),
        _ => {}
    }
}

fn docker(data: &Map, key: &str, causes: &mut Vec<Cause>) {
    let path = Path::root("data").key(key);
    let Some(text) = data.get(key).and_then(Value::as_str) else {
        causes.push(cause::required(path, ""));
        return;
    };
    let bytes = STANDARD.decode(text).unwrap_or_default();
    match api::value::parse(&bytes) {
        Ok(Value::Object(_)) => {}
        Ok(other) => {
            let why = format!(
                "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                other.type_name()
            );
            causes.push(cause::invalid(path, REDACTED, &why));
        }
        Err(_) if bytes.is_empty() => {
            causes.push(cause::invalid(path, REDACTED, "unexpected end of JSON input"));
        }
        Err(_)
            if !b"{[\"-0123456789tfn"
                .contains(&bytes.trim_ascii_start().first().copied().unwrap_or_default()) =>
        {
            let first = char::from(bytes.trim_ascii_start().first().copied().unwrap_or_default());
            let why = format!("invalid character '{first}' looking for beginning of value");
            causes.push(cause::invalid(path, REDACTED, &why));
        }
        Err(error) => causes.push(cause::invalid(path, REDACTED, &error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::lookups::fake::Fake;
    use api::json;

    fn check(strategy: &dyn Strategy, new: &Value, old: Option<&Value>, expect: &str) {
        let lookups = Fake::new(Vec::new());
        let context =
            Context { identity: &Identity::admin(), lookups: &lookups, subresource: "", dry_run: false };
        let mut causes = strategy.validate(new, &context);
        causes.extend(old.map(|old| strategy.validate_update(new, old, &context)).unwrap_or_default());
        let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
        assert_eq!(causes.join("; "), expect);
    }

    #[test]
    fn secrets_hold_what_their_type_asks() {
        check(&Secrets, &json!({"type": "Opaque"}), None, "");
        check(
            &Secrets,
            &json!({"type": "kubernetes.io/tls"}),
            None,
            "data[tls.crt]: Required value; data[tls.key]: Required value",
        );
        check(
            &Secrets,
            &json!({"type": "Opaque"}),
            Some(&json!({"type": "kubernetes.io/tls"})),
            "type: Invalid value: \"Opaque\": field is immutable",
        );
        check(
            &Secrets,
            &json!({"type": "kubernetes.io/service-account-token"}),
            None,
            "metadata.annotations[kubernetes.io/service-account.name]: Required value",
        );
    }

    #[test]
    fn what_is_frozen_stays() {
        let old = json!({"immutable": true, "data": {"a": "b"}});
        check(
            &ConfigMaps,
            &json!({"data": {"a": "c"}}),
            Some(&old),
            "immutable: Forbidden: field is immutable when `immutable` is set; data: Forbidden: field is immutable when \
             `immutable` is set",
        );
        check(&ConfigMaps, &old, Some(&old), "");
    }
}
