//! The simulated world under many seeds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use api::names::NODES;
use control::mirror::Key;
use control::plan::{Controller, Plan, Watches};
use control::world::World;
use controllers::settings::Settings;
use jiff::Timestamp;
use testkit::server::Controllers;
use testkit::simulation::{self, Outcome};
use testkit::{user, visitor};

/// Seeds of an ordinary test run; `cargo xtask sim --seeds N` asks for others.
const SEEDS: u64 = 100;
/// Seeds that are run twice.
const REPEATED: u64 = 6;
/// Commits that are shown before a fault.
const BEFORE: usize = 40;

#[expect(clippy::disallowed_methods, reason = "this is where cargo xtask sim says how many seeds it wants")]
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The commits that led to the first thing that was broken, or to the end.
fn before(outcome: &Outcome) -> Vec<String> {
    let said = outcome.broken.first().and_then(|what| what.strip_prefix("at revision ")?.split(':').next());
    let revision: u64 = said.and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
    let shown =
        outcome.history.iter().filter(|commit| commit.revision <= revision && !commit.gist.is_empty());
    let lines: Vec<String> =
        shown.map(|commit| format!("{} {}: {}", commit.revision, commit.key, commit.gist)).collect();
    lines[lines.len().saturating_sub(BEFORE)..].to_vec()
}

/// All that users may do. What is refused in every world is not looked at at all.
fn acts() -> Vec<&'static str> {
    user::ACTS.into_iter().chain(visitor::ACTS).collect()
}

fn has_done(outcome: &Outcome, act: &str) -> bool {
    outcome.story.iter().any(|line| line.contains(act) && line.ends_with(": done"))
}

#[test]
fn every_seed_holds() {
    let first = asked("ONDOL_SIM_FIRST").unwrap_or(0);
    let (next, end) = (AtomicU64::new(first), first + asked("ONDOL_SIM_SEEDS").unwrap_or(SEEDS));
    let (failures, undone) = (Mutex::new(Vec::new()), Mutex::new(acts()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let outcome = simulation::run(seed);
                    undone
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .retain(|act| !has_done(&outcome, act));
                    if !outcome.broken.is_empty() {
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push((seed, outcome));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (seed, outcome) in failures.iter().take(3) {
        eprintln!("seed {seed}:\n  {}", outcome.story.join("\n  "));
        eprintln!(
            "  broken:\n    {}",
            outcome.broken.iter().take(8).cloned().collect::<Vec<_>>().join("\n    ")
        );
        eprintln!("  before it:\n    {}", before(outcome).join("\n    "));
        eprintln!("  repeat it with: cargo xtask sim --first {seed} --seeds 1");
    }
    let seeds: Vec<u64> = failures.iter().map(|(seed, _)| *seed).collect();
    assert!(seeds.is_empty(), "seeds that do not hold: {seeds:?}");
    let undone = undone.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(end - first < SEEDS || undone.is_empty(), "no world in which somebody could {undone:?}");
}

/// Panics once, at a moment that heals by itself.
struct PanicsOnce(AtomicU64);

impl Controller for PanicsOnce {
    fn name(&self) -> &'static str {
        "panics-once"
    }

    fn watches(&self) -> Vec<Watches> {
        vec![Watches::itself(&NODES)]
    }

    fn plan(&self, _: &World, _: &Key, _: Timestamp) -> Plan {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) != 1, "planned a second time");
        Plan::nothing()
    }
}

#[test]
fn a_world_in_which_a_plan_panicked_does_not_hold() {
    let outcome = simulation::run_with(0, |settings| {
        let mut all = controllers::all(settings);
        all.push(Arc::new(PanicsOnce(AtomicU64::new(0))));
        all
    });
    assert!(!outcome.broken.is_empty());
    assert!(outcome.broken.iter().all(|what| what.contains("planned a second time")), "{:?}", outcome.broken);
}

/// Runs worlds until one is broken as `what` says, and requires that there is one.
fn breaks(controllers: Controllers, what: &str) {
    let found = (0..SEEDS).find(|seed| {
        let outcome = simulation::run_with(*seed, controllers);
        outcome.broken.iter().any(|broken| broken.contains(what))
    });
    assert!(found.is_some(), "no world is broken by \"{what}\"");
}

fn all_but(settings: &Settings, name: &str) -> Vec<Arc<dyn Controller>> {
    let mut all = controllers::all(settings);
    let before = all.len();
    all.retain(|controller| controller.name() != name);
    assert!(all.len() < before, "there is no {name}");
    all
}

#[test]
fn worlds_that_lack_a_controller_do_not_hold() {
    breaks(|settings| all_but(settings, "garbage-collector-controller"), "configmaps default/ring-");
    breaks(|settings| all_but(settings, "namespace-controller"), "namespaces /guests is still going");
    breaks(|settings| all_but(settings, "disruption-controller"), "budget ");
}

#[test]
fn a_seed_repeats_every_commit() {
    for seed in 0..asked("ONDOL_SIM_REPEATED").unwrap_or(REPEATED) {
        let (one, two) = (simulation::run(seed), simulation::run(seed));
        assert_eq!(one.story, two.story, "seed {seed}");
        let differs = one.history.iter().zip(&two.history).find(|(one, two)| one != two);
        assert!(differs.is_none(), "seed {seed}: {differs:?}");
        assert_eq!(one.history.len(), two.history.len(), "seed {seed}");
        assert!(!one.history.is_empty());
    }
}
