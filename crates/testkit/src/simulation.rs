//! One run of the world under one seed.

use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Random, Stopper, Tasks};
use futures::future;
use jiff::Timestamp;
use store::{List, Scope, SimulatedDisk};

use crate::history::Commit;
use crate::link::{Faults, LATENCY_MS, Line, Link};
use crate::node::Node;
use crate::panics;
use crate::properties::Witness;
use crate::server::{Controllers, Server, Surroundings};
use crate::user::User;

/// Nodes of a world.
const NODES: usize = 3;
/// Things that happen at the most before everybody waits for the end.
const HAPPENINGS: u64 = 16;
/// What may pass between two of them.
const PAUSES_MS: [u64; 4] = [10, 300, 4000, 60_000];
/// How long nodes are lost: so that nobody minds, or so that their pods are given up.
const LOST_SECONDS: [u64; 2] = [20, 400];
/// How often the witness looks; between two looks it misses nothing, for it reads the history.
const LOOK: Duration = Duration::from_millis(50);
/// Virtual time within which a world without faults must converge.
const PATIENCE: Duration = Duration::from_secs(900);

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What happened, in order.
    pub story: Vec<String>,
    /// What was broken; empty if all held.
    pub broken: Vec<String>,
    /// Every commit, in order.
    pub history: Vec<Commit>,
}

/// Runs the world of a seed to its end.
pub fn run(seed: u64) -> Outcome {
    run_with(seed, controllers::all)
}

/// Runs the world of a seed with controllers of one's own choice. A panic anywhere in it, caught or not, is something
/// broken.
pub fn run_with(seed: u64, controllers: Controllers) -> Outcome {
    panics::listen();
    let lived = std::panic::catch_unwind(|| {
        block_on(async move { Simulation::start(seed, controllers).await.live().await })
    });
    let mut outcome =
        lived.unwrap_or_else(|_| Outcome { story: Vec::new(), broken: Vec::new(), history: Vec::new() });
    outcome.broken.extend(panics::heard());
    outcome
}

fn block_on<T>(life: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can always be made");
    runtime.block_on(life)
}

struct Simulation {
    around: Surroundings,
    line: Line,
    server: Option<Server>,
    nodes: Vec<Arc<Node>>,
    user: Arc<User>,
    witness: Witness,
    tasks: Tasks,
    stopper: Stopper,
    /// Pods fail, nodes are lost, users delete pods.
    harsh: bool,
    story: Vec<String>,
    /// Chooses what happens.
    random: Random,
}

impl Simulation {
    async fn start(seed: u64, controllers: Controllers) -> Self {
        // Everybody has numbers of their own, so that what one does changes nothing for the others' choices.
        let numbers = |whose: u64| Random::seeded(seed.wrapping_mul(1_000_003).wrapping_add(whose));
        let random = numbers(0);
        let epoch: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a date that is written well");
        let around = Surroundings {
            clock: Clock::simulated(epoch),
            random: numbers(1),
            faults: Faults::new(numbers(5).chance(1, 3)),
            controllers,
        };
        let (line, tasks, stopper) = (Line::default(), Tasks::new(), Stopper::new());
        let harsh = random.chance(1, 2);
        let mut witness = Witness::new(!harsh, &around.faults);
        let (server, beginning) = Server::start(SimulatedDisk::new(numbers(2)), &around, &line).await;
        witness.follow(beginning);
        let link = |random: &Random| Link::over(&line, &around.clock, random, &around.faults);
        let nodes = (0..NODES).map(|number| {
            let own = numbers(10 + number as u64);
            let failing = harsh && own.chance(1, 3);
            let name = format!("node-{number}");
            Node::start(&name, failing, link(&own), (&around.clock, &own), &tasks, &stopper.signal())
        });
        let nodes = nodes.collect();
        let user = Arc::new(User::new(link(&numbers(3)), &numbers(4), harsh));
        Self {
            server: Some(server),
            around,
            line,
            nodes,
            user,
            witness,
            tasks,
            stopper,
            harsh,
            story: Vec::new(),
            random,
        }
    }

