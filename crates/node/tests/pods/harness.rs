//! An agent of its own for each test: real sandboxes and images, no network, and an API in memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::interface::Api;
use api::json;
use api::value::Value;
use base::{Clock, Random, Stopper, Tasks};
use control::recorder::{Note, channel_for_tests};
use futures::FutureExt;
use futures::future::BoxFuture;
use image::document::{ImageConfig, Platform};
use image::layer::Compression;
use image::pull::Puller;
use node::agent::{Agent, pods_of};
use node::context::{Context, PodNetwork, Settings};
use node::pod::environment::ServiceFacts;
use node::references::References;
use sandbox::{Config, Sandboxes};
use tokio::runtime::Runtime;

use crate::cluster::Cluster;

pub const IMAGE: &str = "ondol.local/test/busybox:1";
/// The same with another `VERSION`.
pub const OTHER_IMAGE: &str = "ondol.local/test/busybox:2";
/// The same, which is told to end by `SIGQUIT`.
pub const QUITTING_IMAGE: &str = "ondol.local/test/busybox:quit";
/// Fivefold of what anything here should take.
pub const PATIENCE: Duration = Duration::from_secs(60);
const APPLETS: &str = "sh cat echo sleep id ls grep head awk dd kill readlink hostname touch wc true false test yes df tr printf ps";

/// Every pod has the loopback's address and no link.
struct NoNetwork;

impl PodNetwork for NoNetwork {
    fn attach<'a>(&'a self, _: &'a str, _: BorrowedFd<'a>) -> BoxFuture<'a, Result<Vec<IpAddr>, String>> {
        async { Ok(vec![IpAddr::from(Ipv4Addr::LOCALHOST)]) }.boxed()
    }

    fn adopt(&self, _: &str, _: &[IpAddr]) {}

    fn release(&self, _: &str) {}
}

/// A node with its agent.
pub struct World {
    pub directory: PathBuf,
    pub cluster: Arc<Cluster>,
    pub agent: Arc<Agent>,
    pub sandboxes: Sandboxes,
    pub clock: Clock,
    images: image::Store,
    life: Option<Life>,
}

type Notes = Mutex<Box<dyn FnMut() -> Option<Note> + Send>>;

/// What an agent has of its own, so that it can be ended at any instant.
struct Life {
    runtime: Runtime,
    tasks: Tasks,
    stopper: Stopper,
    notes: Notes,
}

/// Runs a test; one that fails leaves nothing behind either.
pub async fn run(test: impl AsyncFnOnce(&mut World)) {
    let mut world = World::new().await;
    let outcome = std::panic::AssertUnwindSafe(test(&mut world)).catch_unwind().await;
    world.clean().await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

impl World {
    async fn new() -> Self {
        let suffix = Random::system().suffix(6);
        let directory = PathBuf::from(format!("/tmp/ondt-{suffix}"));
        let (clock, cluster) = (Clock::system(), Cluster::new());
        let images =
            image::Store::open(directory.join("images"), clock.clone(), Random::system()).expect("a store");
        make_image(&images).await;
        let (agent, sandboxes, life) = live(&directory, &cluster, &images).await;
        Self { directory, cluster, agent, sandboxes, clock, images, life: Some(life) }
    }

    /// The images of the node.
    pub fn images(&self) -> &image::Store {
        &self.images
    }

    /// Ends the agent without a word, as a kill of its process does.
    pub async fn kill_agent(&mut self) {
        let life = self.life.take().expect("it lives");
        let ended = tokio::task::spawn_blocking(move || life.runtime.shutdown_timeout(PATIENCE));
        ended.await.expect("it is dead");
    }

    /// Begins another agent after the one that was killed.
    pub async fn begin_agent(&mut self) {
        let (agent, sandboxes, life) = live(&self.directory, &self.cluster, &self.images).await;
        (self.agent, self.sandboxes, self.life) = (agent, sandboxes, Some(life));
    }

    fn life(&self) -> &Life {
        self.life.as_ref().expect("an agent lives")
    }

    /// Makes a pod of this node.
    pub fn make(&self, name: &str, mut spec: Value) {
        spec.set(&["nodeName"], "n");
        spec.set(&["automountServiceAccountToken"], false);
        let metadata = json!({"name": name, "namespace": "a", "uid": name, "generation": 1});
        self.cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}));
    }

    /// Waits until a pod is as wanted, and gives it.
    pub async fn until(&self, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut changes = self.cluster.changes();
        let waited = async {
            loop {
                changes.borrow_and_update();
                if let Some(pod) = self.cluster.pod(name).filter(|pod| holds(pod)) {
                    return pod;
                }
                changes.changed().await.expect("the cluster lives");
            }
        };
        let found = self.clock.timeout(PATIENCE, waited).await;
        found.unwrap_or_else(|| {
            let pod = self.cluster.pod(name).map(|pod| String::from_utf8(pod.to_bytes().to_vec()));
            panic!("waited in vain for {name}: {pod:?}; events: {:?}", self.events())
        })
    }

    /// Waits until a pod has gone.
    pub async fn until_gone(&self, name: &str) {
        let mut changes = self.cluster.changes();
        let waited = async {
            while self.cluster.pod(name).is_some() {
                changes.changed().await.expect("the cluster lives");
            }
        };
        let gone = self.clock.timeout(PATIENCE, waited).await;
        assert!(gone.is_some(), "{name} does not go; events: {:?}", self.events());
    }

    /// Runs a pod to its end, never restarting: its first container's end, and what it said.
    pub async fn outcome(&self, name: &str, mut spec: Value) -> (Value, String) {
        spec.set(&["restartPolicy"], "Never");
        self.make(name, spec);
        let pod = self.until(name, |pod| matches!(phase(pod), Some("Succeeded" | "Failed"))).await;
        let ended = pod.array_at(&["status", "containerStatuses"]).first().expect("a container");
        let ended = ended.at(&["state", "terminated"]).expect("it has ended").clone();
        (ended, self.log(name, "c"))
    }

    /// What the first attempt of a container has said.
    pub fn log(&self, pod: &str, container: &str) -> String {
        let path = self.directory.join(format!("logs/a_{pod}_{pod}/{container}/0.log"));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(|line| format!("{line}\n")).collect()
    }

    /// Reasons and messages of the events since the last call.
    pub fn events(&self) -> Vec<(String, String)> {
        let mut next = self.life().notes.lock().unwrap();
        std::iter::from_fn(&mut *next).map(|note| (note.reason.to_string(), note.message)).collect()
    }

    /// Stops the agent, and ends all pods as before a shutdown.
    pub async fn end_all(&self, timeout: Duration) {
        self.life().stopper.stop();
        self.life().tasks.join(Duration::from_millis(100)).await;
        self.agent.end_all(timeout).await;
    }

    async fn clean(mut self) {
        if self.life.is_none() {
            self.begin_agent().await;
        }
        self.end_all(Duration::from_millis(500)).await;
        let left = self.sandboxes.adopt().await.expect("looked for");
        assert!(left.is_empty(), "no sandbox is left");
        self.sandboxes.remove_root().await.expect("removed");
        self.kill_agent().await;
        node::volume::remove(&self.directory).expect("removed");
    }
}

