//! What must be so in the end, when everything has healed and time has passed.

use std::collections::BTreeSet;

use api::value::Value;

use super::{BUDGETS, DEPLOYMENTS, PODS, SERVICES, SETS, SLICES, Witness, is_complete, owner_uid, share};
use crate::node::is_ready;
use crate::user::Wish;

/// Kinds of owners, as references name them, of which all objects are known here.
const CONFIG_MAP: &str = "ConfigMap";
const DEPLOYMENT: &str = "Deployment";

impl Witness {
    /// What is still missing to the world that everybody asked for; nothing when it has converged.
    pub fn unsettled(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for deployment in self.of(DEPLOYMENTS).filter(|deployment| !is_complete(deployment)) {
            let text = |path: &[&str]| deployment.int_at(path).unwrap_or_default();
            missing.push(format!(
                "deployment {}: {} wanted, {} there, {} updated, {} available",
                deployment.str_at(&["metadata", "name"]).unwrap_or_default(),
                text(&["spec", "replicas"]),
                text(&["status", "replicas"]),
                text(&["status", "updatedReplicas"]),
                text(&["status", "availableReplicas"]),
            ));
        }
        self.orphans(&mut missing);
        self.endpoints(&mut missing);
        self.owners(&mut missing);
        self.budgets(&mut missing);
        missing
    }

    /// Compares the deployments with what users were told that they have.
    pub fn unfulfilled(&self, wishes: &[Wish]) -> Vec<String> {
        let mut missing = Vec::new();
        for wish in wishes {
            let name = (DEPLOYMENTS.to_owned(), "default".to_owned(), wish.name.to_owned());
            let found = self.objects.get(&name);
            if wish.there.is_some_and(|there| there != found.is_some()) {
                missing.push(format!("deployment {}: its user was told {wish:?}", wish.name));
            }
            let Some(found) = found else { continue };
            let replicas = found.int_at(&["spec", "replicas"]);
            let containers = found.array_at(&["spec", "template", "spec", "containers"]);
            let image = containers.first().and_then(|container| container.str_at(&["image"]));
            let same = wish.replicas.is_none_or(|wanted| replicas == Some(wanted))
                && wish.image.is_none_or(|wanted| image == Some(wanted));
            if !same {
                missing.push(format!("deployment {} has {replicas:?} of {image:?}: {wish:?}", wish.name));
            }
        }
        missing
    }

    /// Sets without a deployment, pods without a set, pods that are going, and more pods than sets want.
    fn orphans(&self, missing: &mut Vec<String>) {
        let name = |tree: &Value| tree.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
        let uids = |kind: &str| -> BTreeSet<String> {
            self.of(kind).filter_map(|tree| tree.str_at(&["metadata", "uid"])).map(str::to_owned).collect()
        };
        let (deployments, sets) = (uids(DEPLOYMENTS), uids(SETS));
        for set in self.of(SETS).filter(|set| !owner_uid(set).is_some_and(|uid| deployments.contains(uid))) {
            missing.push(format!("replica set {} is an orphan", name(set)));
        }
        for pod in self.of(PODS) {
            if !owner_uid(pod).is_some_and(|uid| sets.contains(uid)) {
                missing.push(format!("pod {} is an orphan", name(pod)));
            }
            if !is_ready(pod) {
                let at = |path: &[&str]| pod.str_at(path).unwrap_or("nothing").to_owned();
                let conditions = pod.array_at(&["status", "conditions"]).iter();
                let said = conditions
                    .filter_map(|condition| condition.str_at(&["message"]))
                    .collect::<Vec<_>>()
                    .join("; ");
                let (node, phase) = (at(&["spec", "nodeName"]), at(&["status", "phase"]));
                missing.push(format!("pod {} on {node} is {phase} and not ready: {said}", name(pod)));
            }
        }
        for set in self.of(SETS) {
            let uid = set.str_at(&["metadata", "uid"]);
            let there = self.of(PODS).filter(|pod| owner_uid(pod) == uid).count() as i64;
            let wanted = set.int_at(&["spec", "replicas"]).unwrap_or_default();
            if there != wanted {
                missing.push(format!("replica set {} has {there} pods of {wanted}", name(set)));
            }
        }
    }

