//! How long a pod takes from nothing to its container's first output, and what its pod process costs.
//!
//! `cargo bench -p sandbox` as root prints one line of figures a measure. It uses the machine's busybox.

use std::path::PathBuf;
use std::time::Duration;

use base::{Clock, Random, Tasks};
use sandbox::{Attempt, Config, ContainerSpec, Log, Root, Sandboxes, Spec};

const ROUNDS: usize = 100;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime starts on any machine that runs this");
    runtime.block_on(measure());
}

async fn measure() {
    let (clock, tasks) = (Clock::system(), Tasks::new());
    let suffix = Random::system().suffix(6);
    let directory = PathBuf::from(format!("/tmp/ondt-bench-{suffix}"));
    let base = directory.join("base/bin");
    std::fs::create_dir_all(&base).expect("the scratch folder can be made");
    std::fs::copy("/bin/busybox", base.join("busybox")).expect("apt-get install -y busybox-static");
    let config = Config { run_dir: directory.join("run"), cgroup_root: format!("/ondt-bench-{suffix}") };
    let sandboxes = Sandboxes::open(config, clock.clone(), tasks).await.expect("run this as root");
    let (mut made, mut total, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    let mut alive = Vec::new();
    for round in 0..ROUNDS {
        let begun = clock.monotonic();
        let id = format!("pod-{round}");
        let pod = sandboxes.create(Spec { id: id.clone(), hostname: id.clone(), ..Spec::default() }).await;
        let pod = pod.expect("a sandbox is made");
        made.push(clock.monotonic() - begun);
        let log = directory.join("logs").join(&id);
        let place = directory.join("containers").join(&id);
        let spec = ContainerSpec {
            attempt: Attempt::new("main", 0),
            root: Root::Overlay {
                lower: vec![directory.join("base")],
                upper: place.join("upper"),
                work: place.join("work"),
            },
            args: ["/bin/busybox", "sh", "-c", "echo ready; exec /bin/busybox sleep 1000"]
                .map(String::from)
                .into(),
            log: Log { path: log.clone(), max_bytes: 10 << 20, max_files: 5 },
            ..ContainerSpec::default()
        };
        pod.start(spec).await.expect("a container starts");
        while std::fs::metadata(&log).map_or(0, |metadata| metadata.len()) == 0 {
            tokio::task::yield_now().await;
        }
        total.push(clock.monotonic() - begun);
        alive.push(pod);
    }
    let mut private: Vec<u64> = Vec::new();
    let mut pss: Vec<u64> = Vec::new();
    for pod in &alive {
        let overhead = pod.overhead().await.expect("the pod process lives");
        private.push(overhead.private_bytes);
        pss.push(overhead.pss_bytes);
    }
    for pod in alive {
        let begun = clock.monotonic();
        pod.remove().await.expect("a sandbox is removed");
        removed.push(clock.monotonic() - begun);
    }
    sandboxes.remove_root().await.expect("nothing is left");
    std::fs::remove_dir_all(&directory).expect("the scratch folder can be removed");
    report("create sandbox", made);
    report("create and start to first output", total);
    report("remove", removed);
    private.sort_unstable();
    pss.sort_unstable();
    println!(
        "pod process of {ROUNDS}: private p50 {} KiB, Pss p50 {} KiB",
        private[ROUNDS / 2] >> 10,
        pss[ROUNDS / 2] >> 10
    );
}

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1000.0;
    println!("{name}: p50 {:.1} ms, p99 {:.1} ms", at(50), at(99));
}
