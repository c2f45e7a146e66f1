//! Logs, commands, terminals, attaching.

use std::time::Duration;

use sandbox::{Attempt, ExecSpec, WindowSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{SLACK, attach_to, ended, exec, run, wait_for};

const SIZE: WindowSize = WindowSize { columns: 90, rows: 30 };

#[test]
fn logs_are_records_of_cri() {
    run(|world| async move {
        let pod = world.pod("a").await;
        world.outcome(&pod, world.shell("one", "echo out; echo err >&2; printf rest")).await;
        let text = std::fs::read_to_string(world.log_path("one")).unwrap();
        let mut lines: Vec<(&str, &str)> = text.lines().map(|line| line.split_at(30)).collect();
        lines.sort_by_key(|(_, rest)| *rest);
        let rest: Vec<&str> = lines.iter().map(|(_, rest)| *rest).collect();
        assert_eq!(rest, [" stderr F err", " stdout F out", " stdout P rest"]);
        assert!(lines.iter().all(|(time, _)| time.parse::<jiff::Timestamp>().is_ok()), "{text}");
        pod.remove().await.unwrap();
    });
}

#[test]
fn full_logs_are_rotated_and_old_ones_deleted() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let mut spec = world.shell("one", "seq 1 20000");
        (spec.log.max_bytes, spec.log.max_files) = (100_000, 3);
        world.outcome(&pod, spec).await;
        let folder = world.log_path("one").parent().unwrap().to_owned();
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().collect();
        assert_eq!(files.len(), 3);
        assert!(files.iter().all(|file| file.metadata().unwrap().len() < 100_000 + 32 * 1024 * 8));
        assert!(world.log("one").ends_with("20000\n"));
        pod.remove().await.unwrap();
    });
}

#[test]
fn commands_have_streams_codes_and_signals() {
    run(|world| async move {
        let pod = world.pod("a").await;
        pod.start(world.shell("one", "sleep 1000")).await.unwrap();
        let said = exec(&pod, "one", &["/bin/sh", "-c", "echo out; echo err >&2; hostname; exit 4"]).await;
        assert_eq!(said.unwrap(), (4, "out\nhost-a\n".into(), "err\n".into()));
        let message = exec(&pod, "one", &["nothing"]).await.unwrap_err().to_string();
        assert!(message.contains("no such file"), "{message}");
        let spec = |args: &[&str], terminal| ExecSpec {
            attempt: Attempt::new("one", 0),
            args: args.iter().map(ToString::to_string).collect(),
            terminal,
            input: true,
            output: true,
            errors: false,
        };
        let mut cat = pod.exec(spec(&["cat"], None)).await.unwrap();
        cat.input.take().unwrap().write_all(b"through\n").await.unwrap();
        let mut text = String::new();
        cat.output.take().unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!((text.as_str(), cat.ended().await.unwrap().code), ("through\n", 0));
        let mut sleep = pod.exec(spec(&["sleep", "1000"], None)).await.unwrap();
        sleep.signal(libc::SIGKILL).await.unwrap();
        assert_eq!(sleep.ended().await.unwrap().signal, Some(9));
        let mut shell = pod.exec(spec(&["/bin/sh"], Some(SIZE))).await.unwrap();
        let mut output = shell.output.take().unwrap();
        output.resize(WindowSize { columns: 77, rows: 22 }).unwrap();
        shell.input.take().unwrap().write_all(b"tty; stty size; exit 6\n").await.unwrap();
        let mut text = String::new();
        output.read_to_string(&mut text).await.unwrap();
        assert!(text.contains("/dev/pts/") && text.contains("22 77"), "{text}");
        assert_eq!(shell.ended().await.unwrap().code, 6);
        pod.remove().await.unwrap();
    });
}

