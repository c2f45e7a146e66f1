//! `cargo xtask mutants`: planted faults. A test suite that stays green with one of them in the code proves nothing.
//!
//! The shipping sources are copied to target/mutants; there one fault after the other is planted, the named test is
//! run, and the fault is taken out again. A test that does not end counts as red: faults may make it wait for ever.

mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base::Clock;

use crate::command::{self, command};
use crate::project::Project;
use table::{MUTANTS, Mutant};

/// A test that takes longer with a fault planted is taken for hanging.
const DEADLINE: Duration = Duration::from_secs(180);
/// How often a running test is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What `cargo xtask mutants` is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these faults; all if none is named.
    names: Vec<String>,
    /// Only says which there are.
    #[arg(long)]
    list: bool,
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
    let copy = project.target().join("mutants/source");
    let mut survivors = Vec::new();
    for mutant in &chosen {
        refresh(project.root(), &copy)?;
        if !test(&copy, mutant)?.is_green() {
            bail!("{}: its test {} is red without any fault; repair that first", mutant.name, mutant.test);
        }
        plant(&copy, mutant)?;
        let outcome = test(&copy, mutant)?;
        refresh(project.root(), &copy)?;
        match outcome {
            Outcome::Green => survivors.push(mutant.name),
            Outcome::Broken => bail!("{}: the code does not compile with the fault planted", mutant.name),
            Outcome::Red => println!("{}: found by {}", mutant.name, mutant.test),
            Outcome::Hangs => println!("{}: found by {}, which does not end", mutant.name, mutant.test),
        }
    }
    println!("{} planted, {} found", chosen.len(), chosen.len() - survivors.len());
    if !survivors.is_empty() {
        bail!("no test turned red for: {}", survivors.join(", "));
    }
    Ok(())
}

/// Makes the copy equal to the working tree. Files that are equal are left alone, so that little is compiled anew.
fn refresh(root: &Path, copy: &Path) -> Result<()> {
    let listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let files = command::read(command("git", listed).current_dir(root))?;
    for name in files.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (root.join(name), copy.join(name));
        // What git still lists may have been deleted in the working tree.
        let Ok(content) = fs::read(&from) else { continue };
        if fs::read(&to).is_ok_and(|present| present == content) {
            continue;
        }
        fs::create_dir_all(to.parent().context("a file has a folder")?)?;
        fs::write(&to, content).with_context(|| format!("writing {}", to.display()))?;
    }
    Ok(())
}

fn plant(copy: &Path, mutant: &Mutant) -> Result<()> {
    let path = copy.join(mutant.file);
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

impl Outcome {
    fn is_green(&self) -> bool {
        matches!(self, Self::Green)
    }
}

fn test(copy: &Path, mutant: &Mutant) -> Result<Outcome> {
    let target: PathBuf = copy.parent().context("the copy has a folder")?.join("target");
    let cargo = |extra: &[&str]| {
        let mut cargo = command("cargo", ["test", "--quiet", "--offline", "--package", mutant.package]);
        cargo.args(mutant.suite).args(extra).current_dir(copy).env("CARGO_TARGET_DIR", &target);
        cargo
    };
    if !cargo(&["--no-run"]).status()?.success() {
        return Ok(Outcome::Broken);
    }
    let mut run = cargo(&["--", mutant.test]);
    run.env("ONDOL_SIM_SEEDS", "40").stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = run.spawn()?;
    let clock = Clock::system();
    while clock.monotonic() < DEADLINE {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() { Outcome::Green } else { Outcome::Red });
        }
        std::thread::sleep(LOOK);
    }
    child.kill()?;
    child.wait()?;
    Ok(Outcome::Hangs)
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
