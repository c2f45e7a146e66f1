//! The ReplicaSets of a Deployment: which is the new one, which are old, and what is to become of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::interface::{DeleteOptions, Target};
use api::json;
use api::names::REPLICA_SETS;
use api::object::Object;
use api::value::{Str, Value};
use control::plan::{Plan, Write};
use control::recorder::Note;

use super::revision::{self, DESIRED, MAX, REVISION};
use super::rolling::Limits;
use crate::owner;

/// Label that tells the pods of one template from those of another.
pub const TEMPLATE_HASH: &str = "pod-template-hash";
/// Letters of such a hash: no vowels, so no words.
const HASH_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// How long the name of a ReplicaSet may be (a DNS subdomain).
const NAME_CHARACTERS: usize = 253;

/// The sets of one Deployment, with the changes that the plan makes to them.
pub struct Sets {
    deployment: Arc<Object>,
    /// Oldest first.
    sets: Vec<Set>,
    new: Option<usize>,
    created: Option<Created>,
}

/// One ReplicaSet, as it is and as it is to be.
pub struct Set {
    /// As stored.
    pub object: Arc<Object>,
    /// As read.
    pub tree: Value,
    /// Size that it is to have; at first the one it has.
    pub replicas: i64,
    /// Available pods.
    pub available: i64,
    /// Total that it was sized for.
    pub desired: Option<i64>,
    /// Largest total that it was sized for.
    pub max_replicas: Option<i64>,
    /// Whether its annotations of sizes are written even if its size stays.
    pub annotate: bool,
    annotations: BTreeMap<Str, Str>,
    min_ready: Option<Value>,
    delete: bool,
}

/// A set that the plan makes.
pub struct Created {
    /// Its name.
    pub name: String,
    replicas: i64,
    object: Value,
    /// Whether the name is taken by another template, so that the hash has to change.
    pub collides: bool,
}

impl Set {
    fn new(object: Arc<Object>) -> Self {
        let tree = object.to_tree();
        let annotation =
            |name| tree.str_at(&["metadata", "annotations", name]).and_then(|text| text.parse().ok());
        Self {
            replicas: tree.int_at(&["spec", "replicas"]).unwrap_or(1),
            available: tree.int_at(&["status", "availableReplicas"]).unwrap_or_default(),
            desired: annotation(DESIRED),
            max_replicas: annotation(MAX),
            annotate: false,
            annotations: BTreeMap::new(),
            min_ready: None,
            delete: false,
            object,
            tree,
        }
    }

    /// A number of its status.
    pub fn status(&self, field: &str) -> i64 {
        self.tree.int_at(&["status", field]).unwrap_or_default()
    }

    /// Whether its status was written before its size.
    pub fn is_behind(&self) -> bool {
        self.status("observedGeneration") < self.tree.int_at(&["metadata", "generation"]).unwrap_or_default()
    }

    /// Its revision; zero if it has none.
    pub fn revision(&self) -> i64 {
        let revision = self.tree.str_at(&["metadata", "annotations", REVISION]);
        revision.and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    fn present(&self) -> i64 {
        self.tree.int_at(&["spec", "replicas"]).unwrap_or(1)
    }
}

impl Sets {
    /// Tells the sets of a Deployment apart. The new one has the Deployment's template; of several the oldest.
    pub fn new(deployment: &Arc<Object>, tree: &Value, owned: Vec<Arc<Object>>) -> Self {
        let mut sets: Vec<Set> = owned.into_iter().map(Set::new).collect();
        sets.sort_by(|a, b| {
            let created = |set: &Set| set.tree.str_at(&["metadata", "creationTimestamp"]).map(str::to_owned);
            created(a).cmp(&created(b)).then_with(|| a.object.name().cmp(b.object.name()))
        });
        let template = tree.at(&["spec", "template"]);
        let new = sets.iter().position(|set| {
            let mut own = set.tree.at(&["spec", "template"]).cloned().unwrap_or_default();
            own.remove(&["metadata", "labels", TEMPLATE_HASH]);
            template.is_some_and(|template| same_template(template, &own))
        });
        Self { deployment: deployment.clone(), sets, new, created: None }
    }

    /// The set with the Deployment's template.
    pub fn new_set(&self) -> Option<&Set> {
        self.new.map(|at| &self.sets[at])
    }

    /// The set that the plan makes.
    pub fn created(&self) -> Option<&Created> {
        self.created.as_ref()
    }

    /// The others, oldest first.
    pub fn old(&self) -> impl Iterator<Item = &Set> {
        let new = self.new;
        self.sets.iter().enumerate().filter(move |(at, _)| Some(*at) != new).map(|(_, set)| set)
    }

    /// The others to change, oldest first.
    pub fn old_oldest_first(&mut self) -> impl Iterator<Item = &mut Set> {
        let new = self.new;
        self.sets.iter_mut().enumerate().filter(move |(at, _)| Some(*at) != new).map(|(_, set)| set)
    }

