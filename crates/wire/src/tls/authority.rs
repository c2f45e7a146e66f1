//! The house's certificate authority.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use ring::rand::SecureRandom as _;

use super::{Error, KeyPair, PeerIdentity, files, malformed};

/// An authority lives for ten years, as kubeadm's do.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are valid from a little before they are made, for machines whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// The object identifier of organizationName: rcgen's names keep one value per type, so a second organization is
/// written under its bare number.
const ORGANIZATION_OID: &[u64] = &[2, 5, 4, 10];
const ORGANIZATIONS_MAX: usize = 2;
/// Organizations in another's request.
const REQUEST_ORGANIZATIONS_MAX: usize = 1;
const SERIAL_BYTES: usize = 16;

/// A certificate authority with its key (ECDSA P-256).
pub struct Authority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    certificate_pem: String,
    key_pem: String,
}

/// What a leaf certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To serve.
    Server,
    /// To call.
    Client,
}

/// The wish for a leaf certificate.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// A user's or server's name.
    pub common_name: String,
    /// A user's groups; at most 2.
    pub organizations: Vec<String>,
    /// Host names that it serves.
    pub dns_names: Vec<String>,
    /// Addresses that it serves.
    pub ips: Vec<IpAddr>,
    /// What it may be used for.
    pub usages: Vec<Usage>,
    /// How long it is valid.
    pub lifetime: Duration,
}

