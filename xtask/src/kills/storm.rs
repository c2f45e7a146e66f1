//! The storm: load, kills at random instants, and what must hold afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::interface::{Api, DeleteOptions};
use api::json;
use api::names::{DEPLOYMENTS, PODS, SERVICES};
use api::value::Value;
use base::{Clock, Random, Stop, Stopper, Tasks};
use client::{Client, Kubeconfig};

use super::client::Recorded;
use super::evidence::{Living, Starts, left_behind, pod_processes};
use super::house::{Form, House, LOOK};
use super::record::{Record, ask, hold, spread};
use super::writers::{NAMESPACE, SCALED, Writer, deployment};
use super::{evidence, names};

/// Writers of ConfigMaps, and askers on new connections.
const WRITERS: usize = 4;
const ASKERS: usize = 3;
/// Pods that are asked all the time and never killed, pods that are killed, and their Deployments.
const SERVED: &str = "backend";
const SERVED_PODS: usize = 3;
const VICTIMS: &str = "victims";
const VICTIM_PODS: usize = 4;
/// Between two blows, from a kill to the restart, between two kills or two restarts, and from a restart to a kill: at
/// most so many milliseconds.
const CALM_MS: u64 = 1000;
const DEAD_MS: u64 = 800;
const APART_MS: u64 = 200;
const STARTING_MS: u64 = 400;
/// Names resolve within a second of the restart, and containers end within a second of their pod process: fivefold.
const NAMES: Duration = Duration::from_secs(5);
const ENDS: Duration = Duration::from_secs(5);
/// How long the server may take to answer again, pods to be as they should, and everything that is gone to be gone.
const ANSWERS: Duration = Duration::from_secs(30);
const SETTLES: Duration = Duration::from_secs(90);
/// What is told of a pod that takes longer to come back.
const SLOW: Duration = Duration::from_secs(10);
/// How long those who load may take to end.
const LOAD_END: Duration = Duration::from_secs(60);
/// The least load that makes a storm of kills, for each kill: a fifth of what two slow cores do with the debug build.
const WRITES_A_KILL: u64 = 4;
const REQUESTS_A_KILL: u64 = 60;
/// From so many kills on each role must have been among the victims, and from so many on every kind of kill.
const KILLS_FOR_ROLES: u32 = 10;
const KILLS_FOR_ALL: u32 = 50;
/// The name that is asked for.
const NAME: &str = "backend.default.svc.cluster.local";
/// The port of the Service.
const PORT: u16 = 80;

/// One storm on one house.
struct Storm {
    house: House,
    form: Form,
    api: Arc<dyn Api>,
    clock: Clock,
    random: Random,
    record: Arc<Record>,
    tasks: Tasks,
    starts: Starts,
    /// Pods that may be killed, as the API last told of them: uid, name and restart count.
    victims: BTreeMap<String, (String, i64)>,
    /// Those that were killed once; they are deleted when they have come back, and not killed again.
    used: BTreeSet<String>,
    /// Those of them that have not come back yet.
    pending: Arc<Mutex<BTreeSet<String>>>,
    name_server: IpAddr,
    kills: BTreeMap<&'static str, u32>,
}

/// Runs a storm from an empty house to an empty machine.
pub async fn run(ondol: &Path, form: Form, kills: u32, seed: u64) -> Result<()> {
    let mut storm = Storm::raise(ondol, form, seed).await?;
    let stormed = storm.rage(kills).await;
    let faults = storm.record.faults();
    match stormed {
        Ok(()) if faults == 0 => {
            storm.house.wipe()?;
            Ok(())
        }
        other => {
            // What ended badly is wiped too, but its data is looked at first.
            let why = other.err().map_or_else(|| format!("{faults} faults"), |error| format!("{error:#}"));
            storm.house.show_logs();
            let folder = storm.house.keep();
            bail!("{why}; logs and data are kept in {}", folder.display())
        }
    }
}

impl Storm {
    async fn raise(ondol: &Path, form: Form, seed: u64) -> Result<Self> {
        let (clock, tasks) = (Clock::system(), Tasks::new());
        let mut house = House::new(ondol, form)?;
        house.raise(&clock).await?;
        let config = Kubeconfig::read(&house.kubeconfig(), None)?;
        let record: Arc<Record> = Arc::default();
        let api = Arc::new(Client::new(&config, &clock, &tasks)?);
        let api: Arc<dyn Api> = Arc::new(Recorded { api, record: record.clone() });
        let mut storm = Self {
            house,
            form,
            api,
            clock,
            random: Random::seeded(seed),
            record,
            tasks,
            starts: Starts::default(),
            victims: BTreeMap::new(),
            used: BTreeSet::new(),
            pending: Arc::default(),
            name_server: IpAddr::from([127, 0, 0, 1]),
            kills: BTreeMap::new(),
        };
        if let Err(why) = storm.furnish().await {
            storm.house.show_logs();
            return Err(why);
        }
        Ok(storm)
    }

