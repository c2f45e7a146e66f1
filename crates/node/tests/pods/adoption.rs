//! What the next agent does with what a killed one has left.

use api::json;
use api::value::Value;

use crate::cluster::shell;
use crate::harness::{OTHER_IMAGE, PATIENCE, QUITTING_IMAGE, World, is_ready, run};

/// A container that stays, and has a hook.
fn hooked(hook: &str) -> Value {
    let mut spec = shell("trap 'exit 0' TERM; while true; do sleep 0.05; done");
    spec.set(&["terminationGracePeriodSeconds"], 1);
    spec.set(&["volumes"], json!([{"name": "v", "emptyDir": {}}]));
    let containers = spec.at_mut(&["containers"]).and_then(Value::as_array_mut).expect("containers");
    containers[0].set(&["volumeMounts"], json!([{"name": "v", "mountPath": "/v"}]));
    containers[0].set(&["lifecycle", "postStart"], json!({"exec": {"command": ["/bin/sh", "-c", hook]}}));
    spec
}

fn volume(world: &World, file: &str) -> std::path::PathBuf {
    world.directory.join("pods/p/volumes/v").join(file)
}

async fn until_there(world: &World, file: &str) {
    let path = volume(world, file);
    let waited = async {
        while !path.exists() {
            tokio::task::yield_now().await;
        }
    };
    world.clock.timeout(PATIENCE, waited).await.unwrap_or_else(|| panic!("no {file}: {:?}", world.events()));
}

fn status(pod: &Value) -> &Value {
    &pod.array_at(&["status", "containerStatuses"])[0]
}

#[tokio::test]
async fn a_hook_that_was_killed_with_its_agent_is_told_again_before_the_container_is_ready() {
    run(async |world| {
        world.make(
            "p",
            hooked("echo told >> /v/told; while ! test -e /v/go; do sleep 0.05; done; touch /v/done"),
        );
        until_there(world, "told").await;
        world.kill_agent().await;
        // The status of the killed agent is not to be believed, whatever it says.
        let mut pod = world.cluster.pod("p").expect("there");
        let ready = json!([{
            "name": "c", "restartCount": 0, "ready": true, "started": true, "image": "", "imageID": "",
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        }]);
        pod.set(&["status", "containerStatuses"], ready);
        pod.set(&["status", "conditions"], json!([]));
        world.cluster.put(pod);
        world.begin_agent().await;
        let told_twice = async {
            while std::fs::read_to_string(volume(world, "told")).is_ok_and(|told| told != "told\ntold\n") {
                tokio::task::yield_now().await;
            }
        };
        world.clock.timeout(PATIENCE, told_twice).await.expect("the hook is told again");
        let pod = world.until("p", |pod| status(pod).bool_at(&["started"]) == Some(false)).await;
        assert!(!is_ready(&pod), "its hook has not ended");
        std::fs::write(volume(world, "go"), "").expect("written");
        world.until("p", is_ready).await;
        assert!(volume(world, "done").exists());
    })
    .await;
}

#[tokio::test]
async fn a_hook_that_has_succeeded_is_not_told_again() {
    run(async |world| {
        world.make("p", hooked("echo told >> /v/told"));
        world.until("p", is_ready).await;
        world.kill_agent().await;
        world.begin_agent().await;
        // A readable change goes through the new agent, which has adopted the container by then.
        let restarted = |pod: &Value| is_ready(pod) && status(pod).int_at(&["restartCount"]) == Some(1);
        let mut pod = world.cluster.pod("p").expect("there");
        let containers =
            pod.at_mut(&["spec", "containers"]).and_then(Value::as_array_mut).expect("containers");
        containers[0].set(&["image"], OTHER_IMAGE);
        world.cluster.put(pod);
        world.until("p", restarted).await;
        let told = std::fs::read_to_string(volume(world, "told")).expect("told");
        assert_eq!(told, "told\ntold\n", "once for each attempt");
    })
    .await;
}

