//! The agent: keeps a worker for every pod of this node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::interface::Collection;
use api::names::PODS;
use api::object::Object;
use api::value::Str;
use base::Stop;
use control::mirror::{Change, Mirror};
use control::world::view;
use k8s_openapi::api::core::v1 as core;
use rustix::process::Signal;
use sandbox::{Adopted, Sandbox};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::context::Context;
use crate::pod::desired::Desired;
use crate::pod::worker::Worker;

/// How often log folders and directories of pods that are long gone are looked for.
const SWEEP: Duration = Duration::from_secs(300);
/// What an end may take beyond the time of the containers.
const END_SLACK: Duration = Duration::from_secs(5);
/// Time for containers whose pod is not known: what a pod has that says nothing.
const STRANGERS_GRACE: Duration = Duration::from_secs(30);

/// All pods of this node.
pub struct Agent {
    context: Arc<Context>,
    pods: Arc<Mirror>,
    workers: Mutex<BTreeMap<Str, Arc<Worker>>>,
    /// Held while a change is taken in.
    hearing: Mutex<()>,
    empty: Notify,
}

/// The pods of `node` as the API server has them. The agent that it is given to feeds it.
pub fn pods_of(node: &str) -> Arc<Mirror> {
    Arc::new(Mirror::selecting(Collection::new(&PODS, ""), "", &format!("spec.nodeName={node}")))
}

impl Agent {
    /// An agent that is told of pods by the API server, beginning with those whose sandboxes an earlier agent has
    /// left. `pods` is of [`pods_of`] this node. Call [`Agent::start`] once.
    pub fn new(context: Arc<Context>, pods: Arc<Mirror>) -> Arc<Self> {
        let (workers, hearing) = (Mutex::default(), Mutex::default());
        Arc::new(Self { context, pods, workers, hearing, empty: Notify::new() })
    }

    /// The pods of this node as the API server has them.
    pub fn mirror(&self) -> &Arc<Mirror> {
        &self.pods
    }

    /// Adopts what is there and begins to work. Returns when that is done; the work goes on.
    pub async fn start(self: &Arc<Self>) -> Result<(), sandbox::Error> {
        let (context, stop) = (self.context.clone(), self.context.stop.clone());
        let adopted = context.sandboxes.adopt().await?;
        let mirror = self.pods.clone();
        let feeding = (context.api.clone(), context.clock.clone(), stop.clone());
        context.tasks.spawn("pods of this node", async move {
            let (api, clock, stop) = feeding;
            mirror.run(&*api, &clock, &stop).await;
        });
        let (agent, ended, jumps) = (self.clone(), stop.clone(), context.clock.jumps());
        context.tasks.spawn("tokens after the clock was set", async move {
            while ended.or(jumps.next()).await.is_some() {
                agent.workers().iter().for_each(Worker::renew_tokens);
            }
        });
        let agent = self.clone();
        context.tasks.spawn("agent", async move {
            if stop.or(agent.pods.synced()).await.is_some() {
                agent.begin(adopted).await;
                agent.sweep_now_and_then(&stop).await;
            }
        });
        Ok(())
    }

    /// Every worker, for the kubelet's server.
    pub fn workers(&self) -> Vec<Arc<Worker>> {
        self.lock().values().cloned().collect()
    }

