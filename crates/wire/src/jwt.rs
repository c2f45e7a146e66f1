//! JSON Web Tokens for service accounts: ES256 (RFC 7518, 3.4) and nothing else.
//!
//! Deliberately absent: other algorithms, and any choice by the token of how it is verified.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::tls;

/// Longer tokens are refused unread.
pub const TOKEN_MAX_BYTES: usize = 16 * 1024;
/// What clocks of signer and verifier may differ by.
pub const LEEWAY: Duration = Duration::from_secs(60);
/// A public key of P-256: 4, x, y.
const POINT_BYTES: usize = 65;
/// What precedes the point in the SubjectPublicKeyInfo of a P-256 key (RFC 5480).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// What goes wrong with keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] tls::Error),
    /// Not a P-256 key in PKCS#8.
    #[error("the signing key is not a P-256 key in PKCS#8 PEM: {reason}; make one with openssl genpkey")]
    Malformed {
        /// Why.
        reason: String,
    },
    /// The provider failed.
    #[error("the system's cryptography failed; try again")]
    Provider,
    /// The claims are no JSON object.
    #[error("the claims cannot be written as JSON")]
    Claims(#[from] serde_json::Error),
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Not a token of this sort at all.
    #[error("the token is malformed; ask for a new one")]
    Malformed,
    /// Too long to be read.
    #[error("the token is longer than {TOKEN_MAX_BYTES} bytes; ask for one with fewer claims")]
    TooLarge,
    /// No key of ours has signed it.
    #[error("the token is not signed by a key of ours; ask this cluster for one")]
    Signature,
    /// Its time is over.
    #[error("the token has expired; ask for a new one")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet; compare the clocks")]
    NotYet,
}

/// A private key that signs tokens.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    pem: String,
    public: VerifyingKey,
}

/// A public key that tokens are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey {
    id: String,
    point: [u8; POINT_BYTES],
}

impl SigningKey {
    /// The key in the file `path`, made there if there is none.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        if let Some(pem) = tls::read_private(path)? {
            return Self::from_pem(&pem);
        }
        let made = Self::generate()?;
        tls::write_private(path, made.pem.as_bytes())?;
        Ok(made)
    }

    /// A new key.
    pub fn generate() -> Result<Self, KeyError> {
        let key =
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|_| KeyError::Provider)?;
        Self::from_pem(&key.serialize_pem())
    }

    /// A key from PKCS#8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let malformed = |reason: String| KeyError::Malformed { reason };
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| malformed(error.to_string()))?;
        let random = SystemRandom::new();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der(), &random)
                .map_err(|error| malformed(error.to_string()))?;
        let public = VerifyingKey::from_point(pair.public_key().as_ref())?;
        Ok(Self { pair, pem: pem.to_owned(), public })
    }

    /// The private key as PEM, for who keeps it elsewhere.
    pub fn to_pem(&self) -> &str {
        &self.pem
    }

    /// Its public half.
    pub fn public(&self) -> &VerifyingKey {
        &self.public
    }

    /// Signs `claims`, which are an object.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, KeyError> {
        let header = json!({"alg": "ES256", "kid": self.public.id}).to_string();
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims)?));
        let signature =
            self.pair.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| KeyError::Provider)?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }
}

impl VerifyingKey {
    fn from_point(point: &[u8]) -> Result<Self, KeyError> {
        let refused =
            || KeyError::Malformed { reason: "its public half is not an uncompressed point".into() };
        let point: [u8; POINT_BYTES] = point.try_into().map_err(|_| refused())?;
        let spki = [&SPKI_PREFIX[..], &point].concat();
        // Upstream's key identifier: the digest of the public key's DER.
        let id = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, &spki));
        Ok(Self { id, point })
    }

    /// The `kid` in the headers of its tokens.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key as PEM (SubjectPublicKeyInfo).
    pub fn to_pem(&self) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode([&SPKI_PREFIX[..], &self.point].concat());
        let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END PUBLIC KEY-----\n");
        pem
    }

    fn to_jwk(&self) -> Value {
        let (x, y) = self.point[1..].split_at(32);
        json!({
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    }
}

/// The document of `/openid/v1/jwks` (RFC 7517).
pub fn jwks(keys: &[VerifyingKey]) -> String {
    json!({"keys": keys.iter().map(VerifyingKey::to_jwk).collect::<Vec<_>>()}).to_string()
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

struct Parts<'a> {
    header: Header,
    claims: Map<String, Value>,
    signed: &'a str,
    signature: Vec<u8>,
}

fn parse(token: &str) -> Result<Parts<'_>, VerifyError> {
    if token.len() > TOKEN_MAX_BYTES {
        return Err(VerifyError::TooLarge);
    }
    let malformed = VerifyError::Malformed;
    let (signed, signature) = token.rsplit_once('.').ok_or(malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(malformed)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed);
    Ok(Parts {
        header: serde_json::from_slice(&decode(header)?).map_err(|_| malformed)?,
        claims: serde_json::from_slice(&decode(claims)?).map_err(|_| malformed)?,
        signed,
        signature: decode(signature)?,
    })
}

