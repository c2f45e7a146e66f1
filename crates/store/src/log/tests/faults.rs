//! Crashes, full and failing disks, expiry, rewriting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Random};
use bytes::Bytes;
use jiff::Timestamp;

use crate::testing::{commit, delete, disk, dump, open, options, plain, pod, put, value};
use crate::{
    CommitError, Disk, Expectation, Folder, HistoryLimits, List, Options, ReadError, Resource, Revision,
    RewriteLimits, Scope, SimulatedDisk, Store, Transaction, limits,
};

/// Commits by chance, cuts the power while some wait, and counts what was acknowledged and is gone.
async fn crash_and_count_losses(seed: u64, lie: bool) -> usize {
    let random = Random::seeded(seed);
    let disk = SimulatedDisk::new(random.clone());
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let mut lost = 0;
    for round in 0..4 {
        let rewrite = RewriteLimits { bytes_min: 4000, factor: 2 };
        let store = match Store::open(Options { rewrite, ..options(&disk) }, plain()) {
            Ok(store) => store,
            Err(error) if lie => {
                assert!(error.to_string().contains("damaged"), "{error}");
                return lost + 1;
            }
            Err(error) => panic!("seed {seed}: {error}"),
        };
        for (name, number) in &acknowledged {
            let found = store.get(&pod(name)).and_then(|e| String::from_utf8(e.record.to_vec()).ok());
            let found = found.and_then(|text| text.trim().parse::<u64>().ok());
            lost += usize::from(found.is_none_or(|found| found < *number));
        }
        disk.lie_about_syncs(lie);
        for number in 0..random.below(40) {
            let number = round * 1000 + number;
            let names: Vec<String> = (0..1 + random.below(5)).map(|i| format!("p{i}")).collect();
            let width = random.below(1500) as usize;
            let commits = names.iter().map(|name| {
                let record = value(&format!("{number:width$}"));
                store.commit(Transaction::new().put(pod(name), Expectation::Any, record))
            });
            for (name, result) in names.iter().zip(futures::future::join_all(commits).await) {
                result.unwrap();
                acknowledged.insert(name.clone(), number);
            }
        }
        // These are on their way when the power goes.
        let late: Vec<_> = (0..random.below(3))
            .map(|i| {
                let put = Transaction::new().put(pod(&format!("p{i}")), Expectation::Any, value("9999"));
                store.commit(put)
            })
            .collect();
        for mut commit in late.into_iter().map(Box::pin) {
            let _ = futures::poll!(&mut commit);
        }
        if random.chance(1, 2) {
            tokio::task::yield_now().await;
        }
        disk.crash();
    }
    lost
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_survives_any_crash() {
    for seed in 0..400 {
        assert_eq!(crash_and_count_losses(seed, false).await, 0, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_sync_is_found_out_by_the_test_above() {
    let mut lost = 0;
    for seed in 0..20 {
        lost += crash_and_count_losses(seed, true).await;
    }
    assert!(lost > 0);
}

#[tokio::test(start_paused = true)]
async fn commits_that_wait_together_share_a_sync_and_conflict_with_each_other() {
    let disk = disk();
    let store = open(&disk);
    let before = disk.syncs();
    let create =
        |name: &str| store.commit(Transaction::new().put(pod(name), Expectation::Absent, value("x")));
    let names = ["a", "b", "a", "c"];
    let results = futures::future::join_all(names.map(create)).await;
    assert_eq!(disk.syncs(), before + 1);
    let revisions: Vec<_> = results.iter().map(|r| r.as_ref().ok().map(|done| done.revision.0)).collect();
    assert_eq!(revisions, [Some(2), Some(3), None, Some(4)]);
    assert_eq!(results[2].as_ref().unwrap_err().conflict().unwrap().current.as_ref().unwrap().modified.0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_writes_serves_reads_and_heals_alone() {
    let disk = disk();
    let store = open(&disk);
    put(&store, "a", "1").await;
    let mut watch = store.watch(Scope::All, Revision(2)).unwrap();
    let before = dump(&store);
    disk.set_capacity(Some(0));
    let large = Bytes::from(vec![b'x'; limits::VALUE_BYTES_MAX]);
    for name in ["b", "c"] {
        for _ in 0..2 {
            let big = Transaction::new().put(pod(name), Expectation::Any, Arc::new(large.clone()));
            let error = store.commit(big).await.err();
            // The room that the segment has already takes the first; then nothing.
            if let Some(error) = error {
                assert!(error.is_disk_full() && error.to_string().contains("free some space"), "{error:?}");
            }
        }
    }
    let refused = dump(&store).len();
    assert!(refused <= 2 && store.get(&pod("a")).is_some());
    assert_eq!(before[0], dump(&store)[0]);
    disk.set_capacity(None);
    let revision = put(&store, "d", "1").await;
    let seen = watch.next().await.unwrap();
    assert_eq!(seen.events.last().unwrap().revision, revision);
    let after = dump(&store);
    disk.crash();
    assert_eq!(dump(&open(&disk)), after);
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_leaves_nothing_and_the_next_succeeds() {
    let disk = disk();
    let store = open(&disk);
    put(&store, "a", "1").await;
    disk.fail_writes(1);
    let failed = store.commit(Transaction::new().put(pod("b"), Expectation::Any, value("x"))).await;
    let error = failed.unwrap_err();
    assert!(matches!(error, CommitError::Disk(_)) && !error.is_disk_full());
    assert!(store.get(&pod("b")).is_none());
    assert_eq!(put(&store, "c", "1").await, Revision(3));
    let after = dump(&store);
    disk.crash();
    assert_eq!(dump(&open(&disk)), after);
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_sync_the_file_is_not_trusted_and_all_is_written_anew() {
    let disk = disk();
    let store = open(&disk);
    put(&store, "a", "1").await;
    let files: Vec<String> = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".log")).collect();
    assert_eq!(files.len(), 1);
    disk.fail_syncs(1);
    let write = || store.commit(Transaction::new().put(pod("b"), Expectation::Any, value("x")));
    assert!(matches!(write().await, Err(CommitError::Disk(_))));
    assert!(matches!(write().await, Err(CommitError::Disk(_))), "not before a fresh start");
    assert!(store.get(&pod("b")).is_none() && store.get(&pod("a")).is_some());
    tokio::time::sleep(2 * limits::HEAL_INTERVAL).await;
    assert_eq!(write().await.unwrap().revision, Revision(3));
    assert!(disk.list().unwrap().iter().all(|name| !files.contains(name)), "nothing of the old file is left");
    let after = dump(&store);
    disk.crash();
    assert_eq!(dump(&open(&disk)), after);
}

#[tokio::test(start_paused = true)]
async fn healing_is_tried_until_it_succeeds() {
    let disk = disk();
    let store = open(&disk);
    put(&store, "a", "1").await;
    disk.fail_syncs(4);
    let write = || store.commit(Transaction::new().put(pod("b"), Expectation::Any, value("x")));
    let mut failures = 0;
    while write().await.is_err() {
        failures += 1;
        assert!(failures < 20);
        tokio::time::sleep(limits::HEAL_INTERVAL).await;
    }
    assert!(failures >= 4);
    let after = dump(&store);
    disk.crash();
    assert_eq!(dump(&open(&disk)), after);
}

#[tokio::test(start_paused = true)]
async fn keys_expire_durably_with_a_revision() {
    let disk = disk();
    let clock = Clock::simulated(Timestamp::UNIX_EPOCH);
    let store = Store::open(Options { clock: clock.clone(), ..options(&disk) }, plain()).unwrap();
    let hour = Duration::from_secs(3600);
    for name in ["a", "b"] {
        let put = Transaction::new().put_until(pod(name), Expectation::Any, value("x"), clock.now() + hour);
        commit(&store, put).await;
    }
    put(&store, "b", "forever").await;
    clock.sleep(hour - Duration::from_secs(60)).await;
    assert!(store.get(&pod("a")).is_some());
    let mut watch = store.watch(Scope::All, store.revision()).unwrap();
    let batch = watch.next().await.unwrap();
    assert!(batch.events[0].is_deletion() && batch.events[0].key().name == "a");
    assert_eq!(batch.seen, Revision(5));
    let late = clock.now() - (Timestamp::UNIX_EPOCH + hour);
    assert!(late.get_seconds() < 2, "late by {late}");
    let after = dump(&store);
    assert_eq!(after.len(), 1);
    disk.crash();
    assert_eq!(dump(&open(&disk)), after);
}

#[tokio::test(start_paused = true)]
async fn what_expired_while_the_store_was_down_goes_at_the_start() {
    let disk = disk();
    let store = open(&disk);
    let soon = Timestamp::UNIX_EPOCH + Duration::from_secs(10);
    commit(&store, Transaction::new().put_until(pod("a"), Expectation::Any, value("x"), soon)).await;
    store.close().await;
    let clock = Clock::simulated(Timestamp::UNIX_EPOCH + Duration::from_secs(20));
    let store = Store::open(Options { clock, ..options(&disk) }, plain()).unwrap();
    let mut watch = store.watch(Scope::All, Revision(2)).unwrap();
    assert!(watch.next().await.unwrap().events[0].is_deletion());
}

#[tokio::test(start_paused = true)]
async fn history_is_forgotten_by_age_count_and_bytes() {
    let disk = disk();
    let history = HistoryLimits { age: Duration::from_secs(300), events: 10, bytes: 20_000 };
    let store = Store::open(Options { history, ..options(&disk) }, plain()).unwrap();
    for _ in 0..20 {
        put(&store, "a", "x").await;
    }
    assert_eq!((store.size().history_events, store.compacted()), (10, Revision(11)));
    for _ in 0..3 {
        put(&store, "a", &"x".repeat(9000)).await;
    }
    let size = store.size();
    assert!(size.history_bytes <= 20_000 && size.history_events < 10, "{size:?}");
    tokio::time::sleep(Duration::from_secs(340)).await;
    assert_eq!((store.size().history_events, store.compacted()), (0, store.revision()));
    assert!(matches!(store.watch(Scope::All, Revision(20)), Err(ReadError::Compacted { .. })));
}

#[tokio::test(start_paused = true)]
async fn what_a_restart_shows_survives_the_power_cut_after_it() {
    for seed in 0..60 {
        let disk = SimulatedDisk::new(Random::seeded(seed));
        let store = open(&disk);
        put(&store, "a", "1").await;
        // Killed between the write and the end of its sync: the frame is in the page cache alone.
        disk.lie_about_syncs(true);
        put(&store, "a", "2").await;
        disk.kill();
        disk.lie_about_syncs(false);
        drop(store);
        let store = open(&disk);
        let shown = dump(&store);
        disk.crash();
        drop(store);
        assert_eq!(dump(&open(&disk)), shown, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn recent_history_survives_a_restart() {
    let disk = disk();
    let store = open(&disk);
    put(&store, "a", "1").await;
    put(&store, "a", "2").await;
    delete(&store, "a").await;
    disk.kill();
    let store = open(&disk);
    assert_eq!(&store.get_at(&pod("a"), Revision(2)).unwrap().unwrap().record[..], b"1");
    let batch = store.watch(Scope::All, Revision(1)).unwrap().next().await.unwrap();
    assert_eq!(batch.events.len(), 3);
    assert_eq!(&batch.events[1].previous.as_ref().unwrap().record[..], b"1");
}

#[tokio::test(start_paused = true)]
async fn the_log_stays_small_however_often_a_key_is_written() {
    let disk = disk();
    let rewrite = RewriteLimits { bytes_min: 20_000, factor: 2 };
    let store = Store::open(Options { rewrite, ..options(&disk) }, plain()).unwrap();
    for index in 0..500 {
        put(&store, &format!("p{}", index % 5), &format!("{index:1000}")).await;
        let files = crate::log::inspect(&disk, 0).unwrap().files;
        let whole: u64 = files.iter().map(|file| file.whole_bytes).sum();
        assert!(whole < 40_000, "{whole} bytes at {index}: {files:?}");
    }
    let after = dump(&store);
    disk.crash();
    let store = open(&disk);
    assert_eq!(dump(&store), after);
    assert_eq!(store.revision(), Revision(501));
}

#[tokio::test(start_paused = true)]
async fn a_rewrite_that_fails_loses_nothing() {
    let disk = disk();
    let rewrite = RewriteLimits { bytes_min: 3000, factor: 2 };
    let store = Store::open(Options { rewrite, ..options(&disk) }, plain()).unwrap();
    for index in 0..60 {
        if index % 4 == 0 {
            disk.fail_writes(1);
        }
        let put = Transaction::new().put(pod("a"), Expectation::Any, value(&format!("{index:300}")));
        let _ = store.commit(put).await;
        tokio::time::sleep(limits::HEAL_INTERVAL).await;
    }
    disk.fail_writes(0);
    put(&store, "a", "last").await;
    let after = dump(&store);
    disk.crash();
    assert_eq!(dump(&open(&disk)), after);
}

#[tokio::test]
async fn a_real_folder_and_a_thread_keep_what_many_writers_write() {
    let scratch = tempfile::tempdir().unwrap();
    let options = || {
        let rewrite = RewriteLimits { bytes_min: 200_000, factor: 2 };
        let options = Options::new(Folder::at(scratch.path()).unwrap(), Clock::system(), Random::system());
        Options { rewrite, ..options }
    };
    let store: Store<Bytes> = Store::open(options(), plain()).unwrap();
    let mut watch = store.watch(Scope::Resource(Resource::new("pods")), Revision(1)).unwrap();
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        async move {
            for index in 0..50 {
                let name = format!("w{writer}-{}", index % 10);
                put(&store, &name, &format!("{index:2000}")).await;
            }
        }
    });
    futures::future::join_all(writers).await;
    let mut seen = Revision(1);
    while seen < store.revision() {
        for event in watch.next().await.unwrap().events {
            assert_eq!(event.revision, seen.next());
            seen = event.revision;
        }
    }
    let after = dump(&store);
    store.close().await;
    let store: Store<Bytes> = Store::open(options(), plain()).unwrap();
    assert_eq!(dump(&store), after);
    assert_eq!((store.revision(), store.size().keys), (Revision(401), 80));
    assert_eq!(store.list(&List::all(Scope::All)).unwrap().entries.len(), 80);
}
