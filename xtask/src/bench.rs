//! `cargo xtask bench`: runs benchmarks and records what they print, with the command that repeats it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::{self, command};
use crate::load;
use crate::memory;
use crate::pods;
use crate::project::Project;

/// Each benchmark: its name, the package and the benchmark binary of it, what it measures.
const BENCHES: [(&str, &str, &str, &str); 4] = [
    ("store", "store", "engine", "Durable commits of the engine alone, recovery, memory"),
    ("net", "net", "packets", "Loading 1,000 Services with 3 endpoints, and changing one"),
    ("scheduler", "scheduler", "placing", "Placing pods on 5,000 nodes with one core"),
    ("sandbox", "sandbox", "start", "Starting a pod process and a container in it"),
];

/// The comparison with upstream's API server, which is no `cargo bench` binary.
const GATE: &str = "gate";
/// Pods on a whole instance.
const PODS: &str = "pods";
/// What a whole instance keeps in memory, and how soon it is up again with it.
const MEMORY: &str = "memory";

/// What `cargo xtask bench` is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// Which to run; all if none is named.
    names: Vec<String>,
    /// Of the comparison with upstream only these servers and parts: `ondol`, `upstream`, `requests`, `commits`.
    /// What is measured then is printed and not recorded, and nothing else is measured.
    #[arg(long)]
    only: Vec<String>,
}

/// Runs benchmarks, each in release, one after the other, and puts their sections into BENCHMARKS.md.
pub fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    if cfg!(debug_assertions) {
        return again_in_release(project);
    }
    let known: Vec<&str> = BENCHES.iter().map(|(name, ..)| *name).chain([GATE, PODS, MEMORY]).collect();
    if let Some(name) = arguments.names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no benchmark \"{name}\"; there are {}", known.join(", "));
    }
    if !arguments.only.is_empty() {
        if arguments.names.iter().any(|name| name != GATE) {
            bail!("--only is for the benchmark \"{GATE}\" alone");
        }
        println!("{}", load::compare(project, &arguments.only)?);
        return Ok(());
    }
    let path = project.root().join("BENCHMARKS.md");
    for (name, package, bench, what) in BENCHES {
        if !arguments.names.is_empty() && !arguments.names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let mut printed = String::new();
        let mut cargo = command("cargo", ["bench", "--locked", "--package", package, "--bench", bench]);
        let succeeded = command::follow(cargo.current_dir(project.root()), |line| {
            printed.push_str(line);
            printed.push('\n');
        })?;
        if !succeeded {
            bail!("the benchmark {name} failed");
        }
        let printed = printed.trim_end();
        // Some print tables, the others columns.
        let fence = if printed.starts_with('|') { "" } else { "```\n" };
        let section =
            format!("{what}. `cargo xtask bench {name}` on {}:\n\n{fence}{printed}\n{fence}", machine()?);
        record(&path, name, &section)?;
    }
    if arguments.names.is_empty() || arguments.names.iter().any(|wanted| wanted == GATE) {
        let table = load::compare(project, &[])?;
        let section = format!(
            "Our API server and upstream's (kube-apiserver with etcd) under the same load, in one run. \
             `cargo xtask bench {GATE}` on {}:\n\n{table}",
            machine()?
        );
        record(&path, GATE, &section)?;
    }
    if arguments.names.is_empty() || arguments.names.iter().any(|wanted| wanted == PODS) {
        let table = pods::measure(project)?;
        let section = format!(
            "Pods on a whole instance, release, images local, as a client of the API sees them. \
             `cargo xtask bench {PODS}` on {}:\n\n{table}",
            machine()?
        );
        record(&path, PODS, &section)?;
    }
    if arguments.names.is_empty() || arguments.names.iter().any(|wanted| wanted == MEMORY) {
        let table = memory::measure(project)?;
        let section = format!(
            "What a whole instance keeps in memory (Pss of its process), and how soon it is up again with it. \
             `cargo xtask bench {MEMORY}` on {}:\n\n{table}",
            machine()?
        );
        record(&path, MEMORY, &section)?;
    }
    Ok(())
}

/// Runs this very command once more, with the same words, as a release build: a client that is slower than the
/// server would be what is measured.
fn again_in_release(project: &Project) -> Result<()> {
    let mut cargo = command("cargo", ["run", "--release", "--quiet", "--locked", "--package", "xtask", "--"]);
    cargo.args(std::env::args_os().skip(1)).current_dir(project.root());
    Err(cargo.exec()).context("cargo cannot be run")
}

/// Puts a section into the file of results.
fn record(path: &Path, name: &str, section: &str) -> Result<()> {
    let text = match path.exists() {
        true => fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?,
        false => "# Benchmarks\n".to_owned(),
    };
    fs::write(path, with_section(&text, name, section)).with_context(|| format!("writing {}", path.display()))
}

/// The machine in a few words.
fn machine() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown processor");
    let cores = std::thread::available_parallelism()?;
    let kernel = command::read(&mut command("uname", ["-sr"]))?;
    Ok(format!("{cores} cores of {}, {kernel}", model.trim_start_matches([' ', '\t', ':'])))
}

/// The text with the section between its marks replaced, or appended.
fn with_section(text: &str, name: &str, section: &str) -> String {
    let (begin, end) = (format!("<!-- bench {name} -->\n"), format!("<!-- end {name} -->\n"));
    let marked = format!("{begin}{section}{end}");
    match (text.find(&begin), text.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{marked}{}", &text[..from], &text[to + end.len()..])
        }
        _ => format!("{}\n\n## {name}\n\n{marked}", text.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_appended_once_and_then_replaced() {
        let first = with_section("# Benchmarks\n", "store", "one\n");
        let second = with_section(&first, "net", "two\n");
        let third = with_section(&second, "store", "three\n");
        assert!(third.contains("three") && third.contains("two") && !third.contains("one"));
        assert_eq!(third.matches("## store").count(), 1);
    }
}