/// Verifies signature and times, with [`LEEWAY`], and returns the claims. Whether a token may lack `exp`, and so last
/// for ever, is the caller's to judge, as are issuer, audience and subject.
pub fn verify(token: &str, keys: &[VerifyingKey], now: Timestamp) -> Result<Map<String, Value>, VerifyError> {
    let Parts { header, claims, signed, signature } = parse(token)?;
    let typ_is_known = header.typ.as_deref().is_none_or(|typ| typ.eq_ignore_ascii_case("JWT"));
    if header.alg != "ES256" || !typ_is_known || header.crit.is_some() {
        return Err(VerifyError::Malformed);
    }
    let named = |key: &&VerifyingKey| header.kid.as_ref().is_none_or(|id| *id == key.id);
    let good = |key: &VerifyingKey| {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.point)
            .verify(signed.as_bytes(), &signature)
            .is_ok()
    };
    if !keys.iter().filter(named).any(good) {
        return Err(VerifyError::Signature);
    }
    let (now, leeway) = (now.as_second(), LEEWAY.as_secs() as i64);
    if time(&claims, "exp")?.is_some_and(|expires| now >= expires.saturating_add(leeway)) {
        return Err(VerifyError::Expired);
    }
    for claim in ["nbf", "iat"] {
        if time(&claims, claim)?.is_some_and(|at| at > now.saturating_add(leeway)) {
            return Err(VerifyError::NotYet);
        }
    }
    Ok(claims)
}

fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, VerifyError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => number
            .as_i64()
            .or_else(|| number.as_f64().filter(|f| f.abs() < 9e15).map(|f| f as i64))
            .map(Some)
            .ok_or(VerifyError::Malformed),
        Some(_) => Err(VerifyError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().unwrap());

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn keys() -> Vec<VerifyingKey> {
        vec![SigningKey::generate().unwrap().public, KEY.public.clone()]
    }

    #[test]
    fn a_token_is_good_in_its_time_only() {
        let token = KEY.sign(&json!({"iss": "us", "iat": 1000, "nbf": 1000, "exp": 2000})).unwrap();
        for (now, expect) in [
            (939, Err(VerifyError::NotYet)),
            (940, Ok(())),
            (2059, Ok(())),
            (2060, Err(VerifyError::Expired)),
        ] {
            assert_eq!(verify(&token, &keys(), at(now)).map(|_| ()), expect, "{now}");
        }
    }

    #[test]
    fn what_is_not_signed_by_us_or_not_our_algorithm_is_refused() {
        let token = KEY.sign(&json!({"exp": 2000})).unwrap();
        assert_eq!(verify(&token, &keys()[..1], at(0)).unwrap_err(), VerifyError::Signature);
        let (_, rest) = token.split_once('.').unwrap();
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256"}"#, r#"{"alg":"ES256","crit":["x"]}"#, "{}"] {
            let forged = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header));
            assert_eq!(verify(&forged, &keys(), at(0)).unwrap_err(), VerifyError::Malformed, "{header}");
        }
        let lasting = KEY.sign(&json!({"iss": "us"})).unwrap();
        assert!(!verify(&lasting, &keys(), at(0)).unwrap().contains_key("exp"));
        let odd = KEY.sign(&json!({"exp": "never"})).unwrap();
        assert_eq!(verify(&odd, &keys(), at(0)).unwrap_err(), VerifyError::Malformed);
        assert_eq!(verify(&"a".repeat(TOKEN_MAX_BYTES + 1), &keys(), at(0)), Err(VerifyError::TooLarge));
    }

    #[test]
    fn keys_survive_their_files_and_pem() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sa.key");
        let first = SigningKey::load_or_create(&path).unwrap();
        let second = SigningKey::load_or_create(&path).unwrap();
        assert_eq!(first.public(), second.public());
        let pem =
            rustls_pki_types::SubjectPublicKeyInfoDer::from_pem_slice(first.public().to_pem().as_bytes());
        assert!(pem.unwrap().ends_with(&first.public().point));
        let set: Value = serde_json::from_str(&jwks(&keys())).unwrap();
        assert_eq!(set["keys"][1]["kid"], KEY.public.id());
    }

    proptest! {
        #[test]
        fn strange_tokens_are_refused_without_a_panic(token in "[A-Za-z0-9_.{}\"-]{0,80}") {
            prop_assert!(verify(&token, &keys(), at(0)).is_err());
        }

        #[test]
        fn one_changed_letter_spoils_a_token(place in 0_usize..150, letter in "[A-Za-z0-9_-]") {
            let token = KEY.sign(&json!({"iss": "us", "exp": 2000})).unwrap();
            let place = place % token.len();
            let mut changed = token.clone();
            changed.replace_range(place..=place, &letter);
            prop_assume!(changed != token);
            prop_assert!(verify(&changed, &keys(), at(0)).is_err());
        }
    }
}
