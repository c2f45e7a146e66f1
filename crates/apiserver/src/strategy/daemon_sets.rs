//! DaemonSets: the generation of their template, which upstream keeps in an annotation.

use api::value::Value;

use super::{Context, Strategy};

const ANNOTATION: &[&str] = &["metadata", "annotations", "deprecated.daemonset.template.generation"];

pub(super) struct DaemonSets;

impl Strategy for DaemonSets {
    fn resources(&self) -> &'static [(&'static str, &'static str)] {
        &[("apps", "daemonsets")]
    }

    // Upstream writes the annotation from a number that is always there, so whoever writes the object owns it.
    fn default(&self, object: &mut Value) {
        set(object, generation(object));
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context<'_>) {
        set(object, generation(object).max(1));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        set(new, generation(old) + i64::from(template(new) != template(old)));
    }
}

/// The template as it is stored: what came in lacks the empty members that are always written.
fn template(object: &Value) -> Option<Value> {
    let mut template = object.at(&["spec", "template"])?.clone();
    api::schema::finish(api::table::types().find("core/v1.PodTemplateSpec")?, &mut template);
    Some(template)
}

/// The generation that an object tells; 0 if it tells none.
fn generation(object: &Value) -> i64 {
    object.str_at(ANNOTATION).and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn set(object: &mut Value, generation: i64) {
    object.set(ANNOTATION, generation.to_string());
}

#[cfg(test)]
mod tests {
    use api::json;

    use super::*;
    use crate::identity::Identity;
    use crate::lookups::fake::Fake;

    #[test]
    fn the_generation_counts_templates_and_nobody_else_sets_it() {
        let lookups = Fake::new(Vec::new());
        let context =
            Context { identity: &Identity::admin(), lookups: &lookups, subresource: "", dry_run: false };
        let set = |image: &str, told: &str| {
            let mut set = json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {
                "containers": [{"name": "c", "image": image}]}}}});
            set.set(ANNOTATION, told);
            set
        };
        let mut made = set("a", "0");
        DaemonSets.prepare_create(&mut made, &context);
        assert_eq!(made.str_at(ANNOTATION), Some("1"));
        for (image, expect) in [("a", "1"), ("b", "2")] {
            let mut new = set(image, "7");
            DaemonSets.prepare_update(&mut new, &made, &context);
            assert_eq!(new.str_at(ANNOTATION), Some(expect), "{image}");
        }
    }
}
