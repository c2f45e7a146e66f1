//! `cargo xtask mutants`: planted faults. A test suite that stays green with one of them in the code proves nothing.
//!
//! What is committed is checked out a second time, as a worktree of git's with a target folder of its own, both kept
//! for the next run. There every named test must be green; then one fault after the other is planted, its test must be
//! red, and the fault is taken out again. A test that does not end counts as red: faults may make it wait for ever.

mod table;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base::Clock;

use crate::command::{self, command};
use crate::project::Project;
use table::{MUTANTS, Mutant};

/// A test that takes longer with a fault planted is taken for hanging.
const DEADLINE: Duration = Duration::from_secs(300);
/// How often a running test is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Seeds of the simulated world, where that is the test.
const SEEDS: &str = "40";

/// What `cargo xtask mutants` is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these faults; all if none is named.
    names: Vec<String>,
    /// Only says which there are.
    #[arg(long)]
    list: bool,
    /// Writes what was found into conformance/mutants.ledger.
    #[arg(long, conflicts_with = "names")]
    record: bool,
    /// Where the second checkout and what is built of it are kept [default: target/mutants].
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Plants the faults.
pub fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    if arguments.list {
        MUTANTS.iter().for_each(|mutant| println!("{}: {} ({})", mutant.name, mutant.file, mutant.test));
        return Ok(());
    }
    if let Some(name) = arguments.names.iter().find(|name| MUTANTS.iter().all(|mutant| mutant.name != **name))
    {
        bail!("there is no planted fault \"{name}\"; \"cargo xtask mutants --list\" names them");
    }
    let chosen: Vec<&Mutant> = MUTANTS
        .iter()
        .filter(|mutant| arguments.names.is_empty() || arguments.names.iter().any(|name| name == mutant.name))
        .collect();
    let folder = arguments.folder.clone().unwrap_or_else(|| project.target().join("mutants"));
    let copy = Copy::check_out(project.root(), &folder)?;
    copy.require_green(&chosen)?;
    let (mut ledger, mut survivors) = (String::new(), Vec::new());
    for mutant in &chosen {
        plant(&copy.tree, mutant)?;
        let outcome = copy.test(mutant)?;
        copy.restore(mutant)?;
        let how = match outcome {
            Outcome::Broken => bail!("{}: the code does not compile with the fault planted", mutant.name),
            Outcome::Green => {
                survivors.push(mutant.name);
                format!("fail {}: {} stays green", mutant.name, mutant.test)
            }
            Outcome::Red => format!("pass {}: found by {}", mutant.name, mutant.test),
            Outcome::Hangs => format!("pass {}: found by {}, which does not end", mutant.name, mutant.test),
        };
        println!("{how}");
        ledger += &format!("{how}\n");
    }
    println!("{} planted, {} found", chosen.len(), chosen.len() - survivors.len());
    if arguments.record {
        fs::write(project.root().join("conformance/mutants.ledger"), ledger)?;
    }
    if !survivors.is_empty() {
        bail!("no test turned red for: {}", survivors.join(", "));
    }
    Ok(())
}

/// The second checkout.
struct Copy {
    tree: PathBuf,
    target: PathBuf,
}

impl Copy {
    /// What is committed now. Files that are equal are left alone, so that little is compiled anew.
    fn check_out(root: &Path, folder: &Path) -> Result<Self> {
        let copy = Self { tree: folder.join("tree"), target: folder.join("target") };
        let commit = command::read(command("git", ["rev-parse", "HEAD"]).current_dir(root))?;
        if copy.tree.join(".git").exists() {
            command::run(&mut copy.git(["checkout", "--quiet", "--force", "--detach", &commit]))?;
        } else {
            fs::create_dir_all(folder)?;
            // Twice forced, for a folder that git still knows of and that was removed.
            let mut add = command("git", ["worktree", "add", "--quiet", "--force", "--force", "--detach"]);
            command::run(add.arg(&copy.tree).arg(&commit).current_dir(root))?;
        }
        Ok(copy)
    }

