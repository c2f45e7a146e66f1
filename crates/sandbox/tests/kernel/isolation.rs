//! What a container must not be able to do.

use std::path::Path;

use sandbox::capabilities::{Capabilities, Set};
use sandbox::{Mount, MountSource, PidScope, Propagation, Resources, Root, Seccomp, User};

use crate::harness::{run, wait_for};

fn bind(path: &Path, target: &str, sub_path: &str) -> Mount {
    Mount {
        target: target.to_owned(),
        source: MountSource::Bind {
            path: path.to_owned(),
            sub_path: sub_path.to_owned(),
            recursive: true,
            propagation: Propagation::Private,
        },
        read_only: false,
        no_exec: false,
        no_suid: false,
        no_dev: false,
    }
}

#[test]
fn the_hosts_disk_cannot_be_opened_by_a_device_node() {
    run(|world| async move {
        let pod = world.pod("a").await;
        // The kernel's messages, which every machine has, and its first disk, if it has one.
        let (kmsg, kind) = (world.directory.join("kmsg"), rustix::fs::FileType::CharacterDevice);
        rustix::fs::mknodat(rustix::fs::CWD, &kmsg, kind, 0o600.into(), rustix::fs::makedev(1, 11)).unwrap();
        assert!(std::fs::File::open(&kmsg).is_ok(), "outside it opens, so that only the filter can refuse");
        let partitions = std::fs::read_to_string("/proc/partitions").unwrap();
        let disk = partitions.lines().nth(2).map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            format!("b {} {}", fields[0], fields[1])
        });
        for (index, device) in ["c 1 11".to_owned()].into_iter().chain(disk).enumerate() {
            let script = format!(
                "exec 2>&1; mknod /tmp/device {device} && echo made; dd if=/tmp/device of=/dev/null bs=1 count=1; echo $?; \
                 head -c 1 /dev/zero | wc -c"
            );
            let mut spec = world.shell(&format!("device-{index}"), &script);
            spec.seccomp = Seccomp::Unconfined;
            let (_, log) = world.outcome(&pod, spec).await;
            assert!(
                log.contains("made") && log.contains("Operation not permitted") && log.ends_with("1\n1\n"),
                "{log}"
            );
        }
        pod.remove().await.unwrap();
    });
}

#[test]
fn the_cgroup_tree_is_the_containers_own_and_read_only() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let script = "cat /proc/self/cgroup; mkdir /sys/fs/cgroup/x; for d in /sys/fs/cgroup /sys/fs/cgroup/*; do \
                      test -d $d && mkdir $d/mine && echo MADE; \
                      test -w $d/cgroup.procs && echo 0 > $d/cgroup.procs && echo WRITTEN; done; \
                      mount -o remount,rw /sys/fs/cgroup && echo REMOUNTED; true";
        let mut spec = world.shell("one", script);
        spec.seccomp = Seccomp::Unconfined;
        let (_, log) = world.outcome(&pod, spec).await;
        assert!(!log.contains("MADE") && !log.contains("WRITTEN") && !log.contains("REMOUNTED"), "{log}");
        assert!(!log.contains(&format!("{}/pods", world.config.cgroup_root)), "{log}");
        assert!(log.contains("Read-only file system"), "{log}");
        pod.remove().await.unwrap();
    });
}

#[test]
fn the_hosts_programs_cannot_be_reached() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let script = "readlink /proc/1/exe; readlink /proc/1/root; for p in /proc/[0-9]*; do readlink $p/exe; done; \
                      ls /proc/1/fd | tr '\\n' ' '";
        let mut spec = world.shell("one", script);
        spec.pid_scope = PidScope::Pod;
        let (_, log) = world.outcome(&pod, spec).await;
        let binary = std::env::current_exe().unwrap();
        assert!(!log.contains(binary.to_str().unwrap()), "{log}");
        assert!(!log.contains("memfd"), "the pod process' own program is hidden too: {log}");
        pod.remove().await.unwrap();
    });
}

#[test]
fn a_read_only_root_cannot_be_written_but_its_mounts_can() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let mut spec =
            world.shell("one", "touch /x; echo a > /scratch/x && cat /scratch/x; touch /proc/sys/kernel/x");
        spec.read_only_root = true;
        spec.mounts = vec![Mount {
            source: MountSource::Tmpfs { size_bytes: 1 << 20, mode: 0o1777 },
            ..bind(Path::new("/"), "/scratch", "")
        }];
        let (_, log) = world.outcome(&pod, spec).await;
        assert!(log.contains("/x: Read-only file system") && log.contains("a\n"), "{log}");
        pod.remove().await.unwrap();
    });
}

