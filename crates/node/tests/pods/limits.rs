//! What pods may use.

use api::json;
use api::value::Value;

use crate::cluster::{container, shell};
use crate::harness::{phase, run};

#[tokio::test]
async fn memory_beyond_the_limit_is_told_as_oom() {
    run(async |world| {
        let mut greedy = container("c", "exec awk 'BEGIN { s = \"x\"; while (1) s = s s }'");
        greedy.set(&["resources"], json!({"limits": {"memory": "32Mi"}}));
        let (ended, _) = world.outcome("p", json!({"containers": [greedy]})).await;
        assert_eq!((ended.str_at(&["reason"]), ended.int_at(&["exitCode"])), (Some("OOMKilled"), Some(137)));
    })
    .await;
}

#[tokio::test]
async fn a_volume_in_memory_holds_what_its_limit_says() {
    run(async |world| {
        let mut writer = container("c", "dd if=/dev/zero of=/v/file bs=65536 count=100; echo $?");
        writer.set(&["volumeMounts"], json!([{"name": "v", "mountPath": "/v"}]));
        let volumes = json!([{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]);
        let (_, log) = world.outcome("p", json!({"containers": [writer], "volumes": volumes})).await;
        assert!(log.contains("No space left on device") && log.ends_with("1\n"), "{log}");
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_fills_its_volume_on_the_disk_is_evicted() {
    run(async |world| {
        let mut writer = container("c", "dd if=/dev/zero of=/v/file bs=65536 count=100; sleep 1000");
        writer.set(&["volumeMounts"], json!([{"name": "v", "mountPath": "/v"}]));
        let volumes = json!([{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]);
        world.make("p", json!({"containers": [writer], "volumes": volumes}));
        let pod = world.until("p", |pod| phase(pod) == Some("Failed")).await;
        assert_eq!(pod.str_at(&["status", "reason"]), Some("Evicted"));
        let message = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
        assert_eq!(pod.str_at(&["status", "message"]), Some(message));
        let events = world.events();
        assert!(events.iter().any(|(reason, text)| reason == "Evicted" && text == message), "{events:?}");
        let ended = |pod: &Value| {
            pod.array_at(&["status", "containerStatuses"])[0].at(&["state", "terminated"]).is_some()
        };
        world.until("p", ended).await;
    })
    .await;
}

#[tokio::test]
async fn a_start_that_cannot_be_is_told_in_the_status() {
    run(async |world| {
        let mut spec = shell("true");
        let containers = spec.at_mut(&["containers"]).and_then(Value::as_array_mut).expect("containers");
        containers[0].set(&["command"], json!(["/no/such/program"]));
        let (ended, _) = world.outcome("p", spec).await;
        assert_eq!((ended.str_at(&["reason"]), ended.int_at(&["exitCode"])), (Some("StartError"), Some(128)));
        let message = ended.str_at(&["message"]).unwrap_or_default();
        assert!(message.contains("no such file in the image: /no/such/program"), "{message}");
    })
    .await;
}
