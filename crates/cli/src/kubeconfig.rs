//! Our entries in the user's kubeconfig: put there by `up`, taken away by `down --wipe`, and no other entry touched.

use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_norway::{Mapping, Value};

/// Why the kubeconfig could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{path} cannot be used; check that it is yours, or set KUBECONFIG to another file")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is no kubeconfig; it is left as it is.
    #[error(
        "{path} is no kubeconfig and is left as it is: {reason}; mend it, or set KUBECONFIG to another file"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What a context of ours says.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of context, cluster and user.
    pub name: String,
    /// As `https://127.0.0.1:6443`.
    pub server: String,
    /// Whom to believe.
    pub authority_pem: String,
    /// The program that prints a credential, with its arguments.
    pub command: Vec<String>,
}

/// The file that kubectl would write to: the first of `KUBECONFIG` that exists, else its last, else `~/.kube/config`.
pub fn path(variable: Option<&str>, home: &Path) -> PathBuf {
    let files: Vec<PathBuf> =
        variable.unwrap_or_default().split(':').filter(|part| !part.is_empty()).map(PathBuf::from).collect();
    files
        .iter()
        .find(|file| file.exists())
        .or(files.last())
        .cloned()
        .unwrap_or_else(|| home.join(".kube").join("config"))
}

/// Adds `entry`, or brings it up to date, and makes it current.
pub fn add(path: &Path, entry: &Entry) -> Result<(), Error> {
    change(path, |text| with_entry(text, entry))
}

/// Takes the entries named `name` away. Says whether there were any. A file in which nothing is left says nothing that
/// kubectl does not know without it, so it goes too, and its folder if that is empty then.
pub fn remove(path: &Path, name: &str) -> Result<bool, Error> {
    if !path.exists() {
        return Ok(false);
    }
    let (mut found, mut empty) = (false, false);
    change(path, |text| {
        let (document, changed) = without_entry(text, name)?;
        found = changed;
        empty = changed && is_empty(&document)?;
        Ok(document)
    })?;
    if empty {
        std::fs::remove_file(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        if let Some(folder) = path.parent().filter(|folder| folder.ends_with(".kube")) {
            // Only if nothing else is in it.
            let _ = std::fs::remove_dir(folder);
        }
    }
    Ok(found)
}

/// Whether a kubeconfig holds nothing but its skeleton.
fn is_empty(text: &str) -> Result<bool, String> {
    let skeleton = |(key, value): (&Value, &Value)| match key.as_str() {
        Some("apiVersion" | "kind") => true,
        Some("clusters" | "contexts" | "users") => value.as_sequence().is_none_or(Vec::is_empty),
        Some("preferences") => value.as_mapping().is_none_or(Mapping::is_empty),
        Some("current-context") => value.as_str().is_none_or(str::is_empty),
        _ => false,
    };
    Ok(parse(text)?.iter().all(skeleton))
}

/// `text` with `entry` in it.
pub fn with_entry(text: &str, entry: &Entry) -> Result<String, String> {
    let mut document = parse(text)?;
    let cluster = mapping([
        ("certificate-authority-data", Value::from(STANDARD.encode(&entry.authority_pem))),
        ("server", Value::from(entry.server.clone())),
    ]);
    let (program, arguments) = entry.command.split_first().ok_or("no program for credentials")?;
    let exec = mapping([
        ("apiVersion", Value::from("client.authentication.k8s.io/v1")),
        ("args", Value::Sequence(arguments.iter().cloned().map(Value::from).collect())),
        ("command", Value::from(program.clone())),
        ("env", Value::Null),
        ("interactiveMode", Value::from("Never")),
        ("provideClusterInfo", Value::from(false)),
    ]);
    let context =
        mapping([("cluster", Value::from(entry.name.clone())), ("user", Value::from(entry.name.clone()))]);
    put(&mut document, "clusters", "cluster", &entry.name, cluster)?;
    put(&mut document, "contexts", "context", &entry.name, context)?;
    put(&mut document, "users", "user", &entry.name, mapping([("exec", exec)]))?;
    document.insert("current-context".into(), entry.name.clone().into());
    write(&document)
}

/// `text` without the entries named `name`, and whether there were any.
pub fn without_entry(text: &str, name: &str) -> Result<(String, bool), String> {
    let mut document = parse(text)?;
    let mut changed = false;
    for list in ["clusters", "contexts", "users"] {
        if let Some(Value::Sequence(entries)) = document.get_mut(list) {
            let before = entries.len();
            entries.retain(|entry| entry.get("name").and_then(Value::as_str) != Some(name));
            changed |= entries.len() != before;
        }
    }
    if document.get("current-context").and_then(Value::as_str) == Some(name) {
        document.insert("current-context".into(), "".into());
        changed = true;
    }
    if changed { Ok((write(&document)?, true)) } else { Ok((text.to_owned(), false)) }
}

fn parse(text: &str) -> Result<Mapping, String> {
    let empty = || {
        let mut document = Mapping::new();
        document.insert("apiVersion".into(), "v1".into());
        document.insert("kind".into(), "Config".into());
        document.insert("preferences".into(), Value::Mapping(Mapping::new()));
        document
    };
    if text.trim().is_empty() {
        return Ok(empty());
    }
    match serde_norway::from_str(text).map_err(|error| error.to_string())? {
        Value::Mapping(document) => Ok(document),
        Value::Null => Ok(empty()),
        _ => Err("it is not a mapping".to_owned()),
    }
}

fn write(document: &Mapping) -> Result<String, String> {
    serde_norway::to_string(document).map_err(|error| error.to_string())
}

fn mapping<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::Mapping(pairs.into_iter().map(|(key, value)| (Value::from(key), value)).collect())
}

