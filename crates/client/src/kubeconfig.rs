//! Kubeconfig files, as far as we need them: one context's server, its authority, and one of certificate, token or
//! exec plugin.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// A file that is larger is none of ours.
const FILE_BYTES: u64 = 8 * 1024 * 1024;

/// What a client needs to reach a server as somebody.
#[derive(Clone, Default)]
pub struct Kubeconfig {
    /// As `https://127.0.0.1:6443`.
    pub server: String,
    /// The name that the server must prove, if it is not the host of `server`.
    pub server_name: Option<String>,
    /// Whom to believe.
    pub authority_pem: Option<String>,
    /// Whether any server is believed.
    pub insecure: bool,
    /// Who we are.
    pub credential: Credential,
    /// The context's namespace; empty for `default`.
    pub namespace: String,
}

/// Who we are.
#[derive(Clone, Default)]
pub enum Credential {
    /// Nobody.
    #[default]
    None,
    /// A client certificate.
    Certificate {
        /// The chain.
        certificate_pem: String,
        /// Its key.
        key_pem: String,
    },
    /// A bearer token.
    Token(String),
}

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// A file cannot be read.
    #[error("cannot read {path}; check that it exists and is yours")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is not YAML, or not a kubeconfig.
    #[error("{path} is no kubeconfig: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It names something that is not there.
    #[error("the kubeconfig has no {what} {name:?}; see \"kubectl config view\"")]
    Missing {
        /// Sort of entry.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A field that cannot be used.
    #[error("{field} of the kubeconfig cannot be used: {reason}")]
    Field {
        /// Which one.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// The exec plugin failed.
    #[error("the credential plugin {command:?} failed: {reason}")]
    Plugin {
        /// The command.
        command: String,
        /// Why.
        reason: String,
    },
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Document {
    // "kubectl config" writes null where the last entry has gone.
    clusters: Option<Vec<NamedCluster>>,
    contexts: Option<Vec<NamedContext>>,
    users: Option<Vec<NamedUser>>,
    current_context: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: bool,
    proxy_url: Option<String>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: String,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    exec: Option<Exec>,
    username: Option<String>,
    auth_provider: Option<serde_norway::Value>,
}

#[derive(Deserialize)]
struct Exec {
    command: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<Variable>>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ExecCredential {
    status: ExecStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ExecStatus {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

impl Kubeconfig {
    /// Reads `path` and takes `context`, or the current one.
    pub fn read(path: &Path, context: Option<&str>) -> Result<Self, KubeconfigError> {
        let failed = |source| KubeconfigError::File { path: path.to_owned(), source };
        let length = std::fs::metadata(path).map_err(failed)?.len();
        if length > FILE_BYTES {
            let reason = format!("it is larger than {FILE_BYTES} bytes");
            return Err(KubeconfigError::Malformed { path: path.to_owned(), reason });
        }
        Self::parse(&std::fs::read_to_string(path).map_err(failed)?, path, context)
    }

    /// Reads a text. Relative paths in it are relative to the folder of `path`.
    pub fn parse(text: &str, path: &Path, context: Option<&str>) -> Result<Self, KubeconfigError> {
        let document: Document = serde_norway::from_str(text).map_err(|error| {
            KubeconfigError::Malformed { path: path.to_owned(), reason: error.to_string() }
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let missing = |what, name: &str| KubeconfigError::Missing { what, name: name.to_owned() };
        let name = context.unwrap_or(&document.current_context);
        let context = document.contexts.iter().flatten().find(|entry| entry.name == name);
        let context = &context.ok_or_else(|| missing("context", name))?.context;
        let cluster = document.clusters.iter().flatten().find(|entry| entry.name == context.cluster);
        let cluster = &cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster;
        let user = document.users.iter().flatten().find(|entry| entry.name == context.user);
        if user.is_none() && !context.user.is_empty() {
            return Err(missing("user", &context.user));
        }
        if cluster.proxy_url.is_some() {
            let reason = "proxies are not used here; remove it".to_owned();
            return Err(KubeconfigError::Field { field: "proxy-url", reason });
        }
        Ok(Self {
            server: cluster.server.clone(),
            server_name: cluster.tls_server_name.clone(),
            authority_pem: material(
                "certificate-authority-data",
                cluster.certificate_authority_data.as_deref(),
                cluster.certificate_authority.as_deref(),
                folder,
            )?,
            insecure: cluster.insecure_skip_tls_verify,
            credential: user.map_or(Ok(Credential::None), |entry| entry.user.credential(folder))?,
            namespace: context.namespace.clone(),
        })
    }
}

impl User {
    fn credential(&self, folder: &Path) -> Result<Credential, KubeconfigError> {
        if self.username.is_some() || self.auth_provider.is_some() {
            let reason = "only certificates, tokens and exec plugins are understood".to_owned();
            return Err(KubeconfigError::Field { field: "username or auth-provider", reason });
        }
        let certificate = material(
            "client-certificate-data",
            self.client_certificate_data.as_deref(),
            self.client_certificate.as_deref(),
            folder,
        )?;
        let key =
            material("client-key-data", self.client_key_data.as_deref(), self.client_key.as_deref(), folder)?;
        let half = |field| KubeconfigError::Field { field, reason: "its other half is missing".to_owned() };
        match (certificate, key) {
            (Some(certificate_pem), Some(key_pem)) => {
                return Ok(Credential::Certificate { certificate_pem, key_pem });
            }
            (Some(_), None) => return Err(half("client-certificate")),
            (None, Some(_)) => return Err(half("client-key")),
            (None, None) => {}
        }
        if let Some(path) = self.token_file.as_ref().filter(|path| !path.is_empty()) {
            let path = folder.join(path);
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|source| KubeconfigError::File { path, source })?;
            return Ok(Credential::Token(text.trim().to_owned()));
        }
        if let Some(token) = self.token.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Credential::Token(token.clone()));
        }
        self.exec.as_ref().map_or(Ok(Credential::None), Exec::run)
    }
}

impl Exec {
    /// Asks the plugin once; a client that lives longer than the credential makes a new client.
    fn run(&self) -> Result<Credential, KubeconfigError> {
        let failed = |reason: String| KubeconfigError::Plugin { command: self.command.clone(), reason };
        let variables = self.env.iter().flatten().map(|variable| (&variable.name, &variable.value));
        let output = std::process::Command::new(&self.command)
            .args(self.args.iter().flatten())
            .envs(variables)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let credential: ExecCredential =
            serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))?;
        match credential.status {
            ExecStatus {
                client_certificate_data: Some(certificate_pem),
                client_key_data: Some(key_pem),
                ..
            } => Ok(Credential::Certificate { certificate_pem, key_pem }),
            ExecStatus { token: Some(token), .. } => Ok(Credential::Token(token)),
            _ => Err(failed("it gave neither a certificate with its key nor a token".to_owned())),
        }
    }
}

/// PEM from base64 in the file itself, else from the file that it names.
fn material(
    field: &'static str,
    data: Option<&str>,
    file: Option<&str>,
    folder: &Path,
) -> Result<Option<String>, KubeconfigError> {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let invalid = |reason: String| KubeconfigError::Field { field, reason };
        let bytes = STANDARD.decode(data.trim()).map_err(|error| invalid(error.to_string()))?;
        return String::from_utf8(bytes).map(Some).map_err(|error| invalid(error.to_string()));
    }
    let Some(file) = file.filter(|file| !file.is_empty()) else { return Ok(None) };
    let path = folder.join(file);
    std::fs::read_to_string(&path).map(Some).map_err(|source| KubeconfigError::File { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r"
current-context: a
clusters:
- name: one
  cluster: {server: 'https://127.0.0.1:6443', certificate-authority-data: Y2E=}
contexts:
- name: a
  context: {cluster: one, user: me, namespace: shop}
- name: b
  context: {cluster: two, user: me}
users:
- name: me
  user: {token: secret}
- name: plugin
  user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: x, args: null}}
";

    #[test]
    fn the_current_context_is_followed() {
        let config = Kubeconfig::parse(TEXT, Path::new("/x/config"), None).unwrap();
        assert_eq!(config.server, "https://127.0.0.1:6443");
        assert_eq!(config.authority_pem.as_deref(), Some("ca"));
        assert!(matches!(&config.credential, Credential::Token(token) if token == "secret"));
        assert_eq!(config.namespace, "shop");
    }

    #[test]
    fn what_is_named_and_not_there_is_told() {
        let error = Kubeconfig::parse(TEXT, Path::new("/x/config"), Some("b")).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("no cluster \"two\""), "{error}");
        let error = Kubeconfig::parse(TEXT, Path::new("/x/config"), Some("c")).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("no context \"c\""), "{error}");
        assert!(Kubeconfig::parse("[", Path::new("x"), None).is_err());
    }

    #[test]
    fn half_a_credential_is_told_and_an_empty_one_is_none() {
        let of = |user: &str| {
            let text = TEXT.replace("{token: secret}", user);
            Kubeconfig::parse(&text, Path::new("/x/config"), None).map(|config| config.credential)
        };
        for (user, field) in [
            ("{client-certificate-data: Y2E=}", "client-certificate"),
            ("{client-key-data: Y2E=}", "client-key"),
        ] {
            let error = of(user).map(|_| ()).unwrap_err();
            assert!(
                matches!(&error, KubeconfigError::Field { field: told, .. } if *told == field),
                "{error}"
            );
        }
        assert!(matches!(of("{token: '', tokenFile: ''}"), Ok(Credential::None)));
        let empty = "{clusters: null, contexts: null, users: null, current-context: a}";
        let error = Kubeconfig::parse(empty, Path::new("x"), None).map(|_| ()).unwrap_err();
        assert!(matches!(error, KubeconfigError::Missing { what: "context", .. }), "{error}");
    }

    #[test]
    fn an_exec_plugin_is_run() {
        let folder = tempfile::tempdir().unwrap();
        let text = TEXT.replace("{token: secret}", "{exec: {command: sh, args: [-c, 'echo $ANSWER'], env: [{name: ANSWER, value: '{\"status\":{\"token\":\"t\"}}'}]}}");
        let config = Kubeconfig::parse(&text, &folder.path().join("config"), None).unwrap();
        assert!(matches!(&config.credential, Credential::Token(token) if token == "t"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_parsing_panic(text in ".{0,80}") {
            let _ = Kubeconfig::parse(&text, Path::new("x"), None);
        }
    }
}
