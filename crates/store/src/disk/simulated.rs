//! A disk in memory whose plug can be pulled, that fills up and that fails, all by a seed.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::Random;

use super::{Disk, File, Lock};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk in memory. Clones are the same disk.
///
/// What was written but not synced is lost in part when the power goes: each sector of each write survives or does
/// not, in any order, as the seed has it; names survive in the order in which they were changed.
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Mutex<Machine>>);

struct Machine {
    random: Random,
    /// Counts crashes: handles from before one are dead.
    life: u64,
    locked: bool,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<Rename>,
    nodes: HashMap<u64, Node>,
    next_node: u64,
    capacity: Option<usize>,
    failing_writes: u32,
    failing_syncs: u32,
    lying_syncs: bool,
    syncs: u64,
}

enum Rename {
    Link(String, u64),
    Move(String, String),
    Remove(String),
}

#[derive(Default)]
struct Node {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Resize(usize),
}

impl SimulatedDisk {
    /// An empty disk whose accidents follow `random`.
    pub fn new(random: Random) -> Self {
        Self(Arc::new(Mutex::new(Machine {
            random,
            life: 0,
            locked: false,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            nodes: HashMap::new(),
            next_node: 0,
            capacity: None,
            failing_writes: 0,
            failing_syncs: 0,
            lying_syncs: false,
            syncs: 0,
        })))
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process dies: its handles and its lock are gone, all that it wrote stays.
    pub fn kill(&self) {
        let mut machine = self.machine();
        machine.life += 1;
        machine.locked = false;
    }

    /// The power goes: besides, what was not synced is lost in part.
    pub fn crash(&self) {
        let mut machine = self.machine();
        machine.life += 1;
        machine.locked = false;
        machine.lose();
    }

    /// From now on there is room for `bytes` in all; `None` for as much as one likes.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.machine().capacity = bytes;
    }

    /// The next `count` writes fail, each after a part of it was written.
    pub fn fail_writes(&self, count: u32) {
        self.machine().failing_writes = count;
    }

    /// The next `count` syncs of files fail. As on Linux, what they would have written will never be: later syncs
    /// succeed without it.
    pub fn fail_syncs(&self, count: u32) {
        self.machine().failing_syncs = count;
    }

    /// From now on syncs of files succeed and do nothing: for tests that must find out.
    pub fn lie_about_syncs(&self, lie: bool) {
        self.machine().lying_syncs = lie;
    }

    /// How many syncs of files succeeded.
    pub fn syncs(&self) -> u64 {
        self.machine().syncs
    }

    /// How many bytes all files have.
    pub fn used(&self) -> usize {
        self.machine().used()
    }

    /// A file's content, as a process sees it.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let machine = self.machine();
        let id = machine.names.get(name)?;
        Some(machine.nodes[id].current.clone())
    }

    /// Puts a file there, durably: to damage it, or to copy a disk.
    pub fn set_content(&self, name: &str, content: Vec<u8>) {
        let mut machine = self.machine();
        let id = machine.make_node();
        machine.nodes.insert(id, Node { durable: content.clone(), current: content, pending: Vec::new() });
        machine.names.insert(name.to_owned(), id);
        machine.durable_names.insert(name.to_owned(), id);
    }
}

impl Machine {
    fn make_node(&mut self) -> u64 {
        self.next_node += 1;
        self.next_node
    }

    fn used(&self) -> usize {
        self.names.values().map(|id| self.nodes[id].current.len()).sum()
    }

    fn room(&self) -> usize {
        self.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    fn lose(&mut self) {
        let Self { random, names, durable_names, pending_names, nodes, .. } = self;
        let kept = random.below(pending_names.len() as u64 + 1) as usize;
        for rename in pending_names.drain(..).take(kept) {
            rename.apply(durable_names);
        }
        pending_names.clear();
        *names = durable_names.clone();
        // In the order of their ids: the order of a hash map would differ from run to run.
        let mut ids: Vec<u64> = nodes.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let Some(node) = nodes.get_mut(&id) else { continue };
            for change in std::mem::take(&mut node.pending) {
                match change {
                    Change::Resize(size) if random.chance(1, 2) => node.durable.resize(size, 0),
                    Change::Resize(_) => {}
                    Change::Write(offset, bytes) => {
                        for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                            if random.chance(1, 2) {
                                put(&mut node.durable, offset + index * SECTOR_BYTES, sector);
                            }
                        }
                    }
                }
            }
            node.current = node.durable.clone();
        }
        nodes.retain(|id, _| names.values().any(|named| named == id));
    }
}

impl Rename {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Link(name, id) => drop(names.insert(name, id)),
            Self::Move(from, to) => {
                if let Some(id) = names.remove(&from) {
                    names.insert(to, id);
                }
            }
            Self::Remove(name) => drop(names.remove(&name)),
        }
    }
}

impl Node {
    fn change(&mut self, change: Change) {
        match &change {
            Change::Write(offset, bytes) => put(&mut self.current, *offset, bytes),
            Change::Resize(size) => self.current.resize(*size, 0),
        }
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            match change {
                Change::Write(offset, bytes) => put(&mut self.durable, offset, &bytes),
                Change::Resize(size) => self.durable.resize(size, 0),
            }
        }
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn absent(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{name} is not there"))
}

struct SimulatedLock {
    disk: SimulatedDisk,
    life: u64,
}

impl Lock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut machine = self.disk.machine();
        if machine.life == self.life {
            machine.locked = false;
        }
    }
}

