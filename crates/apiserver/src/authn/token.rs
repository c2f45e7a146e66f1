//! Tokens of ServiceAccounts: their claims, and whether they still hold.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use api::json;
use api::names;
use api::object::Object;
use api::value::{Str, Value};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::legacy::Uses;
use crate::identity::Identity;
use crate::limits;
use crate::lookups::Lookups;

/// The issuer of tokens without an end, which secrets hold.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// The label by which a Secret says that its token holds no more.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// The claim that holds what is ours.
const CLAIM: &str = "kubernetes.io";

/// An object that a token lives and dies with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// `pod`, `secret` or `node`.
    pub kind: &'static str,
    /// Its name.
    pub name: Str,
    /// Its uid.
    pub uid: Str,
}

/// What a new token shall say.
#[derive(Debug)]
pub struct Request<'a> {
    /// The ServiceAccount's namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// Whom the token is for.
    pub audiences: &'a [String],
    /// How long it holds.
    pub seconds: i64,
    /// What it lives and dies with.
    pub bindings: &'a [Binding],
}

impl Request<'_> {
    pub(super) fn claims(&self, issuer: &str, now: Timestamp, id: &str) -> Value {
        let mut claims = json!({
            "iss": issuer,
            "aud": (self.audiences.to_vec()),
            "exp": (now.as_second() + self.seconds),
            "iat": (now.as_second()),
            "nbf": (now.as_second()),
            "jti": id,
            "sub": (format!("system:serviceaccount:{}:{}", self.namespace, self.name))
        });
        let mut ours = json!({
            "namespace": (self.namespace),
            "serviceaccount": {"name": (self.name), "uid": (self.uid)}
        });
        for binding in self.bindings {
            let about = json!({"name": (binding.name.clone()), "uid": (binding.uid.clone())});
            ours.set(&[binding.kind], about);
        }
        claims.set(&[CLAIM], ours);
        claims
    }
}

/// A token whose signature was checked.
#[derive(Debug)]
pub(super) struct Verified {
    namespace: Str,
    name: Str,
    uid: Str,
    id: Str,
    audiences: Vec<String>,
    not_before: i64,
    /// `None` for a token without an end.
    expires: Option<i64>,
    bindings: Vec<Binding>,
    legacy: bool,
}

impl Verified {
    /// Reads the claims; `None` if they are none of ours.
    pub(super) fn read(claims: &Value, issuer: &str) -> Option<Self> {
        match claims.str_at(&["iss"])? {
            LEGACY_ISSUER => Self::read_legacy(claims),
            other if other == issuer => Self::read_bound(claims),
            _ => None,
        }
    }

    fn read_bound(claims: &Value) -> Option<Self> {
        let ours = claims.get(CLAIM)?;
        let text = |path: &[&str]| ours.str_at(path).map(Str::from);
        let audiences = match claims.get("aud")? {
            Value::String(one) => vec![one.to_string()],
            many => many.as_array()?.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect(),
        };
        let bindings = ["pod", "secret", "node"]
            .into_iter()
            .filter_map(|kind| {
                Some(Binding { kind, name: text(&[kind, "name"])?, uid: text(&[kind, "uid"])? })
            })
            .collect();
        Some(Self {
            namespace: text(&["namespace"])?,
            name: text(&["serviceaccount", "name"])?,
            uid: text(&["serviceaccount", "uid"])?,
            id: claims.str_at(&["jti"]).unwrap_or_default().into(),
            audiences,
            not_before: claims.int_at(&["nbf"]).unwrap_or_default(),
            expires: Some(claims.int_at(&["exp"])?),
            bindings,
            legacy: false,
        })
    }

    fn read_legacy(claims: &Value) -> Option<Self> {
        let text =
            |key: &str| claims.str_at(&[&format!("kubernetes.io/serviceaccount/{key}")]).map(Str::from);
        let (namespace, name) = (text("namespace")?, text("service-account.name")?);
        let subject = format!("system:serviceaccount:{namespace}:{name}");
        if claims.str_at(&["sub"]) != Some(&*subject) {
            return None;
        }
        Some(Self {
            namespace,
            name,
            uid: text("service-account.uid")?,
            id: Str::default(),
            audiences: Vec::new(),
            not_before: 0,
            expires: claims.int_at(&["exp"]),
            bindings: vec![Binding { kind: "secret", name: text("secret.name")?, uid: Str::default() }],
            legacy: true,
        })
    }

