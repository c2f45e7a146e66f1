//! What a program tries that wants out of its container: as root, with the usual powers, and without the filter of
//! system calls, which is what a pod that says nothing about its security gets.

use std::path::Path;

use sandbox::capabilities::{self, Capabilities, Set};
use sandbox::{Attempt, ContainerSpec, ExecSpec, PidScope, Root, Seccomp, paths};
use tokio::io::AsyncReadExt;

use crate::harness::{World, exec, run};

/// Runs each line by itself and tells of those that succeed.
fn tries(world: &World, name: &str, commands: &[&str]) -> ContainerSpec {
    let mut script = String::new();
    for command in commands {
        // 127 would mean that the attempt itself was never made.
        script.push_str(&format!(
            "( {command} ) >/dev/null 2>&1; case $? in 0) echo 'DONE {command}';; 127) echo 'ABSENT {command}';; esac\n"
        ));
    }
    let mut spec = world.shell(name, &format!("{script}echo tried"));
    spec.seccomp = Seccomp::Unconfined;
    spec
}

const HOST_CHANGES: &[&str] = &[
    "mount -o remount,rw /sys",
    "mount -o remount,rw /proc/sys",
    "mount -o remount,bind,rw /sys/fs/cgroup",
    "mount -t proc none /tmp",
    "umount /proc/kcore",
    "umount /proc/sys",
    "umount /sys",
    "busybox insmod /bin/busybox",
    "busybox rmmod overlay",
    "busybox swapoff -a && busybox swapon /bin/busybox",
    "busybox date -s 2001-01-01; test $(busybox date +%Y) = 2001",
    "busybox hostname other",
    "busybox nsenter -t 1 -m /bin/true && busybox nsenter -t 1 -n /bin/true",
    "busybox losetup -f /bin/busybox",
    "busybox reboot -f",
    "echo 3 > /proc/sys/vm/drop_caches",
    "echo h > /proc/sysrq-trigger",
    "echo 1 > /proc/sys/kernel/core_uses_pid",
    "echo x > /sys/kernel/uevent_helper",
    "echo x > /sys/power/state",
    "busybox renice -n -19 -p 1",
    "busybox ip link set lo down",
    "busybox pivot_root / /tmp",
];

#[test]
fn what_would_change_the_host_is_refused() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let (_, log) = world.outcome(&pod, tries(&world, "plain", HOST_CHANGES)).await;
        assert_eq!(log, "tried\n", "with the usual powers");
        let mut spec = tries(&world, "filtered", HOST_CHANGES);
        spec.seccomp = Seccomp::RuntimeDefault;
        let (_, log) = world.outcome(&pod, spec).await;
        assert_eq!(log, "tried\n", "and with the usual filter");
        // The same words do succeed for those who may: the attempts are real ones.
        let mut spec = tries(&world, "mighty", &HOST_CHANGES[..4]);
        spec.privileged = true;
        spec.capabilities = Capabilities::of(Set::ALL);
        let (_, log) = world.outcome(&pod, spec).await;
        assert!(log.contains("DONE mount -t proc none /tmp"), "{log}");
        pod.remove().await.unwrap();
    });
}

/// A user namespace gives every power over what belongs to it; nothing of the container's mounts does.
#[test]
fn a_user_namespace_of_its_own_opens_nothing() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let inside = "mount -o remount,rw,bind /proc/sys; mount -o remount,rw,bind /sys/fs/cgroup; umount /proc/kcore; \
                      umount /proc/sys; umount /sys; mount -o remount,rw,bind /sys; \
                      ( : >> /proc/sys/kernel/core_pattern ) && echo WRITABLE; cat /proc/kcore | head -c 1 | wc -c; \
                      mount -t proc none /tmp && cat /tmp/kcore | head -c 1 | wc -c; \
                      mknod /tmp/kmsg c 1 11 && dd if=/tmp/kmsg bs=1 count=1 && echo READ; echo inside";
        // One stream: two of them are written to the log in no order.
        let script = format!("exec 2>&1; unshare -U -m -r /bin/sh -c '{inside}'; echo after");
        let mut spec = world.shell("one", &script);
        spec.seccomp = Seccomp::Unconfined;
        let (_, log) = world.outcome(&pod, spec).await;
        // A machine may forbid such namespaces altogether, which is as well.
        let entered = log.contains("inside\n");
        assert!(entered || log.contains("unshare"), "{log}");
        assert!(!log.contains("WRITABLE") && !log.contains("READ") && log.ends_with("after\n"), "{log}");
        assert!(!entered || log.contains("\n0\n"), "{log}");
        assert!(!log.contains("\n1\n"), "{log}");
        pod.remove().await.unwrap();
    });
}

