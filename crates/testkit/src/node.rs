//! A kubelet that only pretends: pods run and become ready after a while, fail, or wait for a node that is lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::interface::{Api, Call, Collection, DeleteOptions, PatchKind, Target};
use api::json;
use api::names::{LEASES, NODES, PODS};
use api::object::Object;
use api::status::{Reason, Status};
use api::value::Value;
use base::{Clock, Random, Stop, Tasks};
use control::mirror::{Key, Mirror};
use control::queue::Queue;

/// How often the lease is renewed.
const LEASE_INTERVAL: Duration = Duration::from_secs(10);
/// Wait before a pod whose status could not be written is looked at again.
const RETRY: Duration = Duration::from_millis(300);
/// One pod of so many on a failing node loses its readiness for a while, each time it is looked at.
const FAILING_ODDS: u64 = 12;

/// What a node has to give, and what each pod of a user asks of it.
pub const NODE_CPU: &str = "2";
/// See [`NODE_CPU`].
pub const POD_CPU: &str = "400m";
/// What follows from the two.
pub const PODS_PER_NODE: usize = 5;

/// One node.
pub struct Node {
    name: String,
    api: Arc<dyn Api>,
    clock: Clock,
    random: Random,
    mirror: Arc<Mirror>,
    queue: Queue,
    /// Until this time (monotonic, in milliseconds) the node does nothing.
    lost_until_ms: AtomicU64,
    /// How long a step of a pod takes at the most.
    slowness_ms: u64,
    /// Whether pods on it lose their readiness now and then.
    pub failing: bool,
    addresses: Mutex<BTreeMap<String, u8>>,
}

impl Node {
    /// A node that registers itself and acts until `stop`.
    pub fn start(
        name: &str,
        failing: bool,
        api: Arc<dyn Api>,
        (clock, random): (&Clock, &Random),
        tasks: &Tasks,
        stop: &Stop,
    ) -> Arc<Self> {
        let selector = format!("spec.nodeName={name}");
        let node = Arc::new(Self {
            name: name.to_owned(),
            api,
            clock: clock.clone(),
            random: random.clone(),
            mirror: Arc::new(Mirror::selecting(Collection::new(&PODS, ""), "", &selector)),
            queue: Queue::new(clock.clone()),
            lost_until_ms: AtomicU64::new(0),
            slowness_ms: [20, 200, 2000][random.below(3) as usize],
            failing,
            addresses: Mutex::default(),
        });
        let hears = Arc::downgrade(&node);
        node.mirror.on_change(move |change| {
            if let (Some(node), Some(object)) = (hears.upgrade(), change.either()) {
                node.queue.add_after(Key::of(object), node.pause());
            }
        });
        let (this, until) = (node.clone(), stop.clone());
        tasks.spawn("fake node", async move { this.mirror.run(&*this.api, &this.clock, &until).await });
        let (this, until) = (node.clone(), stop.clone());
        tasks.spawn("fake node", async move {
            until.or(this.work()).await;
        });
        let (this, until) = (node.clone(), stop.clone());
        tasks.spawn("fake node", async move {
            until.or(this.beat()).await;
        });
        node
    }

    /// The node is away for a while: it does nothing and says nothing.
    pub fn lose(&self, duration: Duration) {
        let until = self.clock.monotonic() + duration;
        self.lost_until_ms.store(until.as_millis() as u64, Ordering::Relaxed);
    }

    fn is_lost(&self) -> bool {
        self.clock.monotonic().as_millis() < u128::from(self.lost_until_ms.load(Ordering::Relaxed))
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(1 + self.random.below(self.slowness_ms))
    }

    async fn work(&self) {
        while let Some(key) = self.queue.next().await {
            if self.is_lost() {
                self.queue.add_after(key.clone(), Duration::from_secs(1));
            } else if let Some(pod) = self.mirror.get(&key.namespace, &key.name)
                && self.step(&pod).await.is_err()
            {
                self.queue.add_after(key.clone(), RETRY);
            }
            self.queue.done(&key);
        }
    }

    /// Brings a pod one step nearer to what it is to be.
    async fn step(&self, pod: &Arc<Object>) -> Result<(), Status> {
        if pod.is_deleting() {
            let options = DeleteOptions {
                grace_period_seconds: Some(0),
                uid: Some(pod.uid().into()),
                ..DeleteOptions::default()
            };
            let gone = self.api.call(Call::Delete(self.target(pod), options)).await;
            return match gone {
                Err(status) if status.reason != Reason::NotFound => Err(status),
                _ => {
                    self.addresses().remove(pod.uid());
                    Ok(())
                }
            };
        }
        let tree = pod.to_tree();
        let image = tree.array_at(&["spec", "containers"]).first().and_then(|first| first.str_at(&["image"]));
        if image.is_some_and(|image| image.ends_with(":bad")) {
            return self.tell_bad_image(pod, &tree).await;
        }
        let ready = is_ready(&tree);
        match tree.str_at(&["status", "podIP"]) {
            None => self.write(pod, &tree, false).await,
            Some(_) if !ready => self.write(pod, &tree, true).await,
            Some(_) if self.failing && self.random.below(FAILING_ODDS) == 0 => {
                self.write(pod, &tree, false).await
            }
            Some(_) => Ok(()),
        }
    }