    fn git<const N: usize>(&self, arguments: [&str; N]) -> std::process::Command {
        let mut git = command("git", arguments);
        git.current_dir(&self.tree);
        git
    }

    /// Runs every test once without any fault, a package after the other, for its build serves them all.
    fn require_green(&self, mutants: &[&Mutant]) -> Result<()> {
        let mut seen = BTreeSet::new();
        let mut sorted = mutants.to_vec();
        sorted.sort_by_key(|mutant| mutant.package);
        for mutant in sorted.into_iter().filter(|mutant| seen.insert((mutant.package, mutant.test))) {
            match self.test(mutant)? {
                Outcome::Green => println!("{} is green without a fault", mutant.test),
                _ => bail!("the test {} is red without any fault; repair that first", mutant.test),
            }
        }
        Ok(())
    }

    fn restore(&self, mutant: &Mutant) -> Result<()> {
        command::read(&mut self.git(["checkout", "--force", "HEAD", "--", mutant.file])).map(drop)
    }

    fn test(&self, mutant: &Mutant) -> Result<Outcome> {
        let cargo = |extra: &[&str]| {
            let mut cargo = command("cargo", ["test", "--quiet", "--locked", "--package", mutant.package]);
            cargo.args(mutant.suite).args(extra).current_dir(&self.tree);
            cargo.env("CARGO_TARGET_DIR", &self.target);
            cargo
        };
        if !cargo(&["--no-run"]).status()?.success() {
            return Ok(Outcome::Broken);
        }
        let mut run = cargo(&["--", mutant.test]);
        run.env("ONDOL_SIM_SEEDS", SEEDS).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut child = run.spawn()?;
        let clock = Clock::system();
        while clock.monotonic() < DEADLINE {
            if let Some(status) = child.try_wait()? {
                return Ok(if status.success() { Outcome::Green } else { Outcome::Red });
            }
            std::thread::sleep(LOOK);
        }
        // Not cargo alone, which would leave the test behind.
        command::run(&mut command("kill", ["-KILL", "--", &format!("-{}", child.id())]))?;
        child.wait()?;
        Ok(Outcome::Hangs)
    }
}

fn plant(tree: &Path, mutant: &Mutant) -> Result<()> {
    let path = tree.join(mutant.file);
    let source = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    fs::write(&path, planted(&source, mutant)?)?;
    Ok(())
}

/// The source with the fault in it; the place must be there, and only once.
fn planted(source: &str, mutant: &Mutant) -> Result<String> {
    match source.matches(mutant.search).count() {
        1 => Ok(source.replacen(mutant.search, mutant.replace, 1)),
        0 => bail!(
            "{}: {} has changed and the fault has no place; give it a new one",
            mutant.name,
            mutant.file
        ),
        many => bail!("{}: the place is there {many} times in {}; make it unique", mutant.name, mutant.file),
    }
}

enum Outcome {
    Green,
    Red,
    Hangs,
    Broken,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planted_fault_still_has_its_place() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for mutant in MUTANTS {
            let source = fs::read_to_string(root.join(mutant.file)).unwrap_or_default();
            let planted = planted(&source, mutant).unwrap();
            assert_ne!(planted, source, "{} changes nothing", mutant.name);
        }
    }

    #[test]
    fn every_named_test_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for mutant in MUTANTS {
            let name = mutant.test.rsplit("::").next().unwrap_or(mutant.test);
            let found = command::read(
                command("grep", ["-rlE", "--include=*.rs", &format!("fn {name}\\(")])
                    .args(["crates/", "programs/"].map(|folder| root.join(folder))),
            );
            assert!(found.is_ok(), "{}: there is no test {name}", mutant.name);
        }
    }

    #[test]
    fn a_place_that_is_gone_or_not_unique_is_an_error() {
        let mutant = &MUTANTS[0];
        assert!(planted("nothing", mutant).is_err());
        assert!(planted(&mutant.search.repeat(2), mutant).is_err());
    }
}
