//! The Node object and its Lease: how this node tells the cluster that it is there and how it is.
//!
//! The Lease is the heartbeat; the status is written when something changed, or after five minutes. A Node that was
//! deleted is made again while the agent runs.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::interface::{Api, Collection, PatchKind, Target};
use api::json;
use api::names::{LEASES, NODES};
use api::object::Object;
use api::status::{Reason, Status};
use api::value::{Map, Str, Value};
use base::{Clock, Stop, Tasks};
use control::mirror::Mirror;
use control::recorder::{About, Note, Recorder};
use jiff::Timestamp;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::machine::{DISK_PRESSURE, Load, MEMORY_PRESSURE, Machine};

/// How often the machine is looked at and the Lease renewed.
const INTERVAL: Duration = Duration::from_secs(10);
/// After this long the status is written though nothing changed.
const REPORT_INTERVAL: Duration = Duration::from_secs(300);
/// For how long a Lease holds.
const LEASE_SECONDS: i64 = 40;
/// Where Leases of nodes are.
const LEASE_NAMESPACE: &str = "kube-node-lease";
const PID_PRESSURE: &str = "PIDPressure";
/// Images that a Node shows at most, the largest first, and names of each.
const IMAGES_MAX: usize = 50;
const NAMES_MAX: usize = 5;
/// The version that the node tells; it follows upstream's.
pub const KUBELET_VERSION: &str = "v1.37.2+ondol";

/// What the node tells of itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the node.
    pub node: String,
    /// Its addresses, the primary first.
    pub addresses: Vec<IpAddr>,
    /// Where its HTTPS server listens.
    pub kubelet_port: u16,
    /// A directory on the disk that pods use.
    pub data_dir: PathBuf,
    /// Our own version.
    pub version: String,
}

/// Whether the node can run pods; otherwise why not.
pub type Health = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Keeps the Node and its Lease.
pub struct Registration {
    settings: Settings,
    machine: Machine,
    api: Arc<dyn Api>,
    clock: Clock,
    images: image::Store,
    health: Health,
    recorder: Recorder,
    /// Whether it was told that this agent has started.
    has_started: AtomicBool,
}

/// What was told last.
struct Told {
    status: Value,
    at: Duration,
    uid: Str,
}

impl Registration {
    /// For the machine as it was read.
    pub fn new(
        settings: Settings,
        machine: Machine,
        api: Arc<dyn Api>,
        clock: Clock,
        images: image::Store,
        health: Health,
        recorder: Recorder,
    ) -> Self {
        let has_started = AtomicBool::new(false);
        Self { settings, machine, api, clock, images, health, recorder, has_started }
    }

    /// Registers and keeps telling until `stop`. The watch on the Node itself runs on `tasks`.
    pub async fn run(self, tasks: &Tasks, stop: Stop) {
        let lost = self.watch_own(tasks, &stop);
        let mut told: Option<Told> = None;
        let jumps = self.clock.jumps();
        while !stop.is_stopped() {
            if let Err(error) = self.tell(&mut told).await {
                // Not found: someone deleted the Node. The next round makes it again.
                warn!(node = self.settings.node, %error, "the node's status could not be written");
                told = None;
            }
            if let Some(told) = &told
                && let Err(error) = self.renew(&told.uid).await
            {
                warn!(node = self.settings.node, %error, "the node's lease could not be renewed");
            }
            let next = async {
                tokio::select! {
                    () = self.clock.sleep(INTERVAL) => false,
                    // By a clock that was set, the last heartbeat may be old.
                    () = jumps.next() => false,
                    () = lost.notified() => true,
                }
            };
            match stop.or(next).await {
                Some(true) => told = None,
                Some(false) => {}
                None => return,
            }
        }
    }

    /// Hears when the Node is deleted, or given up by who watches over nodes: then all is told anew at once.
    fn watch_own(&self, tasks: &Tasks, stop: &Stop) -> Arc<Notify> {
        let selector = format!("metadata.name={}", self.settings.node);
        let mirror = Mirror::selecting(Collection::new(&NODES, ""), "", &selector);
        let lost = Arc::new(Notify::new());
        let heard = lost.clone();
        mirror.on_change(move |change| {
            if change.new.as_ref().is_none_or(|node| is_given_up(&node.to_tree())) {
                heard.notify_one();
            }
        });
        let (api, clock, stop) = (self.api.clone(), self.clock.clone(), stop.clone());
        tasks.spawn("watch of the own node", async move { mirror.run(&*api, &clock, &stop).await });
        lost
    }

