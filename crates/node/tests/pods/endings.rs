//! How pods end, and what is said of it.

use std::time::Duration;

use api::json;
use api::value::Value;

use crate::cluster::{container, shell};
use crate::harness::{is_ready, phase, run};

fn with(spec: Value, field: &str, value: Value) -> Value {
    let mut spec = spec;
    let containers = spec.at_mut(&["containers"]).and_then(Value::as_array_mut).expect("containers");
    containers[0].set(&[field], value);
    spec
}

#[tokio::test]
async fn last_words_come_from_the_file_or_from_the_log_of_a_failure() {
    run(async |world| {
        let (ended, _) =
            world.outcome("file", shell("printf 'last words' > /dev/termination-log; exit 3")).await;
        assert_eq!((ended.int_at(&["exitCode"]), ended.str_at(&["message"])), (Some(3), Some("last words")));
        let own =
            with(shell("echo elsewhere > /tmp/words"), "terminationMessagePath", Value::from("/tmp/words"));
        let (ended, _) = world.outcome("path", own).await;
        assert_eq!(ended.str_at(&["message"]), Some("elsewhere\n"));
        assert_eq!(ended.str_at(&["reason"]), Some("Completed"));
        let fallback = |script: &str| {
            with(shell(script), "terminationMessagePolicy", Value::from("FallbackToLogsOnError"))
        };
        let (ended, _) = world.outcome("log", fallback("echo first; echo oh no; exit 1")).await;
        assert_eq!(ended.str_at(&["message"]), Some("first\noh no"));
        let (ended, _) = world.outcome("fine", fallback("echo all is well")).await;
        assert_eq!(ended.str_at(&["message"]).unwrap_or_default(), "", "a success has nothing to explain");
        let long =
            "head -c 10000 /dev/zero | tr '\\0' x > /dev/termination-log; printf end >> /dev/termination-log";
        let (ended, _) = world.outcome("long", shell(long)).await;
        let message = ended.str_at(&["message"]).unwrap_or_default();
        assert!(message.len() == 4096 && message.ends_with("xend"), "the end of it: {}", message.len());
    })
    .await;
}

#[tokio::test]
async fn a_hook_longer_than_the_grace_is_cut_short() {
    run(async |world| {
        let mut spec = with(
            shell("trap '' TERM; echo up; while true; do sleep 1; done"),
            "lifecycle",
            json!({"preStop": {"exec": {"command": ["/bin/sleep", "600"]}}}),
        );
        spec.set(&["terminationGracePeriodSeconds"], 1);
        world.make("p", spec);
        world.until("p", is_ready).await;
        let began = world.clock.monotonic();
        world.cluster.delete("p", 1);
        world.until_gone("p").await;
        let took = world.clock.monotonic() - began;
        assert!(took < Duration::from_secs(15) && took >= Duration::from_secs(1), "{took:?}");
        let events = world.events();
        assert!(events.iter().any(|(reason, _)| reason == "FailedPreStopHook"), "{events:?}");
    })
    .await;
}

#[tokio::test]
async fn a_pod_fails_at_its_deadline() {
    run(async |world| {
        let mut spec = shell("while true; do sleep 1; done");
        spec.set(&["activeDeadlineSeconds"], 1);
        spec.set(&["terminationGracePeriodSeconds"], 1);
        world.make("p", spec);
        let pod = world.until("p", |pod| phase(pod) == Some("Failed")).await;
        assert_eq!(pod.str_at(&["status", "reason"]), Some("DeadlineExceeded"));
        let ended = |pod: &Value| {
            pod.array_at(&["status", "containerStatuses"])[0].at(&["state", "terminated"]).is_some()
        };
        world.until("p", ended).await;
    })
    .await;
}

#[tokio::test]
async fn a_sidecar_that_is_not_up_yet_holds_what_is_behind_it() {
    run(async |world| {
        let mut sidecar = container("side", "while true; do sleep 1; done");
        sidecar.set(&["restartPolicy"], "Always");
        sidecar.set(&["startupProbe"], json!({
            "exec": {"command": ["/bin/test", "-e", "/shared/up"]}, "periodSeconds": 1, "failureThreshold": 1000
        }));
        sidecar.set(&["volumeMounts"], json!([{"name": "v", "mountPath": "/shared"}]));
        let main = container("c", "echo main; while true; do sleep 1; done");
        world.make("p", json!({
            "containers": [main], "initContainers": [sidecar], "volumes": [{"name": "v", "emptyDir": {}}],
            "terminationGracePeriodSeconds": 1
        }));
        let running = |pod: &Value, list: &str| {
            let statuses = pod.array_at(&["status", list]);
            statuses.iter().any(|status| status.at(&["state", "running"]).is_some())
        };
        let pod = world.until("p", |pod| running(pod, "initContainerStatuses")).await;
        assert!(!running(&pod, "containerStatuses") && !is_ready(&pod));
        let started = pod.array_at(&["status", "initContainerStatuses"])[0].bool_at(&["started"]);
        assert_eq!((started, world.log("p", "c").as_str()), (Some(false), ""), "the main waits");
        std::fs::write(world.directory.join("pods/p/volumes/v/up"), "").expect("written");
        world.until("p", is_ready).await;
    })
    .await;
}

