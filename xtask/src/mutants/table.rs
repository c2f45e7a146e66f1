//! The planted faults, each with the test that must find it.

/// One fault.
pub struct Mutant {
    /// What is wrong.
    pub name: &'static str,
    /// The source that it is planted in.
    pub file: &'static str,
    /// What stands there, exactly once.
    pub search: &'static str,
    /// What stands there with the fault.
    pub replace: &'static str,
    /// The package that has the test.
    pub package: &'static str,
    /// How cargo finds the test's binary: `--lib`, or `--test` and its name.
    pub suite: &'static [&'static str],
    /// The name of the test, or a part of it.
    pub test: &'static str,
}

const LIB: &[&str] = &["--lib"];

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "skipped-fdatasync",
        file: "crates/store/src/log/writer.rs",
        search: "if let Err(error) = self.file.sync() {\n            return Err(self.seal",
        replace: "if let Err(error) = Ok::<(), io::Error>(()) {\n            return Err(self.seal",
        package: "store",
        suite: LIB,
        test: "what_was_acknowledged_survives_any_crash",
    },
    Mutant {
        name: "torn-tail-accepted",
        file: "crates/store/src/log/reader.rs",
        // The last frame's checksum is not compared: what was written of it, and zeros, are taken for it.
        search: "body.len() == length && self.header.is_whole(offset, &self.window[body.clone()], checksum);",
        replace: "body.len() == length\n                \
                  && (self.header.is_whole(offset, &self.window[body.clone()], checksum)\n                    \
                  || self.last_byte_behind(offset + (FRAME_HEADER_BYTES + length) as u64)?.is_none());",
        package: "store",
        suite: LIB,
        test: "a_write_torn_at_any_byte_is_cut_and_all_before_it_is_kept",
    },
    Mutant {
        name: "lost-end-accepted",
        file: "crates/store/src/log/reach.rs",
        search: "if end >= (self.number, self.offset) {",
        replace: "if end.0 >= self.number {",
        package: "store",
        suite: LIB,
        test: "a_log_whose_end_was_lost_is_refused_wherever_it_ends",
    },
    Mutant {
        name: "lost-requeue",
        file: "crates/control/src/queue.rs",
        search: "if state.waiting.contains(key) {",
        replace: "if state.waiting.remove(key) && state.closed {",
        package: "control",
        suite: LIB,
        test: "a_key_waits_once_and_returns_after_work",
    },
    Mutant {
        name: "surge-plus-one",
        file: "crates/controllers/src/deployment/rolling.rs",
        search: "self.replicas + self.max_surge\n",
        replace: "self.replicas + self.max_surge + 1\n",
        package: "controllers",
        suite: LIB,
        test: "a_rollout_completes_within_its_bounds",
    },
    Mutant {
        name: "one-pod-too-few",
        file: "crates/controllers/src/deployment/rolling.rs",
        search: "self.replicas - self.max_unavailable\n",
        replace: "self.replicas - self.max_unavailable - 1\n",
        package: "controllers",
        suite: LIB,
        test: "a_rollout_completes_within_its_bounds",
    },
    Mutant {
        name: "ignored-leaf",
        file: "crates/node/src/pod/container.rs",
        // The field is read and dropped.
        search: "read_only_root: security.and_then(|security| security.read_only_root_filesystem).unwrap_or_default(),",
        replace: "read_only_root: security.and_then(|security| security.read_only_root_filesystem)\
                  .is_some_and(|_| false),",
        package: "node",
        suite: LIB,
        test: "every_honoured_leaf_is_acted_on",
    },
    Mutant {
        name: "managed-fields-one-level-deep",
        file: "crates/api/src/fields/set.rs",
        search: "entry.children.write(entry.member, out);",
        replace: "Self::new().write(entry.member, out);",
        package: "api",
        suite: LIB,
        test: "managed_fields_are_upstreams_to_the_leaf",
    },
    Mutant {
        name: "double-start",
        file: "programs/pod-process/src/server/requests.rs",
        search: "if let Some(known) = self.find(&container.name, container.attempt) {",
        replace: "if let Some(known) = self.find(&container.name, container.attempt).filter(|_| id == u32::MAX) {",
        package: "sandbox",
        suite: &["--test", "kernel"],
        test: "an_attempt_is_started_once_whoever_asks",
    },
    Mutant {
        name: "one-address-twice",
        file: "crates/net/src/ipam.rs",
        search: "self.words[(index / 64) as usize] |= 1 << (index % 64);",
        replace: "self.words[(index / 64) as usize] |= u64::from(index % 5 > 0) << (index % 64);",
        package: "net",
        suite: LIB,
        test: "no_address_is_ever_given_twice",
    },
    Mutant {
        name: "unchecked-digest",
        file: "crates/image/src/store/blobs.rs",
        search: "expected.filter(|expected| *expected != digest)",
        replace: "expected.filter(|expected| *expected != digest && bytes == 0)",
        package: "image",
        suite: LIB,
        test: "content_with_another_digest_is_refused_and_leaves_nothing",
    },
    Mutant {
        name: "ignored-spread",
        file: "crates/scheduler/src/spread.rs",
        search: "counted.itself - counted.fewest > counted.max_skew;",
        replace: "counted.itself - counted.fewest > counted.max_skew + 1000;",
        package: "scheduler",
        suite: LIB,
        test: "required_spread_keeps_the_skew",
    },
    Mutant {
        name: "stale-endpoint",
        file: "crates/controllers/src/endpoints/slices.rs",
        search: "slice.tree.array_at(&[\"endpoints\"]).iter().filter_map(|old| left.remove(&identity_of(old)));",
        replace: "slice.tree.array_at(&[\"endpoints\"]).iter()\
                  .map(|old| left.remove(&identity_of(old)).unwrap_or_else(|| old.clone()));",
        package: "testkit",
        suite: &["--test", "world"],
        test: "every_seed_holds",
    },
];