    /// Writes the status if it is due.
    async fn tell(&self, told: &mut Option<Told>) -> Result<(), Status> {
        let (before, uid) = match told {
            Some(told) => (told.status.clone(), told.uid.clone()),
            None => {
                let (node, is_new) = self.register().await?;
                let (uid, status) = (Str::from(node.uid()), status_of(&node.to_tree()));
                if !self.has_started.swap(true, Ordering::Relaxed) {
                    self.note(&uid, "Starting", "Starting kubelet.".to_owned());
                }
                if is_new {
                    self.note_turns(&uid, &Value::object(), &status);
                }
                (status, uid)
            }
        };
        let status = self.status(&before);
        let due = told.as_ref().is_none_or(|told| {
            self.clock.monotonic().saturating_sub(told.at) >= REPORT_INTERVAL
                || without_heartbeats(&status) != without_heartbeats(&told.status)
        });
        if due {
            let target = Target::new(&NODES, "", &self.settings.node).subresource("status");
            let patch = json!({"status": (replacing_addresses(status.clone()))});
            self.api.patch(target, PatchKind::StrategicMerge, &patch).await?;
            self.note_turns(&uid, &before, &status);
            *told = Some(Told { status, at: self.clock.monotonic(), uid });
        }
        Ok(())
    }

    /// Makes an event about the Node.
    fn note(&self, uid: &Str, reason: &str, message: String) {
        let name = self.settings.node.as_str().into();
        let about = About { kind: "Node".into(), name, uid: uid.clone(), ..About::default() };
        self.recorder.note(Note { about, warning: false, reason: reason.into(), message });
    }

    /// Makes events about conditions that have turned.
    fn note_turns(&self, uid: &Str, before: &Value, after: &Value) {
        for reason in turns(before, after) {
            if reason == NOT_READY {
                let mut conditions = after.array_at(&["conditions"]).iter();
                let ready = conditions.rfind(|one| one.str_at(&["type"]) == Some("Ready"));
                let why = ready.and_then(|ready| ready.str_at(&["message"])).unwrap_or_default();
                warn!(node = self.settings.node, why, "the node is not ready");
            }
            self.note(uid, reason, format!("Node {} status is now: {reason}", self.settings.node));
        }
    }

    /// The Node: as it is, with our labels, or made anew; and whether it is new.
    async fn register(&self) -> Result<(Arc<Object>, bool), Status> {
        let name = &*self.settings.node;
        let node = self.node();
        match self.api.create(&NODES, "", &node).await {
            Ok(created) => {
                info!(node = name, "the node is registered");
                return Ok((created, true));
            }
            Err(status) if status.reason == Reason::AlreadyExists => {}
            Err(status) => return Err(status),
        }
        let found = self.api.get(&NODES, "", name).await?;
        let labels = node.at(&["metadata", "labels"]).cloned().unwrap_or_else(Value::object);
        let wanted =
            labels.as_object().map(|labels| labels.iter().all(|(k, v)| found.label(k) == v.as_str()));
        if wanted == Some(true) {
            return Ok((found, false));
        }
        let patch = json!({"metadata": {"labels": labels}});
        let target = Target::new(&NODES, "", name);
        Ok((self.api.patch(target, PatchKind::StrategicMerge, &patch).await?, false))
    }

    fn node(&self) -> Value {
        let name = &*self.settings.node;
        let architecture = &*self.machine.architecture;
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {
                    "beta.kubernetes.io/arch": architecture,
                    "beta.kubernetes.io/os": "linux",
                    "kubernetes.io/arch": architecture,
                    "kubernetes.io/hostname": name,
                    "kubernetes.io/os": "linux"
                },
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
            },
            "spec": {},
            "status": (self.status(&Value::object()))
        })
    }

    /// The whole status now; transitions are dated by comparing with `before`.
    fn status(&self, before: &Value) -> Value {
        let load = Load::read(&self.settings.data_dir)
            .inspect_err(|error| warn!(%error, "the machine's load cannot be measured"))
            .unwrap_or_default();
        let mut addresses: Vec<Value> = self.settings.addresses.iter().map(internal).collect();
        addresses.push(json!({"type": "Hostname", "address": (self.settings.node.as_str())}));
        json!({
            "addresses": (Value::Array(addresses)),
            "allocatable": (quantities(self.machine.allocatable())),
            "capacity": (quantities(self.machine.capacity())),
            "conditions": (conditions(before, load, (self.health)(), self.clock.now())),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": (i64::from(self.settings.kubelet_port))}},
            "images": (images(self.images.list())),
            "nodeInfo": (self.info())
        })
    }

    fn info(&self) -> Value {
        let machine = &self.machine;
        let mut info = json!({
            "architecture": (machine.architecture.as_str()),
            "bootID": (machine.boot_id.as_str()),
            "containerRuntimeVersion": (format!("ondol://{}", self.settings.version)),
            "kernelVersion": (machine.kernel.as_str()),
            "kubeProxyVersion": "",
            "kubeletVersion": KUBELET_VERSION,
            "machineID": (machine.machine_id.as_str()),
            "operatingSystem": "linux",
            "osImage": (machine.os_image.as_str()),
            "systemUUID": (machine.system_uuid.as_str())
        });
        if machine.swap_bytes > 0 {
            info.set(&["swap", "capacity"], machine.swap_bytes as i64);
        }
        info
    }

    /// Renews the Lease, or makes it.
    async fn renew(&self, uid: &str) -> Result<(), Status> {
        let name = &*self.settings.node;
        // A Lease counts microseconds.
        let now = api::time::micros(self.clock.now());
        let spec = json!({
            "holderIdentity": name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": (now.as_str())
        });
        let owners = json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]);
        let patch = json!({"metadata": {"ownerReferences": (owners.clone())}, "spec": (spec.clone())});
        let target = Target::new(&LEASES, LEASE_NAMESPACE, name);
        match self.api.patch(target, PatchKind::Merge, &patch).await {
            Err(status) if status.reason == Reason::NotFound => {}
            other => return other.map(|_| ()),
        }
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": owners},
            "spec": spec
        });
        self.api.create(&LEASES, LEASE_NAMESPACE, &lease).await.map(|_| ())
    }
}

