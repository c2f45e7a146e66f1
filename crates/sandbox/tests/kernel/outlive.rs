//! The death of agents and of pod processes.

use std::path::Path;
use std::time::Duration;

use sandbox::{Adopted, Attempt, PidScope};

use crate::harness::{exec, pid_of, run, wait_for};

#[test]
fn a_second_manager_finds_everything_as_it_was() {
    run(|world| async move {
        let spec = sandbox::Spec { annotation: "mine".into(), ..world.spec("a") };
        let pod = world.sandboxes.create(spec.clone()).await.unwrap();
        pod.start(world.shell("lives", "sleep 1000")).await.unwrap();
        let (exit, _) = world.outcome(&pod, world.shell("ended", "exit 7")).await;
        let adopted = world.open().await.adopt().await.unwrap().pop();
        let Some(Adopted::Live(other)) = adopted else { panic!("the pod process lives") };
        assert_eq!((other.spec(), other.pid()), (&spec, pod.pid()));
        let state = wait_for(&other, |state| state.containers.len() == 2).await;
        assert!(state.get(&Attempt::new("lives", 0)).unwrap().is_running());
        assert_eq!(state.get(&Attempt::new("ended", 0)).unwrap().exit(), Some(&exit));
        assert_eq!(exec(&other, "lives", &["echo", "hi"]).await.unwrap().1, "hi\n");
        other.remove().await.unwrap();
        wait_for(&pod, |state| state.lost).await;
    });
}

#[test]
fn killing_the_pod_process_ends_its_containers_and_is_seen() {
    run(|world| async move {
        let pod = world.pod("a").await;
        for (name, scope) in [("own", PidScope::Container), ("pod", PidScope::Pod), ("host", PidScope::Host)]
        {
            let mut spec = world.shell(name, "sleep 1000 & exec sleep 1000");
            spec.pid_scope = scope;
            pod.start(spec).await.unwrap();
        }
        let pids = ["own", "pod", "host"].map(|name| pid_of(&pod, name));
        let killed = rustix::process::Pid::from_raw(pod.pid().cast_signed()).unwrap();
        rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
        tokio::time::timeout(Duration::from_secs(5), pod.gone()).await.expect("the loss is seen");
        let gone = async {
            while pids.iter().any(|pid| is_alive(*pid)) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone)
            .await
            .expect("containers end with their pod process");
        assert!(pod.start(world.shell("late", "true")).await.is_err());
        let adopted = world.open().await.adopt().await.unwrap().pop();
        let Some(Adopted::Lost(remains)) = adopted else { panic!("the pod process is gone") };
        assert_eq!((remains.id.as_str(), remains.spec.is_some()), ("a", true));
        remains.remove().await.unwrap();
        world.pod("a").await.remove().await.unwrap();
    });
}

fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A process that waits for its new parent to reap it is dead.
    Path::new(&format!("/proc/{pid}")).exists() && !status.contains(") Z ")
}
