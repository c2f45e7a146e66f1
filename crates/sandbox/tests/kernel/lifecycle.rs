//! Start, end, signals, removal.

use sandbox::{Attempt, Error, PidScope, Resources, StartError};

use crate::harness::{ended, exec, pid_of, run, traces, wait_for};

#[test]
fn a_container_runs_ends_and_its_code_is_kept() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let (exit, log) = world.outcome(&pod, world.shell("one", "echo hello; exit 3")).await;
        assert_eq!((exit.code, exit.signal, exit.out_of_memory), (3, None, false));
        assert_eq!(log, "hello\n");
        assert!(exit.finished_at >= exit.started_at);
        pod.remove().await.unwrap();
    });
}

#[test]
fn signals_reach_the_process_and_are_told() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let trap = world.shell("polite", "trap 'exit 5' TERM; echo ready; while true; do sleep 0.01; done");
        pod.start(trap).await.unwrap();
        pod.start(world.shell("rude", "trap '' TERM; sleep 1000")).await.unwrap();
        let (polite, rude) = (Attempt::new("polite", 0), Attempt::new("rude", 0));
        while !world.log("polite").contains("ready") {
            tokio::task::yield_now().await;
        }
        pod.signal(&polite, libc::SIGTERM).await.unwrap();
        assert_eq!(ended(&pod, &polite).await.code, 5);
        pod.kill(&rude).await.unwrap();
        let exit = ended(&pod, &rude).await;
        assert_eq!((exit.code, exit.signal), (137, Some(9)));
        assert!(matches!(pod.signal(&rude, libc::SIGTERM).await, Err(Error::NotRunning(_))));
        pod.remove().await.unwrap();
    });
}

#[test]
fn an_attempt_is_started_once_whoever_asks() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let spec = world.shell("one", "echo started; sleep 1000");
        let adopted = world.open().await.adopt().await.unwrap().pop();
        let Some(sandbox::Adopted::Live(other)) = adopted else { panic!("the pod process lives") };
        // Neither client knows of the attempt yet, so both ask and the pod process decides.
        let (first, second) = tokio::join!(pod.start(spec.clone()), other.start(spec.clone()));
        let first = first.unwrap();
        assert_eq!(first.state, second.unwrap().state);
        assert_eq!(pod.start(spec.clone()).await.unwrap().state, first.state);
        while world.log("one").is_empty() {
            tokio::task::yield_now().await;
        }
        pod.kill(&spec.attempt).await.unwrap();
        ended(&pod, &spec.attempt).await;
        assert!(pod.start(spec.clone()).await.unwrap().state.exit().is_some());
        pod.forget(&spec.attempt).await.unwrap();
        wait_for(&pod, |state| state.containers.is_empty()).await;
        assert_eq!(pod.start(spec.clone()).await, Err(StartError::AlreadyRan));
        assert_eq!(world.log("one"), "started\n");
        let mut next = spec;
        next.attempt.number = 1;
        pod.start(next).await.unwrap();
        pod.remove().await.unwrap();
    });
}

#[test]
fn removal_leaves_nothing_on_the_machine() {
    run(|world| async move {
        let limits = Resources { memory_bytes: Some(256 << 20), pids: Some(50), ..Resources::default() };
        let spec = sandbox::Spec { resources: limits, cgroup_parent: "burstable".into(), ..world.spec("a") };
        let pod = world.sandboxes.create(spec).await.unwrap();
        for name in ["one", "two"] {
            pod.start(world.shell(name, "sleep 1000 & sleep 1000")).await.unwrap();
        }
        assert!(!traces(&world.config.cgroup_root, &world.config.run_dir).is_empty());
        pod.remove().await.unwrap();
        pod.remove().await.unwrap();
        world.sandboxes.remove_root().await.unwrap();
        assert_eq!(traces(&world.config.cgroup_root, &world.config.run_dir), Vec::<String>::new());
        assert!(!world.config.run_dir.exists());
        let message = world.sandboxes.check().unwrap_err().to_string();
        assert!(message.contains("run;"), "{message}");
        std::fs::create_dir(&world.config.run_dir).unwrap();
        assert!(world.sandboxes.check().is_ok());
    });
}

#[test]
fn a_pod_may_share_its_process_ids() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let mut one = world.shell("one", "sleep 1000 & sleep 1000");
        one.pid_scope = PidScope::Pod;
        pod.start(one).await.unwrap();
        let mut two = world.shell("two", "ps -o args | grep -c '[s]leep 1000'; cat /proc/1/comm; echo $$");
        two.pid_scope = PidScope::Pod;
        let (exit, log) = world.outcome(&pod, two).await;
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!((exit.code, lines[0], lines[1]), (0, "2", "ondol-pod"), "{log}");
        assert_ne!(lines[2], "1");
        let (_, own, _) = exec(&pod, "one", &["/bin/sh", "-c", "ls -d /proc/[0-9]* | wc -l"]).await.unwrap();
        assert!(own.trim().parse::<u32>().unwrap() >= 4);
        let pid = pid_of(&pod, "one");
        pod.kill(&Attempt::new("one", 0)).await.unwrap();
        ended(&pod, &Attempt::new("one", 0)).await;
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        pod.remove().await.unwrap();
    });
}

#[test]
fn containers_share_host_name_network_and_memory_files() {
    run(|world| async move {
        let pod = world.pod("a").await;
        pod.start(world.shell("one", "echo shared > /dev/shm/file; sleep 1000")).await.unwrap();
        let script =
            "hostname; ip addr show lo | grep -c 'inet 127'; while ! cat /dev/shm/file; do sleep 0.01; done";
        let (_, log) = world.outcome(&pod, world.shell("two", script)).await;
        assert!(log.starts_with("host-a\n1\n") && log.ends_with("shared\n"), "{log}");
        assert!(pod.netns_path().exists());
        let usage = pod.container_usage(&Attempt::new("one", 0)).await.unwrap();
        assert!(usage.memory_bytes > 0 && usage.memory_working_set_bytes <= usage.memory_bytes);
        // The program itself is shared by all pods: one alone would count it as its own.
        let second = world.pod("b").await;
        let overhead = pod.overhead().await.unwrap();
        assert!(overhead.private_bytes < 1 << 20, "{overhead:?}");
        second.remove().await.unwrap();
        pod.remove().await.unwrap();
    });
}

#[test]
fn what_cannot_be_a_sandbox_is_refused_and_leaves_nothing() {
    run(|world| async move {
        let bad = sandbox::Spec { sysctls: vec![("net.no.such".into(), "1".into())], ..world.spec("a") };
        let message = world.sandboxes.create(bad).await.unwrap_err().to_string();
        assert!(message.contains("net/no/such"), "{message}");
        let pod = world.pod("a").await;
        let again = world.sandboxes.create(world.spec("a")).await.unwrap_err().to_string();
        assert!(again.contains("already"), "{again}");
        pod.remove().await.unwrap();
    });
}
