//! What must hold at every revision, and what must hold in the end.
//!
//! [`Witness`] sees each change of the store in the order of revisions, all kinds together, so that what it compares
//! was really so at one moment.

use std::collections::{BTreeMap, BTreeSet};

use api::value::Value;
use apiserver::Record;
use store::{Event, Key, Page, Revision, Watch};

use crate::history::{Commit, History};
use crate::link::Faults;
use crate::node::{PODS_PER_NODE, is_ready};
use crate::server::Beginning;
use crate::visitor::GUESTS;

mod settled;

const NODES: &str = "nodes";
const PODS: &str = "pods";
const SETS: &str = "replicasets.apps";
const DEPLOYMENTS: &str = "deployments.apps";
const SERVICES: &str = "services";
const SLICES: &str = "endpointslices.discovery.k8s.io";
const ADDRESSES: &str = "ipaddresses.networking.k8s.io";
const NAMESPACES: &str = "namespaces";
const CONFIG_MAPS: &str = "configmaps";
const BUDGETS: &str = "poddisruptionbudgets.policy";
/// The kinds that matter here.
const KINDS: [&str; 10] =
    [NODES, PODS, SETS, DEPLOYMENTS, SERVICES, SLICES, ADDRESSES, NAMESPACES, CONFIG_MAPS, BUDGETS];

/// Follows the store and says what was broken.
pub struct Witness {
    /// What may have been done without its doer's knowing.
    faults: Faults,
    /// Whether pods only ever become unavailable because a controller wants it so.
    calm: bool,
    watch: Option<Watch<Record>>,
    /// Everything of the kinds that matter, as trees, by kind, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    bounds: BTreeMap<String, Bounds>,
    /// By set: the most pods that it has wanted since it last had as many as it wanted. Making a pod takes time, in
    /// which the set may have shrunk; but no pod is ever made twice.
    most: BTreeMap<String, i64>,
    /// By uid of a pod: where it was bound to.
    bound: BTreeMap<String, String>,
    history: History,
    /// What was broken, with the revision.
    pub broken: Vec<String>,
}

/// How many pods a deployment may have. A change of the deployment needs time to be heard of, so until a rollout is
/// complete the widest of all bounds since the last complete one count.
#[derive(Clone, Copy)]
struct Bounds {
    ceiling: i64,
    floor: i64,
    /// How many pods are asked for.
    replicas: i64,
    /// Whether no rollout is under way.
    settled: bool,
}

impl Witness {
    /// A witness of a new world.
    pub fn new(calm: bool, faults: &Faults) -> Self {
        Self {
            faults: faults.clone(),
            calm,
            watch: None,
            objects: BTreeMap::new(),
            bounds: BTreeMap::new(),
            most: BTreeMap::new(),
            bound: BTreeMap::new(),
            history: History::default(),
            broken: Vec::new(),
        }
    }

    /// Goes on with a new life of the server. What was visible in the one before must be there.
    pub fn follow(&mut self, beginning: Beginning) {
        let broken = self.history.goes_on(&beginning.found);
        self.broken.extend(broken);
        self.objects.clear();
        for entry in &beginning.found.entries {
            self.put(&entry.key, Some(tree(&entry.record)));
        }
        self.watch = Some(beginning.watch);
    }

    /// The server dies: this life's watch tells nothing any more.
    pub fn lose(&mut self) {
        self.watch = None;
    }

    /// Compares all that the watch has told with what the store itself says at this moment.
    pub fn compare(&mut self, found: &Page<Record>) {
        let broken = self.history.compare(found);
        self.broken.extend(broken);
    }

    /// All that was committed, and what was broken.
    pub fn tell(self) -> (Vec<Commit>, Vec<String>) {
        (self.history.commits(), self.broken)
    }

    /// Takes in all that has happened, and checks after each change.
    pub fn catch_up(&mut self) {
        loop {
            let Some(watch) = &mut self.watch else { return };
            match watch.try_next() {
                Some(Ok(batch)) => {
                    batch.events.iter().for_each(|event| self.see(event));
                    self.check_addresses(batch.seen);
                }
                Some(Err(error)) => {
                    self.broken.push(format!("the store's watch ended: {error}"));
                    self.watch = None;
                    return;
                }
                None => return,
            }
        }
    }

