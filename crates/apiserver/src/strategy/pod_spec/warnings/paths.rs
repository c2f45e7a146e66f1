//! Files of one volume that would lie in one place, or one below the other.

use api::validation::cause;
use api::value::Value;

use super::super::text;

/// A file's path in its volume, and what it comes from.
#[derive(PartialEq, Eq)]
struct File<'a> {
    path: &'a str,
    source: String,
}

impl File<'_> {
    fn shown(&self) -> String {
        match self.source.as_str() {
            "" => cause::quoted(self.path),
            source => format!("{} ({source})", cause::quoted(self.path)),
        }
    }

    fn meets(&self, other: &Self) -> bool {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        within(self.path, other.path) || within(other.path, self.path)
    }
}

/// Warns of them.
pub(super) fn overlapping(spec: &Value, out: &mut Vec<String>) {
    for volume in spec.array_at(&["volumes"]) {
        let name = text(volume, "name");
        let warn = |kind: &str, files: Vec<File<'_>>, out: &mut Vec<String>| {
            for (at, file) in files.iter().enumerate().filter(|(_, file)| !file.path.is_empty()) {
                for other in files[..at].iter().filter(|other| !other.path.is_empty() && file.meets(other)) {
                    out.push(format!(
                        "volume {} ({kind}): overlapping paths: {} with {}",
                        cause::quoted(name),
                        file.shown(),
                        other.shown()
                    ));
                }
            }
        };
        for (member, kind, named) in [
            ("configMap", "ConfigMap", "name"),
            ("secret", "Secret", "secretName"),
            ("downwardAPI", "DownwardAPI", ""),
        ] {
            let Some(source) = volume.get(member).filter(|source| !source.is_null()) else { continue };
            let kind = if named.is_empty() {
                kind.to_owned()
            } else {
                format!("{kind} {}", cause::quoted(text(source, named)))
            };
            warn(&kind, items(source, ""), out);
        }
        let mut files = Vec::new();
        for source in volume.array_at(&["projected", "sources"]) {
            if source.as_object().is_none_or(|map| map.iter().all(|(_, value)| value.is_null())) {
                out.push(format!("volume {} (Projected) has no sources provided", cause::quoted(name)));
            }
            files.extend(projected(source));
        }
        warn("Projected", files, out);
    }
}

fn file<'a>(path: &'a str, source: &str) -> File<'a> {
    File { path: path.trim_end_matches('/'), source: source.to_owned() }
}

fn items<'a>(source: &'a Value, shown: &str) -> Vec<File<'a>> {
    source.array_at(&["items"]).iter().map(|item| file(text(item, "path"), shown)).collect()
}

fn projected(source: &Value) -> Vec<File<'_>> {
    let part = |key: &str| source.get(key).filter(|part| !part.is_null());
    let with_items = |key: &str| part(key).filter(|part| !part.array_at(&["items"]).is_empty());
    if let Some(map) = with_items("configMap") {
        items(map, &format!("ConfigMap {}", cause::quoted(text(map, "name"))))
    } else if let Some(secret) = with_items("secret") {
        items(secret, &format!("Secret {}", cause::quoted(text(secret, "name"))))
    } else if let Some(downward) = with_items("downwardAPI") {
        items(downward, "DownwardAPI")
    } else if let Some(token) = part("serviceAccountToken") {
        vec![file(text(token, "path"), "ServiceAccountToken")]
    } else if let Some(bundle) = part("clusterTrustBundle") {
        let name = bundle.str_at(&["name"]).unwrap_or_else(|| text(bundle, "signerName"));
        vec![file(text(bundle, "path"), &format!("ClusterTrustBundle {}", cause::quoted(name)))]
    } else if let Some(certificate) = part("podCertificate") {
        let parts = [
            ("certificateChainPath", "chain"),
            ("keyPath", "key"),
            ("credentialBundlePath", "credential bundle"),
        ];
        let all =
            parts.iter().map(|(key, what)| file(text(certificate, key), &format!("PodCertificate {what}")));
        all.filter(|file| !file.path.is_empty()).collect()
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn files_in_one_place_are_told_of() {
        let check = |volume: Value, expect: &[&str]| {
            let mut spec = json!({});
            spec.set(&["volumes"], vec![volume]);
            let mut out = Vec::new();
            overlapping(&spec, &mut out);
            assert_eq!(out, expect);
        };
        let map = |one: &str, other: &str| json!({"name": "v", "configMap": {"name": "m", "items": [{"path": one}, {"path": other}]}});
        check(map("a", "ab"), &[]);
        check(map("a", "a/b"), &["volume \"v\" (ConfigMap \"m\"): overlapping paths: \"a/b\" with \"a\""]);
        check(
            json!({"name": "v", "projected": {"sources": [{}, {"serviceAccountToken": {"path": "t"}}, {"serviceAccountToken": {"path": "t"}}]}}),
            &[
                "volume \"v\" (Projected) has no sources provided",
                "volume \"v\" (Projected): overlapping paths: \"t\" (ServiceAccountToken) with \"t\" (ServiceAccountToken)",
            ],
        );
    }
}