impl Authority {
    /// The authority in `folder` (`{name}.crt`, `{name}.key`), made there if neither file exists. Processes that do this
    /// at the same time get the same one.
    pub fn load_or_create(folder: &Path, name: &str, now: Timestamp) -> Result<Self, Error> {
        let (certificate_path, key_path) =
            (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        let _turn = files::turn(folder)?;
        match (files::read(&certificate_path)?, files::read_private(&key_path)?) {
            (Some(certificate), Some(key)) => Self::from_pem(&certificate, &key),
            (None, None) => {
                let made = Self::create(name, now)?;
                // The certificate comes last: should we die in between, there is a key that nobody trusts yet, whereas
                // a certificate that someone already trusts would have lost its key.
                files::write_private(&key_path, made.key_pem.as_bytes())?;
                files::write_public(&certificate_path, made.certificate_pem.as_bytes())?;
                Ok(made)
            }
            // Whoever trusts an earlier certificate of this key trusts what is signed with it under the same name.
            (None, Some(key)) => {
                let path = certificate_path.display();
                tracing::warn!(%path, "there is no certificate for the key beside it; making one");
                let made = Self::of_key(&rcgen::KeyPair::from_pem(&key)?, name, now)?;
                files::write_public(&certificate_path, made.certificate_pem.as_bytes())?;
                Ok(made)
            }
            (Some(_), None) => Err(Error::HalfAuthority { missing: key_path }),
        }
    }

    /// A new authority that is kept nowhere.
    pub fn create(common_name: &str, now: Timestamp) -> Result<Self, Error> {
        Self::of_key(&rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?, common_name, now)
    }

    fn of_key(key: &rcgen::KeyPair, common_name: &str, now: Timestamp) -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyCertSign,
        ];
        set_validity(&mut params, now, AUTHORITY_LIFETIME)?;
        // The day when it was made says nothing: a clock that is set back behind it must not make all else invalid.
        params.not_before = rcgen::date_time_ymd(1970, 1, 1);
        let certificate_pem = params.self_signed(key)?.pem();
        Self::from_pem(&certificate_pem, &key.serialize_pem())
    }

    /// An authority from PEM texts (any key type that ring signs with).
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let key = rcgen::KeyPair::from_pem(key_pem)?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key)?;
        let (certificate_pem, key_pem) = (certificate_pem.to_owned(), key_pem.to_owned());
        Ok(Self { issuer, certificate_pem, key_pem })
    }

    /// The certificate that others put into their pools of roots.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues a leaf certificate with a new key.
    pub fn issue(&self, leaf: &Leaf, now: Timestamp) -> Result<KeyPair, Error> {
        let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(leaf)?;
        params.subject_alt_names = alternative_names(leaf)?;
        restrict(&mut params, &leaf.usages);
        set_validity(&mut params, now, leaf.lifetime)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(KeyPair { chain_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Signs another's certificate signing request. Names are taken from the request, usages and lifetime are not:
    /// whether the names are acceptable is for the caller to have decided (see [`super::PeerIdentity::of_request`]).
    pub fn sign_request(
        &self,
        request_pem: &str,
        usages: &[Usage],
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<String, Error> {
        // rcgen would keep the last of several organizations without a word: a user would lose groups.
        let count = PeerIdentity::of_request(request_pem)?.organizations.len();
        if count > REQUEST_ORGANIZATIONS_MAX {
            return Err(Error::TooManyOrganizations { count, most: REQUEST_ORGANIZATIONS_MAX });
        }
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)?;
        request.params.is_ca = IsCa::ExplicitNoCa;
        request.params.name_constraints = None;
        request.params.custom_extensions.clear();
        restrict(&mut request.params, usages);
        set_validity(&mut request.params, now, lifetime)?;
        Ok(request.signed_by(&self.issuer)?.pem())
    }
}

/// A request for a certificate, and the key that belongs to it.
pub struct SigningRequest {
    /// What an authority is sent (PKCS #10).
    pub request_pem: String,
    /// The new private key (PKCS #8).
    pub key_pem: String,
}

/// Asks for a certificate with the names of `leaf` and a new key. Usages and lifetime are for the authority to say.
pub fn request(leaf: &Leaf) -> Result<SigningRequest, Error> {
    let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(leaf)?;
    params.subject_alt_names = alternative_names(leaf)?;
    let request_pem = params.serialize_request(&key)?.pem()?;
    Ok(SigningRequest { request_pem, key_pem: key.serialize_pem() })
}

fn alternative_names(leaf: &Leaf) -> Result<Vec<SanType>, Error> {
    let mut names = Vec::with_capacity(leaf.dns_names.len() + leaf.ips.len());
    for name in &leaf.dns_names {
        names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    names.extend(leaf.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    Ok(names)
}

fn distinguished_name(leaf: &Leaf) -> Result<DistinguishedName, Error> {
    let mut name = DistinguishedName::new();
    let kinds = [DnType::OrganizationName, DnType::CustomDnType(ORGANIZATION_OID.to_vec())];
    let count = leaf.organizations.len();
    if count > ORGANIZATIONS_MAX {
        return Err(Error::TooManyOrganizations { count, most: ORGANIZATIONS_MAX });
    }
    for (kind, organization) in kinds.into_iter().zip(&leaf.organizations) {
        name.push(kind, organization.as_str());
    }
    name.push(DnType::CommonName, leaf.common_name.as_str());
    Ok(name)
}

fn restrict(params: &mut CertificateParams, usages: &[Usage]) {
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = usages
        .iter()
        .map(|usage| match usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        })
        .collect();
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, lifetime: Duration) -> Result<(), Error> {
    let seconds = u64::try_from(now.as_second()).map_err(|_| malformed("clock", "it is before 1970"))?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(seconds).saturating_sub(BACKDATE);
    params.not_after = epoch + Duration::from_secs(seconds) + lifetime;
    let mut serial = [0_u8; SERIAL_BYTES];
    ring::rand::SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| malformed("serial number", "the system has no randomness"))?;
    serial[0] &= 0x7f; // A serial number is positive (RFC 5280, 4.1.2.2).
    serial[0] |= 0x40; // And has no leading zero byte.
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn leaf() -> Leaf {
        Leaf {
            common_name: "system:node:a".into(),
            organizations: vec!["system:nodes".into(), "second".into()],
            dns_names: vec!["a.example".into()],
            ips: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            usages: vec![Usage::Server, Usage::Client],
            lifetime: Duration::from_secs(3600),
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn an_authority_is_made_once_and_its_key_is_secret() {
        let folder = tempfile::tempdir().unwrap();
        let first = Authority::load_or_create(folder.path(), "ca", now()).unwrap();
        let second = Authority::load_or_create(folder.path(), "ca", now()).unwrap();
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        let made = PeerIdentity::of_pem(first.certificate_pem()).unwrap();
        assert_eq!(made.not_before.as_second(), 0, "whatever a clock says, it holds already");
        let key = folder.path().join("ca.key");
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        // As after a death between the two files: what was signed before is still trusted.
        let leaf = first.issue(&leaf(), now()).unwrap();
        std::fs::remove_file(folder.path().join("ca.crt")).unwrap();
        let third = Authority::load_or_create(folder.path(), "ca", now()).unwrap();
        assert_eq!(third.key_pem, first.key_pem);
        let roots = super::super::Roots::new(third.certificate_pem()).unwrap();
        let chain: Vec<rustls_pki_types::CertificateDer<'_>> =
            rustls_pki_types::pem::PemObject::pem_slice_iter(leaf.chain_pem.as_bytes())
                .collect::<Result<_, _>>()
                .unwrap();
        let shown = super::super::ClientCertificate::check(&chain, &roots, now()).unwrap();
        assert_eq!(shown.verified, Ok(()));
        std::fs::remove_file(&key).unwrap();
        let refused = Authority::load_or_create(folder.path(), "ca", now());
        assert!(matches!(refused, Err(Error::HalfAuthority { missing }) if missing == key));
    }

    #[test]
    fn a_leaf_says_who_it_is_and_for_how_long() {
        let authority = Authority::create("test", now()).unwrap();
        let pair = authority.issue(&leaf(), now()).unwrap();
        let peer = PeerIdentity::of_pem(&pair.chain_pem).unwrap();
        assert_eq!(peer.common_name, "system:node:a");
        assert_eq!(peer.organizations, ["system:nodes", "second"]);
        assert_eq!(peer.dns_names, ["a.example"]);
        assert_eq!(peer.ips, leaf().ips);
        assert_eq!(peer.not_after.as_second(), 1_800_003_600);
        assert_eq!(peer.not_before.as_second(), 1_800_000_000 - 300);
        let crowd = Leaf { organizations: vec!["x".into(); 3], ..leaf() };
        assert!(matches!(
            authority.issue(&crowd, now()),
            Err(Error::TooManyOrganizations { count: 3, most: 2 })
        ));
    }

    #[test]
    fn a_request_gets_its_names_but_never_an_authority() {
        let authority = Authority::create("test", now()).unwrap();
        let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(&leaf()).unwrap();
        let crowd = params.serialize_request(&key).unwrap().pem().unwrap();
        let refused = authority.sign_request(&crowd, &[Usage::Client], Duration::from_secs(60), now());
        assert!(matches!(refused, Err(Error::TooManyOrganizations { count: 2, most: 1 })));
        let one = Leaf { organizations: vec!["system:nodes".into()], ..leaf() };
        params.distinguished_name = distinguished_name(&one).unwrap();
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        assert_eq!(PeerIdentity::of_request(&request).unwrap().common_name, "system:node:a");
        let signed =
            authority.sign_request(&request, &[Usage::Client], Duration::from_secs(60), now()).unwrap();
        let peer = PeerIdentity::of_pem(&signed).unwrap();
        assert_eq!(peer.common_name, "system:node:a");
        assert!(!peer.is_authority);
        assert!(authority.sign_request("nonsense", &[], Duration::from_secs(60), now()).is_err());
    }
}