    async fn live(mut self) -> Outcome {
        self.pass(Duration::from_secs(2)).await;
        self.around.faults.set(true);
        for _ in 0..HAPPENINGS / 2 + self.random.below(HAPPENINGS / 2 + 1) {
            let what = self.happen().await;
            self.story.push(format!("{:?} {what}", self.around.clock.monotonic()));
            let pause = Duration::from_millis(PAUSES_MS[self.random.below(4) as usize]);
            self.pass(pause).await;
        }
        self.around.faults.set(false);
        for node in &self.nodes {
            node.lose(Duration::ZERO);
        }
        self.settle().await;
        self.compare();
        let unfulfilled = self.witness.unfulfilled(&self.user.wishes());
        self.witness.broken.extend(unfulfilled);
        self.stopper.stop();
        self.tasks.join(Duration::from_secs(5)).await;
        let (history, broken) = self.witness.tell();
        Outcome { story: self.story, broken, history }
    }

    /// One thing happens.
    async fn happen(&mut self) -> String {
        let random = self.random.clone();
        match random.below(11) {
            0 => {
                self.crash(Duration::from_millis(random.below(3000))).await;
                "the server crashed and is back".to_owned()
            }
            1 => {
                let user = self.user.clone();
                let amid = Duration::from_millis(random.below(2 * LATENCY_MS + 2));
                let crash = async {
                    self.around.clock.sleep(amid).await;
                    self.crash(Duration::from_millis(random.below(500))).await;
                };
                let (what, ()) = future::join(user.act(), crash).await;
                format!("the server crashed amid {what}")
            }
            2 if self.harsh => {
                let node = random.below(NODES as u64) as usize;
                let seconds = 1 + random.below(LOST_SECONDS[random.below(2) as usize]);
                self.nodes[node].lose(Duration::from_secs(seconds));
                format!("node-{node} is lost for {seconds} s")
            }
            _ => self.user.act().await,
        }
    }

    async fn crash(&mut self, down: Duration) {
        // The last events of this life, as far as they were visible: the next life may lack none of them.
        self.witness.catch_up();
        self.witness.lose();
        let Some(server) = self.server.take() else { return };
        let disk = server.crash(&self.line);
        self.around.clock.sleep(down).await;
        let (server, beginning) = Server::start(disk, &self.around, &self.line).await;
        self.witness.follow(beginning);
        self.server = Some(server);
    }

    async fn pass(&mut self, duration: Duration) {
        let until = self.around.clock.monotonic() + duration;
        while self.around.clock.monotonic() < until {
            self.around.clock.sleep(LOOK).await;
            self.witness.catch_up();
        }
    }

    /// The witness has seen all that there is, or what it says is worth nothing.
    fn compare(&mut self) {
        let Some(server) = &self.server else { return };
        // Nobody else runs between the two.
        self.witness.catch_up();
        match server.store.list(&List::all(Scope::All)) {
            Ok(found) => self.witness.compare(&found),
            Err(error) => self.witness.broken.push(format!("the store cannot be listed: {error}")),
        }
    }

    /// Everything heals, and then all must become as it was asked for.
    async fn settle(&mut self) {
        let end = self.around.clock.monotonic() + PATIENCE;
        while let Err(status) = self.user.repair().await {
            if self.around.clock.monotonic() > end {
                self.witness.broken.push(format!("the user cannot repair: {}", status.message));
                return;
            }
            self.story.push(format!("repairing: {}", status.message));
            self.pass(Duration::from_secs(1)).await;
        }
        loop {
            self.pass(Duration::from_secs(2)).await;
            let unsettled = self.witness.unsettled();
            if unsettled.is_empty() {
                return;
            }
            if self.around.clock.monotonic() > end {
                let what = unsettled.into_iter().map(|what| format!("not converged: {what}"));
                self.witness.broken.extend(what);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_that_cannot_be_repaired_ends_and_says_so() {
        let broken = block_on(async {
            let mut simulation = Simulation::start(0, controllers::all).await;
            simulation.line.connect(None);
            simulation.settle().await;
            simulation.witness.tell().1
        });
        assert_eq!(broken, ["the user cannot repair: the server is down"]);
    }

    #[test]
    fn a_witness_whose_watch_ends_or_misses_something_says_so() {
        let broken = block_on(async {
            let mut simulation = Simulation::start(0, controllers::all).await;
            simulation.pass(Duration::from_secs(2)).await;
            simulation.compare();
            assert_eq!(simulation.witness.broken, [""; 0]);
            let server = simulation.server.take().expect("it lives");
            server.store.close().await;
            simulation.pass(Duration::from_secs(1)).await;
            simulation.witness.tell().1
        });
        assert!(broken.iter().any(|what| what.contains("the store's watch ended")), "{broken:?}");
    }
}