    async fn tell_bad_image(&self, pod: &Arc<Object>, tree: &Value) -> Result<(), Status> {
        let waits = tree
            .array_at(&["status", "containerStatuses"])
            .first()
            .is_some_and(|first| first.str_at(&["state", "waiting", "reason"]) == Some("ErrImagePull"));
        if waits {
            return Ok(());
        }
        let status = json!({
            "phase": "Pending",
            "containerStatuses": [{
                "name": "c", "image": "bad", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ErrImagePull", "message": "there is no such image"}}
            }]
        });
        self.patch(pod, status).await
    }

    async fn write(&self, pod: &Arc<Object>, tree: &Value, ready: bool) -> Result<(), Status> {
        let address = match tree.str_at(&["status", "podIP"]) {
            Some(address) => address.to_owned(),
            None => self.reserve(pod.uid()).await?,
        };
        let now = api::time::seconds(self.clock.now());
        let word = if ready { "True" } else { "False" };
        let condition = |name: &str| json!({"type": name, "status": word, "lastProbeTime": null, "lastTransitionTime": (now.clone())});
        let status = json!({
            "phase": "Running",
            "podIP": (address.clone()),
            "podIPs": [{"ip": address}],
            "startTime": (now.clone()),
            "conditions": [(condition("Ready")), (condition("ContainersReady"))],
            "containerStatuses": [{
                "name": "c", "image": "echo", "imageID": "", "ready": ready, "restartCount": 0,
                "started": true, "state": {"running": {"startedAt": (now.clone())}}
            }]
        });
        self.patch(pod, status).await
    }

    async fn patch(&self, pod: &Arc<Object>, status: Value) -> Result<(), Status> {
        let patch = json!({"metadata": {"uid": (pod.uid())}, "status": status});
        let target = self.target(pod).subresource("status");
        match self.api.patch(target, PatchKind::StrategicMerge, &patch).await {
            Err(status) if status.reason != Reason::NotFound => Err(status),
            _ => Ok(()),
        }
    }

    /// An address of the node's own block, which a controller has given it.
    async fn reserve(&self, uid: &str) -> Result<String, Status> {
        let node = self.api.get(&NODES, "", &self.name).await?.to_tree();
        let block = node.str_at(&["spec", "podCIDR"]).unwrap_or_default();
        let Some((prefix, _)) = block.rsplit_once(".0/24") else {
            return Err(Status::internal("the node has no block of addresses yet"));
        };
        let mut addresses = self.addresses();
        let free = (2..=254).find(|last| !addresses.values().any(|used| used == last));
        let last = free.ok_or_else(|| Status::internal("all addresses of the node are in use"))?;
        addresses.insert(uid.to_owned(), last);
        Ok(format!("{prefix}.{last}"))
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u8>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn target(&self, pod: &Object) -> Target {
        Target::new(&PODS, pod.namespace(), pod.name())
    }

    async fn beat(&self) {
        loop {
            if !self.is_lost() && (self.register().await.is_err() || self.show_ready().await.is_err()) {
                self.clock.sleep(RETRY).await;
                continue;
            }
            self.clock.sleep(LEASE_INTERVAL).await;
        }
    }

    /// Says again that it is ready if others have given it up meanwhile.
    async fn show_ready(&self) -> Result<(), Status> {
        let node = self.api.get(&NODES, "", &self.name).await?.to_tree();
        if is_ready(&node) {
            return Ok(());
        }
        let status = json!({"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]});
        let target = Target::new(&NODES, "", &self.name).subresource("status");
        self.api.patch(target, PatchKind::StrategicMerge, &json!({"status": status})).await.map(drop)
    }

    /// Makes the node and its lease, or renews the lease.
    async fn register(&self) -> Result<(), Status> {
        let now = api::time::micros(self.clock.now());
        let spec =
            json!({"holderIdentity": (self.name.clone()), "leaseDurationSeconds": 40, "renewTime": now});
        let patch = json!({"spec": (spec.clone())});
        let lease = Target::new(&LEASES, "kube-node-lease", &self.name);
        match self.api.patch(lease, PatchKind::Merge, &patch).await {
            Err(status) if status.reason == Reason::NotFound => {}
            other => return other.map(drop),
        }
        let capacity = json!({"cpu": NODE_CPU, "memory": "16Gi", "pods": "110"});
        let status = json!({
            "capacity": (capacity.clone()), "allocatable": capacity,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]
        });
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": (self.name.clone()), "labels": {"kubernetes.io/hostname": (self.name.clone())}},
            "status": (status.clone())
        });
        match self.api.create(&NODES, "", &node).await {
            Err(status) if status.reason != Reason::AlreadyExists => return Err(status),
            _ => {}
        }
        // As a kubelet does, whatever the creation has kept.
        let target = Target::new(&NODES, "", &self.name).subresource("status");
        self.api.patch(target, PatchKind::StrategicMerge, &json!({"status": status})).await?;
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": (self.name.clone()), "namespace": "kube-node-lease"}, "spec": spec
        });
        self.api.create(&LEASES, "kube-node-lease", &lease).await.map(drop)
    }
}

/// Whether a pod (or a node) says that it is ready.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod.array_at(&["status", "conditions"]);
    conditions.iter().any(|condition| {
        condition.str_at(&["type"]) == Some("Ready") && condition.str_at(&["status"]) == Some("True")
    })
}
