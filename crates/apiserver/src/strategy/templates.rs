//! What makers of objects with templates of pods are warned of: one line a kind.

use api::names::GroupResource;
use api::validation::{Path, names};
use api::value::Value;

use super::pod_spec;

/// A kind with a template.
struct Templated {
    group: &'static str,
    resource: &'static str,
    template: &'static [&'static str],
    /// Whether its name becomes part of host names.
    names_hosts: bool,
}

const fn templated(group: &'static str, resource: &'static str, names_hosts: bool) -> Templated {
    Templated { group, resource, template: &["spec", "template"], names_hosts }
}

const ALL: &[Templated] = &[
    templated("apps", "daemonsets", false),
    templated("apps", "deployments", true),
    templated("apps", "replicasets", true),
    templated("apps", "statefulsets", false),
    templated("batch", "jobs", true),
    Templated {
        group: "batch",
        resource: "cronjobs",
        template: &["spec", "jobTemplate", "spec", "template"],
        names_hosts: true,
    },
    Templated { group: "", resource: "podtemplates", template: &["template"], names_hosts: false },
    templated("", "replicationcontrollers", true),
];

/// The warnings of a new object, or of one whose generation has changed.
pub(super) fn warnings(resource: &GroupResource, new: &Value, old: Option<&Value>) -> Vec<String> {
    let known = ALL.iter().find(|kind| resource.group == kind.group && resource.resource == kind.resource);
    let Some(kind) = known else { return Vec::new() };
    let generation = |object: &Value| object.int_at(&["metadata", "generation"]);
    if old.is_some_and(|old| generation(old) == generation(new)) {
        return Vec::new();
    }
    let mut out = Vec::new();
    let wrong = names::is_label(new.str_at(&["metadata", "name"]).unwrap_or_default());
    if kind.names_hosts && old.is_none() && !wrong.is_empty() {
        out.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label \
             is recommended: [{}]",
            wrong.join(" ")
        ));
    }
    if let Some(template) = new.at(kind.template) {
        out.extend(pod_spec::warnings::all(template, Some(&Path::root(&kind.template.join(".")))));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn templates_are_looked_at_when_they_may_have_changed() {
        let resource = |group: &str, name: &str| GroupResource { group: group.into(), resource: name.into() };
        let job = |generation: i64| {
            json!({"metadata": {"name": "a.b", "generation": generation}, "spec": {"jobTemplate": {"spec": {"template": {
                "spec": {"imagePullSecrets": [{}]}}}}}})
        };
        let jobs = resource("batch", "cronjobs");
        let made = warnings(&jobs, &job(1), None);
        assert_eq!(made.len(), 2, "{made:?}");
        assert!(made[0].ends_with("a DNS label is recommended: [must not contain dots]"), "{made:?}");
        assert_eq!(
            made[1],
            "spec.jobTemplate.spec.template.spec.imagePullSecrets[0].name: invalid empty name \"\""
        );
        assert_eq!(warnings(&jobs, &job(2), Some(&job(1))).len(), 1);
        assert!(warnings(&jobs, &job(1), Some(&job(1))).is_empty());
        assert!(warnings(&resource("", "services"), &job(1), None).is_empty());
    }
}
