//! Who asks: client certificates, tokens of ServiceAccounts, impersonation by those who may do everything.

pub(crate) mod legacy;
mod token;

use std::sync::Arc;

use api::status::{Reason, Status};
use api::value::{Str, Value};
use base::Clock;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use wire::serve::ConnectionInfo;

use crate::identity::{ANONYMOUS, AUTHENTICATED, Identity, MASTERS, UNAUTHENTICATED};
use crate::lookups::Lookups;
use token::Verified;
pub use token::{Binding, Request};

/// Signs and verifies JSON Web Tokens. Implemented over `wire`'s keys; tests bring their own.
pub trait Keys: Send + Sync + 'static {
    /// A signed token of these claims.
    fn sign(&self, claims: &Value) -> Result<String, Status>;

    /// The claims of a token whose signature is one of ours. Times and names are judged by the gate.
    fn verify(&self, token: &str) -> Option<Value>;

    /// The public keys, as a JSON Web Key Set.
    fn key_set(&self) -> Value;
}

/// [`Keys`] of one signing key.
pub struct SigningKeys {
    key: wire::jwt::SigningKey,
    clock: Clock,
}

impl SigningKeys {
    /// Signs with `key`, and verifies what it signed.
    pub fn new(key: wire::jwt::SigningKey, clock: Clock) -> Self {
        Self { key, clock }
    }
}

impl Keys for SigningKeys {
    fn sign(&self, claims: &Value) -> Result<String, Status> {
        self.key.sign(claims).map_err(Status::internal)
    }

    fn verify(&self, token: &str) -> Option<Value> {
        let keys = std::slice::from_ref(self.key.public());
        let claims = wire::jwt::verify(token, keys, self.clock.now()).ok()?;
        api::value::parse(&serde_json::to_vec(&claims).ok()?).ok()
    }

    fn key_set(&self) -> Value {
        let keys = wire::jwt::jwks(std::slice::from_ref(self.key.public()));
        api::value::parse(keys.as_bytes()).unwrap_or_default()
    }
}

/// Tells who asks.
pub struct Authenticator {
    keys: Arc<dyn Keys>,
    issuer: String,
    audiences: Vec<String>,
    verified: token::Cache,
    uses: legacy::Uses,
}

impl Authenticator {
    /// With the keys of tokens and what they must name.
    pub fn new(keys: Arc<dyn Keys>, issuer: String, audiences: Vec<String>) -> Self {
        Self { keys, issuer, audiences, verified: token::Cache::default(), uses: legacy::Uses::default() }
    }

    /// The keys.
    pub fn keys(&self) -> &dyn Keys {
        &*self.keys
    }

    /// The issuer that tokens name.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// What tokens are for when nothing else is said.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The uses of lasting tokens that are to be written.
    pub(crate) fn uses(&self) -> &legacy::Uses {
        &self.uses
    }

    /// Who sent a request.
    pub fn identify(
        &self,
        headers: &HeaderMap,
        connection: &ConnectionInfo,
        lookups: &dyn Lookups,
    ) -> Result<Identity, Status> {
        let identity = self.credentials(headers, connection, lookups)?;
        impersonated(identity, headers)
    }

    fn credentials(
        &self,
        headers: &HeaderMap,
        connection: &ConnectionInfo,
        lookups: &dyn Lookups,
    ) -> Result<Identity, Status> {
        let bearer = bearer(headers);
        match connection.client_certificate() {
            Some(certificate) => match certificate.trusted_at(lookups.now()) {
                Some(peer) => return Ok(of_certificate(peer)),
                None if bearer.is_none() => return Err(unauthorized()),
                None => {}
            },
            None if bearer.is_none() => return Ok(Identity::anonymous()),
            None => {}
        }
        let token = bearer.unwrap_or_default();
        self.identity_of_token(token, &self.audiences, lookups)
            .map(|(identity, _)| identity)
            .ok_or_else(unauthorized)
    }