    /// Makes what is asked and killed, and waits for it.
    async fn furnish(&mut self) -> Result<()> {
        self.answers().await?;
        for (name, replicas) in [(SERVED, SERVED_PODS), (VICTIMS, VICTIM_PODS), (SCALED, 1)] {
            let object = deployment(name, i64::try_from(replicas)?);
            self.api.create(&DEPLOYMENTS, NAMESPACE, &object).await?;
        }
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVED},
            "spec": {"selector": {"app": SERVED}, "ports": [{"port": (i64::from(PORT)), "targetPort": 8080}]}});
        self.api.create(&SERVICES, NAMESPACE, &service).await?;
        for (name, replicas) in [(SERVED, SERVED_PODS), (VICTIMS, VICTIM_PODS)] {
            self.settles(name, replicas).await?;
        }
        let dns = self.api.get(&SERVICES, "kube-system", "kube-dns").await?.to_tree();
        self.name_server = dns.str_at(&["spec", "clusterIP"]).context("kube-dns has no address")?.parse()?;
        if !names::resolves(self.name_server, NAME, NAMES, &self.clock).await {
            bail!("names do not resolve even before the first kill");
        }
        Ok(())
    }

    async fn rage(&mut self, kills: u32) -> Result<()> {
        let before = self.containers_of(SERVED).await?;
        let (stopper, load) = (Stopper::new(), Tasks::new());
        let scaled: Arc<Mutex<Option<u64>>> = Arc::default();
        self.load(&load, &stopper.signal(), &scaled).await?;
        let spawned = load.running();
        let raged = self.blows(kills).await;
        if load.running() != spawned {
            self.record.fault(format!("of {spawned} who load the house {} are left", load.running()));
        }
        stopper.stop();
        if !load.join(LOAD_END).await {
            bail!("{} who load the house did not end", load.running());
        }
        raged?;
        self.all_pending_are_back().await?;
        let last = scaled.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_default();
        self.settles(SCALED, usize::try_from(last)?).await?;
        self.settles(VICTIMS, VICTIM_PODS).await?;
        let after = self.containers_of(SERVED).await?;
        if before != after {
            self.record.fault(format!("containers that nobody killed were {before:?} and are {after:?}"));
        }
        self.nothing_is_left().await?;
        for panic in self.house.panics() {
            self.record.fault(panic);
        }
        for lack in lacks(&self.kills, &self.house.names(), &self.record) {
            self.record.fault(lack);
        }
        self.tell();
        Ok(())
    }

    /// Begins everything that loads the house.
    async fn load(&self, load: &Tasks, stop: &Stop, scaled: &Arc<Mutex<Option<u64>>>) -> Result<()> {
        let service = self.api.get(&SERVICES, NAMESPACE, SERVED).await?.to_tree();
        let address: IpAddr = service.str_at(&["spec", "clusterIP"]).context("no ClusterIP")?.parse()?;
        let service = SocketAddr::new(address, PORT);
        let mut pods = Vec::new();
        for pod in self.pods_of(SERVED).await? {
            let address: IpAddr =
                pod.str_at(&["status", "podIP"]).context("a pod has no address")?.parse()?;
            pods.push(SocketAddr::new(address, 8080));
        }
        let writer = Writer {
            api: self.api.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            record: self.record.clone(),
            stop: stop.clone(),
        };
        for number in 0..WRITERS {
            load.spawn("writer", writer.clone().write_config_maps(number));
        }
        let told = scaled.clone();
        load.spawn("scaler", async move {
            let last = writer.scale().await;
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        });
        for targets in (0..ASKERS).map(|number| if number == 0 { pods.clone() } else { vec![service] }) {
            let (record, clock, random, stop) =
                (self.record.clone(), self.clock.clone(), self.random.clone(), stop.clone());
            load.spawn("asker", async move { ask(&record, &targets, &clock, &random, &stop).await });
        }
        let (record, clock, stop) = (self.record.clone(), self.clock.clone(), stop.clone());
        load.spawn("lasting connection", async move { hold(&record, service, &clock, &stop).await });
        Ok(())
    }

    async fn blows(&mut self, kills: u32) -> Result<()> {
        let mut told = 0;
        while self.total() < kills {
            self.clock.sleep(self.some(CALM_MS)).await;
            self.remember_victims().await;
            if !(self.random.chance(2, 5) && self.kill_pod_process()) {
                self.kill_processes(kills).await?;
            }
            self.starts.look(&self.house.node_data().join("logs"));
            if self.total() >= told + 10 {
                told = self.total();
                println!("{told} kills, {} faults", self.record.faults());
            }
        }
        Ok(())
    }

    fn total(&self) -> u32 {
        self.kills.values().sum()
    }

    fn some(&self, most_ms: u64) -> Duration {
        Duration::from_millis(self.random.below(most_ms + 1))
    }

    fn count(&mut self, what: &'static str) {
        *self.kills.entry(what).or_default() += 1;
    }

    /// Kills one role or all in a random order, perhaps a pod process while they are dead, and starts them again,
    /// perhaps killing once more in the middle of the start.
    async fn kill_processes(&mut self, kills: u32) -> Result<()> {
        let roles = self.house.roles.len();
        let mut victims: Vec<usize> = (0..roles).collect();
        if self.random.chance(1, 2) {
            victims.reverse();
        }
        if roles > 1 && self.random.chance(2, 3) {
            victims.truncate(1);
        }
        for (number, victim) in victims.iter().enumerate() {
            if number > 0 {
                self.clock.sleep(self.some(APART_MS)).await;
            }
            self.house.kill(*victim)?;
            self.count(self.house.roles[*victim].name);
        }
        let node_lives = self.form == Form::Apart && victims == [0];
        if self.random.chance(1, 3) {
            self.kill_pod_process();
        }
        if node_lives && !names::resolves(self.name_server, NAME, NAMES, &self.clock).await {
            self.record.fault("names do not resolve while the server alone is dead".to_owned());
        }
        self.clock.sleep(self.some(DEAD_MS)).await;
        if self.random.chance(1, 2) {
            victims.reverse();
        }
        for (number, victim) in victims.iter().enumerate() {
            if number > 0 {
                self.clock.sleep(self.some(APART_MS)).await;
            }
            self.house.start(*victim)?;
        }
        if self.random.chance(1, 4) && self.total() < kills {
            self.clock.sleep(self.some(STARTING_MS)).await;
            let victim = victims[self.random.below(victims.len() as u64) as usize];
            self.house.kill(victim)?;
            self.count("starting");
            self.house.start(victim)?;
        }
        self.comes_back().await
    }

    /// Names resolve, the server answers.
    async fn comes_back(&mut self) -> Result<()> {
        let began = self.clock.monotonic();
        let resolves = names::resolves(self.name_server, NAME, NAMES, &self.clock).await;
        let took = self.clock.monotonic() - began;
        self.record.times().names.push(took);
        for index in 0..self.house.roles.len() {
            self.house.lives(index)?;
        }
        if !resolves {
            self.record.fault(format!("names do not resolve {NAMES:?} after the restart"));
        }
        self.answers().await
    }

    async fn answers(&self) -> Result<()> {
        let answer = async {
            while self.api.get(&api::names::NAMESPACES, "", NAMESPACE).await.is_err() {
                self.clock.sleep(LOOK).await;
            }
        };
        self.clock.timeout(ANSWERS, answer).await.context("the server does not answer any more")
    }

    /// Kills the pod process of a pod that runs; false if there is none that may be killed now.
    fn kill_pod_process(&mut self) -> bool {
        let may = |process: &evidence::PodProcess| {
            self.victims.contains_key(&process.uid)
                && !self.used.contains(&process.uid)
                && !process.containers.is_empty()
        };
        let processes: Vec<_> = pod_processes().into_iter().filter(may).collect();
        if processes.is_empty() {
            return false;
        }
        let process = &processes[self.random.below(processes.len() as u64) as usize];
        let Some(pid) = rustix::process::Pid::from_raw(process.pid.cast_signed()) else { return false };
        let Some((name, restarts)) = self.victims.remove(&process.uid) else { return false };
        self.used.insert(process.uid.clone());
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(process.uid.clone());
        // It was there a moment ago; if it has ended since, the pod has to come back all the same.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        self.count("pod process");
        let watch = Revival {
            api: self.api.clone(),
            clock: self.clock.clone(),
            record: self.record.clone(),
            pending: self.pending.clone(),
            uid: process.uid.clone(),
            name,
            restarts,
        };
        let containers = process.containers.clone();
        self.tasks.spawn("revival of a pod", watch.watch(containers));
        true
    }

    async fn remember_victims(&mut self) {
        let Ok(pods) = self.pods_of(VICTIMS).await else { return };
        let ready = pods
            .iter()
            .filter(|pod| is_ready(pod) && pod.str_at(&["metadata", "deletionTimestamp"]).is_none());
        self.victims = ready
            .filter_map(|pod| {
                let uid = pod.str_at(&["metadata", "uid"])?.to_owned();
                Some((uid, (pod.str_at(&["metadata", "name"])?.to_owned(), restarts_of(pod))))
            })
            .collect();
    }

    async fn pods_of(&self, app: &str) -> Result<Vec<Value>> {
        let pods = self.api.list(&PODS, NAMESPACE).await?;
        Ok(pods.items.iter().filter(|pod| pod.label("app") == Some(app)).map(|pod| pod.to_tree()).collect())
    }

    async fn containers_of(&self, app: &str) -> Result<BTreeSet<String>> {
        let pods = self.pods_of(app).await?;
        let statuses = pods.iter().flat_map(|pod| pod.array_at(&["status", "containerStatuses"]));
        Ok(statuses.filter_map(|status| status.str_at(&["containerID"]).map(str::to_owned)).collect())
    }

    /// Waits until a Deployment has exactly its pods, all Ready, and no others.
    async fn settles(&self, app: &str, replicas: usize) -> Result<()> {
        let settled = async {
            loop {
                let pods = self.pods_of(app).await.unwrap_or_default();
                if pods.len() == replicas && pods.iter().all(is_ready) {
                    return;
                }
                self.clock.sleep(LOOK * 10).await;
            }
        };
        if self.clock.timeout(SETTLES, settled).await.is_some() {
            return Ok(());
        }
        let told = self.pods_of(app).await?.iter().map(told).collect::<Vec<_>>().join("; ");
        bail!("{app} does not come to {replicas} pods that are Ready: {told}")
    }

    async fn all_pending_are_back(&self) -> Result<()> {
        let back = async {
            while !self.pending.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                self.clock.sleep(LOOK).await;
            }
        };
        self.clock.timeout(SETTLES * 2, back).await.context("pods that were killed do not come back")
    }

    /// Of pods that are gone nothing is left; of attempts none has started twice.
    async fn nothing_is_left(&mut self) -> Result<()> {
        self.starts.look(&self.house.node_data().join("logs"));
        self.starts.repeated().into_iter().for_each(|repeated| self.record.fault(repeated));
        let (instance, data) = (self.house.node_instance().to_owned(), self.house.node_data());
        let end = self.clock.monotonic() + SETTLES;
        loop {
            let pods = self.api.list(&PODS, "").await?;
            let uids = pods.items.iter().map(|pod| pod.uid().to_owned()).collect();
            let left = left_behind(&uids, &instance, &data);
            if left.is_empty() {
                return Ok(());
            }
            if self.clock.monotonic() > end {
                self.record.fault(format!("left behind: {}", left.join("; ")));
                return Ok(());
            }
            self.clock.sleep(LOOK * 10).await;
        }
    }

    fn tell(&self) {
        let kills: Vec<String> = self.kills.iter().map(|(what, count)| format!("{what} {count}")).collect();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (record, times) = (&*self.record, self.record.times());
        println!("RESULT killed: {}", kills.join(", "));
        println!(
            "RESULT acknowledged writes: {}, lost {}; looked up {}",
            count(&record.acknowledged),
            count(&record.lost),
            count(&record.unsure)
        );
        println!("RESULT requests to pods: {}, failed {}", count(&record.requests), count(&record.failed));
        println!("RESULT names resolved again: {}", spread(&times.names));
        println!("RESULT attempts started: {}, twice {}", self.starts.count(), self.starts.repeated().len());
        println!("RESULT containers ended with their pod process: {}", spread(&times.ends));
        println!("RESULT pods Ready again after that: {}", spread(&times.revivals));
        println!("RESULT faults {}", record.faults());
    }
}