    /// All sets there are.
    pub fn all(&self) -> &[Set] {
        &self.sets
    }

    /// Sizes of all sets together, with the one that is made.
    pub fn total(&self) -> i64 {
        self.sets.iter().map(|set| set.replicas).sum::<i64>()
            + self.created.as_ref().map_or(0, |new| new.replicas)
    }

    /// Available pods of all sets together. A set that has just shrunk may still tell of pods that it no longer
    /// wants; counting those would let others go too early.
    pub fn available(&self) -> i64 {
        self.sets.iter().map(|set| set.available.min(set.replicas)).sum()
    }

    /// Whether a set with pods was sized for another total: the Deployment has been scaled.
    pub fn were_sized_for_other_than(&self, replicas: i64) -> bool {
        let mut active = self.sets.iter().filter(|set| set.replicas > 0);
        active.any(|set| set.desired.is_some_and(|desired| desired != replicas))
    }

    /// The one set with pods, or the latest if none has any; `None` if several have.
    pub fn only_active_or_latest(&mut self) -> Option<&mut Set> {
        let mut active = self.sets.iter().enumerate().filter(|(_, set)| set.replicas > 0).map(|(at, _)| at);
        let at = match (active.next(), active.next()) {
            (None, _) => self.new.or_else(|| self.sets.len().checked_sub(1))?,
            (Some(only), None) => only,
            (Some(_), Some(_)) => return None,
        };
        self.sets.get_mut(at)
    }

    /// The sets with pods, largest first; of equal ones the newest first, or (shrinking) the oldest.
    pub fn active_by_size(&mut self, newest_first: bool) -> Vec<&mut Set> {
        let mut active: Vec<(usize, &mut Set)> =
            self.sets.iter_mut().enumerate().filter(|(_, set)| set.replicas > 0).collect();
        active.sort_by(|(a, set_a), (b, set_b)| {
            let age = if newest_first { b.cmp(a) } else { a.cmp(b) };
            set_b.replicas.cmp(&set_a.replicas).then(age)
        });
        active.into_iter().map(|(_, set)| set).collect()
    }

    /// Changes the size of the new set.
    pub fn resize_new(&mut self, replicas: i64) {
        if let Some(at) = self.new {
            self.sets[at].replicas = replicas;
        }
    }

    /// The revision that the new set has or gets.
    pub fn revision(&self) -> Option<i64> {
        let next = self.old().map(Set::revision).max().unwrap_or_default() + 1;
        if self.created.is_some() { Some(next) } else { self.new_set().map(|new| new.revision().max(next)) }
    }

    /// Gives the new set what it takes over from the Deployment: revision, annotations, `minReadySeconds`.
    pub fn adopt_revision(&mut self, tree: &Value) {
        let next = self.old().map(Set::revision).max().unwrap_or_default() + 1;
        let Some(at) = self.new else { return };
        let new = &mut self.sets[at];
        let none = Value::object();
        let present = new.tree.at(&["metadata", "annotations"]).unwrap_or(&none);
        new.annotations = revision::annotations(tree, present, next);
        let wanted = tree.at(&["spec", "minReadySeconds"]);
        if wanted.and_then(Value::as_int).unwrap_or_default()
            != new.tree.int_at(&["spec", "minReadySeconds"]).unwrap_or_default()
        {
            new.min_ready = Some(wanted.cloned().unwrap_or_default());
        }
    }

