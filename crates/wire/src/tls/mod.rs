//! Certificates: the house's own authority, what servers present, whom they believe, and how all of that is renewed
//! while they run. Nothing here requires a client certificate: who may do what is decided above.

mod authority;
mod cells;
mod files;
mod peer;
mod rotating;

pub use authority::{AUTHORITY_LIFETIME, Authority, Leaf, SigningRequest, Usage, request};
pub use cells::{ClientCertificate, Presented, Roots, client_config, server_config};
pub use files::{read_private, write_private, write_public};
pub use peer::PeerIdentity;
pub use rotating::Rotating;

use std::path::PathBuf;

/// ALPN names, most wanted first.
pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Certificates with their key, as PEM text.
#[derive(Clone)]
pub struct KeyPair {
    /// The leaf first, then what leads to the root.
    pub chain_pem: String,
    /// The private key (PKCS#8).
    pub key_pem: String,
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyPair(..)")
    }
}

/// What goes wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot use {path}; check that the folder exists and is ours")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Of an authority's two files only one is there: making a new one would orphan all that was issued.
    #[error("{missing} is missing while its other half exists; restore it, or delete both to start anew")]
    HalfAuthority {
        /// The file that is not there.
        missing: PathBuf,
    },
    /// PEM or DER that does not parse.
    #[error("the {what} is not valid: {reason}; give PEM text")]
    Malformed {
        /// Which input.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The certificate could not be made.
    #[error("the certificate cannot be made; check its names")]
    Issue(#[from] rcgen::Error),
    /// A certificate of ours carries few organizations.
    #[error("{count} organizations are more than are written into a certificate here; give at most {most}")]
    TooManyOrganizations {
        /// How many were asked for.
        count: usize,
        /// How many are taken.
        most: usize,
    },
    /// rustls refused the material.
    #[error("TLS refuses the certificate or key; check that they belong together")]
    Tls(#[from] rustls::Error),
}

fn malformed(what: &'static str, reason: impl ToString) -> Error {
    Error::Malformed { what, reason: reason.to_string() }
}

fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<std::sync::Arc<rustls::crypto::CryptoProvider>> =
        std::sync::LazyLock::new(|| {
            let mut provider = rustls::crypto::ring::default_provider();
            // As Go, whose clients are most of ours: AES with 128 bits before that with 256, which costs a third more.
            provider.cipher_suites.sort_by_key(|suite| {
                let suite = format!("{:?}", suite.suite());
                (!suite.starts_with("TLS13"), !suite.contains("AES_128"))
            });
            std::sync::Arc::new(provider)
        });
    PROVIDER.clone()
}
