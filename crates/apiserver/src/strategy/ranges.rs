//! IPAddresses and ServiceCIDRs: which addresses there are, and who has them.

use std::net::IpAddr;

use api::status::Cause;
use api::validation::{Path, address, cause, names};
use api::value::Value;

use super::{Context, Strategy, words};

pub(super) struct Addresses;
pub(super) struct ServiceRanges;

impl Strategy for Addresses {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("networking.k8s.io", "ipaddresses")]
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let path = Path::root("spec").child("parentRef");
        let Some(parent) = object.at(&["spec", "parentRef"]) else { return Vec::new() };
        let mut causes = Vec::new();
        let group = parent.str_at(&["group"]).unwrap_or_default();
        if !group.is_empty() {
            let wrong = names::is_subdomain(group);
            causes.extend(wrong.iter().map(|why| cause::invalid(path.child("group"), group, why)));
        }
        for field in ["resource", "name", "namespace"] {
            let text = parent.str_at(&[field]).unwrap_or_default();
            if !text.is_empty() {
                let wrong = names::is_path_segment(text, false);
                causes.extend(wrong.iter().map(|why| cause::invalid(path.child(field), text, why)));
            }
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let path = Path::root("spec").child("parentRef");
        let parent = ["spec", "parentRef"];
        words::immutable(new.at(&parent), old.at(&parent), &path).into_iter().collect()
    }
}

impl Strategy for ServiceRanges {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("networking.k8s.io", "servicecidrs")]
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let path = Path::root("spec").child("cidrs");
        let cidrs: Vec<&str> = object.array_at(&["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
        if cidrs.len() > 2 {
            let spec = object.get("spec").cloned().unwrap_or_default();
            return vec![cause::invalid(path, spec, "may only hold up to 2 values")];
        }
        let mut causes = Vec::new();
        for (index, cidr) in cidrs.iter().enumerate() {
            let path = path.index(index);
            let wrong = address::is_canonical_cidr(cidr);
            causes.extend(wrong.iter().map(|why| cause::invalid(&path, *cidr, why)));
        }
        let is_v4 = |cidr: &str| {
            cidr.split_once('/').and_then(|(ip, _)| ip.parse::<IpAddr>().ok()).map(|ip| ip.is_ipv4())
        };
        if let [first, second] = cidrs[..]
            && is_v4(first) == is_v4(second)
            && is_v4(first).is_some()
        {
            let list = object.at(&["spec", "cidrs"]).cloned().unwrap_or_default();
            let why =
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            causes.push(cause::invalid(path, list, why));
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let path = Path::root("spec").child("cidrs");
        let (after, before) = (new.array_at(&["spec", "cidrs"]), old.array_at(&["spec", "cidrs"]));
        let why = "field is immutable";
        if after.len() != before.len() && (before.len(), after.len()) != (1, 2) {
            return vec![cause::invalid(path, after.to_vec(), why)];
        }
        let changed = before.iter().zip(after).enumerate().filter(|(_, (before, after))| before != after);
        changed.map(|(index, (_, after))| cause::invalid(path.index(index), after.clone(), why)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::lookups::fake::Fake;
    use api::json;

    #[test]
    fn ranges_are_canonical_and_one_of_a_family() {
        let lookups = Fake::new(Vec::new());
        let context =
            Context { identity: &Identity::admin(), lookups: &lookups, subresource: "", dry_run: false };
        let check = |cidrs: Value, expect: &str| {
            let mut object = json!({});
            object.set(&["spec", "cidrs"], cidrs);
            let causes = ServiceRanges.validate(&object, &context);
            let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
            assert_eq!(causes.join("; "), expect);
        };
        check(json!(["10.0.0.0/16", "fd00::/112"]), "");
        check(
            json!(["10.0.0.1/16"]),
            "spec.cidrs[0]: Invalid value: \"10.0.0.1/16\": must not have bits set beyond the prefix length",
        );
    }
}
