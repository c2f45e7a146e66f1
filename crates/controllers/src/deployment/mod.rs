//! Deployments: rolling from one ReplicaSet to the next.
//!
//! [`sets`] tells the ReplicaSets of a Deployment apart, [`rolling`] and [`scaling`] decide sizes from plain
//! numbers, [`status`] writes what users and `kubectl rollout` read.

mod revision;
mod rolling;
mod scaling;
mod sets;
mod status;

use api::names::{DEPLOYMENTS, PODS, REPLICA_SETS};
use api::selector::label::Selector;
use api::value::Value;
use control::mirror::{Change, Key};
use control::plan::{Controller, Plan, Watches};
use control::world::World;
use jiff::Timestamp;

use crate::owner;
use crate::pods::PodView;
use rolling::Limits;
use sets::Sets;

/// The Deployment controller.
pub struct Deployments;

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![
            Watches::itself(&DEPLOYMENTS),
            Watches::mapped(&REPLICA_SETS, keys_of_set),
            // `Recreate` waits for old pods to be gone; everything else is told by the sets' statuses.
            Watches::mapped(&PODS, keys_of_gone_pod),
        ]
    }

    fn plan(&self, world: &World, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(deployment) = world.get(&DEPLOYMENTS, &key.namespace, &key.name) else { return plan };
        let tree = deployment.to_tree();
        let selector = tree.at(&["spec", "selector"]).map(|selector| Selector::from_object(Some(selector)));
        let Some(Ok(selector)) = selector else { return plan };

        let candidates = world.list(&REPLICA_SETS, &key.namespace);
        let claim = owner::claim(&deployment, &selector, &REPLICA_SETS, candidates);
        claim.writes.into_iter().for_each(|write| plan.write(write));
        let mut sets = Sets::new(&deployment, &tree, claim.owned);

        if deployment.is_deleting() {
            status::write(&mut plan, &deployment, &tree, &sets, status::Progress::Untouched, now);
            return plan;
        }
        let limits = Limits::of(&tree);
        let paused = tree.bool_at(&["spec", "paused"]).unwrap_or_default();
        let progress = if paused || sets.were_sized_for_other_than(limits.replicas) {
            sets.adopt_revision(&tree);
            scaling::scale(&mut sets, &limits);
            if paused { status::Progress::Paused } else { status::Progress::Untouched }
        } else {
            if limits.recreate {
                let old_pods_live = pods_of_old_sets_live(world, &sets);
                rolling::recreate(&mut sets, &limits, &tree, old_pods_live);
            } else {
                rolling::roll(&mut sets, &limits, &tree);
            }
            status::Progress::Rolling
        };
        // A set of that name that has another template, or another owner: two templates have met in one hash.
        sets.mark_collision(|name| world.get(&REPLICA_SETS, &key.namespace, name).is_some());
        sets.clean_up(&tree, paused || status::is_complete(&tree, limits.replicas));
        sets.write(&mut plan, &limits);
        status::write(&mut plan, &deployment, &tree, &sets, progress, now);
        plan
    }
}

fn keys_of_set(world: &World, change: &Change) -> Vec<Key> {
    let mut keys: Vec<Key> = change
        .sides()
        .filter_map(|set| {
            let controller = set.controller().filter(|owner| owner.kind == "Deployment")?;
            Some(Key::new(set.namespace(), &controller.name))
        })
        .collect();
    if let Some(orphan) = change.new.as_deref().filter(|set| set.controller().is_none()) {
        let deployments = world.list(&DEPLOYMENTS, orphan.namespace());
        let adopting = deployments.iter().filter(|deployment| {
            let tree = deployment.to_tree();
            let selector = tree.at(&["spec", "selector"]).and_then(|s| Selector::from_object(Some(s)).ok());
            selector.is_some_and(|selector| selector.matches(orphan.labels()))
        });
        keys.extend(adopting.map(|deployment| Key::of(deployment)));
    }
    keys
}