impl Disk for SimulatedDisk {
    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        let mut machine = self.machine();
        if machine.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        machine.locked = true;
        Ok(Box::new(SimulatedLock { disk: self.clone(), life: machine.life }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.machine().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut machine = self.machine();
        let id = machine.make_node();
        machine.nodes.insert(id, Node::default());
        machine.names.insert(name.to_owned(), id);
        machine.pending_names.push(Rename::Link(name.to_owned(), id));
        Ok(Box::new(SimulatedFile { disk: self.clone(), id, life: machine.life }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let machine = self.machine();
        let id = *machine.names.get(name).ok_or_else(|| absent(name))?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), id, life: machine.life }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut machine = self.machine();
        let id = machine.names.remove(from).ok_or_else(|| absent(from))?;
        machine.names.insert(to.to_owned(), id);
        machine.pending_names.push(Rename::Move(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut machine = self.machine();
        machine.names.remove(name).ok_or_else(|| absent(name))?;
        machine.pending_names.push(Rename::Remove(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut machine = self.machine();
        let Machine { names, pending_names, durable_names, nodes, .. } = &mut *machine;
        for rename in pending_names.drain(..) {
            rename.apply(durable_names);
        }
        nodes.retain(|id, _| names.values().chain(durable_names.values()).any(|named| named == id));
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        name.to_owned()
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    id: u64,
    life: u64,
}

impl SimulatedFile {
    fn with<T>(&self, work: impl FnOnce(&mut Machine, u64) -> io::Result<T>) -> io::Result<T> {
        let mut machine = self.disk.machine();
        if machine.life != self.life || !machine.nodes.contains_key(&self.id) {
            return Err(io::Error::other(
                "the machine has crashed, or the file was removed, since it was opened",
            ));
        }
        work(&mut machine, self.id)
    }

    /// Writes or grows as far as there is room.
    fn grow(machine: &mut Machine, id: u64, change: Change) -> io::Result<()> {
        let room = machine.room();
        let failing = machine.failing_writes > 0 && matches!(change, Change::Write(..));
        let part = machine.random.below(SECTOR_BYTES as u64) as usize;
        let Some(node) = machine.nodes.get_mut(&id) else { return Err(io::ErrorKind::NotFound.into()) };
        let have = node.current.len();
        match change {
            Change::Write(offset, mut bytes) => {
                let fits = have.saturating_add(room).saturating_sub(offset);
                if fits < bytes.len() {
                    bytes.truncate(fits);
                    node.change(Change::Write(offset, bytes));
                    return Err(io::ErrorKind::StorageFull.into());
                }
                if failing {
                    bytes.truncate(part);
                    node.change(Change::Write(offset, bytes));
                    machine.failing_writes -= 1;
                    return Err(io::Error::other("simulated failure of a write"));
                }
                node.change(Change::Write(offset, bytes));
            }
            Change::Resize(size) if size > have && size - have > room => {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Change::Resize(size) => node.change(Change::Resize(size)),
        }
        Ok(())
    }
}

impl File for SimulatedFile {
    fn size(&self) -> io::Result<u64> {
        self.with(|machine, id| Ok(machine.nodes[&id].current.len() as u64))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|machine, id| {
            let content = &machine.nodes[&id].current;
            let start = (offset as usize).min(content.len());
            let count = buffer.len().min(content.len() - start);
            buffer[..count].copy_from_slice(&content[start..start + count]);
            Ok(count)
        })
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|machine, id| Self::grow(machine, id, Change::Write(offset as usize, bytes.to_vec())))
    }

    fn allocate(&mut self, size: u64) -> io::Result<()> {
        self.with(|machine, id| {
            if machine.nodes[&id].current.len() >= size as usize {
                return Ok(());
            }
            Self::grow(machine, id, Change::Resize(size as usize))
        })
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        self.with(|machine, id| Self::grow(machine, id, Change::Resize(size as usize)))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.with(|machine, id| {
            let (failing, lying) = (machine.failing_syncs > 0, machine.lying_syncs);
            let Some(node) = machine.nodes.get_mut(&id) else { return Ok(()) };
            if failing {
                node.pending.clear();
                machine.failing_syncs -= 1;
                return Err(io::Error::other("simulated failure of a sync"));
            }
            if !lying {
                node.sync();
            }
            machine.syncs += 1;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_a_crash_and_the_rest_may_not() {
        let mut lost = 0;
        for seed in 0..64 {
            let disk = SimulatedDisk::new(Random::seeded(seed));
            let mut file = disk.create("a").unwrap();
            file.write_at(0, &[1; 2048]).unwrap();
            file.sync().unwrap();
            disk.sync().unwrap();
            file.write_at(2048, &[2; 2048]).unwrap();
            disk.crash();
            assert!(file.size().is_err(), "a handle from before the crash is dead");
            let content = disk.content("a").unwrap();
            assert_eq!(content[..2048], [1; 2048]);
            lost += usize::from(content.len() < 4096 || content[2048..].contains(&0));
        }
        assert!(lost > 32, "a crash loses something most of the time");
    }

    #[test]
    fn a_kill_keeps_what_was_written_but_frees_the_lock() {
        let disk = SimulatedDisk::new(Random::seeded(1));
        let lock = disk.lock().unwrap();
        disk.create("a").unwrap().write_at(0, b"abc").unwrap();
        assert!(disk.lock().is_err());
        disk.kill();
        let _second = disk.lock().unwrap();
        drop(lock);
        assert!(disk.lock().is_err(), "a lock from before the kill frees nothing");
        assert_eq!(disk.content("a").unwrap(), b"abc");
    }

    #[test]
    fn a_full_disk_takes_a_part_of_a_write() {
        let disk = SimulatedDisk::new(Random::seeded(1));
        let mut file = disk.create("a").unwrap();
        disk.set_capacity(Some(10));
        assert_eq!(file.write_at(0, &[7; 20]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.size().unwrap(), 10);
        file.truncate(0).unwrap();
        file.write_at(0, &[7; 5]).unwrap();
    }
}