    /// Services and their addresses come and go in one commit, so this holds only between commits.
    fn check_addresses(&mut self, revision: Revision) {
        let used: BTreeSet<&str> = self
            .of(SERVICES)
            .flat_map(|service| service.array_at(&["spec", "clusterIPs"]))
            .filter_map(Value::as_str)
            .filter(|address| *address != "None")
            .collect();
        let given: BTreeSet<&str> =
            self.of(ADDRESSES).filter_map(|address| address.str_at(&["metadata", "name"])).collect();
        if used != given {
            let odd: Vec<&&str> = used.symmetric_difference(&given).collect();
            let what =
                format!("at revision {}: address without a Service, or the other way: {odd:?}", revision.0);
            self.broken.push(what);
        }
    }

    fn see(&mut self, event: &Event<Record>) {
        let current = event.current.as_ref().map(|entry| tree(&entry.record));
        self.history.note(event, gist(event.key(), current.as_ref()));
        let gone = current.is_none();
        if self.put(event.key(), current) {
            self.check(event.key(), event.revision);
        }
        if gone && event.key().resource.as_str() == NAMESPACES {
            let left = self.history.left_in(&event.key().name);
            self.broken.extend(
                left.map(|key| format!("at revision {}: {key} has outlived its namespace", event.revision.0)),
            );
        }
    }

    /// Whether the kind matters here.
    fn put(&mut self, key: &Key, tree: Option<Value>) -> bool {
        let resource = key.resource.as_str();
        if !KINDS.contains(&resource) {
            return false;
        }
        let name = (resource.to_owned(), key.namespace.to_string(), key.name.to_string());
        if resource == DEPLOYMENTS {
            self.note_bounds(&name.2, tree.as_ref());
        }
        match tree {
            Some(tree) => drop(self.objects.insert(name, tree)),
            None => drop(self.objects.remove(&name)),
        }
        true
    }

    fn note_bounds(&mut self, name: &str, deployment: Option<&Value>) {
        let Some(deployment) = deployment else {
            self.bounds.remove(name);
            return;
        };
        let mut now = bounds(deployment);
        if !owes_pods(deployment) {
            now.floor = 0;
        }
        let settled = is_complete(deployment);
        let known = self.bounds.get(name).copied();
        let next = match known {
            _ if !owes_pods(deployment) => Bounds {
                settled,
                ..known.map_or(now, |known| Bounds { ceiling: known.ceiling.max(now.ceiling), ..now })
            },
            // What has never been complete owes nobody anything yet.
            None => Bounds { floor: if settled { now.floor } else { 0 }, settled, ..now },
            Some(_) if settled => Bounds { settled, ..now },
            Some(known) => {
                // As upstream, who shrinks amid a rollout shrinks all sets in proportion, available or not.
                let shrinks = !known.settled && now.replicas < known.replicas;
                Bounds {
                    ceiling: known.ceiling.max(now.ceiling),
                    floor: if shrinks { 0 } else { known.floor.min(now.floor) },
                    settled,
                    ..now
                }
            }
        };
        self.bounds.insert(name.to_owned(), next);
    }

    fn of(&self, resource: &str) -> impl Iterator<Item = &Value> {
        let resource = resource.to_owned();
        self.objects
            .range((resource.clone(), String::new(), String::new())..)
            .take_while(move |((kind, ..), _)| *kind == resource)
            .map(|(_, tree)| tree)
    }

    fn check(&mut self, key: &Key, revision: Revision) {
        let mut broken = Vec::new();
        match key.resource.as_str() {
            PODS | SETS | DEPLOYMENTS => {
                self.check_sets(&mut broken);
                for (name, bounds) in &self.bounds {
                    self.check_deployment(name, *bounds, &mut broken);
                }
                if key.resource.as_str() == PODS {
                    let addresses = self
                        .of(PODS)
                        .filter(|pod| !is_over(pod))
                        .filter_map(|pod| pod.str_at(&["status", "podIP"]));
                    twice("pod address", addresses, &mut broken);
                    self.check_places(&mut broken);
                }
            }
            NODES => {
                let blocks = self.of(NODES).filter_map(|node| node.str_at(&["spec", "podCIDR"]));
                twice("block of addresses", blocks, &mut broken);
            }
            SERVICES => {
                let addresses =
                    self.of(SERVICES).filter_map(|service| service.str_at(&["spec", "clusterIP"]));
                twice("cluster address", addresses.filter(|address| *address != "None"), &mut broken);
                let ports: Vec<String> = self
                    .of(SERVICES)
                    .flat_map(|service| service.array_at(&["spec", "ports"]))
                    .filter_map(|port| port.int_at(&["nodePort"]))
                    .filter(|port| *port > 0)
                    .map(|port| port.to_string())
                    .collect();
                twice("node port", ports.iter().map(String::as_str), &mut broken);
            }
            BUDGETS => self.check_budgets(&mut broken),
            _ => {}
        }
        self.broken.extend(broken.into_iter().map(|what| format!("at revision {}: {what}", revision.0)));
    }

