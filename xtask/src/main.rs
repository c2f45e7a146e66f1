//! The project's own chores: `cargo xtask <chore>`.
//!
//! Each chore is a file. `test` is the one that the README names and that `.ci/run` ends with; whatever the tests
//! need beyond Rust, it installs. Nothing here is part of the product.

mod bench;
mod command;
mod images;
mod instance;
mod kills;
mod ledger;
mod load;
mod machine;
mod memory;
mod mutants;
mod pods;
mod prerequisites;
mod project;
mod script;
mod suite;
mod test;
mod twin;
mod uml;
mod upstream;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use project::Project;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own chores", max_term_width = 100)]
struct Arguments {
    /// Where what is built or fetched once is kept; its folder `ondol` is used.
    #[arg(long, global = true, env = "XDG_CACHE_HOME", hide_env_values = true)]
    cache: Option<PathBuf>,
    /// Used for the cache when no other is named.
    #[arg(long, env = "HOME", hide = true, default_value = "/root")]
    home: PathBuf,
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Runs every test: what cargo knows of, the simulated world, and the user's script with real kubectl.
    Test(test::Arguments),
    /// Packs test images (busybox, curl, tar) from pinned Debian packages into target/images.
    Images(images::Arguments),
    /// Runs the simulated world under as many seeds as wanted; a failure prints the seed that repeats it.
    Sim(test::SimArguments),
    /// Plants named faults, one at a time, and requires that each turns a named test red.
    Mutants(mutants::Arguments),
    /// Builds upstream Kubernetes' own binaries, the oracle and the peer of the benchmarks.
    Upstream(upstream::Arguments),
    /// Records what upstream answers to some 300 requests, and compares our answers with it.
    Twin(twin::Arguments),
    /// Runs benchmarks and records them in BENCHMARKS.md.
    Bench(bench::Arguments),
    /// Runs somebody else's test suite against this project, and compares with the ledger in conformance/.
    Suite(suite::Arguments),
    /// What `suite kills` runs in namespaces of its own.
    #[command(hide = true)]
    Storm(kills::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let cache = arguments.cache.unwrap_or_else(|| arguments.home.join(".cache")).join("ondol");
    let project = Project::new(cache);
    let done = match arguments.chore {
        Chore::Test(arguments) => test::run(&project, &arguments),
        Chore::Images(arguments) => images::run(&project, &arguments),
        Chore::Sim(arguments) => test::simulate(&project, &arguments),
        Chore::Mutants(arguments) => mutants::run(&project, &arguments),
        Chore::Upstream(arguments) => upstream::run(&project, &arguments),
        Chore::Twin(arguments) => twin::run(&project, &arguments),
        Chore::Bench(arguments) => bench::run(&project, &arguments),
        Chore::Suite(arguments) => suite::run(&project, &arguments),
        Chore::Storm(arguments) => kills::storm(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
