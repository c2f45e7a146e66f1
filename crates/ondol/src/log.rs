//! Our own log: to standard error, which in the background is a file.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is logged unless the instance is told otherwise.
const LEVEL: &str = "info";

/// Begins to log. `quiet` for verbs that print for people.
pub fn start(quiet: bool) {
    let filter = EnvFilter::builder().parse_lossy(if quiet { "error" } else { LEVEL });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
