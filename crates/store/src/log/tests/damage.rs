//! Torn writes, damage, and what is done about it.

use base::Random;
use proptest::prelude::*;

use crate::log::{FileKind, Salvage, inspect, salvage};
use crate::testing::{disk, dump, open, options, plain, put};
use crate::{Disk, OpenError, Revision, SimulatedDisk, Store};

const SEGMENT: &str = "0000000000000001.log";
const COMMITS: usize = 6;

/// A log of a few commits: its bytes without the zeros behind them, where each frame ends, and what is alive after
/// each.
struct Sample {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    dumps: Vec<Vec<String>>,
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

async fn sample() -> Sample {
    let disk = disk();
    let store = open(&disk);
    let end = || inspect(&disk, 0).unwrap().files[0].whole_bytes as usize;
    let (mut ends, mut dumps) = (vec![end()], vec![dump(&store)]);
    for index in 0..COMMITS {
        put(&store, &format!("p{}", index % 4), &"v".repeat(index * 5 + 1)).await;
        ends.push(end());
        dumps.push(dump(&store));
    }
    let mut bytes = disk.content(SEGMENT).unwrap();
    bytes.truncate(ends[COMMITS]);
    Sample { bytes, ends, dumps }
}

fn disk_with(bytes: Vec<u8>) -> SimulatedDisk {
    let disk = SimulatedDisk::new(Random::seeded(2));
    disk.set_content(SEGMENT, bytes);
    disk
}

/// Opens a store on these bytes, checks that it holds what `expected` says, that it can be written, and that it is
/// whole afterwards.
async fn check_opens(bytes: Vec<u8>, expected: &[String]) {
    let disk = disk_with(bytes);
    let store = open(&disk);
    assert_eq!(dump(&store), expected);
    put(&store, "after", "x").await;
    let after = dump(&store);
    disk.kill();
    let again = open(&disk);
    assert_eq!(dump(&again), after);
    assert_eq!(again.recovery().torn_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_write_torn_at_any_byte_is_cut_and_all_before_it_is_kept() {
    let sample = sample().await;
    for length in sample.ends[0]..=sample.bytes.len() {
        let whole = sample.ends.iter().rposition(|end| *end <= length).unwrap();
        let cut = sample.bytes[..length].to_vec();
        check_opens(cut.clone(), &sample.dumps[whole]).await;
        // The file had grown before: zeros follow.
        let mut zeros = cut.clone();
        zeros.resize(sample.bytes.len() + 100, 0);
        check_opens(zeros, &sample.dumps[whole]).await;
        // Sectors were written in another order: something else follows.
        let mut garbage = cut;
        garbage.extend((0..64_u8).map(|byte| byte.wrapping_mul(37) | 1));
        check_opens(garbage, &sample.dumps[whole]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_torn_write_is_reported() {
    let sample = sample().await;
    let length = sample.ends[COMMITS] - 3;
    let store = open(&disk_with(sample.bytes[..length].to_vec()));
    assert_eq!(store.recovery().torn_bytes as usize, length - sample.ends[COMMITS - 1]);
    assert_eq!(store.recovery().revision, Revision(COMMITS as u64));
}

#[tokio::test(start_paused = true)]
async fn damage_anywhere_before_the_last_record_is_refused_with_place_and_remedy() {
    let sample = sample().await;
    for place in sample.ends[0]..sample.ends[COMMITS - 1] {
        let frame = sample.ends.iter().rposition(|end| *end <= place).unwrap();
        let mut bytes = sample.bytes.clone();
        bytes[place] ^= 0x10;
        let disk = disk_with(bytes.clone());
        let Err(OpenError::Damaged(damage)) = Store::open(options(&disk), plain()) else {
            panic!("damage at {place} was accepted")
        };
        assert_eq!((damage.path.as_str(), damage.offset as usize), (SEGMENT, sample.ends[frame]));
        assert_eq!(damage.intact, Revision(1 + frame as u64));
        assert_eq!(damage.behind, Some(Revision(3 + frame as u64)));
        let message = damage.to_string();
        assert!(message.contains(SEGMENT) && message.contains("can be saved"), "{message}");
        assert_eq!(disk.content(SEGMENT).unwrap(), bytes, "refusing changes nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_whole_before_damage_and_what_is_readable_behind_it_can_be_salvaged() {
    let sample = sample().await;
    let mut bytes = sample.bytes.clone();
    bytes[sample.ends[2] + 20] ^= 1;
    let damaged = disk_with(bytes);
    let inspection = inspect(&damaged, 0).unwrap();
    assert_eq!(inspection.damage.len(), 1);
    assert!(inspection.summary().contains("is damaged at byte"));

    let whole = disk();
    let saved = salvage(&damaged, &whole, 0, &Random::seeded(3), Salvage::Whole).unwrap();
    assert_eq!(saved.revision, Revision(3));
    assert_eq!(dump(&open(&whole)), sample.dumps[2]);
    let refused = salvage(&damaged, &whole, 0, &Random::seeded(3), Salvage::Whole);
    assert!(refused.is_err(), "a store is never overwritten");

    let everything = disk();
    let saved = salvage(&damaged, &everything, 0, &Random::seeded(3), Salvage::Everything).unwrap();
    assert_eq!(saved.revision, Revision(1 + COMMITS as u64));
    let store = open(&everything);
    assert!(store.get(&crate::testing::pod("p3")).is_some());
    assert!(store.get(&crate::testing::pod("p2")).is_none(), "its record was the damaged one");
    assert_eq!(store.revision(), saved.revision);
}

#[tokio::test(start_paused = true)]
async fn missing_and_exchanged_files_and_bad_headers_are_damage() {
    let sample = sample().await;
    let mut bytes = sample.bytes.clone();
    bytes[30] ^= 1;
    let refusal = |disk: &SimulatedDisk| Store::open(options(disk), plain()).err().unwrap().to_string();
    assert!(refusal(&disk_with(bytes)).contains("checksum of the header"));
    assert!(refusal(&disk_with(b"something else".to_vec())).contains("shorter than its header"));

    let disk = SimulatedDisk::new(Random::seeded(2));
    disk.set_content("0000000000000002.log", sample.bytes.clone());
    assert!(refusal(&disk).contains("is missing"));
    disk.set_content(SEGMENT, sample.bytes.clone());
    assert!(refusal(&disk).contains("of another file"));
}

fn refusal(disk: &SimulatedDisk) -> crate::Damage {
    match Store::open(options(disk), plain()) {
        Err(OpenError::Damaged(damage)) => damage,
        other => panic!("not refused as damage: {:?}", other.err()),
    }
}

/// A disk with the same files, but for one.
fn copy_without(disk: &SimulatedDisk, lost: &str) -> SimulatedDisk {
    let copy = SimulatedDisk::new(Random::seeded(4));
    for name in disk.list().unwrap().into_iter().filter(|name| name != lost) {
        copy.set_content(&name, disk.content(&name).unwrap());
    }
    copy
}

#[tokio::test(start_paused = true)]
async fn a_log_whose_end_was_lost_is_refused_wherever_it_ends() {
    let disk = disk();
    let store = open(&disk);
    let end = || inspect(&disk, 0).unwrap().files[0].whole_bytes as usize;
    let mut ends = vec![end()];
    for index in 0..COMMITS {
        put(&store, &format!("p{index}"), "some value").await;
        ends.push(end());
    }
    let after = dump(&store);
    disk.kill();
    let whole = disk.content(SEGMENT).unwrap();
    for place in ends[0]..ends[COMMITS] {
        let damaged = copy_without(&disk, "");
        let mut zeroed = whole.clone();
        zeroed[place..].fill(0);
        for bytes in [zeroed, whole[..place].to_vec()] {
            damaged.set_content(SEGMENT, bytes);
            let damage = refusal(&damaged);
            let frame = ends.iter().rposition(|end| *end <= place).unwrap();
            assert_eq!((damage.path.as_str(), damage.offset as usize), (SEGMENT, ends[frame]), "{place}");
            assert_eq!(damage.intact, Revision(1 + frame as u64));
            let known = format!("durable up to byte {} and revision {}", ends[COMMITS], 1 + COMMITS);
            assert!(damage.to_string().contains(&known), "{damage}");
        }
    }
    assert_eq!(refusal(&copy_without(&disk, SEGMENT)).offset, 0);
    // A note that was not written whole says nothing, and nothing is missing here.
    disk.set_content("REACH", b"ondolend".to_vec());
    assert_eq!(dump(&open(&disk)), after);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_without_its_segment_is_refused_and_can_be_salvaged() {
    let disk = disk();
    let rewrite = crate::RewriteLimits { bytes_min: 3000, factor: 2 };
    let store = Store::open(crate::Options { rewrite, ..options(&disk) }, plain()).unwrap();
    for index in 0..20 {
        put(&store, "a", &format!("{index:300}")).await;
    }
    disk.kill();
    let names = disk.list().unwrap();
    let newest = names.iter().rfind(|name| name.ends_with(".log")).unwrap();
    let snapshot = newest.replace(".log", ".snapshot");
    assert!(names.contains(&snapshot), "{names:?}");
    let damage = refusal(&copy_without(&disk, newest));
    assert_eq!((&damage.path, damage.offset), (newest, 0));
    // Without the note too: the snapshot itself promises the segment.
    let damaged = copy_without(&copy_without(&disk, newest), "REACH");
    assert_eq!(&refusal(&damaged).path, newest);
    let saved = crate::testing::disk();
    let salvaged = salvage(&damaged, &saved, 0, &Random::seeded(3), Salvage::Whole).unwrap();
    assert_eq!(open(&saved).revision(), salvaged.revision);
    // A segment that was only promised held nothing.
    damaged.set_content(&format!("{newest}.new"), Vec::new());
    assert_eq!(open(&damaged).revision(), salvaged.revision);
    assert!(damaged.list().unwrap().contains(newest));
}

#[tokio::test(start_paused = true)]
async fn unknown_formats_and_other_codecs_are_refused() {
    let sample = sample().await;
    let with = |place: usize, number: u32| {
        let mut bytes = sample.bytes.clone();
        bytes[place..place + 4].copy_from_slice(&number.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        Store::open(options(&disk_with(bytes)), plain()).err().unwrap()
    };
    assert!(matches!(with(8, 2), OpenError::Format { found: 2, known: 1, .. }));
    assert!(matches!(with(12, 7), OpenError::Codec { found: 7, known: 0, .. }));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_is_refused_and_its_rest_can_be_salvaged() {
    let source = disk();
    let store = open(&source);
    for index in 0..40 {
        put(&store, &format!("p{index}"), &"x".repeat(100_000)).await;
    }
    let everything = dump(&store);
    store.close().await;
    let copy = disk();
    salvage(&source, &copy, 0, &Random::seeded(3), Salvage::Whole).unwrap();
    let name = "0000000000000001.snapshot";
    let content = copy.content(name).unwrap();

    for (place, bytes) in [(content.len() - 4, 1), (content.len() / 2, 1), (100, 1)] {
        let damaged = disk();
        let mut content = content.clone();
        content[place] ^= bytes;
        damaged.set_content(name, content);
        let error = Store::open(options(&damaged), plain()).err().unwrap();
        assert!(matches!(error, OpenError::Damaged(_)), "{error}");
        let saved = disk();
        salvage(&damaged, &saved, 0, &Random::seeded(3), Salvage::Everything).unwrap();
        let left = dump(&open(&saved));
        assert!(left.len() >= 25 && left.iter().all(|line| everything.contains(line)));
    }
    let inspection = inspect(&copy, 0).unwrap();
    assert_eq!((inspection.files[0].kind, inspection.keys), (FileKind::Snapshot, 40));
    assert_eq!(dump(&open(&copy)), everything);
}

#[tokio::test(start_paused = true)]
async fn a_second_store_never_opens_the_same_folder() {
    let disk = disk();
    let store = open(&disk);
    let second = Store::open(options(&disk), plain());
    assert!(matches!(second.err(), Some(OpenError::Locked { .. })));
    store.close().await;
    open(&disk);
}

#[tokio::test(start_paused = true)]
async fn unfinished_files_are_ignored_and_removed() {
    let disk = disk_with(sample().await.bytes);
    disk.set_content("0000000000000009.snapshot.new", b"half".to_vec());
    open(&disk);
    assert!(!disk.list().unwrap().contains(&"0000000000000009.snapshot.new".to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever bits flip: the store is refused, or, where nothing whole is behind the first flip, opens with all
    /// that was before it.
    #[test]
    fn flipped_bits_never_give_anything_but_what_was_before_them_or_a_refusal(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 1..4),
    ) {
        run(async {
            let sample = sample().await;
            let mut bytes = sample.bytes.clone();
            for (index, bit) in &flips {
                let place = index.index(bytes.len());
                bytes[place] ^= 1 << bit;
            }
            if bytes == sample.bytes {
                return;
            }
            let frame = |place: usize| sample.ends.iter().rposition(|end| *end <= place);
            let flipped: Vec<Option<usize>> =
                (0..bytes.len()).filter(|place| bytes[*place] != sample.bytes[*place]).map(frame).collect();
            let disk = disk_with(bytes);
            match Store::open(options(&disk), plain()) {
                Ok(store) => {
                    let first = flipped[0].expect("a flip in the header is refused");
                    assert_eq!(dump(&store), sample.dumps[first]);
                    assert!((first..COMMITS).all(|frame| flipped.contains(&Some(frame))), "a whole one was cut");
                }
                Err(OpenError::Damaged(_)) => {}
                Err(other) => panic!("{other}"),
            }
        });
    }

    #[test]
    fn any_bytes_behind_a_header_are_read_without_panic(garbage in prop::collection::vec(any::<u8>(), 0..300)) {
        run(async {
            let sample = sample().await;
            let mut bytes = sample.bytes[..sample.ends[0]].to_vec();
            bytes.extend(&garbage);
            let store = open(&disk_with(bytes));
            assert_eq!(dump(&store), Vec::<String>::new());
        });
    }
}
