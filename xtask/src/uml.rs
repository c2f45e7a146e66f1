//! The sandbox's kernel tests on cgroup version 2, under user-mode Linux.
//!
//! Debian's `linux.uml` boots in two seconds as an ordinary process. Its root is the machine's own file system, read
//! only; a folder of results alone can be written. An init script mounts one unified tree of cgroups, runs the test
//! binary that cargo has built, and leaves its output and exit status in that folder. What is deliberately absent: a
//! network (its kernel has no NAT), and anything but the tests of `sandbox`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::command::{self, command, exists};
use crate::prerequisites;
use crate::project::Project;

/// The one test that `cargo xtask test` runs: it needs namespaces, the unified tree and its delegation.
pub const SMOKE: &str = "isolation::memory_beyond_the_limit_is_seen_as_such";
/// How long the guest may take, in seconds: fivefold of what all tests take on two slow cores.
const GUEST_TIMEOUT_S: u32 = 600;
/// Memory of the guest.
const GUEST_MEMORY: &str = "mem=1024M";
/// Files in the folder of results: what the init script leaves, and itself.
const OUTPUT_FILE: &str = "output";
const STATUS_FILE: &str = "status";
const INIT_FILE: &str = "init";
/// The test binary.
const TESTS_FILE: &str = "tests";

/// What became of each test, by name.
pub type Outcome = BTreeMap<String, bool>;

/// Runs the sandbox's kernel tests in the guest; with a name, that one alone. An error means that it could not be
/// learnt what passes; tests that fail are part of the outcome.
pub fn run(project: &Project, only: Option<&str>) -> Result<Outcome> {
    require()?;
    let binary = build(project)?;
    let results = tempfile::Builder::new().prefix("ondol-uml-").tempdir()?;
    let init = results.path().join(INIT_FILE);
    // A checkout below /tmp is hidden from the guest, which has a /tmp of its own.
    fs::copy(binary, results.path().join(TESTS_FILE))?;
    fs::write(&init, init_script(results.path(), only))?;
    fs::set_permissions(&init, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut guest = command("timeout", ["--signal=KILL", &GUEST_TIMEOUT_S.to_string(), "linux.uml"]);
    guest.args([GUEST_MEMORY, "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"]);
    guest.arg(format!("init={}", init.display())).args(["con=null", "con0=fd:0,fd:1", "quiet"]);
    eprintln!("+ {}", command::shown(&guest));
    // The guest's own words are of use only if it says nothing else.
    let console = fs::File::create(results.path().join("console"))?;
    guest.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
    let ended = guest.status().context("cannot run linux.uml")?;
    let read = |name: &str| fs::read(results.path().join(name)).ok();
    let output = String::from_utf8_lossy(&read(OUTPUT_FILE).unwrap_or_default()).into_owned();
    print!("{output}");
    let Some(status) = read(STATUS_FILE) else {
        let console = String::from_utf8_lossy(&read("console").unwrap_or_default()).into_owned();
        bail!(
            "the guest ended ({ended}) before its tests did; its console says:\n{}",
            last_lines(&console, 20)
        );
    };
    judge(&output, String::from_utf8_lossy(&status).trim())
}

/// Makes sure that there is a guest to boot.
fn require() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("Debian has user-mode Linux for x86-64 alone (ONDOL_WAIVE=uml tests without)");
    }
    prerequisites::require_root()?;
    if !exists("linux.uml") {
        prerequisites::install(&["user-mode-linux"])
            .context("there is no user-mode Linux here (ONDOL_WAIVE=uml tests without)")?;
    }
    Ok(())
}

/// The test binary, built with what the other tests are built with, so that nothing is built twice.
fn build(project: &Project) -> Result<PathBuf> {
    let arguments =
        ["test", "--locked", "--workspace", "--test", "kernel", "--no-run", "--message-format=json"];
    let mut cargo = command("cargo", arguments);
    let messages = command::read(cargo.current_dir(project.root()))?;
    let manifest = project.root().join("crates/sandbox/Cargo.toml");
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["manifest_path"].as_str() == manifest.to_str())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo built no kernel tests of the sandbox")
}

/// Process 1 of the guest. The root is the machine's, so everything that is written lies in memory, or in `results`.
fn init_script(results: &Path, only: Option<&str>) -> String {
    let filter = only.map_or(String::new(), |name| format!("--exact {name} "));
    format!(
        "#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t tmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
for node in 'null c 1 3' 'zero c 1 5' 'full c 1 7' 'random c 1 8' 'urandom c 1 9' 'tty c 5 0' 'kmsg c 1 11'; do
    mknod -m 666 /dev/$node
done
ln -s pts/ptmx /dev/ptmx
mkdir -p '{results}'
mount -t hostfs none '{results}' -o '{results}'
busybox insmod \"$(find /usr/lib/uml/modules -name overlay.ko | head -1)\"
busybox ip link set lo up
'{results}/{TESTS_FILE}' {filter}--test-threads 1 >'{results}/{OUTPUT_FILE}' 2>&1
echo $? >'{results}/{STATUS_FILE}'
busybox poweroff -f
",
        results = results.display(),
    )
}

/// Reads what a test binary printed. Its words and its exit status must agree, and no test may be missing: a guest
/// that stopped half way has shown nothing.
fn judge(output: &str, status: &str) -> Result<Outcome> {
    let mut outcome = Outcome::new();
    let mut running = 0;
    for line in output.lines() {
        if let Some(rest) = line.strip_prefix("running ") {
            running += rest.split(' ').next().and_then(|number| number.parse::<usize>().ok()).unwrap_or(0);
        }
        // What a test prints itself may stand between its name and its outcome.
        if let Some((name, rest)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            let passed = rest.ends_with("ok") && !outcome.contains_key(name);
            outcome.insert(name.to_owned(), passed);
        }
    }
    if running == 0 || outcome.len() != running {
        bail!("{running} tests began in the guest and {} told how they ended", outcome.len());
    }
    let all = outcome.values().all(|passed| *passed);
    if all != (status == "0") {
        bail!("the tests' exit status is {status:?}, which their output does not explain");
    }
    Ok(outcome)
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str =
        "\nrunning 2 tests\ntest a::one ... ok\ntest a::two ... FAILED\n\ntest result: FAILED.\n";

    #[test]
    fn what_passed_in_the_guest_is_told_test_by_test() {
        let outcome = judge(OUTPUT, "101").unwrap();
        assert_eq!(outcome, Outcome::from([("a::one".to_owned(), true), ("a::two".to_owned(), false)]));
    }

    #[test]
    fn a_guest_that_stopped_half_way_has_shown_nothing() {
        assert!(judge("", "0").is_err(), "no test ran");
        assert!(judge("running 2 tests\ntest a::one ... ok\n", "0").is_err(), "one is missing");
        assert!(judge(OUTPUT, "0").is_err(), "the status says otherwise");
        assert!(judge("running 1 test\ntest a::one ... ok\n", "139").is_err(), "it crashed at its end");
    }

    #[test]
    fn the_guest_writes_nowhere_but_to_its_results() {
        let script = init_script(Path::new("/tmp/r"), Some("a::one"));
        assert!(
            script.contains("'/tmp/r/tests' --exact a::one --test-threads 1 >'/tmp/r/output'"),
            "{script}"
        );
    }
}