    /// Who a token is, and for which of the wanted audiences; nobody if it is not good.
    pub fn identity_of_token(
        &self,
        token: &str,
        audiences: &[String],
        lookups: &dyn Lookups,
    ) -> Option<(Identity, Vec<String>)> {
        let verified = self.verified(token)?;
        let audiences = verified.judge(token, lookups, audiences, &self.uses)?;
        Some((verified.identity(), audiences))
    }

    /// Whom a token is for that is signed by us, whether or not it still holds; none if it names nobody.
    pub fn audiences_of(&self, token: &str) -> Option<Vec<String>> {
        self.verified(token).map(|verified| verified.audiences().to_vec()).filter(|own| !own.is_empty())
    }

    fn verified(&self, token: &str) -> Option<Arc<Verified>> {
        if let Some(verified) = self.verified.get(token) {
            return Some(verified);
        }
        let verified = Arc::new(Verified::read(&self.keys.verify(token)?, &self.issuer)?);
        self.verified.insert(token, &verified);
        Some(verified)
    }

    /// A token for a ServiceAccount.
    pub fn issue(&self, request: &Request<'_>, now: Timestamp, id: &str) -> Result<String, Status> {
        self.keys.sign(&request.claims(&self.issuer, now, id))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

fn of_certificate(peer: &wire::tls::PeerIdentity) -> Identity {
    let groups: Vec<&str> = peer.organizations.iter().map(String::as_str).collect();
    Identity::new(&peer.common_name, &groups)
}

/// Wrong or no credentials.
pub fn unauthorized() -> Status {
    Status::new(Reason::Unauthorized, "Unauthorized")
}

/// Those who may do everything may act as somebody else.
fn impersonated(identity: Identity, headers: &HeaderMap) -> Result<Identity, Status> {
    let text =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
    let all = |name: &str| -> Vec<Str> {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(Str::from).collect()
    };
    let (user, groups, uid) = (text("impersonate-user"), all("impersonate-group"), text("impersonate-uid"));
    let Some(user) = user else {
        let extra = headers.keys().any(|name| name.as_str().starts_with("impersonate-extra-"));
        if groups.is_empty() && uid.is_none() && !extra {
            return Ok(identity);
        }
        return Err(Status::internal(format_args!(
            "requested impersonation details without impersonating a user; set Impersonate-User"
        )));
    };
    if !identity.is_in(MASTERS) {
        let why = format!(
            "User \"{}\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            identity.name
        );
        let users = api::names::GroupResource { group: Str::default(), resource: "users".into() };
        return Err(Status::forbidden(&users, user, &why));
    }
    let mut other =
        Identity { name: user.into(), uid: uid.unwrap_or_default().into(), groups, ..Identity::default() };
    if let Some((namespace, name)) =
        user.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'))
        && other.groups.is_empty()
    {
        other.groups = Identity::service_account(namespace, name, "").groups;
    }
    let everybody = if user == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !other.is_in(everybody) {
        other.groups.push(everybody.into());
    }
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix("impersonate-extra-") {
            let key = crate::query::percent_decode(key, false);
            other.extra.push((key.into(), all(name.as_str())));
        }
    }
    Ok(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn masters_may_act_as_somebody_else_and_others_may_not() {
        let asked = headers(&[("impersonate-user", "jane"), ("impersonate-group", "dev")]);
        let jane = impersonated(Identity::admin(), &asked).unwrap();
        assert_eq!((jane.name.as_str(), jane.is_in("dev"), jane.is_in(AUTHENTICATED)), ("jane", true, true));
        assert!(!jane.is_in(MASTERS));
        assert_eq!(impersonated(Identity::new("bob", &[]), &asked).unwrap_err().code, 403);
    }

    #[test]
    fn a_bearer_is_read_whatever_the_case_of_its_scheme() {
        assert_eq!(bearer(&headers(&[("authorization", "bearer abc")])), Some("abc"));
        assert_eq!(bearer(&headers(&[("authorization", "Basic abc")])), None);
    }
}
