//! What a service says that has no effect, or soon has none.

use api::validation::{Path, cause};
use api::value::Value;

use super::fields::{is_external_name, is_headless, text, texts};
use crate::strategy::pod_spec::warnings::address;

const OLD_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const NEW_HINTS: &str = "service.kubernetes.io/topology-mode";

/// The warnings of a service, in upstream's order.
pub(super) fn all(service: &Value) -> Vec<String> {
    let spec = Path::root("spec");
    let mut out = Vec::new();
    let mut say = |applies: bool, words: &str| {
        if applies {
            out.push(words.to_owned());
        }
    };
    let (external, headless) = (is_external_name(service), is_headless(service));
    // Only a service of the plain type is headless here.
    let headless = headless && text(service, "type") == "ClusterIP";
    let has_ips = !texts(service, "externalIPs").is_empty();
    say(
        service.at(&["metadata", "annotations", OLD_HINTS]).is_some(),
        &format!("annotation {OLD_HINTS} is deprecated, please use {NEW_HINTS} instead"),
    );
    if !headless {
        addresses(service, "clusterIPs", &mut say);
    }
    let balancer = text(service, "loadBalancerIP");
    say(headless && !balancer.is_empty(), "spec.loadBalancerIP is ignored for headless services");
    say(headless && has_ips, "spec.externalIPs is ignored for headless services");
    let sticky = text(service, "sessionAffinity") != "None";
    say(headless && sticky, "spec.SessionAffinity is ignored for headless services");
    addresses(service, "externalIPs", &mut say);
    say(
        has_ips && !headless && !external,
        "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
    );
    if let Some(words) = address(balancer, &spec.child("loadBalancerIP")) {
        say(true, &words);
    }
    say(external && has_ips, "spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    say(
        !external && !text(service, "externalName").is_empty(),
        "spec.externalName is ignored when spec.type is not \"ExternalName\"",
    );
    let old = "PreferClose";
    say(
        text(service, "trafficDistribution") == old,
        &format!("spec.trafficDistribution: {} is deprecated; use \"PreferSameZone\"", cause::quoted(old)),
    );
    out
}

fn addresses(service: &Value, field: &str, say: &mut impl FnMut(bool, &str)) {
    for (index, text) in texts(service, field).into_iter().enumerate() {
        if let Some(words) = address(text, &Path::root("spec").child(field).index(index)) {
            say(true, &words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn what_has_no_effect_is_told() {
        let check = |spec: Value, expect: &[&str]| {
            let mut service = json!({});
            service.set(&["spec"], spec);
            assert_eq!(all(&service), expect, "{service}");
        };
        check(json!({"type": "ClusterIP", "sessionAffinity": "None"}), &[]);
        check(
            json!({"type": "ClusterIP", "clusterIP": "None", "sessionAffinity": "ClientIP"}),
            &["spec.SessionAffinity is ignored for headless services"],
        );
        check(
            json!({"type": "NodePort", "externalName": "a", "trafficDistribution": "PreferClose", "sessionAffinity": "None"}),
            &[
                "spec.externalName is ignored when spec.type is not \"ExternalName\"",
                "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
            ],
        );
    }
}
