//! CertificateSigningRequests: who has made one is what the server says, and what it asks for does not change.

use std::collections::HashSet;

use api::status::Cause;
use api::validation::{Path, cause, names};
use api::value::{Map, Value};

use super::{Context, Strategy};

/// The shortest life of a certificate that can be asked for.
const LIFE_SECONDS_MIN: i64 = 600;
/// What a key may be for, in the order in which messages name it.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const LONGEST_DOMAIN: usize = 253;
const CONDITIONS: &[&str] = &["status", "conditions"];

pub(super) struct SigningRequests;

impl Strategy for SigningRequests {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("certificates.k8s.io", "certificatesigningrequests")]
    }

    fn prepare_create(&self, object: &mut Value, context: &Context<'_>) {
        let identity = context.identity;
        for key in ["username", "uid", "groups", "extra"] {
            object.remove(&["spec", key]);
        }
        object.set(&["spec", "username"], identity.name.clone());
        if !identity.uid.is_empty() {
            object.set(&["spec", "uid"], identity.uid.clone());
        }
        if !identity.groups.is_empty() {
            object.set(&["spec", "groups"], identity.groups.clone());
        }
        if !identity.extra.is_empty() {
            let extra: Map =
                identity.extra.iter().map(|(key, values)| (key.clone(), values.clone().into())).collect();
            object.set(&["spec", "extra"], extra);
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        keep(new, old, &["spec"]);
        if context.subresource == "approval" {
            let conditions = new.at(CONDITIONS).cloned();
            keep(new, old, &["status"]);
            if let Some(conditions) = conditions {
                new.set(CONDITIONS, conditions);
            }
            date_conditions(new, old, context);
        }
    }

    fn prepare_status(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        date_conditions(new, old, context);
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let path = Path::root("spec");
        let mut causes = Vec::new();
        let usages = object.array_at(&["spec", "usages"]);
        if usages.is_empty() {
            causes.push(cause::required(path.child("usages"), ""));
        }
        for (index, usage) in usages.iter().enumerate() {
            let text = usage.as_str().unwrap_or_default();
            if !USAGES.contains(&text) {
                causes.push(cause::not_supported(path.child("usages").index(index), text, &USAGES));
            }
        }
        let mut seen = HashSet::new();
        for (index, usage) in usages.iter().enumerate() {
            if !seen.insert(usage.to_bytes()) {
                causes.push(cause::duplicate(path.child("usages").index(index), usage.clone()));
            }
        }
        signer_name(
            object.str_at(&["spec", "signerName"]).unwrap_or_default(),
            &path.child("signerName"),
            &mut causes,
        );
        let seconds = object.int_at(&["spec", "expirationSeconds"]);
        if let Some(seconds) = seconds.filter(|seconds| *seconds < LIFE_SECONDS_MIN) {
            let why = "may not specify a duration less than 600 seconds (10 minutes)";
            causes.push(cause::invalid(path.child("expirationSeconds"), seconds, why));
        }
        causes
    }
}

fn keep(new: &mut Value, old: &Value, path: &[&str]) {
    match old.at(path) {
        Some(value) => new.set(path, value.clone()),
        None => drop(new.remove(path)),
    }
}

/// Conditions are dated where their writer has not done it.
fn date_conditions(new: &mut Value, old: &Value, context: &Context<'_>) {
    let now = api::time::seconds(context.lookups.now());
    let before = old.array_at(CONDITIONS).to_vec();
    let Some(conditions) = new.at_mut(CONDITIONS).and_then(Value::as_array_mut) else { return };
    for condition in conditions {
        let dated = |condition: &Value, key: &str| condition.get(key).is_some_and(|time| !time.is_null());
        if !dated(condition, "lastUpdateTime") {
            condition.set(&["lastUpdateTime"], now.clone());
        }
        if !dated(condition, "lastTransitionTime") {
            let same =
                |other: &&Value| ["type", "status"].iter().all(|key| other.get(key) == condition.get(key));
            let since = before.iter().find(same).and_then(|other| other.get("lastTransitionTime")).cloned();
            condition.set(&["lastTransitionTime"], since.unwrap_or_else(|| now.clone().into()));
        }
    }
}

/// The name of a signer: a domain and a path.
pub(super) fn signer_name(name: &str, path: &Path, causes: &mut Vec<Cause>) {
    if name.is_empty() {
        causes.push(cause::required(path, ""));
        return;
    }
    let segments: Vec<&str> = name.split('/').collect();
    let &[domain, rest] = segments.as_slice() else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        causes.push(cause::invalid(path, name, why));
        return;
    };
    if domain.len() > LONGEST_DOMAIN {
        causes.push(cause::too_long(path, LONGEST_DOMAIN));
    }
    let wrong = |labels: &str, check: fn(&str) -> Vec<String>| -> Vec<(String, Vec<String>)> {
        let found = labels.split('.').map(|label| (label.to_owned(), check(label)));
        found.filter(|(_, wrong)| !wrong.is_empty()).take(1).collect()
    };
    for (label, whys) in wrong(domain, names::is_label) {
        let words = whys.iter().map(|why| format!("validating label {}: {why}", cause::quoted(&label)));
        causes.extend(words.map(|why| cause::invalid(path, domain, &why)));
    }
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        causes.push(cause::invalid(path, domain, why));
    }
    for (label, whys) in wrong(rest, names::is_subdomain) {
        let words = whys.iter().map(|why| format!("validating label {}: {why}", cause::quoted(&label)));
        causes.extend(words.map(|why| cause::invalid(path, rest, &why)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::lookups::fake::Fake;
    use api::json;

    #[test]
    fn nobody_asks_in_the_name_of_others() {
        let lookups = Fake::new(Vec::new());
        let identity = Identity::new("one", &["many"]);
        let context = Context { identity: &identity, lookups: &lookups, subresource: "", dry_run: false };
        let mut request = json!({"spec": {"username": "admin", "groups": ["system:masters"], "uid": "5"}});
        SigningRequests.prepare_create(&mut request, &context);
        assert_eq!(request.str_at(&["spec", "username"]), Some("one"));
        assert_eq!(request.array_at(&["spec", "groups"])[0].as_str(), Some("many"));
        assert!(request.at(&["spec", "uid"]).is_none());
        let mut other = json!({"spec": {"username": "admin"}});
        SigningRequests.prepare_update(&mut other, &request, &context);
        assert_eq!(other.get("spec"), request.get("spec"));
    }

    #[test]
    fn a_request_names_its_signer_and_known_usages() {
        let lookups = Fake::new(Vec::new());
        let context =
            Context { identity: &Identity::admin(), lookups: &lookups, subresource: "", dry_run: false };
        let check = |signer: &str, usages: &[&str], expect: &str| {
            let request = json!({"spec": {"signerName": signer, "usages": (usages.to_vec())}});
            let causes: Vec<String> =
                SigningRequests.validate(&request, &context).iter().map(ToString::to_string).collect();
            assert_eq!(causes.join("; "), expect);
        };
        check("example.org/signer", &["client auth"], "");
        check("example.org/signer", &[], "spec.usages: Required value");
        check(
            "signer",
            &["client auth"],
            "spec.signerName: Invalid value: \"signer\": must be a fully qualified domain and path of the form \
             'example.com/signer-name'",
        );
    }
}