    /// What was told to go is gone, and who is owned has no owner that is gone.
    fn owners(&self, missing: &mut Vec<String>) {
        let uids: BTreeSet<&str> =
            self.objects.values().filter_map(|object| object.str_at(&["metadata", "uid"])).collect();
        for ((kind, namespace, name), object) in &self.objects {
            if object.at(&["metadata", "deletionTimestamp"]).is_some() {
                let finalizers =
                    object.array_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str);
                let waits = finalizers.collect::<Vec<_>>().join(", ");
                missing.push(format!("{kind} {namespace}/{name} is still going; it waits for {waits:?}"));
            }
            let owners = object.array_at(&["metadata", "ownerReferences"]).iter();
            let gone = owners
                .filter(|owner| {
                    [CONFIG_MAP, DEPLOYMENT].contains(&owner.str_at(&["kind"]).unwrap_or_default())
                })
                .filter(|owner| !owner.str_at(&["uid"]).is_some_and(|uid| uids.contains(uid)));
            for owner in gone {
                let owner = owner.str_at(&["name"]).unwrap_or_default();
                missing.push(format!("{kind} {namespace}/{name} is owned by {owner}, which is gone"));
            }
        }
    }

    /// Every budget says how many of its pods are there and how many may go.
    fn budgets(&self, missing: &mut Vec<String>) {
        for budget in self.of(BUDGETS) {
            let namespace = budget.str_at(&["metadata", "namespace"]);
            let app = budget.str_at(&["spec", "selector", "matchLabels", "app"]);
            let pods = self.of(PODS).filter(|pod| {
                pod.str_at(&["metadata", "namespace"]) == namespace
                    && pod.str_at(&["metadata", "labels", "app"]) == app
            });
            // In the end all are ready, and their deployment has exactly these.
            let pods = pods.count() as i64;
            let desired = match budget.at(&["spec", "minAvailable"]) {
                Some(least) => share(Some(least), pods, 99),
                None => (pods - share(budget.at(&["spec", "maxUnavailable"]), pods, 99)).max(0),
            };
            let number = |name: &str| budget.int_at(&["status", name]).unwrap_or_default();
            let told = ["expectedPods", "currentHealthy", "desiredHealthy", "disruptionsAllowed"].map(number);
            let wanted = [pods, pods, desired, (pods - desired).max(0)];
            if told != wanted {
                let name = budget.str_at(&["metadata", "name"]).unwrap_or_default();
                missing.push(format!("budget {name} tells {told:?}, and it is {wanted:?}"));
            }
        }
    }

    /// Every Service's slices name exactly the ready pods that it selects.
    fn endpoints(&self, missing: &mut Vec<String>) {
        for service in self.of(SERVICES) {
            let name = service.str_at(&["metadata", "name"]).unwrap_or_default();
            let Some(app) = service.str_at(&["spec", "selector", "app"]) else { continue };
            let pods = self
                .of(PODS)
                .filter(|pod| pod.str_at(&["metadata", "labels", "app"]) == Some(app) && is_ready(pod));
            let wanted: BTreeSet<&str> = pods.filter_map(|pod| pod.str_at(&["status", "podIP"])).collect();
            let slices = self.of(SLICES).filter(|slice| {
                slice.str_at(&["metadata", "labels", "kubernetes.io/service-name"]) == Some(name)
            });
            let told: BTreeSet<&str> = slices
                .flat_map(|slice| slice.array_at(&["endpoints"]))
                .flat_map(|endpoint| endpoint.array_at(&["addresses"]))
                .filter_map(Value::as_str)
                .collect();
            if wanted != told {
                missing.push(format!("service {name} leads to {told:?}, and {wanted:?} are ready"));
            }
        }
    }
}
