//! The one content store of a machine: blobs, names, and unpacked layers under one directory.
//!
//! ```text
//! blobs/sha256/<hex>   content, complete and verified
//! layers/<chain id>/   unpacked layers, complete
//! l/<short>            short links to layers, for overlayfs' option of one page
//! names.json           names and what they point at
//! ingest/              what is not complete yet; swept when the store is opened, but for downloads to resume
//! lock                 held by the one process that has the store
//! ```
//!
//! Everything appears by `rename` after it is on disk, so a crash leaves only things in `ingest/`. Heavy work runs
//! on tokio's blocking threads. What a running import or pull needs is *leased*, so that a collection beside it
//! takes nothing away.

mod blobs;
mod collect;
mod layers;
mod names;
mod view;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use base::{Clock, Random};
use rustix::fs::FlockOperation;

use crate::digest::Digest;
use crate::error::Error;

pub use blobs::Ingest;
pub use collect::Collected;
pub(crate) use layers::plans;
pub use names::{Named, Origin};
pub use view::{Inspection, LayerView, Rootfs};

/// The content store. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    clock: Clock,
    random: Random,
    names: Mutex<names::Names>,
    leases: Mutex<HashMap<Held, usize>>,
    flights: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    /// Kept open for its lock.
    _lock: File,
}

/// Keeps content from being collected while it is alive.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    held: Vec<Held>,
}

/// What a lease keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Held {
    /// A blob or an unpacked layer, alone.
    Content(Digest),
    /// All that a manifest needs.
    Image(Digest),
}

impl Store {
    /// Opens the store at `root`, making it if it is not there, and sweeps what a crash left behind. It blocks.
    pub fn open(root: impl Into<PathBuf>, clock: Clock, random: Random) -> Result<Self, Error> {
        let root = root.into();
        for folder in ["blobs/sha256", "layers", "l", "ingest"] {
            let path = root.join(folder);
            std::fs::create_dir_all(&path).map_err(Error::storage("making", &path))?;
        }
        // Layers hold other people's setuid programs, which no user of this machine may reach by path.
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700))
            .map_err(Error::storage("closing off", &root))?;
        let lock_path = root.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(Error::storage("opening", &lock_path))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            rustix::io::Errno::WOULDBLOCK => Error::InUse { path: root.display().to_string() },
            _ => Error::storage("locking", &lock_path)(errno.into()),
        })?;
        let names = names::Names::load(&root)?;
        let store = Self(Arc::new(Inner {
            root,
            clock,
            random,
            names: Mutex::new(names),
            leases: Mutex::default(),
            flights: Mutex::default(),
            _lock: lock,
        }));
        store.sweep()?;
        Ok(store)
    }

    /// The directory that the store was opened at.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// The clock that the store was opened with.
    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// A lease that holds nothing yet.
    pub fn lease(&self) -> Lease {
        Lease { store: self.clone(), held: Vec::new() }
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<Held, usize>> {
        self.0.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else fetches or unpacks `digest`; whoever comes second finds the work done.
    pub(crate) async fn flight(&self, digest: Digest) -> tokio::sync::OwnedMutexGuard<()> {
        let mutex = {
            let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, flight| flight.strong_count() > 0);
            match flights.get(&digest).and_then(Weak::upgrade) {
                Some(mutex) => mutex,
                None => {
                    let mutex = Arc::new(tokio::sync::Mutex::new(()));
                    flights.insert(digest, Arc::downgrade(&mutex));
                    mutex
                }
            }
        };
        mutex.lock_owned().await
    }

    /// A new path in `ingest/`.
    fn scratch(&self) -> PathBuf {
        self.0.root.join("ingest").join(format!("{:016x}{:016x}", self.0.random.bits(), self.0.random.bits()))
    }

    /// Runs `work` where blocking is allowed.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => result,
            Err(join) => match join.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::Storage {
                    action: "finishing the work on the image store".to_owned(),
                    source: std::io::Error::other("the process is stopping"),
                }),
            },
        }
    }
}

impl Lease {
    /// Holds a blob, or the unpacked layer of a chain id, until the lease is dropped.
    pub fn hold(&mut self, digest: Digest) {
        self.add(Held::Content(digest));
    }

    /// Holds all that a manifest needs until the lease is dropped.
    pub fn hold_image(&mut self, manifest: Digest) {
        self.add(Held::Image(manifest));
    }

    fn add(&mut self, held: Held) {
        *self.store.leases().entry(held).or_default() += 1;
        self.held.push(held);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = self.store.leases();
        for held in &self.held {
            if let Some(count) = leases.get_mut(held) {
                *count -= 1;
                if *count == 0 {
                    leases.remove(held);
                }
            }
        }
    }
}

/// Makes a rename or a removal in `folder` survive a power cut.
fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::storage("syncing", folder))
}

#[cfg(test)]
mod tests;
