//! Which descriptor means what. Tokens are never used twice, so an event that comes late hits nothing.

use std::collections::BTreeMap;
use std::io::Result;
use std::os::fd::BorrowedFd;

use crate::sys::io::Epoll;

/// What an event is about. Numbers are serial numbers of the things that own the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Listener,
    Signals,
    Connection(u32),
    /// A child reports how its start goes.
    Report(u32),
    /// A command's child reports.
    CommandReport(u32),
    /// Output (0) or errors (1) of a container.
    Output(u32, usize),
    /// Somebody attached to a container can take more, or is gone.
    Attacher(u32, u32),
}

/// All descriptors that are waited for.
pub struct Poller {
    epoll: Epoll,
    sources: BTreeMap<u64, Source>,
    last: u64,
}

impl Poller {
    pub fn new() -> Result<Self> {
        Ok(Self { epoll: Epoll::new()?, sources: BTreeMap::new(), last: 0 })
    }

    /// Begins to wait.
    pub fn add(&mut self, descriptor: BorrowedFd<'_>, source: Source, events: u32) -> Result<u64> {
        self.last += 1;
        self.epoll.add(descriptor, self.last, events)?;
        self.sources.insert(self.last, source);
        Ok(self.last)
    }

    /// Waits for other events from now on.
    pub fn change(&self, descriptor: BorrowedFd<'_>, token: u64, events: u32) {
        let _ = self.epoll.change(descriptor, token, events);
    }

    /// Waits no more. Do this before the descriptor is closed: a child may still have a copy of it.
    pub fn remove(&mut self, descriptor: BorrowedFd<'_>, token: u64) {
        self.epoll.remove(descriptor);
        self.sources.remove(&token);
    }

    /// Waits for the next events.
    pub fn wait(&self, events: &mut Vec<(u64, u32)>) -> Result<()> {
        self.epoll.wait(events)
    }

    /// What a token stands for, if it still does.
    pub fn source(&self, token: u64) -> Option<Source> {
        self.sources.get(&token).copied()
    }
}
