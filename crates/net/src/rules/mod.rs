//! Rule sets: Services and masquerading in the kernel's nf_tables, one table an instance and family.
//!
//! The table is a few fixed chains and five flat maps. `services` says for an address and port which chain chooses
//! the endpoint; that chain draws a number and finds the endpoint in `endpoints`. So a change of one endpoint is a
//! change of one element, and a packet costs the same however many Services there are. Where a client is to come back to
//! its endpoint, `sticky` says which chain remembers the choice, after it was made.

mod compile;
mod conntrack;
mod dump;
mod encode;
mod expression;
mod openings;
mod ruleset;
mod trial;

use rustix::io::Errno;
use thiserror::Error;
use tracing::{debug, info};

pub use compile::{Chain, Change, Compiled, Frontend, Key, Value, between, diff};
pub use encode::AFFINITY_MAX_ENTRIES;
pub use ruleset::{
    Affinity, Endpoint, Filter, Frame, Ruleset, ServiceKey, TrafficPolicy, VirtualService, keep_places,
};
pub use trial::{TrialError, trial};

use crate::instance::Instance;
use crate::netlink::{NetlinkError, Socket, Subsystem, refused};
use dump::Dump;
use encode::{FAMILY_IPV4, Writer, transaction};

/// How often a transaction is tried again because someone else changed rules at the same instant.
const RETRIES: u32 = 16;

/// Why rules could not be changed. Nothing was changed then.
#[derive(Debug, Error)]
pub enum RulesError {
    /// The kernel refused or could not be spoken to.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Somebody changes rules all the time.
    #[error(
        "other programs changed nftables rules {RETRIES} times while table {0} was being written; try again"
    )]
    Contended(String),
}

/// How an update reached the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing differed.
    Unchanged,
    /// Only what differs was sent: so many elements and chains.
    Incremental(usize),
    /// The whole table was written anew, atomically.
    Replaced,
}

/// The table of one instance. Acts on the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Rules {
    instance: Instance,
    table: String,
    socket: Socket,
    /// The generation that our last change made; a different one means that someone else changed rules.
    generation: Option<u32>,
}

impl Rules {
    /// Speaks to the kernel for `instance`; changes nothing yet.
    pub fn open(instance: &Instance) -> Result<Self, RulesError> {
        let socket = Socket::open(Subsystem::Netfilter)?;
        Ok(Self { instance: instance.clone(), table: instance.table(), socket, generation: None })
    }

    /// Makes the table be `ruleset`, in one transaction, whatever it was. Connections that are established go on.
    /// Clients that are remembered for affinity are forgotten.
    pub fn replace(&mut self, ruleset: &Ruleset) -> Result<(), RulesError> {
        let compiled = Compiled::new(ruleset);
        self.commit(|writer, instance| {
            writer.remove_table();
            writer.frame(instance, &ruleset.frame);
            writer.load(&compiled);
        })
    }

    /// Makes the table be `ruleset` by changing only what differs from what the kernel has: for a start that finds
    /// the table of an earlier run, and when someone may have altered it. Also opens what others' chains close to pods.
    pub fn sync(&mut self, ruleset: &Ruleset) -> Result<Applied, RulesError> {
        openings::open(&mut self.socket, &self.instance, &ruleset.frame)?;
        for _ in 0..RETRIES {
            let generation = dump::generation(&mut self.socket)?;
            let found = dump::table(&mut self.socket, &self.table)?;
            let comment = encode::frame_comment(&self.instance, &ruleset.frame);
            let Some(Dump { comment: _, compiled, foreign: false }) = found.filter(|d| d.comment == comment)
            else {
                self.replace(ruleset)?;
                return Ok(Applied::Replaced);
            };
            let changes = between(&compiled, &Compiled::new(ruleset));
            self.generation = Some(generation);
            if changes.is_empty() {
                return Ok(Applied::Unchanged);
            }
            match self.send(&changes) {
                Ok(()) => {
                    self.forget_stale(&changes, ruleset)?;
                    return Ok(Applied::Incremental(changes.len()));
                }
                Err(error) if error.is(Errno::RESTART) => {}
                Err(error) => {
                    info!(table = self.table, %error, "the table does not take the changes; it is replaced");
                    self.replace(ruleset)?;
                    return Ok(Applied::Replaced);
                }
            }
        }
        Err(RulesError::Contended(self.table.clone()))
    }

