//! What `ondol server` writes for a node that may join: a kubeconfig with the node's identity, and beside it what an
//! agent cannot know.
//!
//! It is good for a while only ([`Server`](cli::arguments::Server)'s `--invitation-hours`): with it an agent asks for
//! certificates of its own, and needs it no more.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::facts::Facts;
use crate::layout::Layout;
use crate::server::{Server, client_leaf, kubelet_leaf};

/// What an agent cannot know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Invitation {
    /// Name of the node.
    pub node: String,
    /// Its address, which its server's certificate names.
    pub address: IpAddr,
    /// Range of all pods.
    pub pod_range: String,
    /// Range of Services.
    pub service_range: String,
    /// Address of the cluster's name service.
    pub dns_service: IpAddr,
    /// The certificate of the agent's own HTTPS server.
    pub serving_certificate: String,
    /// Its key.
    pub serving_key: String,
}

/// The part of the file that is ours; kubectl and other clients ignore it.
#[derive(Deserialize)]
struct Document {
    ondol: Invitation,
}

/// Reads the part of a kubeconfig that is for agents.
pub fn read(path: &Path) -> anyhow::Result<Invitation> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let document: Document = serde_norway::from_str(&text).with_context(|| {
        format!("{} was not written by \"ondol server --node NAME=ADDRESS\"; use such a file", path.display())
    })?;
    Ok(document.ondol)
}

/// Writes the file for one node.
pub fn write(
    layout: &Layout,
    facts: &Facts,
    server: &Server,
    own: IpAddr,
    node: &str,
    address: IpAddr,
    life: Duration,
) -> anyhow::Result<PathBuf> {
    let now = server.now();
    let mut leaf = client_leaf(&format!("system:node:{node}"), &["system:nodes"]);
    leaf.lifetime = life;
    let identity = server.authority.issue(&leaf, now)?;
    let mut leaf = kubelet_leaf(node, &[address]);
    leaf.lifetime = life;
    let serving = server.authority.issue(&leaf, now)?;
    let host = if own.is_ipv6() { format!("[{own}]") } else { own.to_string() };
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "ondol", "cluster": {
            "server": format!("https://{host}:{}", server.port),
            "certificate-authority-data": STANDARD.encode(server.authority.certificate_pem()),
        }}],
        "contexts": [{"name": "ondol", "context": {"cluster": "ondol", "user": node}}],
        "current-context": "ondol",
        "users": [{"name": node, "user": {
            "client-certificate-data": STANDARD.encode(&identity.chain_pem),
            "client-key-data": STANDARD.encode(&identity.key_pem),
        }}],
        "ondol": Invitation {
            node: node.to_owned(),
            address,
            pod_range: facts.pod_range.clone(),
            service_range: facts.service_range.clone(),
            dns_service: server.dns_service,
            serving_certificate: serving.chain_pem,
            serving_key: serving.key_pem,
        },
    });
    let path = layout.agents().join(format!("{node}.kubeconfig"));
    // JSON is YAML that every reader reads alike: a node may be called "no", which YAML 1.1 takes for a truth value.
    wire::tls::write_private(&path, serde_json::to_string_pretty(&document)?.as_bytes())?;
    Ok(path)
}

/// Reads `--node NAME=ADDRESS`.
pub fn parse_node(text: &str) -> anyhow::Result<(String, IpAddr)> {
    let (name, address) =
        text.split_once('=').with_context(|| format!("write --node {text} as NAME=ADDRESS"))?;
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if name.is_empty() || !name.chars().all(is_plain) {
        anyhow::bail!("{name:?} is no name for a node: lower-case letters, digits, '-' and '.'");
    }
    Ok((name.to_owned(), address.parse().with_context(|| format!("{address:?} is no address"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_with_their_address() {
        assert_eq!(parse_node("a=10.0.0.1").unwrap(), ("a".to_owned(), "10.0.0.1".parse().unwrap()));
        for bad in ["a", "=10.0.0.1", "a=x", "../a=10.0.0.1", "A=10.0.0.1"] {
            assert!(parse_node(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_foreign_kubeconfig_is_refused_with_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, "apiVersion: v1\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("--node"));
    }
}