    /// No budget gives away more than it has, whoever writes it.
    fn check_budgets(&self, broken: &mut Vec<String>) {
        for budget in self.of(BUDGETS) {
            let number = |name: &str| budget.int_at(&["status", name]).unwrap_or_default();
            let spare = (number("currentHealthy") - number("desiredHealthy")).max(0);
            let allowed = number("disruptionsAllowed");
            if allowed < 0 || allowed > spare {
                let name = budget.str_at(&["metadata", "name"]).unwrap_or_default();
                broken
                    .push(format!("the budget {name} allows {allowed} disruptions and has {spare} to spare"));
            }
        }
    }

    /// A pod stays where it was bound to, and no node gets more than it can hold.
    fn check_places(&mut self, broken: &mut Vec<String>) {
        let (mut bound, mut held) = (BTreeMap::new(), BTreeMap::new());
        for pod in self.of(PODS) {
            let Some(uid) = pod.str_at(&["metadata", "uid"]) else { continue };
            let node = pod.str_at(&["spec", "nodeName"]).unwrap_or_default();
            if self.bound.get(uid).is_some_and(|before| before != node) {
                broken.push(format!("the pod {uid} was bound to {} and is on {node:?}", self.bound[uid]));
            }
            if !node.is_empty() {
                bound.insert(uid.to_owned(), node.to_owned());
                *held.entry(node).or_insert(0) += usize::from(!is_over(pod));
            }
        }
        for (node, pods) in held.into_iter().filter(|(_, pods)| *pods > PODS_PER_NODE) {
            broken.push(format!("{node} has {pods} pods, and there is room for {PODS_PER_NODE}"));
        }
        self.bound = bound;
    }

    fn check_sets(&mut self, broken: &mut Vec<String>) {
        let mut most = BTreeMap::new();
        for set in self.of(SETS) {
            let Some(uid) = set.str_at(&["metadata", "uid"]) else { continue };
            let wanted = set.int_at(&["spec", "replicas"]).unwrap_or_default();
            let pods = self.of(PODS).filter(|pod| owner_uid(pod) == Some(uid) && is_active(pod));
            let present = pods.count() as i64;
            let allowed = self.most.get(uid).copied().unwrap_or_default().max(wanted);
            // A pod whose creation was not answered may be made again before it is seen.
            if present > allowed + self.faults.unanswered() {
                broken.push(format!("a set that never wanted more than {allowed} pods has {present}"));
            }
            let number = |path: &[&str]| set.int_at(path).unwrap_or_default();
            let settled = present == wanted
                && number(&["status", "replicas"]) == wanted
                && number(&["status", "observedGeneration"]) == number(&["metadata", "generation"]);
            most.insert(uid.to_owned(), if settled { wanted } else { allowed });
        }
        self.most = most;
    }

    fn check_deployment(&self, name: &str, bounds: Bounds, broken: &mut Vec<String>) {
        let uids: BTreeSet<&str> = self
            .of(SETS)
            .filter(|set| {
                set.at(&["metadata", "deletionTimestamp"]).is_none() && owner(set, "Deployment") == Some(name)
            })
            .filter_map(|set| set.str_at(&["metadata", "uid"]))
            .collect();
        let sizes = self
            .of(SETS)
            .filter(|set| set.str_at(&["metadata", "uid"]).is_some_and(|uid| uids.contains(uid)));
        let wanted: i64 = sizes.filter_map(|set| set.int_at(&["spec", "replicas"])).sum();
        if wanted > bounds.ceiling {
            broken.push(format!("{name}: its sets want {wanted} pods, and {} are allowed", bounds.ceiling));
        }
        let pods = self
            .of(PODS)
            .filter(|pod| is_active(pod) && owner_uid(pod).is_some_and(|uid| uids.contains(uid)));
        let available = pods.filter(|pod| is_ready(pod)).count() as i64;
        if self.calm && available < bounds.floor {
            broken.push(format!("{name}: {available} pods are available, and {} must be", bounds.floor));
        }
    }
}

