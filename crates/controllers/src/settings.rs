//! What controllers must be told, because it is in no object.

use std::sync::Arc;

use api::validation::address::Cidr;
use base::Clock;

/// Facts of this cluster, read once at the start.
#[derive(Clone)]
pub struct Settings {
    /// The certificates by which clients know the API server, as PEM; published in every namespace.
    pub ca_pem: String,
    /// Makes the lasting tokens of Secrets.
    pub sign_token: TokenSigner,
    /// Signs nodes' certificates.
    pub sign_request: RequestSigner,
    /// Where pods get their addresses from, one network for each address family.
    pub pod_networks: Vec<PodNetwork>,
    /// Where Services get theirs from; nodes are given nothing of it.
    pub service_cidrs: Vec<Cidr>,
    /// Ports of the nodes that no load balancer may take, as the API server's own.
    pub reserved_ports: Vec<u16>,
    /// Measures how long something is as it is. What was missed before it began does not count.
    pub clock: Clock,
}

/// A network that is cut into one block for each node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    /// The whole.
    pub cidr: Cidr,
    /// Length of the prefix of a node's block, in bits.
    pub node_prefix: u8,
}

/// Signs a token that lasts as long as its Secret and its ServiceAccount. Must give the same for the same.
pub type TokenSigner = Arc<dyn Fn(&TokenClaims) -> Result<String, String> + Send + Sync>;

/// Signs a node's certificate, as PEM, or says why not.
pub type RequestSigner = Arc<dyn Fn(&NodeRequest) -> Result<String, String> + Send + Sync>;

/// A certificate that a node asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRequest {
    /// Who asks.
    pub node: String,
    /// For its own server; otherwise to be known by.
    pub serving: bool,
    /// The request (PKCS #10), which nobody has looked into.
    pub pem: String,
}

/// Who a lasting token speaks for, and which Secret it is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenClaims {
    /// Namespace of both.
    pub namespace: String,
    /// Name of the ServiceAccount.
    pub service_account: String,
    /// Its uid.
    pub service_account_uid: String,
    /// Name of the Secret.
    pub secret: String,
}