#[test]
fn user_groups_and_powers_are_as_given() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let mut spec = world.shell(
            "user",
            "id; echo $HOME; grep Cap /proc/self/status; grep NoNew /proc/self/status; \
                                            echo hi > /dev/stderr",
        );
        spec.user = User { uid: 33, gid: 34, groups: vec![50, 51] };
        spec.no_new_privileges = true;
        let (_, log) = world.outcome(&pod, spec).await;
        assert!(log.contains("uid=33(web) gid=34(web) groups=50(logs),51"), "{log}");
        assert!(
            log.contains("/home/web\n") && log.contains("NoNewPrivs:\t1") && log.contains("hi\n"),
            "{log}"
        );
        assert!(log.contains("CapEff:\t0000000000000000"), "{log}");
        let mut spec = world.shell("ambient", "grep Cap /proc/self/status");
        let chown = Set::from_names(["CHOWN"]).unwrap();
        spec.user = User { uid: 33, gid: 34, groups: vec![] };
        spec.capabilities = Capabilities { ambient: chown, inheritable: chown, ..Capabilities::of(chown) };
        let (_, log) = world.outcome(&pod, spec).await;
        assert!(
            log.contains("CapEff:\t0000000000000001") && log.contains("CapBnd:\t0000000000000001"),
            "{log}"
        );
        let (_, log) = world.outcome(&pod, world.shell("root", "grep CapEff /proc/self/status")).await;
        assert_eq!(log, "CapEff:\t00000000a80425fb\n");
        pod.remove().await.unwrap();
    });
}

#[test]
fn the_default_profile_forbids_mounts_and_namespaces() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let all = Capabilities::of(Set::ALL.without(Set::from_names(["SYS_ADMIN"]).unwrap()));
        let script =
            "grep Seccomp: /proc/self/status; unshare -n true; mount -t tmpfs none /tmp; echo still here";
        for (name, promise) in [("mighty", false), ("modest", true)] {
            let mut spec = world.shell(name, script);
            spec.capabilities = all;
            spec.no_new_privileges = promise;
            let (exit, log) = world.outcome(&pod, spec).await;
            assert!(log.contains("Seccomp:\t2") && log.contains("still here"), "{log}");
            assert_eq!(
                (log.matches("not permitted").count() + log.matches("denied").count(), exit.code),
                (2, 0),
                "{log}"
            );
        }
        let mut spec = world.shell("profile", "mkdir /tmp/x; echo $?");
        spec.seccomp = Seccomp::Profile(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}"#.into(),
        );
        let (_, log) = world.outcome(&pod, spec).await;
        assert!(log.contains("not permitted"), "{log}");
        pod.remove().await.unwrap();
    });
}

#[test]
fn a_privileged_container_has_the_hosts_devices_and_may_mount() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let mut spec = world.shell(
            "one",
            "mount -t tmpfs none /tmp && echo mounted; ls /dev | wc -l; test -w /sys && echo w",
        );
        spec.privileged = true;
        spec.capabilities = Capabilities::of(Set::ALL);
        let (_, log) = world.outcome(&pod, spec).await;
        assert!(log.starts_with("mounted\n") && log.ends_with("w\n"), "{log}");
        pod.remove().await.unwrap();
    });
}

#[test]
fn memory_beyond_the_limit_is_seen_as_such() {
    run(|world| async move {
        let pod = world.pod("a").await;
        // The string doubles until the kernel says no.
        let mut spec = world.program("one", &["/bin/awk", "BEGIN { s = \"x\"; while (1) s = s s }"]);
        spec.resources = Resources { memory_bytes: Some(32 << 20), ..Resources::default() };
        let attempt = spec.attempt.clone();
        pod.start(spec).await.unwrap();
        let state = wait_for(&pod, |state| state.get(&attempt).is_some_and(|one| one.exit().is_some())).await;
        let exit = *state.get(&attempt).unwrap().exit().unwrap();
        assert!(exit.out_of_memory && exit.code == 137, "{exit:?}");
        pod.remove().await.unwrap();
    });
}

#[test]
fn processes_beyond_the_limit_are_refused() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let mut spec = world.shell("one", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; echo all");
        spec.resources = Resources { pids: Some(5), ..Resources::default() };
        let (exit, log) = world.outcome(&pod, spec).await;
        assert!(exit.code != 0 && log.contains("can't fork"), "{exit:?} {log}");
        pod.remove().await.unwrap();
    });
}

