//! Kinds on which nothing acts yet, and of which upstream's code says little more than what may not change.

use api::status::Cause;
use api::validation::metadata::IMMUTABLE;
use api::validation::{Path, cause};
use api::value::Value;

use super::{Context, Strategy, pod_spec};

/// One such kind.
pub(super) struct Fixed {
    resource: &'static [(&'static str, &'static str)],
    /// What may not change once it is made.
    fields: &'static [&'static [&'static str]],
    /// How upstream says it.
    says: Says,
    /// Whether an update must name the revision that it changes.
    conditional: bool,
    /// Whether an update of what is not there creates it.
    creates: bool,
}

/// How upstream says that something is fixed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    /// In code, with the value that was sent.
    Value,
    /// In declarations, which show no value.
    Nothing,
    /// As a ban.
    Ban,
}

const fn fixed(
    resource: &'static [(&'static str, &'static str)],
    fields: &'static [&'static [&'static str]],
) -> Fixed {
    Fixed { resource, fields, says: Says::Value, conditional: false, creates: false }
}

impl Fixed {
    const fn conditional(mut self) -> Self {
        self.conditional = true;
        self
    }

    const fn creates(mut self) -> Self {
        self.creates = true;
        self
    }

    const fn says(mut self, says: Says) -> Self {
        self.says = says;
        self
    }
}

/// All of them.
pub(super) static ALL: &[Fixed] = &[
    fixed(
        &[("apps", "statefulsets")],
        &[
            &["spec", "selector"],
            &["spec", "volumeClaimTemplates"],
            &["spec", "serviceName"],
            &["spec", "podManagementPolicy"],
        ],
    ),
    fixed(&[("certificates.k8s.io", "clustertrustbundles")], &[&["spec", "signerName"]])
        .says(Says::Nothing)
        .conditional(),
    fixed(&[("certificates.k8s.io", "podcertificaterequests")], &[&["spec"]]).conditional(),
    fixed(&[("networking.k8s.io", "ingressclasses")], &[&["spec", "controller"]]),
    fixed(&[("node.k8s.io", "runtimeclasses")], &[&["handler"]]).says(Says::Nothing).conditional().creates(),
    fixed(&[("resource.k8s.io", "devicetaintrules")], &[]).conditional(),
    fixed(&[("resource.k8s.io", "resourceclaims")], &[&["spec"]]).says(Says::Nothing),
    fixed(&[("resource.k8s.io", "resourceclaimtemplates")], &[&["spec"]]),
    fixed(
        &[("resource.k8s.io", "resourceslices")],
        &[&["spec", "pool", "name"], &["spec", "driver"], &["spec", "nodeName"]],
    ),
    fixed(&[("storage.k8s.io", "csidrivers")], &[&["spec", "volumeLifecycleModes"]])
        .says(Says::Nothing)
        .conditional(),
    fixed(&[("storage.k8s.io", "csistoragecapacities")], &[&["nodeTopology"], &["storageClassName"]])
        .conditional(),
    fixed(
        &[("storage.k8s.io", "storageclasses")],
        &[&["parameters"], &["provisioner"], &["reclaimPolicy"], &["volumeBindingMode"]],
    )
    .says(Says::Nothing),
    fixed(&[("storage.k8s.io", "volumeattachments")], &[&["spec"]]).says(Says::Nothing).conditional(),
    fixed(&[("storage.k8s.io", "volumeattributesclasses")], &[&["driverName"], &["parameters"]])
        .says(Says::Ban),
    fixed(&[("storagemigration.k8s.io", "storageversionmigrations")], &[&["spec"]]).conditional(),
];

impl Strategy for Fixed {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        self.resource
    }

    fn allows_unconditional_update(&self) -> bool {
        !self.conditional
    }

    fn allows_create_on_update(&self) -> bool {
        self.creates
    }

    /// Of the kinds here only one has parts that rules in code judge: the table cannot tell what tolerations may be.
    fn validate(&self, object: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        if self.resource.contains(&("node.k8s.io", "runtimeclasses")) {
            let path = Path::root("scheduling").child("tolerations");
            let tolerations = object.array_at(&["scheduling", "tolerations"]);
            pod_spec::scheduling::tolerations(tolerations, &path, &mut causes);
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> Vec<Cause> {
        let changed = |field: &&&[&str]| {
            let value = |tree: &Value| tree.at(field).filter(|value| !value.is_empty()).cloned();
            value(new) != value(old)
        };
        let said = |field: &&[&str]| {
            let path = Path::root(&field.join("."));
            match self.says {
                Says::Ban => cause::forbidden(&path, &format!("updates to {path} are forbidden.")),
                Says::Nothing => cause::invalid(&path, Value::Null, IMMUTABLE),
                Says::Value => cause::invalid(&path, new.at(field).cloned().unwrap_or_default(), IMMUTABLE),
            }
        };
        self.fields.iter().filter(changed).map(said).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::lookups::fake::Fake;
    use api::json;

    #[test]
    fn what_is_fixed_may_not_change() {
        let lookups = Fake::new(Vec::new());
        let context =
            Context { identity: &Identity::admin(), lookups: &lookups, subresource: "", dry_run: false };
        let check = |resource: &str, new: Value, old: Value, expect: &str| {
            let kind = ALL.iter().find(|kind| kind.resource[0].1 == resource).unwrap();
            let causes: Vec<String> =
                kind.validate_update(&new, &old, &context).iter().map(ToString::to_string).collect();
            assert_eq!(causes.join("; "), expect);
        };
        let class = |driver: &str| json!({"driverName": driver, "parameters": {"a": "b"}});
        check("volumeattributesclasses", class("x"), class("x"), "");
        check(
            "volumeattributesclasses",
            class("x"),
            class("y"),
            "driverName: Forbidden: updates to driverName are forbidden.",
        );
        check(
            "runtimeclasses",
            json!({"handler": "a"}),
            json!({"handler": "b"}),
            "handler: Invalid value: null: field is immutable",
        );
    }
}
