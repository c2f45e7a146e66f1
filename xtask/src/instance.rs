//! An instance in release, for benchmarks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use base::Clock;
use serde_json::Value;

use crate::command::{self, command};
use crate::load::Peer;

/// An instance that goes with all it has when this is dropped, whatever happens.
pub struct Instance {
    ondol: PathBuf,
    name: String,
    data: String,
    /// Time.
    pub clock: Clock,
    _folder: tempfile::TempDir,
}

impl Instance {
    /// Prepares one; nothing runs yet.
    pub fn new(ondol: &Path, clock: &Clock) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        Ok(Self {
            ondol: ondol.to_owned(),
            name: format!("bench{}", std::process::id() % 100_000),
            data: folder.path().join("data").display().to_string(),
            clock: clock.clone(),
            _folder: folder,
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = command(&self.ondol, ["--instance", &self.name]);
        command.args(words);
        command
    }

    /// Runs a verb of it.
    pub fn run(&self, words: &[&str]) -> Result<()> {
        command::run(&mut self.command(words))
    }

    /// Starts it and tells how long that took.
    pub fn up(&self) -> Result<Duration> {
        let began = self.clock.monotonic();
        self.run(&["up", "--no-kubeconfig", "--data-dir", &self.data])?;
        Ok(self.clock.monotonic() - began)
    }

    /// The running server and the number of its process.
    pub fn peer(&self) -> Result<(Peer, u32)> {
        let credential = command::read(&mut self.command(&["credential", "--data-dir", &self.data]))?;
        let status: Value =
            serde_json::from_str(&command::read(&mut self.command(&["status", "-o", "json"]))?)?;
        let pid = u32::try_from(status["pid"].as_u64().context("the status tells no pid")?)?;
        Ok((Peer::of_instance(&serde_json::from_str(&credential)?, &status)?, pid))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["down", "--wipe", "--yes"]) {
            eprintln!("{} is left behind: {error:#}", self.name);
        }
    }
}