#[test]
fn a_command_is_killed_with_all_that_it_has_started() {
    run(|world| async move {
        let pod = world.pod("a").await;
        pod.start(world.shell("one", "sleep 1000")).await.unwrap();
        let spec = ExecSpec {
            attempt: Attempt::new("one", 0),
            args: vec!["/bin/sh".into(), "-c".into(), "sleep 2000 & echo up; sleep 2000; true".into()],
            terminal: None,
            input: false,
            output: true,
            errors: false,
        };
        let mut running = pod.exec(spec.clone()).await.unwrap();
        let (mut output, mut up) = (running.output.take().unwrap(), [0; 3]);
        output.read_exact(&mut up).await.unwrap();
        running.kill().await.unwrap();
        assert_eq!(running.ended().await.unwrap().signal, Some(9));
        // The output ends with the last who holds it.
        tokio::time::timeout(SLACK, output.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
        // One that nobody waits for any more when it has started is killed, too. It says nothing, for it would end by
        // itself if nobody heard it, and leave what it has started.
        let silent =
            ExecSpec { args: spec.args.iter().map(|arg| arg.replace("echo up;", "")).collect(), ..spec };
        // A pod process that is quick has started it before we can go away.
        while let Ok(started) = tokio::time::timeout(Duration::ZERO, pod.exec(silent.clone())).await {
            started.unwrap().kill().await.unwrap();
        }
        let sleepers =
            async || exec(&pod, "one", &["/bin/sh", "-c", "ps | grep -c '[s]leep 2000'"]).await.unwrap().1;
        let gone = async {
            while sleepers().await != "0\n" {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SLACK, gone).await.unwrap();
        pod.remove().await.unwrap();
    });
}

/// Nothing of an image makes a start wait.
#[test]
fn a_pipe_in_the_place_of_the_users_is_not_waited_for() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let spec = world.shell("one", "echo $HOME");
        let etc = world.directory.join("containers/one/upper/etc");
        std::fs::create_dir_all(&etc).unwrap();
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, etc.join("passwd"), kind, 0o644.into(), 0).unwrap();
        let (exit, log) = world.outcome(&pod, spec).await;
        assert_eq!((exit.code, log.as_str()), (0, "/\n"));
        pod.remove().await.unwrap();
    });
}

#[test]
fn the_hosts_null_device_keeps_its_owner() {
    run(|world| async move {
        use std::os::unix::fs::MetadataExt;
        let pod = world.pod("a").await;
        let mut spec = world.shell("one", "sleep 1000");
        spec.user.uid = 33;
        pod.start(spec).await.unwrap();
        exec(&pod, "one", &["true"]).await.unwrap();
        assert_eq!(std::fs::metadata("/dev/null").unwrap().uid(), 0);
        pod.remove().await.unwrap();
    });
}

#[test]
fn attaching_gives_what_comes_and_takes_input() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let mut spec = world.shell("one", "while read line; do echo got $line; done; echo end");
        (spec.input, spec.input_once) = (true, true);
        let attempt = spec.attempt.clone();
        pod.start(spec).await.unwrap();
        let mut watcher = pod.attach(attach_to("one", false)).await.unwrap();
        let mut attached = pod.attach(attach_to("one", true)).await.unwrap();
        let mut input = attached.input.take().unwrap();
        input.write_all(b"one\ntwo\n").await.unwrap();
        drop(input);
        for output in [&mut watcher.output, &mut attached.output] {
            let mut text = String::new();
            output.take().unwrap().read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "got one\ngot two\nend\n");
        }
        assert_eq!(ended(&pod, &attempt).await.code, 0);
        assert_eq!(world.log("one"), "got one\ngot two\nend\n");
        pod.remove().await.unwrap();
    });
}

#[test]
fn a_slow_reader_loses_nothing_and_a_vanished_one_stops_nothing() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let mut spec = world.shell("one", "read go; seq 1 50000");
        spec.input = true;
        let attempt = spec.attempt.clone();
        pod.start(spec).await.unwrap();
        let vanished = pod.attach(attach_to("one", false)).await.unwrap();
        let mut slow = pod.attach(attach_to("one", true)).await.unwrap();
        slow.input.take().unwrap().write_all(b"go\n").await.unwrap();
        let mut output = slow.output.take().unwrap();
        let mut first = [0; 10];
        output.read_exact(&mut first).await.unwrap();
        drop(vanished);
        let mut text = String::from_utf8(first.to_vec()).unwrap();
        output.read_to_string(&mut text).await.unwrap();
        assert_eq!(text.lines().count(), 50_000);
        assert_eq!(ended(&pod, &attempt).await.code, 0);
        pod.remove().await.unwrap();
    });
}

#[test]
fn a_terminal_has_size_and_console() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let mut spec = world.shell("one", "tty; stty size; read line; stty size; ls -l /dev/console | wc -l");
        (spec.terminal, spec.input) = (Some(SIZE), true);
        let attempt = spec.attempt.clone();
        pod.start(spec).await.unwrap();
        let mut attached = pod.attach(attach_to("one", true)).await.unwrap();
        pod.resize(&attempt, WindowSize { columns: 44, rows: 11 }).await.unwrap();
        attached.input.take().unwrap().write_all(b"\n").await.unwrap();
        assert_eq!(ended(&pod, &attempt).await.code, 0);
        let log = world.log("one");
        assert!(log.contains("/dev/pts/0") && log.contains("11 44"), "{log}");
        let message = pod.resize(&attempt, SIZE).await.unwrap_err().to_string();
        assert!(message.contains("does not run"), "{message}");
        wait_for(&pod, |state| state.get(&attempt).is_some_and(|one| !one.is_running())).await;
        pod.remove().await.unwrap();
    });
}