    /// Whether the token holds now: its time, its account and what it is bound to. Gives the audiences that are
    /// both asked for and its own; a token of a Secret is for any.
    pub(super) fn judge(
        &self,
        token: &str,
        lookups: &dyn Lookups,
        wanted: &[String],
        uses: &Uses,
    ) -> Option<Vec<String>> {
        let now = lookups.now().as_second();
        if now < self.not_before || self.expires.is_some_and(|expires| now >= expires) {
            return None;
        }
        let audiences: Vec<String> = if self.legacy {
            wanted.to_vec()
        } else {
            self.audiences.iter().filter(|audience| wanted.contains(audience)).cloned().collect()
        };
        if audiences.is_empty() {
            return None;
        }
        let account = lookups.get(&names::SERVICE_ACCOUNTS, &self.namespace, &self.name)?;
        if account.uid() != self.uid || self.is_gone(&account, now) {
            return None;
        }
        if self.legacy {
            self.secret_has(token, lookups, uses)?
        } else {
            self.are_bound(lookups, now)?
        }
        Some(audiences)
    }

    /// Whether all is there that a bound token lives and dies with.
    fn are_bound(&self, lookups: &dyn Lookups, now: i64) -> Option<()> {
        for binding in &self.bindings {
            let (resource, namespace) = match binding.kind {
                "pod" => (&names::PODS, self.namespace.as_str()),
                "secret" => (&names::SECRETS, self.namespace.as_str()),
                // A pod's token names its node beside; a node that comes again does not end the pod's token.
                _ if self.bindings.len() > 1 => continue,
                _ => (&names::NODES, ""),
            };
            let object = lookups.get(resource, namespace, &binding.name)?;
            if object.uid() != binding.uid || self.is_gone(&object, now) {
                return None;
            }
        }
        Some(())
    }

    /// Whether the Secret of a lasting token is there and still holds this one: who changes or deletes it, or marks
    /// it as invalid, ends the token.
    fn secret_has(&self, token: &str, lookups: &dyn Lookups, uses: &Uses) -> Option<()> {
        let secret = lookups.get(&names::SECRETS, &self.namespace, &self.bindings.first()?.name)?;
        if secret.is_deleting() {
            return None;
        }
        let held = STANDARD.decode(secret.to_tree().str_at(&["data", "token"])?).ok()?;
        if held != token.as_bytes() {
            return None;
        }
        // Who tries an invalidated one shows that it is still in use.
        uses.note(&secret, lookups.now());
        secret.label(INVALID_SINCE).is_none_or(str::is_empty).then_some(())
    }

    /// Whether an object has been deleted and only waits to go. A bound token holds for a while longer, so that pods
    /// can end in order; a lasting one does not.
    fn is_gone(&self, object: &Object, now: i64) -> bool {
        if !object.is_deleting() || self.legacy {
            return object.is_deleting();
        }
        let tree = object.to_tree();
        let at = tree.str_at(&["metadata", "deletionTimestamp"]).and_then(|at| at.parse::<Timestamp>().ok());
        at.is_none_or(|at| at.as_second() < now - limits::TOKEN_OUTLIVES_DELETION_SECONDS)
    }

    /// Whom the token is for; nobody in particular for a token of a Secret.
    pub(super) fn audiences(&self) -> &[String] {
        &self.audiences
    }

    pub(super) fn identity(&self) -> Identity {
        let mut identity = Identity::service_account(&self.namespace, &self.name, &self.uid);
        let mut extra = |key: &str, value: &Str| {
            identity.extra.push((format!("authentication.kubernetes.io/{key}").into(), vec![value.clone()]));
        };
        if !self.id.is_empty() {
            extra("credential-id", &format!("JTI={}", self.id).into());
        }
        for binding in self.bindings.iter().filter(|binding| matches!(binding.kind, "pod" | "node")) {
            extra(&format!("{}-name", binding.kind), &binding.name);
            extra(&format!("{}-uid", binding.kind), &binding.uid);
        }
        identity
    }
}

/// Tokens whose signatures were checked. What they name is judged for every request.
#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<String, Arc<Verified>>>);

impl Cache {
    pub(super) fn get(&self, token: &str) -> Option<Arc<Verified>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    pub(super) fn insert(&self, token: &str, verified: &Arc<Verified>) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= limits::TOKENS_REMEMBERED {
            // Forgetting all is simple, rare, and costs each living token one more check.
            cache.clear();
        }
        cache.insert(token.to_owned(), Arc::clone(verified));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookups::fake::Fake;

