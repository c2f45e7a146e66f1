//! What changes while a pod is there, and what its probes do to it.

use api::json;
use api::value::Value;

use crate::cluster::shell;
use crate::harness::{OTHER_IMAGE, World, is_ready, run};

fn change(world: &World, name: &str, path: &[&str], value: &str) {
    let mut pod = world.cluster.pod(name).expect("there");
    let containers = pod.at_mut(&["spec", "containers"]).and_then(Value::as_array_mut).expect("containers");
    containers[0].set(path, value);
    world.cluster.put(pod);
}

fn status(pod: &Value) -> &Value {
    &pod.array_at(&["status", "containerStatuses"])[0]
}

#[tokio::test]
async fn a_container_whose_image_is_changed_runs_again_with_the_new_one_whatever_its_policy_says() {
    run(async |world| {
        let mut spec = shell("echo version $VERSION; trap 'exit 0' TERM; while true; do sleep 0.05; done");
        spec.set(&["restartPolicy"], "Never");
        world.make("p", spec);
        let pod = world.until("p", is_ready).await;
        let before = status(&pod).str_at(&["image"]).map(str::to_owned);
        assert!(before.is_some_and(|image| image != OTHER_IMAGE));
        change(world, "p", &["image"], OTHER_IMAGE);
        let again = |pod: &Value| is_ready(pod) && status(pod).int_at(&["restartCount"]) == Some(1);
        let pod = world.until("p", again).await;
        assert_eq!(status(&pod).str_at(&["image"]), Some(OTHER_IMAGE));
        let told = ("Killing".to_owned(), "Container c definition changed, will be restarted".to_owned());
        let events = world.events();
        assert!(events.contains(&told), "{events:?}");
        let log = world.directory.join("logs/a_p_p/c/1.log");
        let said = async || {
            while !std::fs::read_to_string(&log).unwrap_or_default().contains("version 2") {
                tokio::task::yield_now().await;
            }
        };
        world.clock.timeout(crate::harness::PATIENCE, said()).await.expect("the new image runs");
        world.cluster.delete("p", 1);
        world.until_gone("p").await;
    })
    .await;
}

#[tokio::test]
async fn an_image_that_is_corrected_is_not_waited_for_as_the_wrong_one_was() {
    run(async |world| {
        world.make("p", shell("trap 'exit 0' TERM; while true; do sleep 0.05; done"));
        world.until("p", is_ready).await;
        let mut spec = shell("trap 'exit 0' TERM; while true; do sleep 0.05; done");
        let containers = spec.at_mut(&["containers"]).and_then(Value::as_array_mut).expect("containers");
        containers[0].set(&["image"], "ondol.local/test/missing:1");
        world.make("wrong", spec);
        let waits = |pod: &Value| {
            let statuses = pod.array_at(&["status", "containerStatuses"]);
            statuses.first().and_then(|status| status.str_at(&["state", "waiting", "reason"]))
                == Some("ErrImageNeverPull")
        };
        world.until("wrong", waits).await;
        change(world, "wrong", &["image"], OTHER_IMAGE);
        world.until("wrong", is_ready).await;
    })
    .await;
}

#[tokio::test]
async fn a_probe_that_hangs_leaves_nothing_and_one_that_says_much_is_heard() {
    run(async |world| {
        let probe = |script: &str| {
            json!({
                "exec": {"command": ["/bin/sh", "-c", script]}, "periodSeconds": 1, "timeoutSeconds": 1,
                "failureThreshold": 1000
            })
        };
        let with = |probe: Value| {
            let mut spec = shell("trap 'exit 0' TERM; while true; do sleep 0.1; done");
            let containers = spec.at_mut(&["containers"]).and_then(Value::as_array_mut).expect("containers");
            containers[0].set(&["readinessProbe"], probe);
            spec
        };
        world.make("hangs", with(probe("sleep 54321; true")));
        world.make("talks", with(probe("head -c 300000 /dev/zero | tr '\\0' x")));
        world.until("talks", is_ready).await;
        let mut failures = 0;
        while failures < 3 {
            let timed_out = |(reason, words): &(String, String)| {
                reason == "Unhealthy" && words == "Readiness probe failed: command timed out after 1s"
            };
            failures += world.events().iter().filter(|event| timed_out(event)).count();
            tokio::task::yield_now().await;
        }
        // The one under way and no other: its shell and what that runs.
        let running = || {
            let processes = std::fs::read_dir("/proc").expect("there").flatten();
            let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
            lines.filter(|line| line.starts_with(b"sleep\x0054321")).count()
        };
        let few = async || {
            while running() > 1 {
                tokio::task::yield_now().await;
            }
        };
        world.clock.timeout(crate::harness::PATIENCE, few()).await.expect("what timed out is killed");
    })
    .await;
}

#[tokio::test]
async fn a_later_delete_with_less_time_is_heard() {
    run(async |world| {
        let mut spec = shell("trap '' TERM; while true; do sleep 1; done");
        spec.set(&["terminationGracePeriodSeconds"], 600);
        world.make("p", spec);
        world.until("p", is_ready).await;
        world.cluster.delete("p", 600);
        while !world.events().iter().any(|(reason, _)| reason == "Killing") {
            tokio::task::yield_now().await;
        }
        world.cluster.delete("p", 1);
        world.until_gone("p").await;
    })
    .await;
}

#[tokio::test]
async fn an_api_that_does_not_answer_holds_up_no_container() {
    run(async |world| {
        let mut spec =
            shell("while ! test -e /v/end$(cat /v/number); do sleep 0.05; done; echo 1 > /v/number; exit 1");
        spec.set(&["volumes"], json!([{"name": "v", "emptyDir": {}}]));
        spec.set(&["terminationGracePeriodSeconds"], 1);
        let containers = spec.at_mut(&["containers"]).and_then(Value::as_array_mut).expect("containers");
        containers[0].set(&["volumeMounts"], json!([{"name": "v", "mountPath": "/v"}]));
        world.make("p", spec);
        world.until("p", is_ready).await;
        world.cluster.stall(true);
        std::fs::write(world.directory.join("pods/p/volumes/v/end"), "").expect("written");
        let log = world.directory.join("logs/a_p_p/c/1.log");
        let restarted = async {
            while !log.exists() {
                tokio::task::yield_now().await;
            }
        };
        world.clock.timeout(crate::harness::PATIENCE, restarted).await.expect("it runs again");
        assert_eq!(status(&world.cluster.pod("p").expect("there")).int_at(&["restartCount"]), Some(0));
        world.cluster.stall(false);
        world.until("p", |pod| is_ready(pod) && status(pod).int_at(&["restartCount"]) == Some(1)).await;
    })
    .await;
}