    /// Makes the new set.
    pub fn create(&mut self, tree: &Value, replicas: i64, limits: &Limits) {
        let collisions = tree.int_at(&["status", "collisionCount"]).unwrap_or_default();
        let mut template = tree.at(&["spec", "template"]).cloned().unwrap_or_default();
        let hash = template_hash(&template, collisions);
        template.set(&["metadata", "labels", TEMPLATE_HASH], hash.as_str());
        let mut selector = tree.at(&["spec", "selector"]).cloned().unwrap_or_default();
        selector.set(&["matchLabels", TEMPLATE_HASH], hash.as_str());
        let prefix: String = self.deployment.name().chars().take(NAME_CHARACTERS - 1 - hash.len()).collect();
        let name = format!("{prefix}-{hash}");

        let next = self.old().map(Set::revision).max().unwrap_or_default() + 1;
        let mut annotations = revision::annotations(tree, &Value::object(), next);
        annotations.extend(size_annotations(limits));
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": (name.as_str()),
                "namespace": (self.deployment.namespace()),
                "labels": (template.at(&["metadata", "labels"]).cloned().unwrap_or_default()),
                "annotations": (string_map(&annotations)),
                "ownerReferences": [(owner::controller_reference(&self.deployment))]
            },
            "spec": {"replicas": replicas, "selector": selector, "template": template}
        });
        if let Some(seconds) = tree.at(&["spec", "minReadySeconds"]) {
            object.set(&["spec", "minReadySeconds"], seconds.clone());
        }
        self.created = Some(Created { name, replicas, object, collides: false });
    }

    /// Gives up making a set whose name `is_taken`; the status then counts the collision, which changes the name.
    pub fn mark_collision(&mut self, is_taken: impl Fn(&str) -> bool) {
        if let Some(created) = &mut self.created {
            created.collides = is_taken(&created.name);
        }
    }

    /// Marks old sets beyond the history limit, oldest revision first, if the Deployment is `settled`.
    pub fn clean_up(&mut self, tree: &Value, settled: bool) {
        let Some(limit) = tree.int_at(&["spec", "revisionHistoryLimit"]) else { return };
        if !settled {
            return;
        }
        let mut old: Vec<&mut Set> =
            self.old_oldest_first().filter(|set| !set.object.is_deleting()).collect();
        old.sort_by_key(|set| set.revision());
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
        for set in old.into_iter().take(surplus) {
            let observed = set.tree.int_at(&["status", "observedGeneration"])
                >= set.tree.int_at(&["metadata", "generation"]);
            set.delete = set.replicas == 0 && set.present() == 0 && set.status("replicas") == 0 && observed;
        }
    }

    /// Writes what has been decided.
    pub fn write(&self, plan: &mut Plan, limits: &Limits) {
        if let Some(created) = self.created.as_ref().filter(|created| !created.collides) {
            plan.write(self.creation(created));
        }
        for set in &self.sets {
            if set.delete {
                plan.write(Write::delete(&REPLICA_SETS, &set.object, DeleteOptions::default()));
            } else if let Some(write) = self.change(set, limits) {
                plan.write(write);
            }
        }
    }

    fn creation(&self, created: &Created) -> Write {
        let (name, replicas) = (&created.name, created.replicas);
        let message = format!("Scaled up replica set {name} from 0 to {replicas}");
        let scaled = (replicas > 0).then(|| Note::normal(&self.deployment, "ScalingReplicaSet", message));
        let message = format!("Failed to create new replica set \"{name}\": {{error}}");
        let failed = Note::warning(&self.deployment, "ReplicaSetCreateError", message);
        Write::create(&REPLICA_SETS, self.deployment.namespace(), &created.object)
            .telling(scaled, Some(failed))
    }

    fn change(&self, set: &Set, limits: &Limits) -> Option<Write> {
        let mut patch = json!({"metadata": {"uid": (set.object.uid())}});
        let mut annotations = set.annotations.clone();
        let present = set.present();
        let resized = set.replicas != present;
        if resized || set.annotate {
            let sizes = size_annotations(limits);
            annotations.extend(sizes.into_iter().filter(|(key, value)| {
                set.tree.str_at(&["metadata", "annotations", key]) != Some(value.as_str())
            }));
        }
        if resized {
            patch.set(&["spec", "replicas"], set.replicas);
        }
        if let Some(seconds) = &set.min_ready {
            patch.set(&["spec", "minReadySeconds"], seconds.clone());
        }
        if !annotations.is_empty() {
            patch.set(&["metadata", "annotations"], string_map(&annotations));
        }
        let changes = patch.get("spec").is_some() || !annotations.is_empty();
        let direction = if set.replicas > present { "up" } else { "down" };
        let name = set.object.name();
        let message = format!("Scaled {direction} replica set {name} from {present} to {}", set.replicas);
        let note = resized.then(|| Note::normal(&self.deployment, "ScalingReplicaSet", message));
        changes.then(|| {
            Write::merge(Target::new(&REPLICA_SETS, set.object.namespace(), name), &patch).telling(note, None)
        })
    }
}

fn size_annotations(limits: &Limits) -> [(Str, Str); 2] {
    [(DESIRED.into(), limits.replicas.to_string().into()), (MAX.into(), limits.ceiling().to_string().into())]
}

fn string_map(pairs: &BTreeMap<Str, Str>) -> Value {
    Value::Object(pairs.iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))).collect())
}

/// Equal but for what is empty on one side and missing on the other.
fn same_template(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let null = Value::Null;
            let keys = a.keys().chain(b.keys());
            keys.into_iter()
                .all(|key| same_template(a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_template(a, b))
        }
        _ => a == b || (a.is_empty() && b.is_empty() && (a.is_null() || b.is_null())),
    }
}

/// FNV-1a (32 bit) of the template and the number of collisions, in safe letters.
fn template_hash(template: &Value, collisions: i64) -> String {
    let mut bytes = template.to_bytes();
    if collisions > 0 {
        bytes.extend_from_slice(&collisions.to_le_bytes());
    }
    let hash =
        bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_string()
        .bytes()
        .map(|digit| HASH_LETTERS[usize::from(digit) % HASH_LETTERS.len()] as char)
        .collect()
}
