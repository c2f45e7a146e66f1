//! Certificates of nodes: what an agent asks for in its own name, as a client and for its own server, is approved and
//! signed. These are upstream's signers `kubernetes.io/kube-apiserver-client-kubelet` and `kubernetes.io/kubelet-serving`.
//!
//! Which names may be in a certificate decides whoever signs ([`crate::settings::RequestSigner`]), for it knows the nodes.
//! What is deliberately absent: all other signers. Of requests to them [`crate::unserved`] tells.

use api::interface::Target;
use api::json;
use api::names::Resource;
use api::object::Object;
use api::value::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use control::mirror::Key;
use control::plan::{Controller, Plan, Watches, Write};
use control::recorder::Note;
use control::world::World;
use jiff::Timestamp;

use crate::condition;
use crate::settings::{NodeRequest, RequestSigner};

/// The signer of agents' own identity, and what its certificates are for.
const CLIENT: (&str, &str) = ("kubernetes.io/kube-apiserver-client-kubelet", "client auth");
/// The same of agents' servers.
const SERVING: (&str, &str) = ("kubernetes.io/kubelet-serving", "server auth");
/// What both may be for besides.
const ALSO: [&str; 2] = ["digital signature", "key encipherment"];
/// Whose requests these are.
const USER: &str = "system:node:";
const GROUP: &str = "system:nodes";

/// The controller of nodes' certificates.
pub struct NodeCertificates {
    sign: RequestSigner,
}

impl NodeCertificates {
    /// Has `sign` make the certificates.
    pub fn new(sign: RequestSigner) -> Self {
        Self { sign }
    }
}

impl Controller for NodeCertificates {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-signing-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![Watches::itself(&requests())]
    }

    fn plan(&self, world: &World, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(object) = world.get(&requests(), "", &key.name).filter(|object| !object.is_deleting())
        else {
            return plan;
        };
        let tree = object.to_tree();
        let conditions = tree.array_at(&["status", "conditions"]);
        let is = |kind| condition::find(conditions, kind).is_some();
        let is_done = tree.str_at(&["status", "certificate"]).is_some_and(|text| !text.is_empty());
        if !is_served(&tree) || is_done || is("Denied") || is("Failed") {
            return plan;
        }
        match node_request(&tree).and_then(|request| (self.sign)(&request)) {
            Err(why) => {
                let words = format!("No certificate is issued: {why}");
                plan.note(Note::warning(&object, "NotSigned", words));
            }
            Ok(certificate) => {
                if !is("Approved") {
                    let message = "A node asks for a certificate of its own";
                    let approved = condition::new("Approved", "True", "AutoApproved", message, now);
                    let conditions: Vec<Value> = conditions.iter().cloned().chain([approved]).collect();
                    plan.write(patch(&object, "approval", &json!({"conditions": conditions})));
                    plan.then();
                }
                let certificate = STANDARD.encode(certificate);
                plan.write(patch(&object, "status", &json!({"certificate": certificate})));
            }
        }
        plan
    }
}

/// Whether a request is for one of these signers.
pub fn is_served(request: &Value) -> bool {
    let signer = request.str_at(&["spec", "signerName"]);
    signer == Some(CLIENT.0) || signer == Some(SERVING.0)
}

fn requests() -> Resource {
    Resource {
        group: "certificates.k8s.io".into(),
        version: "v1".into(),
        resource: "certificatesigningrequests".into(),
    }
}

fn patch(object: &Object, subresource: &str, status: &Value) -> Write {
    let body = json!({"metadata": {"uid": (object.uid())}, "status": (status.clone())});
    Write::merge(Target::new(&requests(), "", object.name()).subresource(subresource), &body)
}

/// What is asked, and by which node. The gate has written who asks; nobody can claim to be another.
fn node_request(tree: &Value) -> Result<NodeRequest, String> {
    let user = tree.str_at(&["spec", "username"]).unwrap_or_default();
    let groups = tree.array_at(&["spec", "groups"]);
    let Some(node) = user.strip_prefix(USER).filter(|_| groups.iter().any(|of| of.as_str() == Some(GROUP)))
    else {
        return Err(format!("only nodes may ask this signer, and \"{user}\" is none"));
    };
    let serving = tree.str_at(&["spec", "signerName"]) == Some(SERVING.0);
    let (_, purpose) = if serving { SERVING } else { CLIENT };
    let usages: Vec<&str> = tree.array_at(&["spec", "usages"]).iter().filter_map(Value::as_str).collect();
    if !usages.contains(&purpose) || usages.iter().any(|usage| *usage != purpose && !ALSO.contains(usage)) {
        return Err(format!("its usages must be \"{purpose}\" and \"digital signature\""));
    }
    let request = tree.str_at(&["spec", "request"]).unwrap_or_default();
    let bytes = STANDARD.decode(request).map_err(|error| format!("spec.request is not base64: {error}"))?;
    let pem = String::from_utf8(bytes).map_err(|_| "spec.request is no PEM text".to_owned())?;
    Ok(NodeRequest { node: node.to_owned(), serving, pem })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::stage::Stage;

    fn request(user: &str, signer: &str, usages: &[&str]) -> Value {
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": "r", "uid": "r"},
            "spec": {"username": user, "groups": ["system:nodes"], "signerName": signer, "usages": (usages.to_vec()),
                "request": (STANDARD.encode("REQUEST"))}})
    }

    #[track_caller]
    fn check(request: Value, expect: &[&str]) {
        let sign: RequestSigner = Arc::new(|asked| match asked.node.as_str() {
            "n" => Ok(format!("{} {} {}", asked.node, asked.serving, asked.pem)),
            other => Err(format!("{other} may not join")),
        });
        let stage = Stage::new(NodeCertificates::new(sign));
        stage.put(&requests(), request);
        stage.check("/r", expect);
    }

    #[test]
    fn what_a_node_asks_for_itself_is_approved_and_signed() {
        let usages = ["client auth", "digital signature"];
        let signed = STANDARD.encode("n false REQUEST");
        let approval = r#"patch certificatesigningrequests /r/approval {"metadata":{"uid":"r"},"status":{"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"A node asks for a certificate of its own","reason":"AutoApproved","status":"True","type":"Approved"}]}}"#;
        let status = format!(
            r#"patch certificatesigningrequests /r/status {{"metadata":{{"uid":"r"}},"status":{{"certificate":"{signed}"}}}}"#
        );
        check(request("system:node:n", CLIENT.0, &usages), &[approval, &status]);
        let mut done = request("system:node:n", CLIENT.0, &usages);
        done.set(&["status", "certificate"], signed);
        check(done, &[]);
        check(request("system:node:n", "kubernetes.io/kube-apiserver-client", &usages), &[]);
    }

    #[test]
    fn others_and_other_purposes_are_refused_with_the_reason() {
        let told = |why: &str| format!("Warning NotSigned: No certificate is issued: {why}");
        let client = ["client auth", "digital signature"];
        check(
            request("admin", CLIENT.0, &client),
            &[&told("only nodes may ask this signer, and \"admin\" is none")],
        );
        check(request("system:node:m", CLIENT.0, &client), &[&told("m may not join")]);
        check(
            request("system:node:n", SERVING.0, &client),
            &[&told("its usages must be \"server auth\" and \"digital signature\"")],
        );
    }
}