#[tokio::test]
async fn a_hook_that_fails_after_an_adoption_ends_its_container_as_it_would_have_before() {
    run(async |world| {
        world.make("p", hooked("test -e /v/second && exit 0; touch /v/told; while ! test -e /v/go; do sleep 0.05; done; touch /v/second; exit 7"));
        until_there(world, "told").await;
        world.kill_agent().await;
        std::fs::write(volume(world, "go"), "").expect("written");
        world.begin_agent().await;
        let restarted = |pod: &Value| is_ready(pod) && status(pod).int_at(&["restartCount"]) == Some(1);
        world.until("p", restarted).await;
        let reasons: Vec<String> = world.events().into_iter().map(|(reason, _)| reason).collect();
        for reason in ["FailedPostStartHook", "Killing"] {
            assert_eq!(reasons.iter().filter(|other| *other == reason).count(), 1, "{reason} in {reasons:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_next_agent_knows_of_what_a_running_container_is_made() {
    run(async |world| {
        let mut spec = shell("trap 'echo bye; exit 0' QUIT; while true; do sleep 0.05; done");
        let containers = spec.at_mut(&["containers"]).and_then(Value::as_array_mut).expect("containers");
        containers[0].set(&["image"], QUITTING_IMAGE);
        world.make("p", spec);
        let pod = world.until("p", is_ready).await;
        let of = |pod: &Value| {
            let status = status(pod);
            let text = |name: &str| status.str_at(&[name]).map(str::to_owned);
            (text("image"), text("imageID"), status.at(&["user", "linux", "uid"]).cloned())
        };
        let before = of(&pod);
        assert!(before.1.as_ref().is_some_and(|id| !id.is_empty()) && before.2.is_some(), "{before:?}");
        let pins = world.agent.find("a", "p").expect("there").pins();
        world.kill_agent().await;
        // Whatever the new agent knows is not from the status.
        let mut pod = world.cluster.pod("p").expect("there");
        pod.set(&["status", "containerStatuses"], json!([]));
        world.cluster.put(pod);
        world.begin_agent().await;
        let pod = world
            .until("p", |pod| is_ready(pod) && !pod.array_at(&["status", "containerStatuses"]).is_empty())
            .await;
        assert_eq!(of(&pod), before);
        assert_eq!(
            world.agent.find("a", "p").expect("there").pins(),
            pins,
            "its image must not be collected"
        );
        world.cluster.delete("p", 600);
        // By the signal that its image wants: any other would take the whole time.
        world.until_gone("p").await;
    })
    .await;
}

#[tokio::test]
async fn the_last_words_of_a_container_that_ended_without_an_agent_are_heard() {
    run(async |world| {
        let mut spec = hooked("true");
        let script = "while ! test -e /v/go; do sleep 0.05; done; printf bye > /dev/termination-log; exit 3";
        let containers = spec.at_mut(&["containers"]).and_then(Value::as_array_mut).expect("containers");
        containers[0].set(&["command"], json!(["/bin/sh", "-c", script]));
        spec.set(&["restartPolicy"], "Never");
        world.make("p", spec);
        world.until("p", is_ready).await;
        world.kill_agent().await;
        std::fs::write(volume(world, "go"), "").expect("written");
        let word = world.directory.join("pods/p/containers/c/0.termination");
        let said = async {
            while std::fs::read_to_string(&word).unwrap_or_default() != "bye" {
                tokio::task::yield_now().await;
            }
        };
        world.clock.timeout(PATIENCE, said).await.expect("it says something");
        world.begin_agent().await;
        let ended = |pod: &Value| status(pod).str_at(&["state", "terminated", "message"]) == Some("bye");
        world
            .until("p", |pod| !pod.array_at(&["status", "containerStatuses"]).is_empty() && ended(pod))
            .await;
    })
    .await;
}