    /// Changes the table from `old`, which this object made it be, to `new`. If someone altered rules since, what
    /// the kernel has is compared first. UDP flows to endpoints that no longer serve are cut; TCP connections
    /// go on, and new ones go to the new endpoints.
    pub fn update(&mut self, old: &Ruleset, new: &Ruleset) -> Result<Applied, RulesError> {
        let changes = diff(old, new);
        if changes.is_empty() {
            return Ok(Applied::Unchanged);
        }
        if self.generation.is_none() || changes == [Change::Reload] {
            let applied = self.sync(new)?;
            self.forget_stale(&between(&Compiled::new(old), &Compiled::new(new)), new)?;
            return Ok(applied);
        }
        match self.send(&changes) {
            Ok(()) => {
                self.forget_stale(&changes, new)?;
                Ok(Applied::Incremental(changes.len()))
            }
            Err(error @ NetlinkError::Refused { .. }) => {
                debug!(table = self.table, %error, "rules were altered by another program; comparing");
                let applied = self.sync(new)?;
                self.forget_stale(&changes, new)?;
                Ok(applied)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether any program has changed any rule of this network namespace since our last change. Cheap: ask it
    /// when it matters, and [`Rules::sync`] if so.
    pub fn is_altered(&mut self) -> Result<bool, RulesError> {
        Ok(Some(dump::generation(&mut self.socket)?) != self.generation)
    }

    /// Everything that the kernel has in the table, as it would have been compiled; `None` without a table.
    pub fn loaded(&mut self) -> Result<Option<Compiled>, RulesError> {
        Ok(dump::table(&mut self.socket, &self.table)?.map(|dump| dump.compiled))
    }

    /// Every rule of the table as the kernel tells it: its chain, and the bytes of its expressions. For comparing
    /// tables; ordered by chain.
    pub fn programs(&mut self) -> Result<Vec<(String, Vec<u8>)>, RulesError> {
        Ok(dump::programs(&mut self.socket, &self.table)?)
    }

    fn send(&mut self, changes: &[Change]) -> Result<(), NetlinkError> {
        let batch = transaction(self.socket.batch(), self.generation, |batch| {
            Writer { batch, table: &self.table }.changes(changes);
        });
        let result = self.socket.execute(&batch, &format!("change table {}", self.table));
        self.generation = match result {
            Ok(()) => self.generation.map(next_generation),
            Err(_) => None,
        };
        result
    }

    /// Sends a whole transaction until nobody interferes.
    fn commit(&mut self, fill: impl Fn(&mut Writer<'_>, &Instance)) -> Result<(), RulesError> {
        for _ in 0..RETRIES {
            let generation = dump::generation(&mut self.socket)?;
            let batch = transaction(self.socket.batch(), Some(generation), |batch| {
                fill(&mut Writer { batch, table: &self.table }, &self.instance);
            });
            match self.socket.execute(&batch, &format!("write table {}", self.table)) {
                Ok(()) => {
                    self.generation = Some(next_generation(generation));
                    return Ok(());
                }
                Err(error) if error.is(Errno::RESTART) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RulesError::Contended(self.table.clone()))
    }

    /// Cuts what the kernel remembers of endpoints that no longer serve: UDP flows, and affinity.
    fn forget_stale(&mut self, changes: &[Change], new: &Ruleset) -> Result<(), RulesError> {
        let surviving = compile::surviving(changes, new);
        if surviving.is_empty() {
            return Ok(());
        }
        let flows = conntrack::clear(&mut self.socket, &surviving)?;
        let sticky = |value: &Value| matches!(value, Value::Goto(Chain::Sticky(_)));
        let was_sticky = changes.iter().any(|c| matches!(c, Change::Remove(_, value) if sticky(value)));
        let is_sticky = new.services.values().any(|s| s.affinity != Affinity::None);
        if !(was_sticky || is_sticky) {
            return Ok(());
        }
        let alive: std::collections::HashMap<Vec<u8>, Vec<Vec<u8>>> = surviving
            .iter()
            .map(|(frontend, targets)| {
                let targets = targets.iter().map(|t| encode::target_bytes(*t)).collect();
                (encode::frontend_bytes(frontend), targets)
            })
            .collect();
        let keys: Vec<Vec<u8>> = dump::affinity(&mut self.socket, &self.table)?
            .into_iter()
            .filter(|r| alive.get(&r.frontend).is_some_and(|targets| !targets.contains(&r.target)))
            .map(|r| r.key)
            .collect();
        debug!(table = self.table, flows, clients = keys.len(), "forgot what led to removed endpoints");
        for key in keys {
            // Each in a transaction of its own: one that timed out meanwhile must not keep the others.
            let batch = transaction(self.socket.batch(), None, |batch| {
                Writer { batch, table: &self.table }.forget(&[key]);
            });
            match self.socket.execute(&batch, "forget a client") {
                Ok(()) => self.generation = self.generation.map(next_generation),
                Err(error) if error.is(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn next_generation(generation: u32) -> u32 {
    generation.wrapping_add(1).max(1)
}

/// Removes the tables of `instance`, and its rules in others' chains; no error if there are none.
pub fn remove_tables(instance: &Instance) -> Result<(), RulesError> {
    let table = instance.table();
    let mut socket = Socket::open(Subsystem::Netfilter)?;
    openings::close(&mut socket, instance)?;
    let mut lookup = socket.batch();
    lookup.message(10 << 8 | 1, 0x4, &encode::header(FAMILY_IPV4), |m| m.string(1, &table));
    match socket.query(&lookup, "look up our table") {
        Err(error) if error.is(Errno::NOENT) => return Ok(()),
        other => _ = other?,
    }
    let batch = transaction(socket.batch(), None, |batch| {
        Writer { batch, table: &table }.remove_table();
    });
    match socket.submit(&batch)?.into_iter().next() {
        Some(refusal) => Err(refused(refusal, &format!("remove table {table}")).into()),
        None => Ok(()),
    }
}
