//! What is known of a sandbox and its containers: always the whole state, never a message that could be missed.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::error::StartError;
use crate::protocol::{self, Ended};
use crate::spec::Attempt;

/// A sandbox at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The pod process is gone, and its containers with it. Only [`crate::Sandbox::remove`] is left to do.
    pub lost: bool,
    /// Every attempt that was not forgotten.
    pub containers: BTreeMap<Attempt, ContainerState>,
}

/// One attempt at one instant.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerState {
    /// Which one.
    pub attempt: Attempt,
    /// How far it is.
    pub phase: Phase,
    /// What the host did not allow and how it was clamped.
    pub notes: Vec<String>,
}

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Being prepared.
    Starting,
    /// Its program was executed.
    Running {
        /// In the host's numbering.
        pid: u32,
        /// When.
        started_at: Timestamp,
    },
    /// Its program ended; its log is complete.
    Ended(Exit),
    /// Its program was never executed.
    Failed(StartError),
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code; 128 plus the signal if one ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed a process of the container because its memory limit was met.
    pub out_of_memory: bool,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
}

impl State {
    /// One attempt's state.
    pub fn get(&self, attempt: &Attempt) -> Option<&ContainerState> {
        self.containers.get(attempt)
    }
}

impl ContainerState {
    /// How it ended, if it did.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.phase {
            Phase::Ended(exit) => Some(exit),
            _ => None,
        }
    }

    /// Whether its program runs.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    pub(crate) fn from_wire(state: protocol::ContainerState) -> Self {
        let started_at = timestamp(state.started_at_ns);
        let phase = match state.phase {
            1 => Phase::Starting,
            2 => Phase::Running { pid: state.pid, started_at },
            3 => Phase::Ended(Exit::from_wire(&state.ended, started_at)),
            _ => Phase::Failed(StartError::from_wire(state.failure.unwrap_or_default())),
        };
        Self { attempt: Attempt::new(state.name, state.attempt), phase, notes: state.notes }
    }
}

impl Exit {
    pub(crate) fn from_wire(ended: &Ended, started_at: Timestamp) -> Self {
        Self {
            code: ended.code,
            signal: (ended.signal != 0).then_some(ended.signal),
            out_of_memory: ended.out_of_memory,
            started_at,
            finished_at: timestamp(ended.at_ns),
        }
    }
}

fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}
