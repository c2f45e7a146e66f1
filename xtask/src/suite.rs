//! `cargo xtask suite NAME`: other people's suites, with a ledger in conformance/ that says test by test what passes.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};

use crate::command::{self, command};
use crate::ledger::Ledger;
use crate::project::Project;
use crate::{kills, machine, prerequisites, script, test, uml, upstream};

/// The suites that can be run.
const SUITES: [(&str, &str); 5] = [
    ("first-light", "the user's script in every form (tests/first-light.sh)"),
    ("kills", "kill -9 of server, agent and pod processes at random instants under load"),
    ("kubectl", "upstream's own tests of kubectl, test/cmd, against `ondol server` (conformance/kubectl.sh)"),
    ("machine", "our unit, reboots, a power cut and jumping clocks on a real Debian, in a virtual machine"),
    ("sandbox-v2", "the sandbox's kernel tests on cgroup version 2, under user-mode Linux"),
];

/// What `cargo xtask suite` is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// Which suite.
    name: String,
    /// For kubectl: only these of its tests, by their names in the ledger.
    tests: Vec<String>,
    /// Writes the outcome down as the new ledger.
    #[arg(long)]
    record: bool,
    /// Writes it down also if it lacks what passed before.
    #[arg(long, requires = "record")]
    accept_losses: bool,
    /// For first-light, kills and machine: the build that is put to the test, `release` or `debug`.
    #[arg(long, default_value = "release", value_parser = ["release", "debug"])]
    profile: String,
    /// For kills: how many.
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// For kills: what chooses victims and instants; a failure names its seed.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs a suite. A test that the ledger says passes, and that does not, is an error.
pub fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    if SUITES.iter().all(|(name, _)| *name != arguments.name) {
        let known =
            SUITES.iter().map(|(name, what)| format!("  {name}: {what}")).collect::<Vec<_>>().join("\n");
        bail!("there is no suite \"{}\" here. There is:\n{known}", arguments.name);
    }
    let outcome = match &*arguments.name {
        "first-light" => return first_light(project, &arguments.profile),
        "kills" => return storm(project, arguments),
        "machine" => {
            build(project, &arguments.profile)?;
            machine::run(project, &arguments.profile)?
        }
        "sandbox-v2" => uml::run(project, None)?,
        script => run_script(project, script, &arguments.tests)?,
    };
    let path = project.root().join("conformance").join(format!("{}.ledger", arguments.name));
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut ledger = Ledger::read(&text).with_context(|| format!("{} is damaged", path.display()))?;
    let chosen = |name: &str| arguments.tests.is_empty() || arguments.tests.iter().any(|test| test == name);
    // Asked of the ledger as it was: what a run has just been written into lacks nothing.
    let lost: Vec<String> =
        ledger.lost(&outcome).into_iter().filter(|name| chosen(name)).map(str::to_owned).collect();
    let passed = outcome.values().filter(|passed| **passed).count();
    println!("{passed} passed, {} failed", outcome.len() - passed);
    let losses = format!("these passed before: {}", lost.join(", "));
    if !lost.is_empty() && !arguments.accept_losses {
        bail!("{losses}; what was lost is recorded with --accept-losses alone");
    }
    if arguments.record {
        if arguments.tests.is_empty() {
            ledger.record(&outcome)
        } else {
            ledger.amend(&outcome)
        }
        fs::write(&path, ledger.to_string())?;
    }
    if !lost.is_empty() {
        println!("{losses}; that is accepted");
    }
    Ok(())
}

/// The user's script, held to its own ledger.
fn first_light(project: &Project, profile: &str) -> Result<()> {
    prerequisites::require()?;
    let kubectl = upstream::kubectl(project)?;
    eprintln!("running with {}", kubectl.origin);
    build(project, profile)?;
    let (mut count, mut problems) = (test::Count::default(), Vec::new());
    count.add_points(&script::run(project, profile, &kubectl.path, script::Extent::Whole)?, &mut problems);
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    println!("{} passed, {} failed", count.passed, count.failed);
    if count.failed > 0 {
        bail!("the user's script does not hold");
    }
    Ok(())
}

/// Kills; what was seen is the ledger.
fn storm(project: &Project, arguments: &Arguments) -> Result<()> {
    prerequisites::require()?;
    build(project, &arguments.profile)?;
    let outcome = kills::run(project, &arguments.profile, arguments.kills, arguments.seed)?;
    print!("{outcome}");
    if arguments.record {
        fs::write(project.root().join("conformance/kills.ledger"), outcome)?;
    }
    Ok(())
}

fn build(project: &Project, profile: &str) -> Result<()> {
    let mut cargo = command("cargo", ["build", "--locked", "--package", "ondol"]);
    if profile == "release" {
        cargo.arg("--release");
    }
    command::run(cargo.current_dir(project.root()))
}

/// Runs a suite that is a script, or the named tests of it, which says `PASS name` or `FAIL name: why` of each test.
fn run_script(project: &Project, name: &str, tests: &[String]) -> Result<BTreeMap<String, bool>> {
    prerequisites::require()?;
    let kubectl = upstream::kubectl(project)?;
    eprintln!("running with {}", kubectl.origin);
    command::run(command("cargo", ["build", "--locked", "--package", "ondol"]).current_dir(project.root()))?;
    let mut script = command("bash", [project.root().join("conformance").join(format!("{name}.sh"))]);
    script.args(tests);
    script.env("ONDOL", project.binary("debug", "ondol")).env("KUBECTL", &kubectl.path);
    if name == "kubectl" {
        // Upstream's scripts call it.
        prerequisites::install(if command::exists("jq") { &[] } else { &["jq"] })?;
        script
            .env("KUBERNETES", upstream::kubernetes(project)?)
            .env("LOGS", project.target().join("kubectl"));
    }
    let mut points = script::Points::default();
    let finished = command::follow(&mut script, |line| points.hear(line))?;
    let outcome = points.0;
    if outcome.is_empty() {
        bail!(
            "the suite told of no test at all (it ended with {})",
            if finished { "success" } else { "failure" }
        );
    }
    Ok(outcome)
}
