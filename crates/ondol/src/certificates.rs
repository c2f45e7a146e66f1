//! Which certificates nodes are given: in their own name, and for the address that the server was told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use controllers::settings::{NodeRequest, RequestSigner};
use wire::tls::{Authority, PeerIdentity, Usage};

/// How long they live, as upstream's: a node that was switched off for a while finds its server again.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Signs what the agents of `nodes` ask for.
pub fn request_signer(
    authority: Arc<Authority>,
    nodes: BTreeMap<String, IpAddr>,
    clock: Clock,
) -> RequestSigner {
    Arc::new(move |asked: &NodeRequest| {
        let peer = PeerIdentity::of_request(&asked.pem).map_err(|error| base::with_causes(&error))?;
        let Some(address) = nodes.get(&asked.node) else {
            return Err(format!("no node {} may join: the server was started without it", asked.node));
        };
        refusal(&peer, asked, *address).map_or(Ok(()), Err)?;
        let usage = if asked.serving { Usage::Server } else { Usage::Client };
        let signed = authority.sign_request(&asked.pem, &[usage], LIFETIME, clock.now());
        signed.map_err(|error| base::with_causes(&error))
    })
}

/// Why such names cannot be in a certificate.
fn refusal(peer: &PeerIdentity, asked: &NodeRequest, address: IpAddr) -> Option<String> {
    let name = format!("system:node:{}", asked.node);
    if peer.common_name != name {
        return Some(format!("its common name must be {name}"));
    }
    if peer.organizations != ["system:nodes"] {
        return Some("its organization must be system:nodes alone".to_owned());
    }
    let has_names = !peer.dns_names.is_empty() || !peer.ips.is_empty();
    if peer.other_names > 0 || (has_names && !asked.serving) {
        return Some("it may name no host and no address".to_owned());
    }
    if peer.dns_names.iter().any(|host| *host != asked.node) || peer.ips.iter().any(|ip| *ip != address) {
        return Some(format!(
            "it may name no other host than {} and no other address than {address}",
            asked.node
        ));
    }
    None
}