/// What a storm lacks to be one: without load and without kills of every kind its good end says nothing.
fn lacks(kills: &BTreeMap<&'static str, u32>, roles: &[&'static str], record: &Record) -> Vec<String> {
    let total = kills.values().sum::<u32>();
    let loads = [
        ("acknowledged writes", &record.acknowledged, WRITES_A_KILL),
        ("requests to pods", &record.requests, REQUESTS_A_KILL),
    ];
    let idle = loads.into_iter().filter_map(|(what, count, least)| {
        let count = count.load(Ordering::Relaxed);
        let least = least * u64::from(total);
        (count < least).then(|| format!("only {count} {what} in {total} kills; {least} are the least"))
    });
    let wanted = roles.iter().filter(|_| total >= KILLS_FOR_ROLES).copied();
    let wanted = wanted.chain(["pod process", "starting"].into_iter().filter(|_| total >= KILLS_FOR_ALL));
    let spared = wanted.filter(|what| !kills.contains_key(what));
    idle.chain(spared.map(|what| format!("no kill of the kind \"{what}\" in {total}"))).collect()
}

/// Watches over one pod whose process was killed.
struct Revival {
    api: Arc<dyn Api>,
    clock: Clock,
    record: Arc<Record>,
    pending: Arc<Mutex<BTreeSet<String>>>,
    uid: String,
    name: String,
    restarts: i64,
}