/// What matters of an object, in a few words.
fn gist(key: &Key, object: Option<&Value>) -> String {
    let Some(object) = object else { return "gone".to_owned() };
    let number = |path: &[&str]| object.int_at(path).unwrap_or_default();
    let going = if object.at(&["metadata", "deletionTimestamp"]).is_some() { ", going" } else { "" };
    match key.resource.as_str() {
        PODS => {
            let node = object.str_at(&["spec", "nodeName"]).unwrap_or("nowhere");
            format!("on {node}{}{going}", if is_ready(object) { ", ready" } else { "" })
        }
        SETS => format!(
            "wants {}, has {}, available {}{going}",
            number(&["spec", "replicas"]),
            number(&["status", "replicas"]),
            number(&["status", "availableReplicas"])
        ),
        DEPLOYMENTS => format!(
            "wants {}, has {}, updated {}, available {}, generation {} of {}, {}{going}",
            number(&["spec", "replicas"]),
            number(&["status", "replicas"]),
            number(&["status", "updatedReplicas"]),
            number(&["status", "availableReplicas"]),
            number(&["status", "observedGeneration"]),
            number(&["metadata", "generation"]),
            object.at(&["spec", "strategy", "rollingUpdate"]).map(ToString::to_string).unwrap_or_default()
        ),
        _ => going.to_owned(),
    }
}

fn tree(record: &Record) -> Value {
    api::value::parse(store::Record::bytes(record)).expect("what is stored can be read")
}

fn owner<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let owners = object.array_at(&["metadata", "ownerReferences"]);
    owners.iter().find(|owner| owner.str_at(&["kind"]) == Some(kind))?.str_at(&["name"])
}

fn owner_uid(object: &Value) -> Option<&str> {
    object.array_at(&["metadata", "ownerReferences"]).first()?.str_at(&["uid"])
}

/// Neither over nor on its way out.
fn is_active(pod: &Value) -> bool {
    !is_over(pod) && pod.at(&["metadata", "deletionTimestamp"]).is_none()
}

fn is_over(pod: &Value) -> bool {
    matches!(pod.str_at(&["status", "phase"]), Some("Succeeded" | "Failed"))
}

/// A number, or a percentage of `whole`, with what is added before it is rounded down.
fn share(value: Option<&Value>, whole: i64, added: i64) -> i64 {
    let Some(value) = value else { return 0 };
    let percent = || value.as_str()?.trim_end_matches('%').parse::<i64>().ok();
    value.as_int().unwrap_or_else(|| (whole * percent().unwrap_or_default() + added) / 100)
}

/// Whether pods of a deployment have to be available: not while it goes, nor where whole namespaces go with all that
/// they hold.
fn owes_pods(deployment: &Value) -> bool {
    deployment.at(&["metadata", "deletionTimestamp"]).is_none()
        && deployment.str_at(&["metadata", "namespace"]) != Some(GUESTS)
}

/// Rounded as the API says: surge up, unavailable down, and not both zero.
fn bounds(deployment: &Value) -> Bounds {
    let replicas = deployment.int_at(&["spec", "replicas"]).unwrap_or(1);
    let limit = |name: &str| deployment.at(&["spec", "strategy", "rollingUpdate", name]);
    let surge = share(limit("maxSurge"), replicas, 99);
    let unavailable = share(limit("maxUnavailable"), replicas, 0);
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Bounds { ceiling: replicas + surge, floor: (replicas - unavailable).max(0), replicas, settled: false }
}

/// Whether the controller says that all is as the deployment wants it.
fn is_complete(deployment: &Value) -> bool {
    let number = |path: &[&str]| deployment.int_at(path).unwrap_or_default();
    let wanted = deployment.int_at(&["spec", "replicas"]).unwrap_or(1);
    number(&["status", "observedGeneration"]) == number(&["metadata", "generation"])
        && number(&["status", "replicas"]) == wanted
        && number(&["status", "updatedReplicas"]) == wanted
        && number(&["status", "availableReplicas"]) == wanted
}

fn twice<'a>(what: &str, values: impl Iterator<Item = &'a str>, broken: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for value in values.filter(|value| !value.is_empty()) {
        if !seen.insert(value) {
            broken.push(format!("the {what} {value} is there twice"));
        }
    }
}
