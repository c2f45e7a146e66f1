//! `cargo xtask suite kills`: `kill -9` of server, agent and pod processes at random instants under load.
//!
//! A recording client knows every write that was acknowledged and the answer to every request to pods. Kills of server
//! and agent must cost no acknowledged write and no request; names must resolve again soon after the restart; no
//! container may start twice for one attempt; a killed pod process takes its containers along and its pod comes back.
//! Everything runs in network, mount and process namespaces of its own, so that whatever is left is ours, and ends.

mod client;
mod evidence;
mod house;
mod names;
mod record;
mod storm;
mod writers;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base::Random;

use crate::command::{self, command};
use crate::project::Project;
use house::Form;

/// Kills in the default tests, in all forms together.
pub const FEW: u32 = 20;

/// What a storm in the namespaces is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// The binary.
    #[arg(long)]
    ondol: PathBuf,
    /// How the house stands.
    #[arg(long, value_enum)]
    form: Form,
    /// How many kills.
    #[arg(long)]
    kills: u32,
    /// What chooses victims and instants.
    #[arg(long)]
    seed: u64,
}

/// Kills `kills` times, two thirds of them with server and agent apart. Returns the lines for the ledger; anything that
/// must not happen is an error.
pub fn run(project: &Project, profile: &str, kills: u32, seed: Option<u64>) -> Result<String> {
    let seed = seed.unwrap_or_else(|| Random::system().below(1 << 32));
    let ondol = project.binary(profile, "ondol");
    if !ondol.exists() {
        bail!("cargo built no {}", ondol.display());
    }
    let together = kills / 3;
    let mut text = format!("kills {kills} seed {seed} profile {profile}\n");
    for (form, kills) in [("apart", kills - together), ("together", together)] {
        eprintln!("\n{kills} kills, server and agent {form}, seed {seed}:");
        let mut lines = Vec::new();
        let finished = command::follow(&mut inside(&ondol, form, kills, seed)?, |line| {
            lines.extend(line.strip_prefix("RESULT ").map(|line| format!("{form}: {line}\n")));
        })?;
        if !finished {
            bail!("the kills of seed {seed} ({form}) did harm; what is above says which");
        }
        text.extend(lines);
    }
    Ok(text)
}

/// Ourselves again, in namespaces of our own. A shell comes first: orphans become the first process's to reap.
fn inside(ondol: &Path, form: &str, kills: u32, seed: u64) -> Result<std::process::Command> {
    let own = std::env::current_exe().context("cannot find our own program")?;
    let namespaces = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"];
    let mut unshare = command("unshare", namespaces);
    unshare.args(["bash", "-c", "\"$@\"; exit $?", "bash"]).arg(own).arg("storm");
    unshare.arg("--ondol").arg(ondol).args(["--form", form]);
    unshare.args(["--kills", &kills.to_string(), "--seed", &seed.to_string()]);
    Ok(unshare)
}

/// One storm, in the namespaces.
pub fn storm(arguments: &Arguments) -> Result<()> {
    command::run(&mut command("ip", ["link", "set", "lo", "up"]))?;
    // What other instances on this machine have chosen is not to matter.
    command::run(&mut command("mkdir", ["-p", "/run/ondol"]))?;
    command::run(&mut command("mount", ["-t", "tmpfs", "tmpfs", "/run/ondol"]))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result =
        runtime.block_on(storm::run(&arguments.ondol, arguments.form, arguments.kills, arguments.seed));
    runtime.shutdown_background();
    result
}
