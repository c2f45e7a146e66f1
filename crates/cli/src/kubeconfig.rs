//! Our entries in the user's kubeconfig: put there by `up`, taken away by `down --wipe`, and no other byte touched.

mod text;

use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use text::Text;

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

/// The namespace that kubectl uses for the instance whose entries are called `name`: that of the current context if it
/// leads there, else of the entry's own. A file that cannot be read says nothing.
pub fn namespace(variable: Option<&str>, home: &Path, name: &str) -> Option<String> {
    let mut files = files(variable);
    if files.is_empty() {
        files.push(home.join(".kube").join("config"));
    }
    let read = |path: PathBuf| Text::read(&std::fs::read_to_string(path).ok()?).ok();
    let texts: Vec<Text> = files.into_iter().filter_map(read).collect();
    // Of several files the first that has a name counts.
    let context = |name: &str| {
        texts.iter().find_map(|text| {
            let number = numbered(text.value(), "contexts", name)?;
            Some(&text.value()["contexts"][number]["context"])
        })
    };
    let mut current = texts.iter().filter_map(|text| text.value()["current-context"].as_str());
    let current = current.find(|current| !current.is_empty()).and_then(context);
    let chosen = current.filter(|context| context["cluster"] == *name).or_else(|| context(name))?;
    chosen["namespace"].as_str().filter(|namespace| !namespace.is_empty()).map(str::to_owned)
}

/// The files that `KUBECONFIG` names.
fn files(variable: Option<&str>) -> Vec<PathBuf> {
    variable.unwrap_or_default().split(':').filter(|part| !part.is_empty()).map(PathBuf::from).collect()
}

/// The file that kubectl would write to: the first of `KUBECONFIG` that exists, else its last, else `~/.kube/config`.
pub fn path(variable: Option<&str>, home: &Path) -> PathBuf {
    let files = files(variable);
    files
        .iter()
        .find(|file| file.exists())
        .or(files.last())
        .cloned()
        .unwrap_or_else(|| home.join(".kube").join("config"))
}

/// Whether an entry can be added, before anything is begun that would need it. Changes nothing.
pub fn check(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let malformed = |reason| Error::Malformed { path: path.to_owned(), reason };
            Text::read(&text).map_err(malformed)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // It is replaced, not written over, so that its folder counts: the nearest one that is there.
    let place = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = place.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        return Err(failed(std::io::ErrorKind::NotADirectory.into()));
    }
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|error| failed(error.into()))
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

/// Whether a kubeconfig holds nothing but its skeleton, and no comment of its user.
fn is_empty(text: &str) -> Result<bool, String> {
    let skeleton = |(key, value): (&String, &Value)| match key.as_str() {
        "apiVersion" | "kind" => true,
        "clusters" | "contexts" | "users" => value.as_array().is_none_or(Vec::is_empty),
        "preferences" => value.as_object().is_none_or(serde_json::Map::is_empty),
        "current-context" => value.as_str().is_none_or(str::is_empty),
        _ => false,
    };
    let members = Text::read(text)?;
    Ok(!text.contains('#') && members.value().as_object().is_some_and(|all| all.iter().all(skeleton)))
}

/// `text` with `entry` in it.
pub fn with_entry(text: &str, entry: &Entry) -> Result<String, String> {
    let mut text = Text::read(text)?;
    let (program, arguments) = entry.command.split_first().ok_or("no program for credentials")?;
    let cluster = json!({
        "certificate-authority-data": STANDARD.encode(&entry.authority_pem),
        "server": entry.server,
    });
    let exec = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "args": arguments,
        "command": program,
        "env": null,
        "interactiveMode": "Never",
        "provideClusterInfo": false,
    });
    put(&mut text, "clusters", "cluster", &entry.name, cluster)?;
    put(&mut text, "contexts", "context", &entry.name, json!({"cluster": entry.name, "user": entry.name}))?;
    put(&mut text, "users", "user", &entry.name, json!({"exec": exec}))?;
    text.set("current-context", &entry.name)?;
    Ok(text.into_text())
}

/// `text` without the entries named `name`, and whether there were any.
pub fn without_entry(text: &str, name: &str) -> Result<(String, bool), String> {
    let mut changed = Text::read(text)?;
    let mut found = false;
    for list in ["clusters", "contexts", "users"] {
        while let Some(number) = numbered(changed.value(), list, name) {
            changed.take(list, number)?;
            found = true;
        }
    }
    if changed.value()["current-context"] == *name {
        changed.set("current-context", "")?;
        found = true;
    }
    Ok(if found { (changed.into_text(), true) } else { (text.to_owned(), false) })
}

/// The number of the entry of that name.
fn numbered(document: &Value, list: &str, name: &str) -> Option<usize> {
    document[list].as_array()?.iter().position(|entry| entry["name"] == *name)
}

fn put(text: &mut Text, list: &str, field: &str, name: &str, mut value: Value) -> Result<(), String> {
    let number = numbered(text.value(), list, name);
    let mut entry = match number {
        Some(number) => text.value()[list][number].clone(),
        None => json!({"name": name}),
    };
    // A namespace that the user has chosen for the context stays.
    if let Some(kept) = entry[field].get("namespace").cloned() {
        value["namespace"] = kept;
    }
    entry[field] = value;
    text.put(list, number, entry)
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
mod tests;
