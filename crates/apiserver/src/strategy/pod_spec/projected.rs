//! What volumes that show certificates ask for.

use std::collections::HashSet;

use api::status::Cause;
use api::validation::{Path, cause, names, selectors};
use api::value::Value;

use super::text;
use super::volumes::not_reserved;
use crate::strategy::certificates::signer_name;
use crate::strategy::words;

/// The shortest life of a certificate that may be asked for, and the longest, in seconds; signers of Kubernetes' own
/// give no longer one than a day.
const SHORTEST_SECONDS: i64 = 3600;
const LONGEST_SECONDS: i64 = 91 * 86400;
const LONGEST_OWN_SECONDS: i64 = 86400;
const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];

/// A path is taken once in a volume; `volume` is the place of all its sources.
fn taken<'a>(file: &'a str, taken: &mut HashSet<&'a str>, volume: &Path, causes: &mut Vec<Cause>) {
    if !taken.insert(file) {
        causes.push(cause::invalid(volume, file, "conflicting duplicate paths"));
    }
}

pub(super) fn trust_bundle<'a>(
    bundle: &'a Value,
    path: &Path,
    volume: &Path,
    files: &mut HashSet<&'a str>,
    causes: &mut Vec<Cause>,
) {
    let selector = bundle.get("labelSelector").filter(|selector| !selector.is_null());
    match (bundle.str_at(&["name"]), bundle.str_at(&["signerName"])) {
        (Some(_), Some(_)) => {
            let members = [
                ("Name", bundle.get("name")),
                ("SignerName", bundle.get("signerName")),
                ("LabelSelector", selector),
                ("Optional", bundle.get("optional")),
                ("Path", bundle.get("path")),
                ("User", None),
            ];
            let why = "only one of name and signerName may be used";
            causes.push(words::shown("FieldValueInvalid", path, "Invalid value", &members, why));
        }
        (Some(name), None) => {
            let place = path.child("name");
            if name.is_empty() {
                causes.push(cause::required(&place, "must be a valid object name"));
            }
            for why in bundle_name(name) {
                let why = format!("not a valid clustertrustbundlename: {why}");
                causes.push(cause::invalid(&place, name, &why));
            }
            if let Some(selector) = selector {
                let why = "labelSelector must be unset if name is specified";
                causes.push(cause::invalid(path.child("labelSelector"), selector.clone(), why));
            }
        }
        (None, Some(signer)) => {
            let place = path.child("signerName");
            if signer.is_empty() {
                causes.push(cause::required(&place, "must be a valid signer name"));
            }
            signer_name(signer, &place, causes);
            if let Some(selector) = selector {
                causes.extend(selectors::label_selector(selector, &path.child("labelSelector")));
            }
        }
        (None, None) => {
            causes.push(cause::required(path, "either name or signerName must be specified"));
        }
    }
    let file = text(bundle, "path");
    not_reserved(file, &path.child("path"), causes);
    taken(file, files, volume, causes);
}

/// The name of a bundle begins with that of its signer, if it has one.
fn bundle_name(name: &str) -> Vec<String> {
    names::is_subdomain(name.rsplit(':').next().unwrap_or_default())
}

pub(super) fn certificate<'a>(
    certificate: &'a Value,
    path: &Path,
    volume: &Path,
    files: &mut HashSet<&'a str>,
    causes: &mut Vec<Cause>,
) {
    let signer = text(certificate, "signerName");
    // The table says that it is needed.
    if !signer.is_empty() {
        signer_name(signer, &path.child("signerName"), causes);
    }
    let annotations = certificate.get("userAnnotations").and_then(Value::as_object);
    for (key, _) in annotations.into_iter().flat_map(api::value::Map::iter) {
        if !key.contains('/') {
            let why = "must be a domain-prefixed key (such as \"acme.io/foo\")";
            causes.push(cause::invalid(path.child("userAnnotations"), key.to_lowercase(), why));
        }
    }
    if text(certificate, "keyType").is_empty() {
        causes.push(cause::not_supported(path.child("keyType"), "", &KEY_TYPES));
    }
    if let Some(seconds) = certificate.int_at(&["maxExpirationSeconds"]) {
        let is_own = signer
            .split('/')
            .next()
            .is_some_and(|domain| domain == "kubernetes.io" || domain.ends_with(".kubernetes.io"));
        let most = if is_own { LONGEST_OWN_SECONDS } else { LONGEST_SECONDS };
        let bound = if seconds < SHORTEST_SECONDS {
            Some(format!(">= {SHORTEST_SECONDS}"))
        } else {
            (seconds > most).then(|| format!("<= {most}"))
        };
        if let Some(bound) = bound {
            let why = format!("if provided, maxExpirationSeconds must be {bound}");
            causes.push(cause::invalid(path.child("maxExpirationSeconds"), seconds, &why));
        }
    }
    let mut count = 0;
    for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let file = text(certificate, field);
        if !file.is_empty() {
            count += 1;
            not_reserved(file, &path.child(field), causes);
            taken(file, files, volume, causes);
        }
    }
    if count == 0 {
        let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        causes.push(cause::required(path, why));
    }
}
