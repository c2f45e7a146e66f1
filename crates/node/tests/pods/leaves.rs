//! Fields that are acted on in the course of a pod's life, each seen to be: `src/supported/observed.rs` names these
//! tests.

use std::time::Duration;

use api::json;
use api::value::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::cluster::{container, shell};
use crate::harness::{World, is_ready, phase, run};

/// Ends at once when it is asked to.
const POLITE: &str = "trap 'exit 0' TERM; echo up; while true; do sleep 0.05; done";
/// Ends only when it is killed.
const DEAF: &str = "trap '' TERM; echo up; while true; do sleep 0.05; done";
/// Longer than anything here takes, shorter than what would happen without the field.
const SOON: Duration = Duration::from_secs(20);

fn first(pod: &mut Value) -> &mut Value {
    let containers = pod.at_mut(&["containers"]).and_then(Value::as_array_mut).expect("containers");
    &mut containers[0]
}

fn status(pod: &Value) -> Option<&Value> {
    pod.array_at(&["status", "containerStatuses"]).first()
}

fn restarts(pod: &Value) -> i64 {
    status(pod).and_then(|status| status.int_at(&["restartCount"])).unwrap_or(0)
}

/// How long a pod takes until it is as wanted.
async fn time_until(world: &World, name: &str, spec: Value, holds: impl Fn(&Value) -> bool) -> Duration {
    let began = world.clock.monotonic();
    world.make(name, spec);
    world.until(name, holds).await;
    world.clock.monotonic() - began
}