impl Revival {
    async fn watch(self, containers: Vec<Living>) {
        let began = self.clock.monotonic();
        let ended = async {
            while containers.iter().any(|container| container.lives()) {
                self.clock.sleep(Duration::from_millis(1)).await;
            }
        };
        match self.clock.timeout(ENDS, ended).await {
            Some(()) => self.record.times().ends.push(self.clock.monotonic() - began),
            None => self.record.fault(format!("containers of {} outlive their pod process", self.name)),
        }
        match self.clock.timeout(SETTLES, self.is_back()).await {
            Some(Ok(())) => {
                let took = self.clock.monotonic() - began;
                if took > SLOW {
                    println!("slow: {} is Ready again after {took:?}", self.name);
                }
                self.record.times().revivals.push(took);
            }
            Some(Err(why)) => self.record.fault(why),
            None => {
                let pod = self.api.get(&PODS, NAMESPACE, &self.name).await;
                let state = pod.map_or_else(|status| status.to_string(), |pod| told(&pod.to_tree()));
                self.record.fault(format!("{} does not come back with a raised count: {state}", self.name));
            }
        }
        // Its containers would wait longer and longer with each restart; a new pod takes its place.
        let options = || DeleteOptions { uid: Some(self.uid.as_str().into()), ..DeleteOptions::default() };
        while let Err(status) = self.api.delete(&PODS, NAMESPACE, &self.name, options()).await {
            if matches!(status.code, 404 | 409) {
                break;
            }
            self.clock.sleep(LOOK).await;
        }
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uid);
    }

    async fn is_back(&self) -> Result<(), String> {
        loop {
            match self.api.get(&PODS, NAMESPACE, &self.name).await {
                Ok(pod) if pod.uid() != self.uid => return Err(format!("{} is another pod now", self.name)),
                Ok(pod) => {
                    let pod = pod.to_tree();
                    if is_ready(&pod) && restarts_of(&pod) > self.restarts {
                        return Ok(());
                    }
                }
                Err(status) if status.code == 404 => return Err(format!("{} has vanished", self.name)),
                // The server is dead just now.
                Err(_) => {}
            }
            self.clock.sleep(LOOK).await;
        }
    }
}