    fn state(pod_uid: &str) -> Fake {
        Fake::new(vec![
            (
                names::SERVICE_ACCOUNTS,
                json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "a", "namespace": "n", "uid": "1"}}),
            ),
            (
                names::PODS,
                json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": "n", "uid": pod_uid}}),
            ),
        ])
    }

    fn claims(seconds: i64) -> Value {
        let bindings = [Binding { kind: "pod", name: "p".into(), uid: "2".into() }];
        let audiences = ["here".to_owned()];
        let request = Request {
            namespace: "n",
            name: "a",
            uid: "1",
            audiences: &audiences,
            seconds,
            bindings: &bindings,
        };
        request.claims("me", Timestamp::UNIX_EPOCH, "id")
    }

    #[test]
    fn a_token_holds_while_its_pod_and_its_time_do() {
        let wanted = ["here".to_owned(), "there".to_owned()];
        let token = Verified::read(&claims(600), "me").unwrap();
        assert_eq!(token.judge("", &state("2"), &wanted, &Uses::default()), Some(vec!["here".to_owned()]));
        assert_eq!(token.judge("", &state("3"), &wanted, &Uses::default()), None);
        assert_eq!(token.judge("", &state("2"), &["there".to_owned()], &Uses::default()), None);
        assert_eq!(
            Verified::read(&claims(-1), "me").unwrap().judge("", &state("2"), &wanted, &Uses::default()),
            None
        );
        assert!(Verified::read(&claims(600), "other").is_none());
        let mut eternal = claims(600);
        eternal.remove(&["exp"]);
        assert!(Verified::read(&eternal, "me").is_none());
        assert_eq!(token.identity().name, "system:serviceaccount:n:a");
    }

    #[test]
    fn a_bound_token_outlives_the_deletion_of_its_pod_for_a_minute() {
        let token = Verified::read(&claims(600), "me").unwrap();
        let deleted = |at: &str| {
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "a", "namespace": "n", "uid": "1"}});
            let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": "n", "uid": "2"}});
            pod.set(&["metadata", "deletionTimestamp"], at);
            Fake::new(vec![(names::SERVICE_ACCOUNTS, account), (names::PODS, pod)])
        };
        let here = ["here".to_owned()];
        assert!(token.judge("", &deleted("1969-12-31T23:59:30Z"), &here, &Uses::default()).is_some());
        assert!(token.judge("", &deleted("1969-12-31T23:58:30Z"), &here, &Uses::default()).is_none());
    }

    #[test]
    fn a_lasting_token_holds_while_its_secret_says_so() {
        let claims = json!({
            "iss": LEGACY_ISSUER, "sub": "system:serviceaccount:n:a",
            "kubernetes.io/serviceaccount/namespace": "n",
            "kubernetes.io/serviceaccount/service-account.name": "a",
            "kubernetes.io/serviceaccount/service-account.uid": "1",
            "kubernetes.io/serviceaccount/secret.name": "s"
        });
        let token = Verified::read(&claims, "me").unwrap();
        let state = |account_uid: &str, changes: &[(&[&str], &str)]| {
            let mut account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "a", "namespace": "n"}});
            account.set(&["metadata", "uid"], account_uid);
            let mut secret = json!({"apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": "s", "namespace": "n", "uid": "2"}, "data": {"token": "d29yZHM="}});
            for (path, value) in changes {
                secret.set(path, *value);
            }
            Fake::new(vec![(names::SERVICE_ACCOUNTS, account), (names::SECRETS, secret)])
        };
        let wanted = ["any".to_owned()];
        assert_eq!(token.judge("words", &state("1", &[]), &wanted, &Uses::default()), Some(wanted.to_vec()));
        assert_eq!(token.judge("other", &state("1", &[]), &wanted, &Uses::default()), None);
        assert_eq!(token.judge("words", &state("3", &[]), &wanted, &Uses::default()), None);
        for path in [&["metadata", "deletionTimestamp"][..], &["metadata", "labels", INVALID_SINCE]] {
            let ended = state("1", &[(path, "1970-01-01T00:00:00Z")]);
            assert_eq!(token.judge("words", &ended, &wanted, &Uses::default()), None, "{path:?}");
        }
        let mut others = claims.clone();
        others.set(&["sub"], "system:serviceaccount:n:b");
        assert!(Verified::read(&others, "me").is_none());
    }
}