fn internal(address: &IpAddr) -> Value {
    json!({"type": "InternalIP", "address": (address.to_string())})
}

fn quantities(resources: std::collections::BTreeMap<String, String>) -> Value {
    let pairs = resources.into_iter().map(|(name, quantity)| (Str::from(name), Value::from(quantity)));
    Value::from(Map::from_pairs(pairs.collect()))
}

/// The images of the node, the largest first, as upstream orders and cuts them.
fn images(named: Vec<image::store::Named>) -> Value {
    let mut by_image: std::collections::BTreeMap<String, (u64, Vec<String>)> = Default::default();
    for named in named {
        let (size, names) = by_image.entry(named.image_id.to_string()).or_default();
        *size = named.size_bytes;
        for name in [named.repo_digest(), named.name.to_string()] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let mut images: Vec<(u64, Vec<String>)> = by_image.into_values().collect();
    images.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let shown = images.into_iter().take(IMAGES_MAX).map(|(size, mut names)| {
        names.sort_by_key(|name| !name.contains('@'));
        names.truncate(NAMES_MAX);
        let names = names.into_iter().map(Value::from).collect();
        json!({"names": (Value::Array(names)), "sizeBytes": (size as i64)})
    });
    Value::Array(shown.collect())
}

/// The four conditions with upstream's words, and what is short in ours. Pure.
fn conditions(before: &Value, load: Load, health: Result<(), String>, now: Timestamp) -> Value {
    let pressures = load.pressures();
    let pressure = |kind, [absent_reason, absent]: [&str; 2], reason: &str| match pressures
        .iter()
        .find(|(pressed, _)| *pressed == kind)
    {
        Some((_, words)) => condition(before, kind, "True", reason, words, now),
        None => condition(before, kind, "False", absent_reason, absent, now),
    };
    let ready = match health {
        Ok(()) => condition(before, "Ready", "True", "KubeletReady", "kubelet is posting ready status", now),
        Err(why) => condition(before, "Ready", "False", "KubeletNotReady", &why, now),
    };
    Value::Array(vec![
        pressure(
            MEMORY_PRESSURE,
            ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"],
            "KubeletHasInsufficientMemory",
        ),
        pressure(
            DISK_PRESSURE,
            ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"],
            "KubeletHasDiskPressure",
        ),
        // Upstream has no threshold of processes by default either.
        pressure(
            PID_PRESSURE,
            ["KubeletHasSufficientPID", "kubelet has sufficient PID available"],
            "KubeletHasInsufficientPID",
        ),
        ready,
    ])
}

const NOT_READY: &str = "NodeNotReady";

/// The events of conditions that have turned: reasons when a condition is true, and when it is not.
const TURNS: [(&str, &str, &str); 4] = [
    (MEMORY_PRESSURE, "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
    (DISK_PRESSURE, "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
    (PID_PRESSURE, "NodeHasInsufficientPID", "NodeHasSufficientPID"),
    ("Ready", "NodeReady", NOT_READY),
];

/// Reasons of events for what is not as it was, in upstream's order. Pure.
fn turns(before: &Value, after: &Value) -> Vec<&'static str> {
    let status = |of: &Value, kind: &str| {
        let conditions = of.array_at(&["conditions"]);
        let found = conditions.iter().find(|condition| condition.str_at(&["type"]) == Some(kind));
        found.and_then(|condition| condition.str_at(&["status"])).map(str::to_owned)
    };
    let turned = TURNS.iter().filter_map(|(kind, is_so, is_not)| {
        let now = status(after, kind)?;
        (status(before, kind).as_ref() != Some(&now)).then_some(if now == "True" { *is_so } else { *is_not })
    });
    turned.collect()
}

fn status_of(node: &Value) -> Value {
    node.get("status").cloned().unwrap_or_else(Value::object)
}

/// Whether somebody has said that nothing is known of the node; we never do.
fn is_given_up(node: &Value) -> bool {
    let conditions = node.array_at(&["status", "conditions"]);
    conditions.iter().any(|condition| condition.str_at(&["status"]) == Some("Unknown"))
}

fn condition(before: &Value, kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Value {
    let now = api::time::seconds(now);
    let former = before.array_at(&["conditions"]).iter().find(|c| c.str_at(&["type"]) == Some(kind));
    let since = former
        .filter(|former| former.str_at(&["status"]) == Some(status))
        .and_then(|former| former.str_at(&["lastTransitionTime"]))
        .unwrap_or(&now)
        .to_owned();
    json!({
        "type": kind,
        "status": status,
        "lastHeartbeatTime": (now.as_str()),
        "lastTransitionTime": since,
        "reason": reason,
        "message": message
    })
}

/// What must differ for a status to be written before it is due.
fn without_heartbeats(status: &Value) -> Value {
    let mut status = status.clone();
    if let Some(conditions) = status.at_mut(&["conditions"]).and_then(Value::as_array_mut) {
        conditions.iter_mut().for_each(|condition| _ = condition.remove(&["lastHeartbeatTime"]));
    }
    status
}

/// Addresses are merged by type, and a node may have two of one type: the whole list is replaced.
fn replacing_addresses(mut status: Value) -> Value {
    if let Some(addresses) = status.at_mut(&["addresses"]).and_then(Value::as_array_mut) {
        addresses.push(json!({"$patch": "replace"}));
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Scarce;

    #[test]
    fn what_turns_is_told_and_what_stays_is_not() {
        let at = |load: Load, health: Result<(), String>| {
            json!({"conditions": (conditions(
                &Value::object(), load, health, Timestamp::UNIX_EPOCH
            ))})
        };
        let pressed = Load { disk_pressure: Some(Scarce::Bytes(1 << 30)), ..Load::default() };
        let (well, full) = (at(Load::default(), Ok(())), at(pressed, Ok(())));
        let all = ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"];
        assert_eq!(turns(&Value::object(), &well), all);
        assert_eq!(turns(&well, &well), Vec::<&str>::new());
        assert_eq!(turns(&well, &full), ["NodeHasDiskPressure"]);
        assert_eq!(turns(&full, &well), ["NodeHasNoDiskPressure"]);
        assert_eq!(turns(&well, &at(Load::default(), Err("x".into()))), ["NodeNotReady"]);
        let unknown = json!({"conditions": [{"type": "Ready", "status": "Unknown"}]});
        assert_eq!(turns(&unknown, &well).last(), Some(&"NodeReady"));
        assert!(is_given_up(&json!({"status": unknown})) && !is_given_up(&json!({"status": well})));
    }

    #[test]
    fn conditions_keep_the_time_of_their_last_change() {
        let (early, late) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH + Duration::from_secs(60));
        let first = json!({"conditions": (conditions(&Value::object(), Load::default(), Ok(()), early))});
        let pressed = Load { disk_pressure: Some(Scarce::Inodes(5)), ..Load::default() };
        let second = conditions(&first, pressed, Ok(()), late);
        let times: Vec<_> = second
            .as_array()
            .into_iter()
            .flatten()
            .map(|condition| {
                let text = |field: &str| condition.str_at(&[field]).unwrap_or_default().to_owned();
                (text("type"), text("status"), text("lastTransitionTime"))
            })
            .collect();
        let expect = [
            ("MemoryPressure", "False", "1970-01-01T00:00:00Z"),
            ("DiskPressure", "True", "1970-01-01T00:01:00Z"),
            ("PIDPressure", "False", "1970-01-01T00:00:00Z"),
            ("Ready", "True", "1970-01-01T00:00:00Z"),
        ];
        let expect = expect.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(times, expect);
    }

    #[test]
    fn a_heartbeat_alone_is_no_change() {
        let at = |seconds| {
            let now = Timestamp::UNIX_EPOCH + Duration::from_secs(seconds);
            json!({"conditions": (conditions(&Value::object(), Load::default(), Ok(()), now))})
        };
        let mut later = json!({"conditions": (conditions(
            &at(0), Load::default(), Ok(()), Timestamp::UNIX_EPOCH + Duration::from_secs(10)
        ))});
        assert_ne!(later, at(0));
        assert_eq!(without_heartbeats(&later), without_heartbeats(&at(0)));
        later = json!({"conditions": (conditions(&at(0), Load::default(), Err("x".into()), Timestamp::UNIX_EPOCH))});
        assert_ne!(without_heartbeats(&later), without_heartbeats(&at(0)));
    }
}
