//! Credentials as `docker login` keeps them: the `auths` of a `config.json`, or of an image pull secret.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::Error;
use crate::reference::Reference;

/// The largest file, in bytes: the limit of a Secret.
pub const FILE_MAX_BYTES: u64 = 1 << 20;

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// A refresh token ("identity token") for the registry's token server.
    Refresh(String),
    /// A token for the registry itself.
    Bearer(String),
}

impl std::fmt::Debug for Credentials {
    /// Shows no secret: credentials must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username})"),
            Self::Refresh(_) => f.write_str("Refresh"),
            Self::Bearer(_) => f.write_str("Bearer"),
        }
    }
}

/// Credentials by registry, and perhaps by path.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    entries: Vec<(String, Credentials)>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: Option<BTreeMap<String, Auth>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Keyring {
    /// Reads a `config.json` (type `kubernetes.io/dockerconfigjson`). Credential helpers are not run.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let what = "the registry credentials";
        crate::document::limit(what, bytes, FILE_MAX_BYTES)?;
        let file: File = serde_json::from_slice(bytes).map_err(|error| {
            // The text of the error must not quote the file, which is a secret.
            Error::invalid(
                what,
                format!(
                    "line {}, column {}: write them as \"docker login\" does",
                    error.line(),
                    error.column()
                ),
            )
        })?;
        Self::from_auths(file.auths.unwrap_or_default())
    }

    /// Reads the older form, which is only the inner part (type `kubernetes.io/dockercfg`).
    pub fn parse_legacy(bytes: &[u8]) -> Result<Self, Error> {
        let what = "the registry credentials";
        crate::document::limit(what, bytes, FILE_MAX_BYTES)?;
        let auths = serde_json::from_slice(bytes).map_err(|error| {
            Error::invalid(what, format!("line {}, column {}", error.line(), error.column()))
        })?;
        Self::from_auths(auths)
    }

    fn from_auths(auths: BTreeMap<String, Auth>) -> Result<Self, Error> {
        let mut entries = Vec::new();
        for (registry, auth) in auths {
            if let Some(credentials) = auth.credentials(&registry)? {
                entries.push((location(&registry), credentials));
            }
        }
        Ok(Self { entries })
    }

    /// Adds what `other` has; what came first is tried first.
    pub fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
    }

    /// All credentials that fit `reference`, the longest path first. Upstream tries them one after another.
    pub fn find(&self, reference: &Reference) -> Vec<Credentials> {
        let target = format!("{}/{}", reference.registry(), reference.path());
        let mut fitting: Vec<&(String, Credentials)> =
            self.entries.iter().filter(|(location, _)| fits(location, &target)).collect();
        fitting.sort_by_key(|(location, _)| std::cmp::Reverse(location.len()));
        fitting.into_iter().map(|(_, credentials)| credentials.clone()).collect()
    }
}

impl Auth {
    fn credentials(self, registry: &str) -> Result<Option<Credentials>, Error> {
        if let Some(token) = self.registrytoken.filter(|token| !token.is_empty()) {
            return Ok(Some(Credentials::Bearer(token)));
        }
        if let Some(token) = self.identitytoken.filter(|token| !token.is_empty()) {
            return Ok(Some(Credentials::Refresh(token)));
        }
        if let Some(auth) = self.auth.filter(|auth| !auth.is_empty()) {
            let wrong = || {
                Error::invalid(
                    format!("the credentials for {registry}"),
                    "\"auth\" is not the base64 of name:password; run \"docker login\" again",
                )
            };
            let decoded = STANDARD.decode(auth.trim()).map_err(|_| wrong())?;
            let text = String::from_utf8(decoded).map_err(|_| wrong())?;
            let (username, password) = text.split_once(':').ok_or_else(wrong)?;
            // Old dockers pad with zeros.
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Some(Credentials::Basic { username: username.to_owned(), password }));
        }
        Ok(match (self.username, self.password) {
            (Some(username), Some(password)) if !username.is_empty() => {
                Some(Credentials::Basic { username, password })
            }
            _ => None,
        })
    }
}

/// `https://index.docker.io/v1/` becomes `docker.io`, and so on.
fn location(key: &str) -> String {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => "docker.io",
        other => other,
    };
    match path {
        "" | "v1" | "v2" => host.to_owned(),
        path => format!("{host}/{path}"),
    }
}

/// Whether a location covers `target`: the same host (`*` stands for one label), and a prefix of the path.
fn fits(location: &str, target: &str) -> bool {
    let (host, path) = location.split_once('/').unwrap_or((location, ""));
    let (target_host, target_path) = target.split_once('/').unwrap_or((target, ""));
    let port = |host: &str| host.rsplit_once(':').map_or("", |(_, port)| port).to_owned();
    let name = |host: &str| host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned();
    let (labels, target_labels) = (name(host), name(target_host));
    let same_labels = labels.split('.').count() == target_labels.split('.').count()
        && labels
            .split('.')
            .zip(target_labels.split('.'))
            .all(|(label, other)| label == "*" || label == other);
    let covers = path.is_empty()
        || target_path == path
        || target_path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    same_labels && port(host) == port(target_host) && covers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keyring(text: &str) -> Keyring {
        Keyring::parse(text.as_bytes()).unwrap()
    }

    fn find(keyring: &Keyring, name: &str) -> Vec<Credentials> {
        keyring.find(&name.parse().unwrap())
    }

    #[test]
    fn dockers_own_key_means_its_registry() {
        // "me:secret" in base64.
        let ring = keyring(r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6c2VjcmV0"}}}"#);
        let expect = Credentials::Basic { username: "me".into(), password: "secret".into() };
        assert_eq!(find(&ring, "nginx"), [expect]);
        assert!(find(&ring, "example.com/nginx").is_empty());
    }

    #[test]
    fn the_longest_path_comes_first_and_labels_may_be_any() {
        let ring = keyring(
            r#"{"auths":{"example.com":{"username":"all","password":"p"},
                "example.com/team":{"username":"team","password":"p"},
                "*.example.org:5000":{"identitytoken":"t"}}}"#,
        );
        let users: Vec<String> =
            find(&ring, "example.com/team/app").iter().map(|found| format!("{found:?}")).collect();
        assert_eq!(users, ["Basic(team)", "Basic(all)"]);
        assert_eq!(find(&ring, "example.com/teams/app").len(), 1);
        assert_eq!(find(&ring, "a.example.org:5000/app"), [Credentials::Refresh("t".into())]);
        assert!(find(&ring, "a.example.org/app").is_empty());
    }

    #[test]
    fn errors_show_no_secret() {
        let error = Keyring::parse(br#"{"auths":{"x.y":{"auth":"c2VjcmV0"}}}"#).unwrap_err().to_string();
        assert!(error.contains("x.y") && !error.contains("c2VjcmV0"), "{error}");
        let error = Keyring::parse(br#"{"auths": secret"#).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Keyring::parse(&bytes);
            let _ = Keyring::parse_legacy(&bytes);
        }
    }
}
