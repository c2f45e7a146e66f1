//! Volumes that an image declares.

use api::json;
use api::value::Value;
use image::document::{ImageConfig, Platform};
use image::layer::Compression;

use crate::cluster::shell;
use crate::harness::{World, is_ready, phase, run};

const NAME: &str = "ondol.local/test/volumes:1";

/// An image of two layers that declares `volumes`; with content below `/data`, of an owner and mode of its own.
async fn make(world: &World, volumes: &[&str]) {
    let busybox = std::fs::read("/bin/busybox").expect("apt-get install -y busybox-static");
    let lower = world.images().write_layer(Compression::Zstd, |writer| {
        writer.directory("bin", 0o755)?;
        writer.file("bin/busybox", 0o755, &busybox)?;
        for name in ["sh", "cat", "stat", "ls", "sleep", "touch", "echo", "readlink", "test", "tr"] {
            writer.symlink(&format!("bin/{name}"), "busybox")?;
        }
        writer.directory("data", 0o1770)?;
        writer.file("data/removed", 0o644, b"old")?;
        writer.directory("data/below", 0o750)?;
        writer.file("data/below/file", 0o4640, b"warm")?;
        writer.hard_link("data/below/same", "data/below/file")?;
        writer.symlink("data/link", "/etc/../below/file")?;
        writer.symlink("away", "/data")?;
        writer.symlink("up", "../../../../data")
    });
    let upper = world.images().write_layer(Compression::Zstd, |writer| {
        writer.directory("data", 0o1770)?;
        writer.file("data/.wh.removed", 0o644, b"")?;
        writer.file("data/added", 0o600, b"new")
    });
    let config = ImageConfig {
        env: vec!["PATH=/bin".to_owned()],
        volumes: volumes.iter().map(ToString::to_string).collect(),
        platform: Platform::here(),
        ..ImageConfig::default()
    };
    let layers = [lower.expect("written"), upper.expect("written")];
    world.images().build(&NAME.parse().expect("a name"), &config, &layers).await.expect("built");
}

fn of(script: &str) -> Value {
    let mut spec = shell(script);
    let container = &mut spec.at_mut(&["containers"]).and_then(Value::as_array_mut).expect("containers")[0];
    container.set(&["image"], NAME);
    container.set(&["securityContext"], json!({"readOnlyRootFilesystem": true}));
    spec
}

#[tokio::test]
async fn a_volume_of_the_image_is_writable_and_begins_with_what_the_image_has_there() {
    run(async |world| {
        make(world, &["/data", "/new/deep"]).await;
        let script = "cd /data && ls | tr '\\n' ' ' && stat -c '%a %u' . below below/file && readlink link && cat below/same added \
            && echo more >> below/file && cat below/same && touch x /new/deep/y && stat -c %a /new/deep; \
            touch /no 2>/dev/null || echo sealed";
        let (ended, said) = world.outcome("p", of(script)).await;
        assert_eq!(
            said,
            "added below link 1770 0\n750 0\n4640 0\n/etc/../below/file\nwarmnewwarmmore\n755\nsealed\n"
        );
        assert_eq!(ended.int_at(&["exitCode"]), Some(0));
        let (_, again) = world.outcome("q", of("cat /data/below/file; test -e /data/x || echo untouched")).await;
        assert_eq!(again, "warmuntouched\n", "the image is as it was");
    })
    .await;
}

#[tokio::test]
async fn each_attempt_begins_with_the_images_own_and_nothing_stays_behind() {
    run(async |world| {
        make(world, &["data"]).await;
        let mut spec = of("test -e /v/again || { touch /v/again /data/x; exit 1; }; test -e /data/x || touch /v/clean; while true; do sleep 0.1; done");
        spec.set(&["volumes"], json!([{"name": "v", "emptyDir": {}}]));
        spec.set(&["terminationGracePeriodSeconds"], 1);
        let container = &mut spec.at_mut(&["containers"]).and_then(Value::as_array_mut).expect("containers")[0];
        container.set(&["volumeMounts"], json!([{"name": "v", "mountPath": "/v"}]));
        world.make("p", spec);
        let restarted = |pod: &Value| {
            is_ready(pod) && pod.array_at(&["status", "containerStatuses"])[0].int_at(&["restartCount"]) == Some(1)
        };
        world.until("p", restarted).await;
        let clean = world.directory.join("pods/p/volumes/v/clean");
        let waited = async {
            while !clean.exists() {
                tokio::task::yield_now().await;
            }
        };
        world.clock.timeout(crate::harness::PATIENCE, waited).await.expect("what the first attempt wrote is not there");
        world.cluster.delete("p", 1);
        world.until_gone("p").await;
        let left = world.directory.join("pods/p");
        let gone = async {
            while left.exists() {
                tokio::task::yield_now().await;
            }
        };
        world.clock.timeout(crate::harness::PATIENCE, gone).await.expect("removed with the pod");
    })
    .await;
}

#[tokio::test]
async fn what_the_pod_mounts_there_is_what_is_there() {
    run(async |world| {
        make(world, &["/data/"]).await;
        let mut spec = of("ls /data; echo mine > /data/x && cat /data/x");
        spec.set(&["volumes"], json!([{"name": "v", "emptyDir": {}}]));
        let container =
            &mut spec.at_mut(&["containers"]).and_then(Value::as_array_mut).expect("containers")[0];
        container.set(&["volumeMounts"], json!([{"name": "v", "mountPath": "/data"}]));
        let (_, said) = world.outcome("p", spec).await;
        assert_eq!(said, "mine\n");
        assert!(world.directory.join("pods/p/volumes/v/x").exists() || world.cluster.pod("p").is_some());
    })
    .await;
}

#[tokio::test]
async fn links_of_an_image_lead_to_no_file_of_the_host() {
    run(async |world| {
        make(world, &["/away", "/up/below", "/../data/../../etc"]).await;
        let (_, said) =
            world.outcome("p", of("cat /away/added /up/below/file; ls /etc | tr '\\n' ' '")).await;
        assert_eq!(said, "newwarmhostname hosts resolv.conf \n");
    })
    .await;
}

#[tokio::test]
async fn a_volume_where_none_can_be_is_told() {
    run(async |world| {
        make(world, &["/bin/busybox"]).await;
        let mut spec = of("true");
        spec.set(&["terminationGracePeriodSeconds"], 1);
        world.make("p", spec);
        let waits = |pod: &Value| {
            let status = pod.array_at(&["status", "containerStatuses"]).first();
            let message = status.and_then(|status| status.str_at(&["state", "waiting", "message"]));
            message.is_some_and(|message| message.contains("the volume /bin/busybox of the image"))
        };
        let pod = world.until("p", waits).await;
        assert_eq!(phase(&pod), Some("Pending"));
    })
    .await;
}
