//! `ondol credential`: what kubectl calls for each command, so that its credential never goes stale.

use std::time::Duration;

use anyhow::Context as _;
use base::Clock;
use serde_json::json;
use wire::tls::Authority;

use crate::layout::Layout;
use crate::server::client_leaf;

/// How long one is valid.
const LIFETIME: Duration = Duration::from_secs(3600);
/// kubectl keeps it in memory and asks again this long before its end.
const MARGIN: Duration = Duration::from_secs(300);

/// The ExecCredential of an administrator, issued by the authority in the data folder, which only root can read.
pub fn credential(layout: &Layout, clock: &Clock) -> anyhow::Result<String> {
    let keys = layout.keys();
    if !keys.join("ca.crt").exists() {
        anyhow::bail!(
            "there is no instance {} at {} (or you may not read it): \"ondol up\" makes one, as root",
            layout.instance,
            layout.data.display()
        );
    }
    let now = clock.now();
    let authority =
        Authority::load_or_create(&keys, "ca", now).context("the authority's files are damaged")?;
    let mut leaf = client_leaf("kubernetes-admin", &["system:masters"]);
    leaf.lifetime = LIFETIME;
    let pair = authority.issue(&leaf, now)?;
    let expires = api::time::seconds(now + (LIFETIME - MARGIN));
    let document = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {
            "expirationTimestamp": expires,
            "clientCertificateData": pair.chain_pem,
            "clientKeyData": pair.key_pem,
        },
    });
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_certificate_of_the_instances_authority() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let layout = Layout::new("t-credential", Some(folder.path())).unwrap();
        assert!(credential(&layout, &clock).unwrap_err().to_string().contains("ondol up"));
        Authority::load_or_create(&layout.keys(), "ca", clock.now()).unwrap();
        let text = credential(&layout, &clock).unwrap();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let pem = document["status"]["clientCertificateData"].as_str().unwrap();
        let peer = wire::tls::PeerIdentity::of_pem(pem).unwrap();
        assert_eq!(
            (peer.common_name.as_str(), peer.organizations[0].as_str()),
            ("kubernetes-admin", "system:masters")
        );
    }
}