#[test]
fn hostile_links_lead_nowhere() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let (base, volume) = (world.directory.join("hostile"), world.directory.join("volume"));
        crate::harness::make_root(&base);
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(volume.join("file"), "from the volume\n").unwrap();
        let (bait, escape) = (world.directory.join("bait"), world.directory.join("bait/new"));
        std::fs::create_dir_all(&bait).unwrap();
        std::os::unix::fs::symlink(&bait, base.join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../../../../..", base.join("up")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("etc")).unwrap();
        let on_hostile = |name: &str, script: &str| {
            let mut spec = world.shell(name, script);
            let place = world.directory.join("containers").join(name);
            spec.root = Root::Overlay {
                lower: vec![base.clone()],
                upper: place.join("upper"),
                work: place.join("work"),
            };
            spec
        };
        let mut spec = on_hostile("targets", "cat /up/mnt/file");
        spec.mounts = vec![bind(&volume, "/up/mnt", "")];
        let (_, log) = world.outcome(&pod, spec).await;
        assert_eq!(log, "from the volume\n", "the target stays in the root");
        let mut spec = on_hostile("dangling", "cat /link/new/file");
        spec.mounts = vec![bind(&volume, "/link/new", "")];
        let (_, log) = world.outcome(&pod, spec).await;
        assert!(
            log.starts_with("from the volume\n"),
            "a link that leads nowhere is followed in the root: {log}"
        );
        assert!(!escape.exists(), "nothing was made on the host");
        let mut spec = on_hostile("circle", "true");
        std::os::unix::fs::symlink("circle", base.join("circle")).unwrap();
        spec.mounts = vec![bind(&volume, "/circle/new", "")];
        assert!(pod.start(spec).await.is_err());
        let mut spec = on_hostile("sub", "cat /mnt/passwd");
        spec.mounts = vec![bind(&volume, "/mnt", "etc")];
        let message = pod.start(spec).await.unwrap_err().to_string();
        assert!(message.contains("mount"), "{message}");
        pod.remove().await.unwrap();
    });
}

#[test]
fn a_child_that_meets_the_memory_limit_is_seen_though_the_program_lives() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let mut spec =
            world.shell("one", "awk 'BEGIN { s = \"x\"; while (1) s = s s }'; echo child $?; exit 3");
        spec.resources = Resources { memory_bytes: Some(32 << 20), ..Resources::default() };
        let (exit, log) = world.outcome(&pod, spec).await;
        // Version 2 ends the whole container, as one whose parts are killed singly is of no use to anybody.
        let whole = (exit.code, log.as_str()) == (137, "");
        let child = (exit.code, log.as_str()) == (3, "Killed\nchild 137\n");
        assert!(exit.out_of_memory && (whole || child), "{exit:?} {log}");
        pod.remove().await.unwrap();
    });
}

#[test]
fn a_program_that_never_stops_talking_fills_no_disk() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let mut spec = world.program("one", &["/bin/busybox", "yes", "a line of a chatty container"]);
        (spec.log.max_bytes, spec.log.max_files) = (50_000, 2);
        let (attempt, limit) = (spec.attempt.clone(), spec.log.max_bytes);
        pod.start(spec).await.unwrap();
        let folder = world.log_path("one").parent().unwrap().to_owned();
        let files = || -> Vec<(String, u64)> {
            let entries = std::fs::read_dir(&folder).unwrap().flatten();
            // A file that is rotated away between the listing and the look has no size any more.
            let sizes = entries.filter_map(|entry| {
                Some((entry.file_name().into_string().ok()?, entry.metadata().ok()?.len()))
            });
            sizes.collect()
        };
        let mut seen = std::collections::BTreeSet::new();
        let rotations = async {
            while seen.len() < 20 {
                let now = files();
                // At the moment of a rotation the one that is about to be deleted is still there.
                assert!(now.len() <= 3, "{now:?}");
                assert!(now.iter().all(|(_, size)| *size < limit + (32 << 10) * 8), "{now:?}");
                seen.extend(now.into_iter().map(|(name, _)| name));
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(crate::harness::SLACK, rotations).await.expect("the log is rotated");
        pod.kill(&attempt).await.unwrap();
        crate::harness::ended(&pod, &attempt).await;
        assert_eq!(files().len(), 2);
        pod.remove().await.unwrap();
    });
}
