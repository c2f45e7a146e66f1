//! Fields of a pod's security, each seen from inside the container.

use api::json;
use api::value::Value;

use crate::cluster::container;
use crate::harness::{is_ready, run};

const WHO: &str = "id -u; id -g; id -G; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status";

async fn said(
    world: &crate::harness::World,
    name: &str,
    script: &str,
    own: Value,
    pod: Value,
) -> Vec<String> {
    let mut c = container("c", script);
    c.set(&["securityContext"], own);
    let (ended, log) = world.outcome(name, json!({"containers": [c], "securityContext": pod})).await;
    assert_eq!(ended.int_at(&["exitCode"]), Some(0), "{name}: {log}");
    log.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_context_of_a_container_is_what_it_says() {
    run(async |world| {
        let plain = said(world, "plain", WHO, json!({}), json!({})).await;
        let usual = "00000000a80425fb";
        let powers = [format!("CapEff:\t{usual}"), format!("CapBnd:\t{usual}")];
        assert_eq!(plain[..3], ["0", "0", "0"]);
        assert_eq!(plain[3..5], powers);
        assert_eq!(plain[5..], ["NoNewPrivs:\t0", "Seccomp:\t0"]);
        let own = json!({
            "allowPrivilegeEscalation": false, "seccompProfile": {"type": "RuntimeDefault"}, "runAsUser": 1000,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}
        });
        let pod = json!({"runAsUser": 5, "runAsGroup": 2000, "supplementalGroups": [3000], "fsGroup": 4000});
        let modest = said(world, "modest", WHO, own, pod).await;
        assert_eq!(modest[..2], ["1000", "2000"]);
        let groups: Vec<&str> = modest[2].split(' ').collect();
        assert!(["2000", "3000", "4000"].iter().all(|group| groups.contains(group)), "{modest:?}");
        assert_eq!(modest[3..5], ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000400"]);
        assert_eq!(modest[5..], ["NoNewPrivs:\t1", "Seccomp:\t2"]);
        // The pod's profile is the container's if that says nothing, and not if it does.
        let profile = |kind: &str| json!({"seccompProfile": {"type": kind}});
        let inherited = said(world, "inherited", WHO, json!({}), profile("RuntimeDefault")).await;
        assert_eq!(inherited[6], "Seccomp:\t2");
        let opened = said(world, "opened", WHO, profile("Unconfined"), profile("RuntimeDefault")).await;
        assert_eq!(opened[6], "Seccomp:\t0");
        let script = "touch /x 2>/dev/null; echo $?; (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null; echo $?";
        let sealed = said(world, "sealed", script, json!({"readOnlyRootFilesystem": true}), json!({})).await;
        assert_eq!(sealed, ["1", "1"]);
    })
    .await;
}

#[tokio::test]
async fn the_group_of_files_owns_the_volumes() {
    run(async |world| {
        let mut c = container("c", "ls -ldn /v; touch /v/file; ls -ln /v/file");
        c.set(&["volumeMounts"], json!([{"name": "v", "mountPath": "/v"}]));
        c.set(&["securityContext"], json!({"runAsUser": 1000}));
        let spec = json!({
            "containers": [c], "volumes": [{"name": "v", "emptyDir": {}}], "securityContext": {"fsGroup": 4000}
        });
        let (ended, log) = world.outcome("p", spec).await;
        assert_eq!(ended.int_at(&["exitCode"]), Some(0), "{log}");
        let lines: Vec<Vec<&str>> = log.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(lines[0][0].starts_with("drwxrwsrwx") && lines[0][3] == "4000", "{log}");
        assert_eq!((lines[1][2], lines[1][3]), ("1000", "4000"), "{log}");
    })
    .await;
}

#[tokio::test]
async fn namespaces_are_shared_as_the_pod_says() {
    run(async |world| {
        let script = "readlink /proc/self/ns/ipc; readlink /proc/self/ns/pid; readlink /proc/self/ns/uts; ls -d /proc/[0-9]* | wc -l";
        let host = |kind: &str| {
            std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_string_lossy().into_owned()
        };
        let of = async |name: &str, field: Option<&str>| {
            let mut spec = json!({"containers": [(container("c", script))]});
            if let Some(field) = field {
                spec.set(&[field], true);
            }
            let (_, log) = world.outcome(name, spec).await;
            log.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let own = of("own", None).await;
        assert!(own[0] != host("ipc") && own[1] != host("pid") && own[2] != host("uts"), "{own:?}");
        assert_eq!(of("ipc", Some("hostIPC")).await[0], host("ipc"));
        let pids = of("pids", Some("hostPID")).await;
        assert_eq!(pids[1], host("pid"));
        let net = of("net", Some("hostNetwork")).await;
        assert_eq!(net[2], host("uts"), "the host's network comes with its name");
        // Two containers of a pod see each other only if it says so.
        let seen = async |name: &str, shared: bool| {
            let one = container("one", "exec sleep 1234");
            let two = container("c", "while true; do ps | grep -q '[s]leep 1234' && echo seen; echo .; sleep 0.1; done");
            let mut spec = json!({"containers": [two, one], "terminationGracePeriodSeconds": 1});
            spec.set(&["shareProcessNamespace"], shared);
            world.make(name, spec);
            world.until(name, is_ready).await;
            while world.log(name, "c").lines().filter(|line| *line == ".").count() < 3 {
                tokio::task::yield_now().await;
            }
            world.log(name, "c").contains("seen")
        };
        assert!(!seen("apart", false).await);
        assert!(seen("together", true).await);
    })
    .await;
}