fn keys_of_gone_pod(world: &World, change: &Change) -> Vec<Key> {
    if change.new.is_some() {
        return Vec::new();
    }
    let set = change.old.as_deref().and_then(|pod| {
        let owner = pod.controller().filter(|owner| owner.kind == "ReplicaSet")?;
        world.get(&REPLICA_SETS, pod.namespace(), &owner.name)
    });
    let deployment = set.as_deref().and_then(|set| {
        let owner = set.controller().filter(|owner| owner.kind == "Deployment")?;
        Some(Key::new(set.namespace(), &owner.name))
    });
    deployment.into_iter().collect()
}

fn pods_of_old_sets_live(world: &World, sets: &Sets) -> bool {
    let pods = sets.old().flat_map(|set| world.mirror(&PODS).owned_by(set.object.uid())).collect();
    PodView::of(pods).iter().any(|pod| !pod.is_terminal())
}

/// A number or a percentage of `total`, rounded up or down; what is neither counts as zero, for validation lets
/// nothing else in.
fn scaled(value: Option<&Value>, total: i64, round_up: bool) -> i64 {
    match value {
        Some(Value::String(text)) => {
            let percent: i64 =
                text.strip_suffix('%').and_then(|number| number.parse().ok()).unwrap_or_default();
            let hundredths = percent * total;
            if round_up { (hundredths + 99).div_euclid(100) } else { hundredths.div_euclid(100) }
        }
        Some(other) => other.as_int().unwrap_or_default(),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use api::interface::{Call, WatchEvent};
    use api::json;
    use api::names::{PODS, REPLICA_SETS, Resource};
    use api::object::Object;

    use super::*;

    /// A world in which writes happen at once and every pod of a set becomes available as told.
    struct Stage {
        world: World,
        objects: BTreeMap<(Resource, String), Value>,
        revision: i64,
        now: Timestamp,
        /// Available pods that there must be at every moment.
        floor: i64,
    }

    impl Stage {
        fn new(deployment: Value) -> Self {
            let mut world = World::new();
            [&DEPLOYMENTS, &REPLICA_SETS, &PODS].into_iter().for_each(|resource| world.ensure(resource));
            let now = "2026-01-01T00:00:00Z".parse().unwrap();
            let mut stage = Self { world, objects: BTreeMap::new(), revision: 0, now, floor: 0 };
            stage.put(&DEPLOYMENTS, deployment);
            stage
        }

        fn put(&mut self, resource: &Resource, mut tree: Value) {
            self.revision += 1;
            tree.set(&["metadata", "resourceVersion"], self.revision.to_string());
            let object = Arc::new(Object::from_tree(&tree).unwrap());
            self.objects.insert((resource.clone(), object.name().to_owned()), tree);
            self.world.mirror(resource).apply(WatchEvent::Modified(object));
        }

        fn change(&mut self, resource: &Resource, name: &str, change: impl FnOnce(&mut Value)) {
            let mut tree = self.objects[&(resource.clone(), name.to_owned())].clone();
            change(&mut tree);
            self.put(resource, tree);
        }

        fn step(&mut self) -> usize {
            let plan = Deployments.plan(&self.world, &Key::new("ns", "web"), self.now);
            let writes: Vec<Call> = plan.writes().map(|write| write.call.clone()).collect();
            for call in &writes {
                match call {
                    Call::Create(target, body, _) => {
                        let mut tree = api::value::parse(body).unwrap();
                        let uid = tree.str_at(&["metadata", "name"]).unwrap().to_owned();
                        tree.set(&["metadata", "uid"], uid);
                        self.put(&target.resource, tree);
                    }
                    Call::Patch(target, _, body, _) => {
                        let patch = api::value::parse(body).unwrap();
                        // Outside the status it would be a new generation, which nobody asked for.
                        assert!(target.resource != DEPLOYMENTS || target.subresource == "status", "{patch}");
                        self.change(&target.resource, &target.name, |tree| {
                            *tree = api::patch::merge::apply(tree.clone(), patch).unwrap()
                        });
                    }
                    other => panic!("not expected: {other:?}"),
                }
            }
            writes.len()
        }

        fn sets(&self) -> Vec<(String, i64)> {
            let sets = self.objects.iter().filter(|((resource, _), _)| *resource == REPLICA_SETS);
            sets.map(|(_, tree)| {
                let image = tree.at(&["spec", "template", "spec", "image"]).unwrap().as_str().unwrap();
                (image.to_owned(), tree.int_at(&["spec", "replicas"]).unwrap())
            })
            .collect()
        }

        fn settle(&mut self, available: impl Fn(&str) -> bool) {
            for _ in 0..60 {
                let writes = self.step();
                self.check_bounds();
                let names: Vec<String> =
                    self.objects.keys().filter(|(r, _)| *r == REPLICA_SETS).map(|(_, n)| n.clone()).collect();
                let mut moved = false;
                for name in names {
                    let tree = self.objects[&(REPLICA_SETS, name.clone())].clone();
                    let size = tree.int_at(&["spec", "replicas"]).unwrap();
                    let ready = if available(tree.str_at(&["spec", "template", "spec", "image"]).unwrap()) {
                        size
                    } else {
                        0
                    };
                    let status =
                        json!({"replicas": size, "readyReplicas": ready, "availableReplicas": ready});
                    moved |= tree.get("status") != Some(&status);
                    self.change(&REPLICA_SETS, &name, |tree| tree.set(&["status"], status));
                }
                if writes == 0 && !moved {
                    return;
                }
            }
            panic!("the rollout does not settle: {:?}", self.sets());
        }

        /// Reckoned here once more, for 25 % of surge and 25 % that may be unavailable.
        fn check_bounds(&self) {
            let wanted =
                self.objects[&(DEPLOYMENTS, "web".to_owned())].int_at(&["spec", "replicas"]).unwrap();
            let total: i64 = self.sets().iter().map(|(_, size)| size).sum();
            assert!(total <= wanted + (wanted + 3) / 4, "surge: {:?}", self.sets());
            let sets = self.objects.iter().filter(|((resource, _), _)| *resource == REPLICA_SETS);
            let serving = sets.map(|(_, tree)| {
                let number = |path: &[&str]| tree.int_at(path).unwrap_or_default();
                number(&["status", "availableReplicas"]).min(number(&["spec", "replicas"]))
            });
            assert!(serving.sum::<i64>() >= self.floor, "unavailable: {:?}", self.sets());
        }

        fn condition(&self, kind: &str) -> String {
            let tree = &self.objects[&(DEPLOYMENTS, "web".to_owned())];
            let condition = crate::condition::find(tree.array_at(&["status", "conditions"]), kind);
            condition.and_then(|c| c.str_at(&["reason"])).unwrap_or_default().to_owned()
        }
    }

    fn deployment(replicas: i64) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
            "spec": {
                "replicas": replicas,
                "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"image": "v1"}}
            }
        })
    }

    fn set_image(stage: &mut Stage, image: &str) {
        stage.change(&DEPLOYMENTS, "web", |tree| tree.set(&["spec", "template", "spec", "image"], image));
    }

    #[test]
    fn a_rollout_completes_within_its_bounds() {
        let mut stage = Stage::new(deployment(4));
        stage.settle(|_| true);
        assert_eq!(stage.sets(), [("v1".to_owned(), 4)]);
        assert_eq!(stage.condition("Progressing"), "NewReplicaSetAvailable");
        stage.floor = 3;
        set_image(&mut stage, "v2");
        stage.settle(|_| true);
        let mut sets = stage.sets();
        sets.sort();
        assert_eq!(sets, [("v1".to_owned(), 0), ("v2".to_owned(), 4)]);
        let tree = &stage.objects[&(DEPLOYMENTS, "web".to_owned())];
        assert_eq!(tree.str_at(&["metadata", "annotations", "deployment.kubernetes.io/revision"]), Some("2"));
    }

    #[test]
    fn old_pods_stay_while_a_status_is_older_than_its_sets_size() {
        let mut stage = Stage::new(deployment(4));
        stage.settle(|_| true);
        set_image(&mut stage, "v2");
        stage.step();
        let sized = |stage: &Stage, wanted: &str| {
            stage.sets().into_iter().find(|(image, _)| image == wanted).map(|(_, size)| size)
        };
        assert_eq!((sized(&stage, "v1"), sized(&stage, "v2")), (Some(4), Some(1)));
        let new = |((resource, _), tree): &(&(Resource, String), &Value)| {
            *resource == REPLICA_SETS && tree.str_at(&["spec", "template", "spec", "image"]) == Some("v2")
        };
        let ((_, name), _) = stage.objects.iter().find(new).unwrap();
        let name = name.clone();
        for (observed, old) in [(1, 4), (2, 2)] {
            stage.change(&REPLICA_SETS, &name, |tree| {
                tree.set(&["metadata", "generation"], 2);
                let status = json!({"replicas": 1, "availableReplicas": 1, "observedGeneration": observed});
                tree.set(&["status"], status);
            });
            stage.step();
            assert_eq!(sized(&stage, "v1"), Some(old));
        }
    }

    #[test]
    fn a_bad_image_leaves_the_old_pods_serving_and_going_back_heals() {
        let mut stage = Stage::new(deployment(4));
        stage.settle(|_| true);
        set_image(&mut stage, "bad");
        stage.settle(|image| image != "bad");
        let mut sets = stage.sets();
        sets.sort();
        assert_eq!(sets, [("bad".to_owned(), 2), ("v1".to_owned(), 3)], "surge 1, unavailable 1");
        stage.now += std::time::Duration::from_secs(700);
        stage.settle(|image| image != "bad");
        assert_eq!(stage.condition("Progressing"), "ProgressDeadlineExceeded");
        set_image(&mut stage, "v1");
        stage.settle(|image| image != "bad");
        let mut sets = stage.sets();
        sets.sort();
        assert_eq!(sets, [("bad".to_owned(), 0), ("v1".to_owned(), 4)]);
        let tree = &stage.objects[&(DEPLOYMENTS, "web".to_owned())];
        assert_eq!(tree.str_at(&["metadata", "annotations", "deployment.kubernetes.io/revision"]), Some("3"));
    }

    #[test]
    fn scaling_while_paused_keeps_the_rollout_where_it_is() {
        let mut stage = Stage::new(deployment(4));
        stage.settle(|_| true);
        set_image(&mut stage, "bad");
        stage.settle(|image| image != "bad");
        stage.change(&DEPLOYMENTS, "web", |tree| {
            tree.set(&["spec", "paused"], true);
            tree.set(&["spec", "replicas"], 8);
        });
        stage.settle(|image| image != "bad");
        let mut sets = stage.sets();
        sets.sort();
        assert_eq!(sets.iter().map(|(_, size)| size).sum::<i64>(), 10, "8 and a surge of 2: {sets:?}");
        assert_eq!(stage.condition("Progressing"), "DeploymentPaused");
    }

    #[test]
    fn recreate_empties_the_old_set_first() {
        let mut tree = deployment(3);
        tree.set(&["spec", "strategy"], json!({"type": "Recreate"}));
        let mut stage = Stage::new(tree);
        stage.settle(|_| true);
        set_image(&mut stage, "v2");
        stage.step();
        assert_eq!(stage.sets(), [("v1".to_owned(), 0)]);
        stage.settle(|_| true);
        let mut sets = stage.sets();
        sets.sort();
        assert_eq!(sets, [("v1".to_owned(), 0), ("v2".to_owned(), 3)]);
    }
}
