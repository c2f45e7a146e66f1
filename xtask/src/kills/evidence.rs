//! What the machine itself says: pod processes, starts in the logs of containers, and what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::command;

/// What the echo server writes once for each start.
const START_LINE: &str = " listens on port ";
/// The length of a pod's uid.
const UID_BYTES: usize = 36;

/// A pod process with what lives below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodProcess {
    /// Its process id.
    pub pid: u32,
    /// The pod.
    pub uid: String,
    /// All processes of the pod's containers.
    pub containers: Vec<Living>,
}

/// A process; the time of its start tells it from a later one with its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Living {
    /// Its id.
    pub pid: u32,
    started: u64,
}

impl Living {
    /// Whether it still runs. A dead one that nobody has reaped does not.
    pub fn lives(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && stat.state != 'Z')
    }
}

struct Stat {
    state: char,
    parent: u32,
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// All pod processes of this namespace of processes.
pub fn pod_processes() -> Vec<PodProcess> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids: Vec<u32> = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let stats: BTreeMap<u32, Stat> = pids.iter().filter_map(|pid| Some((*pid, stat(*pid)?))).collect();
    let uid = |pid: u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        Some(line.strip_prefix("ondol-pod ")?.trim_end_matches('\0').to_owned())
    };
    let below = |ancestor: u32| {
        let descends = |mut pid: u32| {
            while let Some(stat) = stats.get(&pid) {
                pid = stat.parent;
                if pid == ancestor {
                    return true;
                }
            }
            false
        };
        let living = stats.iter().filter(|(_, stat)| stat.state != 'Z');
        let found = living.filter(|(pid, _)| descends(**pid));
        found.map(|(pid, stat)| Living { pid: *pid, started: stat.started }).collect()
    };
    let living = stats.iter().filter(|(_, stat)| stat.state != 'Z');
    living
        .filter_map(|(pid, _)| Some(PodProcess { pid: *pid, uid: uid(*pid)?, containers: below(*pid) }))
        .collect()
}

/// Starts that the logs tell of: how many attempts, and those that started more than once.
#[derive(Default)]
pub struct Starts {
    attempts: BTreeMap<String, usize>,
}

impl Starts {
    /// Reads all logs below `logs` (folder of the pod, folder of the container, file of the attempt). Logs go with
    /// their pods, so that this is to be called often.
    pub fn look(&mut self, logs: &Path) {
        let below = |folder: &Path| {
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
        };
        for file in below(logs).iter().flat_map(|pod| below(pod)).flat_map(|container| below(&container)) {
            let starts = fs::read_to_string(&file).unwrap_or_default().matches(START_LINE).count();
            let name = file.strip_prefix(logs).unwrap_or(&file).display().to_string();
            let most = self.attempts.entry(name).or_default();
            *most = starts.max(*most);
        }
    }

    /// How many attempts have started.
    pub fn count(&self) -> usize {
        self.attempts.values().filter(|starts| **starts > 0).count()
    }

    /// Attempts that started more than once, with how often.
    pub fn repeated(&self) -> Vec<String> {
        let repeated = self.attempts.iter().filter(|(_, starts)| **starts > 1);
        repeated.map(|(attempt, starts)| format!("{attempt} started {starts} times")).collect()
    }
}

/// Everything on the machine that names a pod which is not among `uids`.
pub fn left_behind(uids: &BTreeSet<String>, instance: &str, data: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let mut look = |what: &str, text: &str| {
        let unknown = uids_in(text).any(|uid| !uids.contains(uid));
        if unknown {
            left.push(format!("{what}: {text}"));
        }
    };
    for process in pod_processes() {
        look("process", &process.uid);
    }
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        look("mount", line.split(' ').nth(4).unwrap_or_default());
    }
    let links = command::read(Command::new("ip").args(["-o", "link"])).unwrap_or_default();
    links.lines().for_each(|line| look("link", line));
    for folder in [data.join("pods"), data.join("logs"), Path::new("/run/ondol").join(instance).join("pods")]
    {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            look("file", &entry.path().display().to_string());
        }
    }
    let groups = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-path"])
        .arg(format!("*/{instance}/*"))
        .output();
    let groups =
        groups.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    groups.lines().for_each(|line| look("cgroup", line));
    left.dedup();
    left
}

/// The uids in a text.
fn uids_in(text: &str) -> impl Iterator<Item = &str> {
    let is_uid = |part: &str| {
        part.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
    };
    (0..text.len()).filter_map(move |at| text.get(at..at + UID_BYTES).filter(|part| is_uid(part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let text = format!("7 (a) b) S 3 {}4242 0", "0 ".repeat(17));
        let stat = parse_stat(&text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.started), ('S', 3, 4242));
        assert!(parse_stat("7 (a").is_none());
    }

    #[test]
    fn uids_are_found_inside_of_names() {
        let uid = "01234567-89ab-cdef-0123-456789abcdef";
        let text = format!("default_web_{uid}/echo");
        assert_eq!(uids_in(&text).collect::<Vec<_>>(), [uid]);
        assert_eq!(uids_in("default_web/echo").count(), 0);
    }

    #[test]
    fn a_second_start_of_an_attempt_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let container = folder.path().join("n_p_u/echo");
        fs::create_dir_all(&container).unwrap();
        let line = "2026-01-01T00:00:00Z stdout F echo v1 listens on port 8080\n";
        fs::write(container.join("0.log"), line).unwrap();
        fs::write(container.join("1.log"), line.repeat(2)).unwrap();
        let mut starts = Starts::default();
        starts.look(folder.path());
        assert_eq!(
            (starts.count(), starts.repeated()),
            (2, vec!["n_p_u/echo/1.log started 2 times".to_owned()])
        );
    }
}