#[tokio::test]
async fn a_liveness_probe_restarts_a_sidecar_and_leaves_the_main_alone() {
    run(async |world| {
        let mut sidecar = container("side", "trap 'exit 0' TERM; while true; do sleep 0.1; done");
        sidecar.set(&["restartPolicy"], "Always");
        sidecar.set(
            &["livenessProbe"],
            json!({
                "exec": {"command": ["/bin/false"]}, "periodSeconds": 1, "failureThreshold": 1
            }),
        );
        let main = container("c", "while true; do sleep 1; done");
        world.make(
            "p",
            json!({
                "containers": [main], "initContainers": [sidecar], "terminationGracePeriodSeconds": 1
            }),
        );
        let restarts = |pod: &Value, list: &str| {
            pod.array_at(&["status", list])
                .first()
                .and_then(|status| status.int_at(&["restartCount"]))
                .unwrap_or(0)
        };
        let pod = world.until("p", |pod| restarts(pod, "initContainerStatuses") >= 1).await;
        assert_eq!(restarts(&pod, "containerStatuses"), 0);
    })
    .await;
}

/// What was begun when the agent was stopped is neither lost nor cut short.
#[tokio::test]
async fn all_pods_end_with_the_agent_whatever_was_under_way() {
    run(async |world| {
        let polite = "trap 'sleep 0.3; echo bye; exit 0' TERM; echo up; while true; do sleep 0.05; done";
        for name in ["stays", "goes"] {
            let mut spec = shell(polite);
            spec.set(&["terminationGracePeriodSeconds"], 20);
            world.make(name, spec);
            world.until(name, is_ready).await;
        }
        // This one is being stopped, and that one is being started, at the moment of the end.
        world.cluster.delete("goes", 20);
        while !world.events().iter().any(|(reason, _)| reason == "Killing") {
            tokio::task::yield_now().await;
        }
        world.make("comes", shell(polite));
        world.end_all(Duration::from_secs(20)).await;
        for name in ["stays", "goes"] {
            assert!(
                world.log(name, "c").ends_with("bye\n"),
                "{name} had its time: {:?}",
                world.log(name, "c")
            );
        }
        assert!(world.sandboxes.adopt().await.expect("looked for").is_empty(), "nothing is left");
    })
    .await;
}

#[tokio::test]
async fn a_container_that_crashes_again_and_again_leaves_two_attempts() {
    run(async |world| {
        // The first restart is at once, the second after ten seconds.
        let mut spec =
            shell("test -e /v/2 && exec sleep 1000; test -e /v/1 && touch /v/2; touch /v/1; exit 1");
        spec.set(&["volumes"], json!([{"name": "v", "emptyDir": {}}]));
        spec.set(&["terminationGracePeriodSeconds"], 1);
        let spec = with(spec, "volumeMounts", json!([{"name": "v", "mountPath": "/v"}]));
        world.make("p", spec);
        let restarted = |pod: &Value| {
            let statuses = pod.array_at(&["status", "containerStatuses"]);
            is_ready(pod) && statuses[0].int_at(&["restartCount"]) == Some(2)
        };
        world.until("p", restarted).await;
        let told =
            world.events().into_iter().filter(|(reason, _)| reason == "BackOff").map(|(_, words)| words);
        let told: Vec<String> = told.collect();
        assert!(
            told.len() == 1 && told[0].starts_with("Back-off restarting failed container c in pod p_a("),
            "{told:?}"
        );
        let names = |folder: &str| {
            let entries = std::fs::read_dir(world.directory.join(folder)).expect("there").flatten();
            let mut names: Vec<String> =
                entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        while names("logs/a_p_p/c") != ["1.log", "2.log"] {
            tokio::task::yield_now().await;
        }
        let worker = world.agent.find("a", "p").expect("there");
        let sandbox = worker.sandbox().expect("there");
        let known: Vec<u32> = sandbox.state().containers.keys().map(|attempt| attempt.number).collect();
        assert_eq!(known, [1, 2]);
    })
    .await;
}
