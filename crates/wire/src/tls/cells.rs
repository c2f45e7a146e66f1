//! What can be swapped while servers and clients run: the certificate that is presented, the roots that are believed.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::{ALPN, Error, KeyPair, PeerIdentity, malformed, provider};

/// The certificate that a server or a client presents. Swapped at once for all handshakes that follow.
#[derive(Debug, Default)]
pub struct Presented(ArcSwapOption<CertifiedKey>);

impl Presented {
    /// Presents nothing until one is set: a server refuses handshakes, a client stays anonymous.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// Presents `pair`.
    pub fn new(pair: &KeyPair) -> Result<Arc<Self>, Error> {
        let presented = Self::none();
        presented.set(pair)?;
        Ok(presented)
    }

    /// Replaces the certificate.
    pub fn set(&self, pair: &KeyPair) -> Result<(), Error> {
        self.0.store(Some(certified(pair)?));
        Ok(())
    }

    /// The chain of the moment, the leaf first.
    #[cfg(test)]
    pub(super) fn chain(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.0.load().as_ref().map(|key| key.cert.clone())
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

fn certified(pair: &KeyPair) -> Result<Arc<CertifiedKey>, Error> {
    let chain = certificates(&pair.chain_pem)?;
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes())
        .map_err(|error| malformed("private key", error))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match()?;
    Ok(Arc::new(certified))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| malformed("certificate chain", error))?;
    if all.is_empty() {
        return Err(malformed("certificate chain", "it holds no certificate"));
    }
    Ok(all)
}

/// The authorities that are believed: a server's for client certificates, a client's for servers.
#[derive(Debug, Default)]
pub struct Roots {
    any_server: bool,
    clients: ArcSwapOption<Arc<dyn ClientCertVerifier>>,
    servers: ArcSwapOption<Arc<rustls::client::WebPkiServerVerifier>>,
}

impl Roots {
    /// Believes nobody until some are set.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// Believes the authorities in `pem` (one or more certificates).
    pub fn new(pem: &str) -> Result<Arc<Self>, Error> {
        let roots = Self::none();
        roots.set(pem)?;
        Ok(roots)
    }

    /// Believes every server, without a proof, and no client: for those who asked for it by name
    /// (`insecure-skip-tls-verify`).
    pub fn any_server() -> Arc<Self> {
        Arc::new(Self { any_server: true, ..Self::default() })
    }

    /// Believes the authorities in `pem` instead, from the next handshake on.
    pub fn set(&self, pem: &str) -> Result<(), Error> {
        let mut store = RootCertStore::empty();
        for certificate in certificates(pem)? {
            store.add(certificate)?;
        }
        let store = Arc::new(store);
        let refused = |error: rustls::server::VerifierBuilderError| malformed("pool of roots", error);
        let clients = WebPkiClientVerifier::builder_with_provider(store.clone(), provider())
            .build()
            .map_err(refused)?;
        let servers = rustls::client::WebPkiServerVerifier::builder_with_provider(store, provider())
            .build()
            .map_err(refused)?;
        self.clients.store(Some(Arc::new(clients)));
        self.servers.store(Some(Arc::new(servers)));
        Ok(())
    }

    /// Whether `chain` (the leaf first) leads to a root, at `now`, and may be used by a client.
    pub fn verify_client(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), rustls::Error> {
        let verifier = self.clients.load_full();
        let (Some(verifier), [leaf, rest @ ..]) = (verifier, chain) else {
            return Err(rustls::CertificateError::UnknownIssuer.into());
        };
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        verifier.verify_client_cert(leaf, rest, at).map(|_| ())
    }
}

/// The certificate that a client showed. That it holds the key was proven by the handshake.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whether the chain led to a root of ours when the connection was made; otherwise why not.
    pub verified: Result<(), String>,
    /// What it says; `None` if its name could not be read.
    pub identity: Option<PeerIdentity>,
}

impl ClientCertificate {
    pub(crate) fn check(chain: &[CertificateDer<'_>], roots: &Roots, now: Timestamp) -> Option<Self> {
        let leaf = chain.first()?;
        Some(Self {
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            verified: roots.verify_client(chain, now).map_err(|error| error.to_string()),
            identity: PeerIdentity::of_der(leaf).ok(),
        })
    }

    /// The owner, if the chain is trusted and the certificate is still valid at `now`: connections may live longer
    /// than certificates.
    pub fn trusted_at(&self, now: Timestamp) -> Option<&PeerIdentity> {
        let identity = self.identity.as_ref()?;
        (self.verified.is_ok() && identity.not_before <= now && now <= identity.not_after).then_some(identity)
    }
}

/// A server's TLS: asks for a client certificate, takes any or none, and leaves the judgement to
/// [`ClientCertificate`]. So a stranger with a wrong certificate gets a clear 401 rather than a broken handshake.
pub fn server_config(presented: Arc<Presented>) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(AnyClient))
        .with_cert_resolver(presented);
    config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A client's TLS: believes `roots`, shows `presented` when asked. `alpn` may be empty.
pub fn client_config(
    roots: Arc<Roots>,
    presented: Arc<Presented>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SwappedServers(roots)))
        .with_client_cert_resolver(presented);
    // A resumed session goes on to show the certificate of the first one, which may have been renewed since.
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Takes every client certificate whose key is proven.
#[derive(Debug)]
struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // An empty list lets clients send what they have; ours can be swapped, this list could not.
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Judges servers by the roots of the moment.
#[derive(Debug)]
struct SwappedServers(Arc<Roots>);

impl ServerCertVerifier for SwappedServers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.0.any_server {
            return Ok(ServerCertVerified::assertion());
        }
        let verifier = self.0.servers.load_full().ok_or(rustls::CertificateError::UnknownIssuer)?;
        verifier.verify_server_cert(leaf, rest, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