#[test]
fn what_says_too_much_is_hidden_and_what_changes_the_host_cannot_be_written() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let mut script = String::new();
        for path in paths::MASKED {
            script.push_str(&format!(
                "if test -d {path}; then echo hidden $(ls -A {path} | wc -l); elif test -e {path}; then \
                 echo hidden $(head -c 1 {path} | wc -c); fi\n"
            ));
        }
        for path in paths::READ_ONLY {
            script.push_str(&format!(
                "if test -e {path}; then grep -q ' {path} ro,' /proc/self/mountinfo && echo sealed || echo OPEN {path}; fi\n"
            ));
        }
        for file in ["/proc/sys/kernel/core_pattern", "/proc/irq/default_smp_affinity", "/proc/sysrq-trigger"]
        {
            script.push_str(&format!(
                "test -e {file} && ( : >> {file} ) 2>/dev/null && echo WRITABLE {file}\n"
            ));
        }
        pod.start(world.shell("one", "sleep 1000")).await.unwrap();
        let (_, of_main) = world.outcome(&pod, world.shell("two", &script)).await;
        let (_, of_command, _) = exec(&pod, "one", &["/bin/sh", "-c", &script]).await.unwrap();
        assert_eq!(of_main, of_command, "a command sees what the container sees");
        let lines: Vec<&str> = of_main.lines().collect();
        let count = |word: &str| lines.iter().filter(|line| **line == word).count();
        assert!(count("hidden 0") >= 3 && count("sealed") >= 3, "{of_main}");
        assert_eq!(count("hidden 0") + count("sealed"), lines.len(), "{of_main}");
        pod.remove().await.unwrap();
    });
}

#[test]
fn the_pod_process_cannot_be_looked_into_nor_ended() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let attempts = [
            "readlink /proc/1/exe",
            "cat /proc/1/maps | grep .",
            "cat /proc/1/environ | grep .",
            "head -c 1 /proc/1/mem",
            "ls /proc/1/root/",
            "ls /proc/1/cwd/",
            "readlink /proc/1/fd/0",
            "cat /proc/1/fd/0",
            "busybox nsenter -t 1 -m /bin/true",
        ];
        let mut spec = tries(&world, "usual", &attempts);
        spec.pid_scope = PidScope::Pod;
        let (_, log) = world.outcome(&pod, spec).await;
        assert_eq!(log, "tried\n");
        let script =
            "kill -9 1; kill -TERM 1; grep -E '^(Uid|CapPrm|CapEff|CapBnd|NoNewPrivs):' /proc/1/status";
        let mut spec = world.shell("killer", script);
        spec.pid_scope = PidScope::Pod;
        let (_, log) = world.outcome(&pod, spec).await;
        let none = "0000000000000000";
        assert_eq!(
            log,
            format!(
                "Uid:\t65534\t65534\t65534\t65534\nCapPrm:\t{none}\nCapEff:\t{none}\nCapBnd:\t{none}\nNoNewPrivs:\t1\n"
            )
        );
        pod.remove().await.unwrap();
    });
}

/// Who may trace sees into process 1 of shared process ids, and finds nothing there.
#[test]
fn one_who_may_trace_gains_nothing_by_process_1() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let script = "exec 2>&1; echo root $(ls -A /proc/1/root/ | wc -l); echo cwd $(ls -A /proc/1/cwd/ | wc -l); \
                      echo files $(ls /proc/1/fd/ | tr '\\n' ' '); (echo x > /proc/1/exe) && echo WRITTEN; \
                      nsenter -t 1 -m /bin/true && echo ENTERED";
        let mut spec = world.shell("tracer", &script.replace("nsenter", "busybox nsenter"));
        spec.pid_scope = PidScope::Pod;
        spec.seccomp = Seccomp::Unconfined;
        let usual = Set::from_names(capabilities::DEFAULT).unwrap();
        spec.capabilities = Capabilities::of(usual.with(Set::from_names(["SYS_PTRACE"]).unwrap()));
        let (_, log) = world.outcome(&pod, spec).await;
        assert!(
            log.contains("root 0\n") && log.contains("cwd 0\n") && log.contains("files 0 1 2\n"),
            "{log}"
        );
        assert!(!log.contains("WRITTEN") && !log.contains("ENTERED"), "{log}");
        pod.remove().await.unwrap();
    });
}

