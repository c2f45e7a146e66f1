//! Jobs: the selector and the labels by which one knows its pods.

use api::value::{Str, Value};

use super::{Context, Strategy};

/// The labels that hold the job's name, and those that hold its uid.
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const UID_LABELS: [&str; 2] = ["controller-uid", UID_LABEL];
const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const TEMPLATE_LABELS: &[&str] = &["spec", "template", "metadata", "labels"];

pub(super) struct Jobs;

impl Strategy for Jobs {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("batch", "jobs")]
    }

    /// Unless its maker selects by hand, a job selects the pods that carry its uid.
    fn prepare_create(&self, object: &mut Value, _context: &Context<'_>) {
        if object.bool_at(&["spec", "manualSelector"]) == Some(true) {
            return;
        }
        let text = |key: &str| Str::from(object.str_at(&["metadata", key]).unwrap_or_default());
        let (name, uid) = (text("name"), text("uid"));
        let labels = |object: &Value, path: &[&str]| object.at(path).filter(|map| !map.is_empty()).cloned();
        // Labels that nobody gave are those of the template, now and later.
        let own = labels(object, &["metadata", "labels"]);
        let shared = own.is_none() || own == labels(object, TEMPLATE_LABELS);
        for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
            for key in keys {
                let path = ["spec", "template", "metadata", "labels", key];
                if object.at(&path).is_none() {
                    object.set(&path, value.clone());
                }
            }
        }
        let selected = ["spec", "selector", "matchLabels", UID_LABEL];
        if object.at(&selected).is_none() {
            object.set(&selected, uid);
        }
        if shared && let Some(labels) = labels(object, TEMPLATE_LABELS) {
            object.set(&["metadata", "labels"], labels);
        }
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn deletion_warning(&self) -> Option<&'static str> {
        Some(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove \
             them or set propagationPolicy=Orphan to suppress this warning",
        )
    }
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::identity::Identity;
    use crate::lookups::fake::Fake;

    #[test]
    fn a_job_selects_its_own_pods_unless_told_otherwise() {
        let lookups = Fake::new(Vec::new());
        let context =
            Context { identity: &Identity::admin(), lookups: &lookups, subresource: "", dry_run: false };
        let job = |manual: bool| {
            json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"manualSelector": manual, "template": {"metadata": {
                "labels": {"job-name": "mine"}}}}})
        };
        let mut own = job(false);
        Jobs.prepare_create(&mut own, &context);
        let labels = own.at(TEMPLATE_LABELS).unwrap().to_string();
        assert_eq!(
            labels,
            r#"{"batch.kubernetes.io/controller-uid":"u","batch.kubernetes.io/job-name":"j","controller-uid":"u","job-name":"mine"}"#
        );
        assert_eq!(own.str_at(&["spec", "selector", "matchLabels", UID_LABEL]), Some("u"));
        assert_eq!(own.at(&["metadata", "labels"]).unwrap().to_string(), labels);
        let mut manual = job(true);
        Jobs.prepare_create(&mut manual, &context);
        assert_eq!(manual.to_string(), job(true).to_string());
    }
}