fn is_ready(pod: &Value) -> bool {
    pod.array_at(&["status", "conditions"]).iter().any(|condition| {
        condition.str_at(&["type"]) == Some("Ready") && condition.str_at(&["status"]) == Some("True")
    })
}

fn restarts_of(pod: &Value) -> i64 {
    let statuses = pod.array_at(&["status", "containerStatuses"]);
    statuses.first().and_then(|status| status.int_at(&["restartCount"])).unwrap_or_default()
}

/// A pod in one line, for who looks for a cause.
fn told(pod: &Value) -> String {
    let name = pod.str_at(&["metadata", "name"]).unwrap_or_default();
    let status = pod.get("status").map(|status| String::from_utf8_lossy(&status.to_bytes()).into_owned());
    format!("{name} {}", status.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_without_load_or_without_a_kind_of_kill_is_none() {
        let record = Record::default();
        let kills = BTreeMap::from([("server", 30), ("agent", 19), ("starting", 1)]);
        let roles = ["server", "agent"];
        assert_eq!(
            lacks(&kills, &roles, &record),
            [
                "only 0 acknowledged writes in 50 kills; 200 are the least",
                "only 0 requests to pods in 50 kills; 3000 are the least",
                "no kill of the kind \"pod process\" in 50"
            ]
        );
        record.acknowledged.store(200, Ordering::Relaxed);
        record.requests.store(3000, Ordering::Relaxed);
        let kills = BTreeMap::from([("server", 20), ("agent", 19), ("starting", 1), ("pod process", 10)]);
        assert_eq!(lacks(&kills, &roles, &record), [""; 0]);
        assert_eq!(lacks(&BTreeMap::from([("up", 12)]), &roles, &record).len(), 2);
    }
}
