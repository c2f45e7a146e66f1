//! What the engine does alone, on the disk of this machine: durable commits per second, the time that a start
//! takes, and the memory that objects add. `cargo bench -p store`, or with a folder: `-- /mnt/disk`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::{Clock, Random, Tasks};
use bytes::Bytes;
use store::{Decode, Expectation, Folder, Key, List, Options, Resource, Revision, Scope, Store, Transaction};

const OBJECTS: usize = 10_000;
const VALUE_BYTES: usize = 2048;
const RUN: Duration = Duration::from_secs(3);

fn plain() -> Decode<Bytes> {
    Arc::new(|_, bytes| Ok(Arc::new(bytes)))
}

fn open(path: &Path) -> Store<Bytes> {
    let options = Options::new(Folder::at(path).expect("folder"), Clock::system(), Random::system());
    Store::open(options, plain()).expect("store")
}

fn key(index: usize) -> Key {
    let namespace = format!("team-{}", index % 20);
    Key::namespaced(&Resource::new("pods"), namespace, format!("backend-7d9c5b6f4-{index:05}"))
}

fn value(bytes: usize) -> Arc<Bytes> {
    Arc::new(Bytes::from(vec![b'v'; bytes]))
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

async fn fill(store: &Store<Bytes>, bytes: usize) {
    let indexes: Vec<usize> = (0..OBJECTS).collect();
    for chunk in indexes.chunks(100) {
        let commits = chunk.iter().map(|index| {
            store.commit(Transaction::new().put(key(*index), Expectation::Absent, value(bytes)))
        });
        for result in futures::future::join_all(commits).await {
            result.expect("commit");
        }
    }
}

async fn memory(folder: &Path, bytes: usize) {
    let path = folder.join(format!("memory-{bytes}"));
    let store = open(&path);
    let before = resident();
    fill(&store, bytes).await;
    let added = resident().saturating_sub(before);
    let encoded = (OBJECTS * bytes) as u64;
    println!(
        "memory: {OBJECTS} objects of {bytes} bytes added {:.1} MB, {:.2} times their bytes",
        added as f64 / 1e6,
        added as f64 / encoded as f64
    );
    store.close().await;
    drop(store);
    let clock = Clock::system();
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = clock.monotonic();
        let store = open(&path);
        best = best.min(clock.monotonic() - start);
        assert_eq!(store.size().keys, OBJECTS);
        store.close().await;
    }
    println!("start:  {OBJECTS} objects of {bytes} bytes in {:.1} ms", best.as_secs_f64() * 1e3);
}

async fn commits(folder: &Path, writers: usize) {
    let store = open(&folder.join(format!("commits-{writers}")));
    let clock = Clock::system();
    let tasks = Tasks::new();
    let (done, start) = (Arc::new(AtomicU64::new(0)), clock.monotonic());
    for writer in 0..writers {
        let (store, clock, done) = (store.clone(), clock.clone(), Arc::clone(&done));
        tasks.spawn("writer", async move {
            let record = value(VALUE_BYTES);
            let key = key(writer);
            while clock.monotonic() - start < RUN {
                let put = Transaction::new().put(key.clone(), Expectation::Any, Arc::clone(&record));
                store.commit(put).await.expect("commit");
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tasks.join(2 * RUN).await;
    let seconds = (clock.monotonic() - start).as_secs_f64();
    let count = done.load(Ordering::Relaxed);
    println!(
        "commit: {writers:4} writers of {VALUE_BYTES} bytes: {:.0}/s, {:.2} ms each",
        count as f64 / seconds,
        seconds * 1e3 * writers as f64 / count as f64
    );
    store.close().await;
}

async fn reads(folder: &Path) {
    let store = open(&folder.join("memory-2048"));
    let clock = Clock::system();
    let list = List { limit: 500, ..List::all(Scope::Resource(Resource::new("pods"))) };
    let start = clock.monotonic();
    for _ in 0..2000 {
        assert_eq!(store.list(&list).expect("list").entries.len(), 500);
    }
    let each = (clock.monotonic() - start) / 2000;
    let start = clock.monotonic();
    for index in 0..OBJECTS {
        assert!(store.get(&key(index)).is_some());
    }
    let get = (clock.monotonic() - start) / OBJECTS as u32;
    println!(
        "read:   list of 500 in {:.1} us, get in {:.2} us",
        each.as_secs_f64() * 1e6,
        get.as_secs_f64() * 1e6
    );
    store.close().await;
}

async fn watches(folder: &Path) {
    const WATCHERS: u64 = 200;
    const EVENTS: u64 = 5000;
    let store = open(&folder.join("watches"));
    let tasks = Tasks::new();
    let clock = Clock::system();
    for _ in 0..WATCHERS {
        let mut watch = store.watch(Scope::Resource(Resource::new("pods")), Revision(1)).expect("watch");
        tasks.spawn("watcher", async move {
            let mut seen = 0;
            while seen < EVENTS {
                seen += watch.next().await.expect("events").events.len() as u64;
            }
        });
    }
    let start = clock.monotonic();
    fill_events(&store, EVENTS as usize).await;
    tasks.join(Duration::from_secs(60)).await;
    let seconds = (clock.monotonic() - start).as_secs_f64();
    println!("watch:  {:.0} events/s to {WATCHERS} watchers", (WATCHERS * EVENTS) as f64 / seconds);
    store.close().await;
}

async fn fill_events(store: &Store<Bytes>, count: usize) {
    let record = value(VALUE_BYTES);
    let indexes: Vec<usize> = (0..count).collect();
    for chunk in indexes.chunks(50) {
        let commits = chunk.iter().map(|index| {
            store.commit(Transaction::new().put(key(*index), Expectation::Any, Arc::clone(&record)))
        });
        futures::future::join_all(commits).await;
    }
}

fn main() {
    // Cargo adds flags of its own; the first argument that is none is the folder.
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let scratch = folder.map_or_else(tempfile::tempdir, tempfile::tempdir_in).expect("folder");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        memory(scratch.path(), VALUE_BYTES).await;
        memory(scratch.path(), 8500).await;
        reads(scratch.path()).await;
        watches(scratch.path()).await;
        for writers in [1, 128, 1024] {
            commits(scratch.path(), writers).await;
        }
    });
}
