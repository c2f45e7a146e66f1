//! `cargo xtask test`: every test there is, and one line at the end that counts them.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::command::{self, command};
use crate::project::Project;
use crate::script::{self, Extent, Point};
use crate::{kills, prerequisites, uml, upstream};

/// What `cargo xtask test` is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// What this machine may lack, said by name: `uml` (no user-mode Linux, so nothing is tested on cgroup version 2).
    #[arg(long, env = "ONDOL_WAIVE", value_delimiter = ',')]
    waive: Vec<String>,
    /// Passed on to `cargo test`: names of tests, `-p CRATE`. The user's script runs only if nothing is named.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    filters: Vec<String>,
}

/// What `cargo xtask sim` is told.
#[derive(clap::Args)]
pub struct SimArguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them; with `--seeds 1`, the way to repeat a failure.
    #[arg(long, default_value_t = 0)]
    first: u64,
}

/// Passed and failed.
#[derive(Default)]
pub struct Count {
    /// Tests, or points.
    pub passed: u64,
    /// The same.
    pub failed: u64,
}

/// Runs everything.
pub fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    prerequisites::require()?;
    let whole = arguments.filters.is_empty();
    let kubectl = upstream::kubectl(project)?;
    eprintln!("testing with {}", kubectl.origin);

    let mut count = Count::default();
    let mut problems = Vec::new();
    let mut cargo = command("cargo", ["test", "--locked", "--no-fail-fast"]);
    if !arguments.filters.iter().any(|filter| filter == "-p") {
        cargo.arg("--workspace");
    }
    cargo.args(&arguments.filters).current_dir(project.root()).env("KUBECTL", &kubectl.path);
    let succeeded = command::follow(&mut cargo, |line| count.add_result_line(line))?;
    if !succeeded {
        problems.push("cargo test failed; its output above says where".to_owned());
        // A crate that does not compile prints no count, and must not look like success.
        count.failed = count.failed.max(1);
    }
    if whole {
        test_programs(project, &mut count, &mut problems)?;
        if arguments.waive.iter().any(|waived| waived == "uml") {
            problems.push("waived: nothing was tested on cgroup version 2".to_owned());
        } else {
            smoke_v2(project, &mut count, &mut problems);
        }
        match script(project, &kubectl.path) {
            Ok(points) => count.add_points(&points, &mut problems),
            Err(error) => {
                count.failed += 1;
                problems.push(format!("the user's script did not run: {error:#}"));
            }
        }
        match kills::run(project, "debug", kills::FEW, None) {
            Ok(_) => count.passed += 1,
            Err(error) => {
                count.failed += 1;
                problems.push(format!("kills: {error:#}"));
            }
        }
    }
    eprintln!("\ntested with {}", kubectl.origin);
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    println!("{} passed, {} failed", count.passed, count.failed);
    if count.failed > 0 {
        bail!("there are failures");
    }
    Ok(())
}

/// The small programs are workspaces of their own, which cargo does not reach from here.
fn test_programs(project: &Project, count: &mut Count, problems: &mut Vec<String>) -> Result<()> {
    let mut programs: Vec<_> = fs::read_dir(project.root().join("programs"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    programs.sort();
    for program in programs.iter().filter(|program| program.join("Cargo.toml").exists()) {
        let mut cargo = command("cargo", ["test", "--locked", "--target-dir"]);
        cargo.arg(project.target().join("programs")).current_dir(program);
        if !command::follow(&mut cargo, |line| count.add_result_line(line))? {
            count.failed = count.failed.max(1);
            problems.push(format!("the tests of {} failed; the output above says where", program.display()));
        }
    }
    Ok(())
}

/// One kernel test of the sandbox on cgroup version 2; `cargo xtask suite sandbox-v2` runs them all.
fn smoke_v2(project: &Project, count: &mut Count, problems: &mut Vec<String>) {
    let failure = match uml::run(project, Some(uml::SMOKE)) {
        Ok(outcome) if outcome.get(uml::SMOKE) == Some(&true) => None,
        Ok(_) => Some(format!("{} failed on cgroup version 2", uml::SMOKE)),
        Err(error) => Some(format!("the sandbox was not tested on cgroup version 2: {error:#}")),
    };
    match failure {
        None => count.passed += 1,
        Some(failure) => {
            count.failed += 1;
            problems.push(failure);
        }
    }
}

/// Runs the simulated world alone.
pub fn simulate(project: &Project, arguments: &SimArguments) -> Result<()> {
    let mut cargo = command("cargo", ["test", "--locked", "--package", "testkit", "--test", "world", "--"]);
    cargo.args(["--exact", "every_seed_holds", "--nocapture"]).current_dir(project.root());
    cargo.env("ONDOL_SIM_SEEDS", arguments.seeds.to_string());
    command::run(cargo.env("ONDOL_SIM_FIRST", arguments.first.to_string()))
}

/// Builds the debug binary and runs the user's script with it.
fn script(project: &Project, kubectl: &Path) -> Result<Vec<Point>> {
    command::run(
        command("cargo", ["build", "--locked", "--workspace", "--bin", "ondol"]).current_dir(project.root()),
    )?;
    script::run(project, "debug", kubectl, Extent::Usual)
}

impl Count {
    /// Adds the line with which a test binary ends: `test result: ok. 3 passed; 0 failed; ...`.
    fn add_result_line(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        for part in rest.split([';', '.']) {
            match part.trim().split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse::<u64>().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse::<u64>().unwrap_or(0),
                _ => {}
            }
        }
    }

    /// Adds what the user's script told.
    pub fn add_points(&mut self, points: &[Point], problems: &mut Vec<String>) {
        for Point { name, required, passed } in points {
            match (required, passed) {
                (true, Some(true)) => self.passed += 1,
                (true, Some(false)) => {
                    self.failed += 1;
                    problems.push(format!("the user's script: {name} failed"));
                }
                (true, None) => {
                    self.failed += 1;
                    problems.push(format!("the user's script: {name} was not reached"));
                }
                (false, Some(true)) => {
                    self.failed += 1;
                    problems.push(format!(
                        "the user's script: {name} passes now; write it down as required in tests/first-light.points"
                    ));
                }
                (false, _) => problems.push(format!("the user's script: {name} is still open")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_test_binaries_end_with_are_summed() {
        let mut count = Count::default();
        count.add_result_line(
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s",
        );
        count.add_result_line("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s");
        count.add_result_line("5 passed; 5 failed");
        assert_eq!((count.passed, count.failed), (14, 1));
    }

    #[test]
    fn a_required_point_that_fails_or_is_not_reached_counts_as_a_failure() {
        let point = |required, passed| Point { name: "x".into(), required, passed };
        let mut count = Count::default();
        let all =
            [point(true, Some(true)), point(true, Some(false)), point(true, None), point(false, Some(false))];
        count.add_points(&all, &mut Vec::new());
        assert_eq!((count.passed, count.failed), (1, 2));
        // The ledger only grows: an open point that passes must be written down.
        let mut count = Count::default();
        count.add_points(&[point(false, Some(true))], &mut Vec::new());
        assert_eq!((count.passed, count.failed), (0, 1));
    }
}
