//! The few things that the store does with a disk, so that tests can pull its plug.

mod folder;
mod simulated;

use std::io;

pub use folder::Folder;
pub use simulated::SimulatedDisk;

/// One folder for one store.
pub trait Disk: Send + Sync + 'static {
    /// Keeps every other store out until the result is dropped. `WouldBlock` if one is in already.
    fn lock(&self) -> io::Result<Box<dyn Lock>>;
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes an empty file, in the place of an older one of that name.
    fn create(&self, name: &str) -> io::Result<Box<dyn File>>;
    /// Opens a file to read and write.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;
    /// Gives a file another name, in the place of an older one of that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes created, renamed and removed names durable.
    fn sync(&self) -> io::Result<()>;
    /// What to call a file in messages.
    fn path(&self, name: &str) -> String;
}

/// Held while a store is open.
pub trait Lock: Send {}

/// One open file.
pub trait File: Send {
    /// Its length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes`. After an error some of them may be there.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes the file at least `size` bytes long, of zeros, with their room on the disk.
    fn allocate(&mut self, size: u64) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&mut self, size: u64) -> io::Result<()>;
    /// Makes what was written durable. After an error nothing is known of what was written since the last
    /// success, and trying again proves nothing.
    fn sync(&mut self) -> io::Result<()>;
}
