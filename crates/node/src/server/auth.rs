//! Who may ask this node: delegated to the API server, as kubelet does it.
//!
//! A client certificate of the cluster's authority, or a bearer token that the API server reviews, says who it is;
//! a SubjectAccessReview on `nodes/<subresource>` says whether it may. Answers are kept for some seconds. Nobody is
//! let in without a name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::interface::{Api, Call, Target, WriteOptions};
use api::json;
use api::names::{Resource, SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS};
use api::status::Status;
use api::value::Value;
use base::Clock;
use http::header::{AUTHORIZATION, HeaderMap};
use tracing::warn;
use wire::serve::ConnectionInfo;

/// How long an answer of the API server holds.
const KEPT: Duration = Duration::from_secs(10);
/// Answers that are kept at most; then all are forgotten.
const KEPT_MAX: usize = 1024;
/// The gate itself, and those who may everything.
const SERVER: &str = "system:kube-apiserver";
const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// The user's name.
    pub user: String,
    /// The user's uid, where there is one.
    pub uid: String,
    /// The user's groups.
    pub groups: Vec<String>,
    /// More, as the API server told it.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// Answer 401.
    #[error("Unauthorized")]
    Unknown,
    /// Answer 403.
    #[error("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)={subresources:?})")]
    Forbidden {
        /// Who asked.
        user: String,
        /// For what.
        verb: &'static str,
        /// Of which parts of the node.
        subresources: &'static [&'static str],
    },
    /// Answer 500.
    #[error("the API server could not be asked who this is and what they may ({0}); try again")]
    Unreachable(Status),
}

/// Asks the API server, and remembers.
pub struct Doorkeeper {
    node: String,
    api: Arc<dyn Api>,
    clock: Clock,
    tokens: Kept<String, Option<Identity>>,
    access: Kept<(Identity, &'static str, &'static str), bool>,
}

type Kept<K, V> = Mutex<BTreeMap<K, (V, Duration)>>;

impl Doorkeeper {
    /// Guards the node.
    pub fn new(node: &str, api: Arc<dyn Api>, clock: Clock) -> Self {
        Self { node: node.to_owned(), api, clock, tokens: Mutex::default(), access: Mutex::default() }
    }

    /// Lets a request in, or not.
    pub async fn admit(
        &self,
        connection: &ConnectionInfo,
        headers: &HeaderMap,
        verb: &'static str,
        subresources: &'static [&'static str],
    ) -> Result<Identity, Denied> {
        let identity = self.identify(connection, headers).await?.ok_or(Denied::Unknown)?;
        if identity.user == SERVER || identity.groups.iter().any(|group| group == MASTERS) {
            return Ok(identity);
        }
        for subresource in subresources {
            if self.may(&identity, verb, subresource).await? {
                return Ok(identity);
            }
        }
        Err(Denied::Forbidden { user: identity.user, verb, subresources })
    }

    async fn identify(
        &self,
        connection: &ConnectionInfo,
        headers: &HeaderMap,
    ) -> Result<Option<Identity>, Denied> {
        if let Some(certificate) = connection.client_certificate()
            && let Some(owner) = certificate.trusted_at(self.clock.now())
            && !owner.common_name.is_empty()
        {
            let mut groups = owner.organizations.clone();
            groups.push(AUTHENTICATED.to_owned());
            return Ok(Some(Identity { user: owner.common_name.clone(), groups, ..Identity::default() }));
        }
        let header = headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok());
        let Some((scheme, token)) = header.and_then(|header| header.split_once(' ')) else { return Ok(None) };
        if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
            return Ok(None);
        }
        let token = token.trim().to_owned();
        if let Some(known) = self.recall(&self.tokens, &token) {
            return Ok(known);
        }
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "metadata": {}, "spec": {"token": (token.as_str())}
        });
        let answer = self.review(&TOKEN_REVIEWS, &review).await?;
        let identity = identity(&answer);
        self.keep(&self.tokens, token, identity.clone());
        Ok(identity)
    }

    async fn may(
        &self,
        identity: &Identity,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, Denied> {
        let key = (identity.clone(), verb, subresource);
        if let Some(known) = self.recall(&self.access, &key) {
            return Ok(known);
        }
        let texts =
            |texts: &[String]| Value::Array(texts.iter().map(|text| Value::from(text.as_str())).collect());
        let mut review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
            "spec": {
                "user": (identity.user.as_str()),
                "uid": (identity.uid.as_str()),
                "groups": (texts(&identity.groups)),
                "resourceAttributes": {
                    "verb": verb, "version": "v1", "resource": "nodes",
                    "subresource": subresource, "name": (self.node.as_str())
                }
            }
        });
        for (name, values) in &identity.extra {
            review.set(&["spec", "extra", name], texts(values));
        }
        let answer = self.review(&SUBJECT_ACCESS_REVIEWS, &review).await?;
        let allowed = answer.bool_at(&["status", "allowed"]).unwrap_or_default();
        self.keep(&self.access, key, allowed);
        Ok(allowed)
    }

    async fn review(&self, resource: &Resource, review: &Value) -> Result<Value, Denied> {
        let target = Target::new(resource, "", "");
        let call = Call::Create(target, review.to_bytes().into(), WriteOptions::default());
        let answer = async { self.api.call(call).await?.object() }.await;
        let object = answer.inspect_err(|error| warn!(%error, "the API server cannot be asked who may what"));
        Ok(object.map_err(Denied::Unreachable)?.to_tree())
    }

    fn recall<K: Ord, V: Clone>(&self, kept: &Kept<K, V>, key: &K) -> Option<V> {
        let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (value, until) = kept.get(key)?;
        (self.clock.monotonic() < *until).then(|| value.clone())
    }

    fn keep<K: Ord, V>(&self, kept: &Kept<K, V>, key: K, value: V) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, (value, self.clock.monotonic() + KEPT));
    }
}

/// Who a reviewed token belongs to.
fn identity(review: &Value) -> Option<Identity> {
    if review.bool_at(&["status", "authenticated"]) != Some(true) {
        return None;
    }
    let user = review.at(&["status", "user"])?;
    let text = |field: &str| user.str_at(&[field]).unwrap_or_default().to_owned();
    let texts = |values: &[Value]| values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let extra = user.get("extra").and_then(Value::as_object);
    let extra = extra.into_iter().flat_map(api::value::Map::iter);
    Some(Identity {
        user: text("username"),
        uid: text("uid"),
        groups: texts(user.array_at(&["groups"])),
        extra: extra
            .map(|(name, values)| (name.to_string(), texts(values.as_array().unwrap_or_default())))
            .collect(),
    })
}

/// The parts of the node that a path belongs to; to be let in for one of them is enough.
pub fn subresources(first: &str) -> &'static [&'static str] {
    match first {
        "pods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        _ => &["proxy"],
    }
}

/// The verb by which access is reviewed.
pub fn verb(method: &http::Method) -> &'static str {
    match *method {
        http::Method::POST => "create",
        http::Method::PUT => "update",
        http::Method::PATCH => "patch",
        http::Method::DELETE => "delete",
        _ => "get",
    }
}