    /// The worker of a pod.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Worker>> {
        let object = self.pods.get(namespace, name)?;
        self.lock().get(object.uid()).cloned()
    }

    /// Something that a pod names has changed.
    pub fn refresh(&self, uid: &str) {
        if let Some(worker) = self.lock().get(uid).cloned() {
            worker.refresh();
        }
    }

    /// Ends the sandboxes of all pods and keeps their objects, as before a shutdown of the machine: containers get
    /// their time, at most `timeout` for all. Call it when the agent has been stopped.
    pub async fn end_all(&self, timeout: Duration) {
        let workers = self.workers();
        let all = futures::future::join_all(workers.iter().map(|worker| worker.shut_down(timeout)));
        if self.context.clock.timeout(timeout + END_SLACK, all).await.is_none() {
            warn!("some pods took longer to end than they were given");
        }
        self.end_strangers(timeout).await;
    }

    /// Ends what no worker knows of: sandboxes of an earlier agent whose pods we have never heard of, because the
    /// server did not answer, and those that were finished after their worker had ended.
    async fn end_strangers(&self, timeout: Duration) {
        let found = match self.context.sandboxes.adopt().await {
            Ok(found) => found,
            Err(error) => return warn!(%error, "sandboxes could not be looked for"),
        };
        let ends = found.into_iter().map(|found| async {
            let removed = match found {
                Adopted::Live(sandbox) => {
                    self.end_containers(&sandbox, timeout.min(STRANGERS_GRACE)).await;
                    sandbox.remove().await
                }
                Adopted::Lost(remains) => remains.remove().await,
            };
            if let Err(error) = removed {
                warn!(%error, "a sandbox could not be removed");
            }
        });
        futures::future::join_all(ends).await;
    }

    async fn end_containers(&self, sandbox: &Sandbox, grace: Duration) {
        let state = sandbox.state();
        for container in state.containers.values().filter(|container| container.is_running()) {
            if let Err(error) = sandbox.signal(&container.attempt, Signal::TERM.as_raw()).await {
                warn!(container = %container.attempt, %error, "a container could not be told to end");
            }
        }
        let mut states = sandbox.watch();
        let ended = states.wait_for(|state| {
            state.lost || !state.containers.values().any(sandbox::ContainerState::is_running)
        });
        let _ = self.context.clock.timeout(grace, ended).await;
    }

    /// Returns when no pod is left.
    pub async fn all_gone(&self) {
        loop {
            let notified = self.empty.notified();
            if self.lock().is_empty() {
                return;
            }
            notified.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Str, Arc<Worker>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn begin(self: &Arc<Self>, adopted: Vec<Adopted>) {
        let mut sandboxes: BTreeMap<String, Sandbox> = BTreeMap::new();
        for found in adopted {
            match found {
                Adopted::Live(sandbox) => {
                    sandboxes.insert(sandbox.id().to_owned(), sandbox);
                }
                Adopted::Lost(remains) => {
                    info!(sandbox = remains.id, "removing what a sandbox without its process has left");
                    if let Err(error) = remains.remove().await {
                        warn!(%error, "the remains of a sandbox could not be removed");
                    }
                }
            }
        }
        for object in self.pods.list("") {
            let sandbox = sandboxes.remove(object.uid());
            self.begin_one(object, sandbox);
        }
        for (id, sandbox) in sandboxes {
            // Its pod was deleted by force while no agent was there.
            info!(sandbox = id, "removing a sandbox whose pod is gone");
            if let Err(error) = sandbox.remove().await {
                warn!(%error, "a sandbox could not be removed");
            }
            self.remove_directory(&id).await;
        }
        let agent = Arc::downgrade(self);
        self.pods.on_change(move |change| {
            if let Some(agent) = agent.upgrade() {
                agent.changed(change);
            }
        });
        // What happened between the list above and the listener: pods came, changed and went.
        for object in self.pods.list("") {
            self.changed(&Change { old: None, new: Some(object) });
        }
        for worker in self.workers() {
            self.changed(&Change { old: Some(worker.desired().object), new: None });
        }
    }

    fn begin_one(self: &Arc<Self>, object: Arc<Object>, sandbox: Option<Sandbox>) {
        let Some(pod) = view::<core::Pod>(&object) else { return };
        if let Some(sandbox) = &sandbox
            && !sandbox.host_network()
        {
            let ips = read_addresses(&self.context.settings.pods_dir.join(object.uid()));
            self.context.network.adopt(object.uid(), &ips);
        }
        let uid = Str::from(object.uid());
        let worker = Worker::new(self.context.clone(), Desired { object, pod, vanished: false }, sandbox);
        self.lock().insert(uid.clone(), worker.clone());
        let agent = self.clone();
        self.context.tasks.spawn("pod", async move {
            if worker.run().await {
                agent.remove_directory(&uid).await;
                agent.remove_logs(&worker.desired().object).await;
                let left = {
                    let mut workers = agent.lock();
                    workers.remove(&uid);
                    workers.len()
                };
                if left == 0 {
                    agent.empty.notify_waiters();
                }
            }
        });
    }

    /// Something has happened to a pod. How it is now is asked for, one after the other: whoever tells of a change later
    /// may tell of an older one.
    fn changed(self: &Arc<Self>, change: &Change) {
        let _one_at_a_time = self.hearing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(named) = change.new.as_ref().or(change.old.as_ref()) else { return };
        let now = self.pods.get(named.namespace(), named.name());
        // A pod made anew under its name is another pod.
        for side in [&change.old, &change.new].into_iter().flatten() {
            let is_gone = now.as_ref().is_none_or(|now| now.uid() != side.uid());
            let worker = self.lock().get(side.uid()).cloned();
            if let Some(worker) = worker.filter(|_| is_gone) {
                let desired = worker.desired();
                worker.update(Desired { vanished: true, ..desired });
            }
        }
        let Some(object) = now else { return };
        let worker = self.lock().get(object.uid()).cloned();
        match worker {
            Some(worker) => {
                if let Some(pod) = view::<core::Pod>(&object) {
                    let before = worker.desired();
                    let labels_changed = before.pod.metadata.labels != pod.metadata.labels
                        || before.pod.metadata.annotations != pod.metadata.annotations;
                    worker.update(Desired { object, pod, vanished: false });
                    if labels_changed {
                        worker.refresh();
                    }
                }
            }
            None => self.begin_one(object, None),
        }
    }

    async fn remove_directory(&self, uid: &str) {
        let directory = self.context.settings.pods_dir.join(uid);
        let removed = tokio::task::spawn_blocking(move || crate::volume::remove(&directory)).await;
        if let Ok(Err(error)) = removed {
            warn!(pod = uid, %error, "the directory of a pod could not be removed");
        }
    }

    async fn remove_logs(&self, object: &Object) {
        let folder = format!("{}_{}_{}", object.namespace(), object.name(), object.uid());
        let path = self.context.settings.logs_dir.join(folder);
        // A pod that never started has no logs.
        let _ = tokio::fs::remove_dir_all(path).await;
    }

    /// Directories of pods that went while nobody looked.
    async fn sweep_now_and_then(&self, stop: &Stop) {
        loop {
            for (directory, uid_of) in [
                (&self.context.settings.pods_dir, (|name: &str| name.to_owned()) as fn(&str) -> String),
                (&self.context.settings.logs_dir, |name: &str| {
                    name.rsplit('_').next().unwrap_or(name).to_owned()
                }),
            ] {
                let Ok(entries) = std::fs::read_dir(directory) else { continue };
                for entry in entries.flatten() {
                    let Ok(name) = entry.file_name().into_string() else { continue };
                    // A pod is known before it has a directory, so one that begins meanwhile is not met here.
                    if !self.lock().contains_key(uid_of(&name).as_str()) {
                        let path = entry.path();
                        let removed = tokio::task::spawn_blocking(move || crate::volume::remove(&path)).await;
                        if let Ok(Err(error)) = removed {
                            warn!(name, %error, "what a gone pod has left could not be removed");
                        }
                    }
                }
            }
            if stop.or(self.context.clock.sleep(SWEEP)).await.is_none() {
                return;
            }
        }
    }
}

/// Where a pod's addresses are kept for the next agent.
const ADDRESSES: &str = "addresses";

/// Keeps a pod's addresses for the next agent. Blocking, small.
pub(crate) fn write_addresses(directory: &Path, ips: &[IpAddr]) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let text: Vec<String> = ips.iter().map(ToString::to_string).collect();
    std::fs::write(directory.join(ADDRESSES), text.join("\n"))
}

/// What an earlier agent has kept.
pub(crate) fn read_addresses(directory: &Path) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(directory.join(ADDRESSES)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}
