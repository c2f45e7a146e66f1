//! Who asks, and what is collected for the answer while a request is worked on.

use std::sync::{Mutex, PoisonError};

use api::value::Str;

use crate::identity::Identity;
use crate::limits;

/// One request's caller.
pub struct Caller<'a> {
    /// Who asks.
    pub identity: &'a Identity,
    /// The name that writes are recorded under when the request names none: the program of the user agent.
    pub program: Str,
    warnings: Mutex<Vec<String>>,
}

impl<'a> Caller<'a> {
    /// Somebody with a program, as in a user agent (`kubectl/v1.37.2 (linux/amd64)`).
    pub fn new(identity: &'a Identity, user_agent: &str) -> Self {
        let program = user_agent.split('/').next().unwrap_or_default();
        // Upstream cuts the name where a printable text of 128 bytes ends.
        let program: String = program.chars().filter(|c| !c.is_control()).take(128).collect();
        Self { identity, program: program.into(), warnings: Mutex::default() }
    }

    /// The manager of a write.
    pub fn manager<'b>(&'b self, field_manager: &'b str) -> &'b str {
        if field_manager.is_empty() { &self.program } else { field_manager }
    }

    /// Tells the client something beside the answer; twice the same is told once.
    pub fn warn(&self, warning: impl Into<String>) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        let warning = warning.into();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// The warnings, as much as one answer may carry.
    pub fn take_warnings(&self) -> Vec<String> {
        let mut warnings = std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner));
        let total: usize = warnings.iter().map(String::len).sum();
        if total > limits::WARNINGS_BYTES {
            let mut room = limits::WARNINGS_BYTES;
            for warning in &mut warnings {
                truncate(warning, limits::WARNING_BYTES);
            }
            warnings.retain(|warning| {
                let fits = warning.len() <= room;
                room = room.saturating_sub(warning.len());
                fits
            });
        }
        warnings
    }
}

fn truncate(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let mut at = bytes;
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.truncate(at);
    }
}
