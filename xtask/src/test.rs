//! `cargo xtask test`: every test there is, and one line at the end that counts them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::{self, command};
use crate::project::Project;
use crate::{prerequisites, uml, upstream};

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
struct Count {
    passed: u64,
    failed: u64,
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

/// One point of the user's script.
struct Point {
    name: String,
    /// Whether the ledger says that it passes.
    required: bool,
    /// `None` if the script ended before it came to it.
    passed: Option<bool>,
}

/// Runs the user's script against the debug binary; every point that the ledger requires must pass.
fn script(project: &Project, kubectl: &Path) -> Result<Vec<Point>> {
    let ondol = project.binary("debug", "ondol");
    command::run(
        command("cargo", ["build", "--locked", "--workspace", "--bin", "ondol"]).current_dir(project.root()),
    )?;
    if !ondol.exists() {
        bail!("cargo built no {}", ondol.display());
    }
    let ledger = project.root().join("tests/first-light.points");
    let ledger = fs::read_to_string(&ledger).with_context(|| format!("reading {}", ledger.display()))?;
    let mut points: BTreeMap<String, Point> = BTreeMap::new();
    for (name, required) in ledger_lines(&ledger)? {
        points.insert(name.clone(), Point { name, required, passed: None });
    }
    let mut bash = command("bash", [project.root().join("tests/first-light.sh")]);
    bash.env("ONDOL", &ondol).env("KUBECTL", kubectl);
    let mut unlisted = Vec::new();
    command::follow(&mut bash, |line| {
        let Some((name, passed)) = point_line(line) else { return };
        match points.get_mut(name) {
            // A point that is checked twice passes only if it passes every time.
            Some(point) => point.passed = Some(passed && point.passed.unwrap_or(true)),
            None => unlisted.push(name.to_owned()),
        }
    })?;
    if !unlisted.is_empty() {
        bail!("points that tests/first-light.points does not list: {}", unlisted.join(", "));
    }
    Ok(points.into_values().collect())
}

/// A line of the script about a point: `PASS name` or `FAIL name: reason`.
fn point_line(line: &str) -> Option<(&str, bool)> {
    let (rest, passed) = match line.strip_prefix("PASS ") {
        Some(rest) => (rest, true),
        None => (line.strip_prefix("FAIL ")?, false),
    };
    Some((rest.split([':', ' ']).next()?, passed))
}

/// Lines of the ledger: `required name` or `open name`; `#` begins a comment.
fn ledger_lines(text: &str) -> Result<Vec<(String, bool)>> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    lines
        .filter(|line| !line.is_empty())
        .map(|line| match line.split_once(' ') {
            Some(("required", name)) => Ok((name.trim().to_owned(), true)),
            Some(("open", name)) => Ok((name.trim().to_owned(), false)),
            _ => bail!("tests/first-light.points: \"{line}\" is neither \"required NAME\" nor \"open NAME\""),
        })
        .collect()
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

    fn add_points(&mut self, points: &[Point], problems: &mut Vec<String>) {
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
    fn points_are_read_from_the_script_and_the_ledger() {
        assert_eq!(point_line("PASS 3.scale"), Some(("3.scale", true)));
        assert_eq!(point_line("FAIL 3.scale: two pods after 50 s"), Some(("3.scale", false)));
        assert_eq!(point_line("waiting"), None);
        let ledger = ledger_lines("# points\nrequired 1.up\nopen 10.split # later\n").unwrap();
        assert_eq!(ledger, [("1.up".to_owned(), true), ("10.split".to_owned(), false)]);
        assert!(ledger_lines("maybe 1.up").is_err());
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