fn put(document: &mut Mapping, list: &str, field: &str, name: &str, value: Value) -> Result<(), String> {
    let entries = document.entry(list.into()).or_insert(Value::Sequence(Vec::new()));
    if entries.is_null() {
        *entries = Value::Sequence(Vec::new());
    }
    let Value::Sequence(entries) = entries else { return Err(format!("{list} is not a list")) };
    let known = entries.iter_mut().find(|entry| entry.get("name").and_then(Value::as_str) == Some(name));
    match known.and_then(Value::as_mapping_mut) {
        Some(known) => {
            // A namespace that the user has chosen for the context stays.
            let kept = known.get(field).and_then(|old| old.get("namespace")).cloned();
            let mut value = value;
            if let (Some(kept), Some(new)) = (kept, value.as_mapping_mut()) {
                new.insert("namespace".into(), kept);
            }
            known.insert(field.into(), value);
        }
        None => entries.push(mapping([(field, value), ("name", Value::from(name))])),
    }
    Ok(())
}

/// Reads, changes and replaces at once; a file of the user's own name behind a link stays behind the link.
fn change(path: &Path, edit: impl FnOnce(&str) -> Result<String, String>) -> Result<(), Error> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let failed = |source| Error::File { path: path.clone(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    if !folder.exists() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(error)),
    };
    let after = edit(&before).map_err(|reason| Error::Malformed { path: path.clone(), reason })?;
    if after == before {
        return Ok(());
    }
    replace(&path, &after).map_err(failed)
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".ondol-new");
    let fresh = path.with_file_name(name);
    let _ = std::fs::remove_file(&fresh);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    if let Ok(before) = std::fs::metadata(path) {
        // Under sudo the file stays its owner's.
        std::os::unix::fs::chown(&fresh, Some(before.uid()), Some(before.gid()))?;
    }
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: &str = "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    server: https://a\n    x-own: [1, two]\n  name: a\ncontexts:\n- context:\n    cluster: a\n    user: a\n  name: a\ncurrent-context: a\nusers:\n- name: a\n  user:\n    token: t\n";

    fn entry() -> Entry {
        Entry {
            name: "ondol".to_owned(),
            server: "https://127.0.0.1:6443".to_owned(),
            authority_pem: "pem".to_owned(),
            command: vec!["/usr/bin/ondol".to_owned(), "credential".to_owned()],
        }
    }

    #[test]
    fn ours_is_added_and_removed_and_others_stay() {
        let added = with_entry(OTHERS, &entry()).unwrap();
        assert!(added.contains("current-context: ondol") && added.contains("x-own"), "{added}");
        assert_eq!(with_entry(&added, &entry()).unwrap(), added, "a second time changes nothing");
        let (removed, changed) = without_entry(&added, "ondol").unwrap();
        assert!(changed);
        let (before, after): (Value, Value) =
            (serde_norway::from_str(OTHERS).unwrap(), serde_norway::from_str(&removed).unwrap());
        for list in ["clusters", "contexts", "users"] {
            assert_eq!(before.get(list), after.get(list));
        }
        assert_eq!(without_entry(OTHERS, "ondol").unwrap(), (OTHERS.to_owned(), false));
    }

    #[test]
    fn a_namespace_that_the_user_chose_stays() {
        let added =
            with_entry("", &entry()).unwrap().replace("user: ondol", "user: ondol\n    namespace: shop");
        assert!(with_entry(&added, &entry()).unwrap().contains("namespace: shop"));
    }

    #[test]
    fn what_is_no_kubeconfig_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, "- a\n- b\n").unwrap();
        assert!(matches!(add(&path, &entry()), Err(Error::Malformed { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "- a\n- b\n");
    }

    #[test]
    fn the_file_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("config");
        add(&path, &entry()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(remove(&path, "ondol").unwrap());
        assert!(!path.exists(), "nothing was left in it");
        std::fs::write(&path, OTHERS).unwrap();
        add(&path, &entry()).unwrap();
        assert!(remove(&path, "ondol").unwrap() && path.exists());
    }
}