#[tokio::test]
async fn a_request_of_a_probe_is_the_one_that_was_asked_for() {
    run(async |world| {
        // The pod's own address is 127.0.0.1; whoever does not read `host` finds nobody there.
        let listener = TcpListener::bind("127.0.0.2:0").await.expect("bound");
        let port = i64::from(listener.local_addr().expect("bound").port());
        let serve = async {
            let mut asked = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.expect("accepted");
                let mut request = vec![0; 4096];
                let count = stream.read(&mut request).await.unwrap_or(0);
                asked.push(String::from_utf8_lossy(&request[..count]).into_owned());
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await;
                if asked.iter().any(|text| text.starts_with("GET ")) {
                    return asked.into_iter().find(|text| text.starts_with("GET ")).unwrap_or_default();
                }
            }
        };
        let with = |probe: Value| {
            let mut spec = shell(POLITE);
            first(&mut spec).set(&["ports"], json!([{"name": "web", "containerPort": port}]));
            first(&mut spec).set(&["readinessProbe"], probe);
            spec
        };
        world.make(
            "http",
            with(json!({"periodSeconds": 1, "httpGet": {
                "path": "/warm?floor=1", "port": "web", "host": "127.0.0.2",
                "httpHeaders": [{"name": "X-Asked-By", "value": "ondol"}]
            }})),
        );
        let request = world.clock.timeout(crate::harness::PATIENCE, serve).await.expect("it is asked");
        assert!(request.starts_with("GET /warm?floor=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.to_lowercase().contains("x-asked-by: ondol\r\n"), "{request}");
        world.until("http", is_ready).await;
        // The listener takes whoever comes, though nobody accepts any more.
        world.make(
            "tcp",
            with(json!({"periodSeconds": 1, "tcpSocket": {"port": "web", "host": "127.0.0.2"}})),
        );
        world.until("tcp", is_ready).await;
    })
    .await;
}

#[tokio::test]
async fn a_probe_waits_and_counts_as_it_says() {
    run(async |world| {
        let mut spec = shell(POLITE);
        first(&mut spec).set(
            &["readinessProbe"],
            json!({
                "exec": {"command": ["/bin/true"]}, "initialDelaySeconds": 2, "periodSeconds": 1, "successThreshold": 3
            }),
        );
        let took = time_until(world, "p", spec, is_ready).await;
        assert!(took >= Duration::from_secs(4), "two seconds, and two periods: {took:?}");
        assert!(took < SOON, "with the usual period it were 22 seconds: {took:?}");
    })
    .await;
}

#[tokio::test]
async fn a_container_that_fails_its_probe_has_the_probes_grace_or_the_pods() {
    run(async |world| {
        let script = format!("test -e /v/count && wc -l </v/count >/v/seen; {DEAF}");
        let with = |of_pod: i64, own: Option<i64>| {
            let mut spec = shell(&script);
            let command = ["/bin/sh", "-c", "echo x >>/v/count; false"];
            let mut probe = json!({
                "exec": {"command": (command.iter().map(|word| Value::from(*word)).collect::<Vec<_>>())},
                "periodSeconds": 1, "failureThreshold": 2
            });
            if let Some(own) = own {
                probe.set(&["terminationGracePeriodSeconds"], own);
            }
            spec.set(&["terminationGracePeriodSeconds"], of_pod);
            spec.set(&["volumes"], json!([{"name": "v", "emptyDir": {}}]));
            first(&mut spec).set(&["volumeMounts"], json!([{"name": "v", "mountPath": "/v"}]));
            first(&mut spec).set(&["livenessProbe"], probe);
            spec
        };
        let again = |pod: &Value| {
            restarts(pod) >= 1 && status(pod).is_some_and(|s| s.at(&["state", "running"]).is_some())
        };
        let took = time_until(world, "own", with(600, Some(1)), again).await;
        assert!(took < SOON, "the probe's own grace is a second: {took:?}");
        let took = time_until(world, "pods", with(1, None), again).await;
        assert!(took < SOON, "the pod's grace is a second: {took:?}");
        let seen = world.directory.join("pods/own/volumes/v/seen");
        let counted = async {
            while std::fs::read_to_string(&seen).unwrap_or_default().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        world.clock.timeout(crate::harness::PATIENCE, counted).await.expect("it looks when it starts");
        assert_eq!(std::fs::read_to_string(&seen).unwrap_or_default().trim(), "2", "failures until the end");
    })
    .await;
}

#[tokio::test]
async fn a_container_is_asked_to_end_by_its_own_signal() {
    run(async |world| {
        let mut spec = shell(&format!("trap 'exit 0' USR1; {DEAF}"));
        first(&mut spec).set(&["lifecycle"], json!({"stopSignal": "SIGUSR1"}));
        world.make("p", spec);
        world.until("p", is_ready).await;
        let ready = async {
            while !world.log("p", "c").contains("up") {
                tokio::task::yield_now().await;
            }
        };
        world.clock.timeout(crate::harness::PATIENCE, ready).await.expect("it is up");
        let began = world.clock.monotonic();
        world.cluster.delete("p", 50);
        world.until_gone("p").await;
        let took = world.clock.monotonic() - began;
        assert!(took < SOON, "the grace is fifty seconds: {took:?}");
    })
    .await;
}

#[tokio::test]
async fn a_gate_of_readiness_holds_the_pod_back() {
    run(async |world| {
        let mut spec = shell(POLITE);
        spec.set(&["readinessGates"], json!([{"conditionType": "example.com/open"}]));
        world.make("p", spec);
        let holds = |pod: &Value, kind: &str| {
            let conditions = pod.array_at(&["status", "conditions"]);
            conditions
                .iter()
                .any(|c| c.str_at(&["type"]) == Some(kind) && c.str_at(&["status"]) == Some("True"))
        };
        let mut pod = world.until("p", |pod| holds(pod, "ContainersReady")).await;
        assert!(!is_ready(&pod));
        let conditions =
            pod.at_mut(&["status", "conditions"]).and_then(Value::as_array_mut).expect("conditions");
        conditions.push(json!({"type": "example.com/open", "status": "True"}));
        world.cluster.put(pod);
        world.until("p", is_ready).await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_has_the_name_that_it_asks_for() {
    run(async |world| {
        let mut spec = shell("hostname; cat /etc/hosts");
        spec.set(&["hostname"], "warm");
        spec.set(&["subdomain"], "floor");
        let (_, log) = world.outcome("p", spec).await;
        assert!(
            log.starts_with("warm\n") && log.contains("\twarm.floor.a.svc.cluster.local\twarm\n"),
            "{log}"
        );
    })
    .await;
}

#[tokio::test]
async fn sysctls_are_those_of_the_pod() {
    run(async |world| {
        let mut spec = shell("cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
        let sysctls = json!([{"name": "net.ipv4.ip_unprivileged_port_start", "value": "1234"}]);
        spec.set(&["securityContext", "sysctls"], sysctls);
        let (_, log) = world.outcome("p", spec).await;
        assert_eq!(log, "1234\n");
    })
    .await;
}

#[tokio::test]
async fn a_containers_user_and_groups_come_before_the_pods() {
    run(async |world| {
        let said = async |name: &str, policy: &str| {
            let mut c = container("c", "id -u; id -g; id -G");
            // The image's /etc/group has user 1234 in group 7777.
            c.set(&["securityContext"], json!({"runAsUser": 1234, "runAsGroup": 2001}));
            let of_pod = json!({"runAsUser": 5, "runAsGroup": 2000, "supplementalGroupsPolicy": policy});
            let (_, log) = world.outcome(name, json!({"containers": [c], "securityContext": of_pod})).await;
            log.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let merged = said("merged", "Merge").await;
        assert_eq!(merged[..2], ["1234", "2001"]);
        assert!(merged[2].split(' ').any(|group| group == "7777"), "{merged:?}");
        let strict = said("strict", "Strict").await;
        assert_eq!(strict, ["1234", "2001", "2001"]);
    })
    .await;
}

#[tokio::test]
async fn an_image_that_is_never_pulled_is_not_looked_for() {
    run(async |world| {
        let mut spec = shell("true");
        first(&mut spec).set(&["image"], "ondol.local/test/missing:1");
        first(&mut spec).set(&["imagePullPolicy"], "Never");
        world.make("p", spec);
        let waits = |pod: &Value| {
            status(pod).and_then(|status| status.str_at(&["state", "waiting", "reason"]))
                == Some("ErrImageNeverPull")
        };
        world.until("p", waits).await;
    })
    .await;
}

#[tokio::test]
async fn services_are_variables_unless_the_pod_declines() {
    run(async |world| {
        let mut spec = shell("echo [$DB_SERVICE_HOST]");
        let (_, log) = world.outcome("usual", spec.clone()).await;
        assert_eq!(log, "[10.0.0.9]\n");
        spec.set(&["enableServiceLinks"], false);
        let (_, log) = world.outcome("declined", spec).await;
        assert_eq!(log, "[]\n");
    })
    .await;
}

#[tokio::test]
async fn a_pod_runs_again_if_its_policy_says_so() {
    run(async |world| {
        let with = |policy: &str, script: &str| {
            let mut spec = shell(script);
            spec.set(&["restartPolicy"], policy);
            spec
        };
        world.make("always", with("Always", "true"));
        world.make("failed", with("OnFailure", "false"));
        world.make("succeeded", with("OnFailure", "true"));
        world.make("never", with("Never", "false"));
        world.until("always", |pod| restarts(pod) >= 1).await;
        world.until("failed", |pod| restarts(pod) >= 1).await;
        world.until("succeeded", |pod| phase(pod) == Some("Succeeded")).await;
        world.until("never", |pod| phase(pod) == Some("Failed")).await;
    })
    .await;
}
