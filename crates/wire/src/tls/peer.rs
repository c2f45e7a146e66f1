//! What a certificate says about its owner.

use std::net::IpAddr;

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use super::{Error, malformed};

/// The owner's names, as a certificate or a signing request gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The user's name.
    pub common_name: String,
    /// The user's groups.
    pub organizations: Vec<String>,
    /// Host names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// URIs and e-mail addresses; kubelet's signers refuse requests that have them.
    pub other_names: usize,
    /// When it begins to be valid; the epoch for a request.
    pub not_before: Timestamp,
    /// When it ends to be valid; the epoch for a request.
    pub not_after: Timestamp,
    /// Whether it may sign others.
    pub is_authority: bool,
}

impl PeerIdentity {
    /// Reads a DER certificate.
    pub fn of_der(der: &[u8]) -> Result<Self, Error> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| malformed("certificate", error))?;
        let mut peer = Self::of_name(certificate.subject())?;
        peer.not_before = timestamp(certificate.validity().not_before.timestamp())?;
        peer.not_after = timestamp(certificate.validity().not_after.timestamp())?;
        peer.is_authority = certificate.is_ca();
        for extension in certificate.extensions() {
            peer.add_names(extension.parsed_extension());
        }
        Ok(peer)
    }

    /// Reads the first certificate of a PEM text.
    pub fn of_pem(pem: &str) -> Result<Self, Error> {
        Self::of_der(&der(pem, "CERTIFICATE", "certificate")?)
    }

    /// Reads a PEM certificate signing request and checks that its sender holds the key.
    pub fn of_request(pem: &str) -> Result<Self, Error> {
        let der = der(pem, "CERTIFICATE REQUEST", "certificate signing request")?;
        let bad = |reason: String| malformed("certificate signing request", reason);
        let (_, request) = X509CertificationRequest::from_der(&der).map_err(|e| bad(e.to_string()))?;
        request.verify_signature().map_err(|e| bad(e.to_string()))?;
        let mut peer = Self::of_name(&request.certification_request_info.subject)?;
        for extension in request.requested_extensions().into_iter().flatten() {
            peer.add_names(extension);
        }
        Ok(peer)
    }

    fn of_name(name: &X509Name<'_>) -> Result<Self, Error> {
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().map(ToOwned::to_owned).map_err(|error| malformed("certificate's name", error))
        };
        // As in Go, the last common name counts.
        let common_name = name.iter_common_name().last().map(text).transpose()?.unwrap_or_default();
        Ok(Self {
            common_name,
            organizations: name.iter_organization().map(text).collect::<Result<_, _>>()?,
            dns_names: Vec::new(),
            ips: Vec::new(),
            other_names: 0,
            not_before: Timestamp::UNIX_EPOCH,
            not_after: Timestamp::UNIX_EPOCH,
            is_authority: false,
        })
    }

    fn add_names(&mut self, extension: &ParsedExtension<'_>) {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { return };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => match address(bytes) {
                    Some(ip) => self.ips.push(ip),
                    None => self.other_names += 1,
                },
                _ => self.other_names += 1,
            }
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .ok()
        .or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
}

fn timestamp(seconds: i64) -> Result<Timestamp, Error> {
    Timestamp::from_second(seconds).map_err(|error| malformed("certificate's validity", error))
}

fn der(pem: &str, label: &str, what: &'static str) -> Result<Vec<u8>, Error> {
    let (_, block) =
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| malformed(what, error))?;
    // OpenSSL's older tools say NEW in the label of a request.
    if block.label != label && block.label.strip_prefix("NEW ") != Some(label) {
        return Err(malformed(what, format!("it is a PEM block of {}", block.label)));
    }
    Ok(block.contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strange_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(PeerIdentity::of_der(&bytes).is_err());
            prop_assert!(PeerIdentity::of_request(&String::from_utf8_lossy(&bytes)).is_err());
        }
    }
}