/// Looks without a pause, and without forking, for a newcomer among the process ids that it sees that still has more
/// than the container has: another root, a file that leads elsewhere, or further powers.
const RACER: &str = r#"
mine=
while read -r key value; do case $key in CapPrm:) mine=$value;; esac; done </proc/self/status
echo racing
while :; do
  for process in /proc/[0-9]*; do
    case $process in /proc/$$) continue;; esac
    test -e $process/root/MARK && echo "ESCAPED by the root of $process"
    test -e $process/cwd/MARK && echo "ESCAPED by the directory of $process"
    for file in $process/fd/*; do test -e $file/MARK && echo "ESCAPED by $file"; done
    while read -r key value; do
      case $key in
        Name:) name=$value;;
        CapPrm:) test $value = $mine || test $value = 0000000000000000 || echo "MIGHTY $process $name: $value";;
        Seccomp:) test $value = 2 || test $process = /proc/1 || echo "UNFILTERED $process $name";;
      esac
    done 2>/dev/null <$process/status
  done
done
"#;

/// One who may trace watches commands and containers come in: whatever it can see of them has no more than it has.
#[test]
fn one_who_may_trace_gains_nothing_by_those_who_come_in() {
    run(|world| async move {
        let usual = Set::from_names(capabilities::DEFAULT).unwrap();
        let tracing = usual.with(Set::from_names(["SYS_PTRACE"]).unwrap());
        let mark = world.directory.file_name().unwrap().to_str().unwrap();
        let racer = RACER.replace("MARK", &format!("tmp/{mark}/base"));
        for scope in [PidScope::Container, PidScope::Pod] {
            let pod = world.pod(&format!("{scope:?}").to_lowercase()).await;
            let name = format!("racer-{scope:?}").to_lowercase();
            let may_trace = |mut spec: ContainerSpec, promise: bool| {
                (spec.pid_scope, spec.no_new_privileges) = (scope, promise);
                spec.capabilities = Capabilities::of(tracing);
                spec
            };
            pod.start(may_trace(world.shell(&name, &racer), false)).await.unwrap();
            while !world.log(&name).contains("racing\n") {
                tokio::task::yield_now().await;
            }
            for round in 0..8 {
                let (code, output, _) = exec(&pod, &name, &["echo", "came in"]).await.unwrap();
                assert_eq!((code, output.as_str()), (0, "came in\n"));
                if scope == PidScope::Pod {
                    let beside = world.shell(&format!("beside-{round}"), "echo beside");
                    let (_, log) = world.outcome(&pod, may_trace(beside, round % 2 == 0)).await;
                    assert_eq!(log, "beside\n");
                }
            }
            assert_eq!(world.log(&name), "racing\n", "{scope:?}");
            pod.remove().await.unwrap();
        }
    });
}

#[test]
fn no_descriptor_of_ours_is_left_in_a_container() {
    run(|world| async move {
        let pod = world.pod("a").await;
        // Asked for one by one: a listing would have a descriptor of its own.
        let script = "n=0; while test $n -lt 300; do test -e /proc/$$/fd/$n && echo $n; n=$((n + 1)); done";
        pod.start(world.shell("one", "sleep 1000")).await.unwrap();
        for scope in [PidScope::Container, PidScope::Pod, PidScope::Host] {
            let mut spec = world.shell(&format!("{scope:?}").to_lowercase(), script);
            spec.pid_scope = scope;
            let (_, log) = world.outcome(&pod, spec).await;
            assert_eq!(log, "0\n1\n2\n", "{scope:?}");
        }
        let (_, output, _) = exec(&pod, "one", &["/bin/sh", "-c", script]).await.unwrap();
        assert_eq!(output, "0\n1\n2\n", "of a command");
        let spec = ExecSpec {
            attempt: Attempt::new("one", 0),
            args: vec!["/bin/sh".into(), "-c".into(), script.into()],
            terminal: Some(sandbox::WindowSize { columns: 80, rows: 24 }),
            input: true,
            output: true,
            errors: false,
        };
        let mut running = pod.exec(spec).await.unwrap();
        let mut output = String::new();
        running.output.take().unwrap().read_to_string(&mut output).await.unwrap();
        assert_eq!(output.replace('\r', ""), "0\n1\n2\n", "of a command with a terminal");
        pod.remove().await.unwrap();
    });
}

#[test]
fn filter_powers_and_program_are_the_same_for_a_command() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let usual = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
                     CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n";
        let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; readlink /proc/self/exe; readlink /proc/1/exe";
        for (name, seccomp, promise, filter) in [
            ("filtered", Seccomp::RuntimeDefault, true, 2),
            ("mighty", Seccomp::RuntimeDefault, false, 2),
            ("open", Seccomp::Unconfined, false, 0),
        ] {
            let mut spec = world.shell(name, &format!("{script}; sleep 1000"));
            (spec.seccomp, spec.no_new_privileges) = (seccomp, promise);
            pod.start(spec).await.unwrap();
            let (_, output, _) = exec(&pod, name, &["/bin/sh", "-c", script]).await.unwrap();
            let promise = u8::from(promise);
            let words = format!("NoNewPrivs:\t{promise}\nSeccomp:\t{filter}\n/bin/busybox\n/bin/busybox\n");
            assert_eq!(output, format!("{usual}{words}"), "a command in {name}");
            while world.log(name).lines().count() < output.lines().count() {
                tokio::task::yield_now().await;
            }
            assert_eq!(world.log(name), output, "the main program of {name}");
        }
        pod.remove().await.unwrap();
    });
}

#[test]
fn an_image_of_one_program_is_enough() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let base = world.directory.join("scratch");
        std::fs::create_dir_all(&base).unwrap();
        std::fs::copy("/bin/busybox", base.join("echo")).unwrap();
        let mut spec = world.program("one", &["/echo", "alone"]);
        let place = world.directory.join("containers/one");
        spec.root =
            Root::Overlay { lower: vec![base.clone()], upper: place.join("upper"), work: place.join("work") };
        let (exit, log) = world.outcome(&pod, spec).await;
        assert_eq!((exit.code, log.as_str()), (0, "alone\n"));
        assert!(
            !base.join("proc").exists() && Path::new("/proc/self").exists(),
            "nothing was made in the layer"
        );
        pod.remove().await.unwrap();
    });
}
