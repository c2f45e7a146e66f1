//! Kinds that are questions: created, answered, never kept.

mod validation;

use std::sync::Arc;

use api::interface::{Answer, Target, WriteOptions};
use api::json;
use api::object::Object;
use api::status::Status;
use api::validation::cause;
use api::value::{Map, Str, Value};

use crate::authz::{self, Attributes};
use crate::caller::Caller;
use crate::gate::Gate;
use crate::identity::Identity;
use crate::kinds::Kind;
use crate::verbs::create::match_namespace;
use crate::verbs::{Outcome, method_not_allowed};
use crate::{codec, managed, subresource};
use validation::About;

/// Answers a question.
pub async fn create(
    gate: &Gate,
    caller: &Caller<'_>,
    kind: &'static Kind,
    target: &Target,
    body: &[u8],
    options: &WriteOptions,
) -> Result<Outcome, Status> {
    if kind.facts.kind == "Binding" {
        return subresource::create_binding(gate, caller, target, body, options).await;
    }
    let mut review = codec::decode(kind, body, options, caller)?;
    managed::on_create(kind, &mut review, caller.manager(&options.field_manager), gate.now())?;
    let status = match kind.facts.kind {
        "TokenReview" if review.str_at(&["spec", "token"]).unwrap_or_default().is_empty() => {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        "TokenReview" => token(gate, &review),
        "SubjectAccessReview" => {
            validation::judge(&review, About::Another)?;
            access(gate, &subject(&review), &review)
        }
        "LocalSubjectAccessReview" => {
            match_namespace(kind, &mut review, &target.namespace)?;
            validation::judge(&review, About::AnotherHere)?;
            access(gate, &subject(&review), &review)
        }
        "SelfSubjectAccessReview" => {
            validation::judge(&review, About::Oneself)?;
            access(gate, caller.identity, &review)
        }
        "SelfSubjectRulesReview" => rules(caller.identity),
        "SelfSubjectReview" => json!({"userInfo": (user_info(caller.identity))}),
        _ => return Err(method_not_allowed()),
    };
    review.set(&["status"], status);
    if kind.facts.kind == "SelfSubjectReview" {
        review.set(&["metadata", "creationTimestamp"], api::time::seconds(gate.now()));
    }
    codec::complete(kind, &mut review);
    let raw = Some(review.to_bytes());
    review.set(&["metadata", "name"], "");
    let object = Object::from_tree(&review).map_err(Status::internal)?;
    Ok(Outcome { raw, ..Outcome::created(Answer::Object(Arc::new(object))) })
}

/// Whether somebody may do what a review asks.
fn access(gate: &Gate, identity: &Identity, review: &Value) -> Value {
    let text = |path: &[&str]| Str::from(review.str_at(path).unwrap_or_default());
    let of = |key: &str| text(&["spec", "resourceAttributes", key]);
    let resource = review.at(&["spec", "resourceAttributes"]).is_some_and(|part| !part.is_null());
    let heard = validation::heard(review);
    let (verb, group, name, namespace) = (of("verb"), of("group"), of("name"), of("namespace"));
    let (plural, sub) = (of("resource"), of("subresource"));
    let (path_verb, path) =
        (text(&["spec", "nonResourceAttributes", "verb"]), text(&["spec", "nonResourceAttributes", "path"]));
    let attributes = if resource {
        Attributes::Resource {
            verb: &verb,
            group: &group,
            resource: &plural,
            namespace: &namespace,
            name: &name,
            subresource: &sub,
            field_selector: &heard.fields,
        }
    } else {
        Attributes::Path { verb: &path_verb, path: &path }
    };
    let decision = authz::authorize(identity, &attributes, gate.storage());
    let mut status = json!({"allowed": (decision.allowed)});
    if !decision.reason.is_empty() {
        status.set(&["reason"], decision.reason);
    }
    if !heard.error.is_empty() {
        status.set(&["evaluationError"], heard.error);
    }
    status
}

/// Whom a SubjectAccessReview asks about.
fn subject(review: &Value) -> Identity {
    let user = review.str_at(&["spec", "user"]).unwrap_or_default();
    let groups: Vec<Str> = review
        .array_at(&["spec", "groups"])
        .iter()
        .filter_map(|group| group.as_str().map(Str::from))
        .collect();
    Identity {
        name: user.into(),
        uid: review.str_at(&["spec", "uid"]).unwrap_or_default().into(),
        groups,
        ..Identity::default()
    }
}

fn token(gate: &Gate, review: &Value) -> Value {
    let token = review.str_at(&["spec", "token"]).unwrap_or_default();
    let mut audiences: Vec<String> = review
        .array_at(&["spec", "audiences"])
        .iter()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences = gate.authenticator().audiences().to_vec();
    }
    match gate.authenticator().identity_of_token(token, &audiences, gate.storage()) {
        Some((identity, audiences)) => json!({
            "authenticated": true, "user": (user_info(&identity)), "audiences": audiences
        }),
        None => {
            let why = match gate.authenticator().audiences_of(token) {
                Some(own) if !own.iter().any(|one| audiences.contains(one)) => format!(
                    "[invalid bearer token, token audiences {} is invalid for the target audiences {}]",
                    quoted_all(&own),
                    quoted_all(&audiences)
                ),
                _ => "invalid bearer token".to_owned(),
            };
            json!({"user": {}, "error": why})
        }
    }
}

/// Texts as Go prints a list of them.
fn quoted_all(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| cause::quoted(text)).collect();
    format!("[{}]", quoted.join(" "))
}

fn user_info(identity: &Identity) -> Value {
    let mut info = Map::new();
    info.insert("username", identity.name.clone());
    if !identity.uid.is_empty() {
        info.insert("uid", identity.uid.clone());
    }
    if !identity.groups.is_empty() {
        info.insert("groups", identity.groups.clone());
    }
    if !identity.extra.is_empty() {
        let extra: Map =
            identity.extra.iter().map(|(key, values)| (key.clone(), values.clone().into())).collect();
        info.insert("extra", extra);
    }
    info.into()
}

/// The rules that hold for somebody, as `kubectl auth can-i --list` shows them.
fn rules(identity: &Identity) -> Value {
    let mut resources = Vec::new();
    let mut paths = Vec::new();
    if identity.is_in(crate::identity::MASTERS) {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    for rule in authz::rules_for(identity) {
        let verbs = rule.verbs.to_vec();
        if rule.paths.is_empty() {
            resources.push(json!({
                "verbs": verbs, "apiGroups": (rule.groups.to_vec()), "resources": (rule.resources.to_vec())
            }));
        } else {
            paths.push(json!({"verbs": verbs, "nonResourceURLs": (rule.paths.to_vec())}));
        }
    }
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}