/// Begins an agent on a runtime of its own.
async fn live(
    directory: &Path,
    cluster: &Arc<Cluster>,
    images: &image::Store,
) -> (Arc<Agent>, Sandboxes, Life) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
    let (directory, cluster, images) = (directory.to_owned(), cluster.clone(), images.clone());
    let begun = async move {
        let (tasks, stopper, clock) = (Tasks::new(), Stopper::new(), Clock::system());
        let name = directory.file_name().and_then(|name| name.to_str()).expect("a name");
        let config = Config { run_dir: directory.join("run"), cgroup_root: format!("/{name}") };
        let lasting = Tasks::new();
        let sandboxes = Sandboxes::open(config, clock.clone(), lasting.clone()).await.expect("root");
        let (recorder, notes) = channel_for_tests("kubelet");
        let api: Arc<dyn Api> = cluster;
        let stop = stopper.signal();
        let settings = Settings {
            node: "n".into(),
            host_ips: vec![IpAddr::from(Ipv4Addr::LOCALHOST)],
            pods_dir: directory.join("pods"),
            logs_dir: directory.join("logs"),
            cluster_domain: "cluster.local".into(),
            cluster_dns: IpAddr::from(Ipv4Addr::LOCALHOST),
            host_resolv_conf: String::new(),
            memory_bytes: 1 << 30,
            allocatable: BTreeMap::new(),
        };
        let references =
            References::new(api.clone(), clock.clone(), tasks.clone(), stop.clone(), Arc::new(|_: &str| {}));
        let context = Context {
            settings,
            api,
            clock,
            random: Random::system(),
            recorder,
            tasks: tasks.clone(),
            stop,
            sandboxes: sandboxes.clone(),
            images: images.clone(),
            puller: Puller::new(images, image::pull::Options::default(), lasting).expect("a puller"),
            network: Arc::new(NoNetwork),
            references,
            services: Arc::new(|_: &str| vec![one_service()]),
        };
        let agent = Agent::new(Arc::new(context), pods_of("n"));
        agent.start().await.expect("started");
        (agent, sandboxes, tasks, stopper, notes)
    };
    let (agent, sandboxes, tasks, stopper, notes) = runtime.spawn(begun).await.expect("it begins");
    (agent, sandboxes, Life { runtime, tasks, stopper, notes: Mutex::new(Box::new(notes)) })
}

/// The phase of a pod.
pub fn phase(pod: &Value) -> Option<&str> {
    pod.str_at(&["status", "phase"])
}

/// Whether the pod's condition `Ready` is true.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod.array_at(&["status", "conditions"]);
    conditions.iter().any(|c| c.str_at(&["type"]) == Some("Ready") && c.str_at(&["status"]) == Some("True"))
}

/// What environments show.
fn one_service() -> ServiceFacts {
    ServiceFacts {
        name: "db".into(),
        address: "10.0.0.9".into(),
        ports: vec![(String::new(), "TCP".into(), 3306)],
    }
}

async fn make_image(images: &image::Store) {
    let busybox = std::fs::read("/bin/busybox").expect("apt-get install -y busybox-static");
    let packed = images.write_layer(Compression::Zstd, |writer| {
        for folder in ["bin", "etc", "tmp"] {
            writer.directory(folder, if folder == "tmp" { 0o1777 } else { 0o755 })?;
        }
        writer.file("bin/busybox", 0o755, &busybox)?;
        writer.file("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\nmember:x:1234:1234::/:/bin/sh\n")?;
        writer.file("etc/group", 0o644, b"root:x:0:\nextra:x:7777:member\n")?;
        APPLETS.split_whitespace().try_for_each(|name| writer.symlink(&format!("bin/{name}"), "busybox"))
    });
    let layers = [packed.expect("written")];
    let quit = Some("SIGQUIT".to_owned());
    for (name, version, stop_signal) in [(IMAGE, 1, None), (OTHER_IMAGE, 2, None), (QUITTING_IMAGE, 3, quit)]
    {
        let config = ImageConfig {
            env: vec!["PATH=/bin".to_owned(), format!("VERSION={version}")],
            platform: Platform::here(),
            stop_signal,
            ..ImageConfig::default()
        };
        images.build(&name.parse().expect("a name"), &config, &layers).await.expect("built");
    }
}
