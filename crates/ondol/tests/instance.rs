//! Whole instances with the real binary, as root: from `up` through the client to `down --wipe`, and what is left.
//!
//! Each test has an instance of its own; what is compared before and after carries its name, for others may run on the
//! same machine at the same time.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use api::interface::{
    Answer, Api, Call, Collection, DeleteOptions, ListOptions, PatchKind, Target, Watch, WatchEvent,
};
use api::json;
use api::names::{CONFIG_MAPS, DEPLOYMENTS, PODS};
use api::status::Reason;
use api::value::Value;
use base::{Clock, Random, Tasks};
use client::{Client, Kubeconfig};
use futures::StreamExt;

/// Fivefold of what pods may take.
const PODS_DEADLINE: Duration = Duration::from_secs(30);
/// More than one page of a list.
const MANY: usize = 620;

struct Instance {
    name: String,
    folder: tempfile::TempDir,
}

impl Instance {
    fn new() -> Self {
        let name = format!("t-{}", Random::system().suffix(8));
        Self { name, folder: tempfile::tempdir().expect("a folder") }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    fn ondol(&self, arguments: &[&str]) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_ondol"))
            .args(["--instance", &self.name, "--data-dir"])
            .arg(self.data())
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .output();
        output.expect("the binary runs")
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.ondol(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// A second `up` in a shell that has another `KUBECONFIG`, and that was not told where the data lies.
    fn another_kubeconfig_gets_the_context_too(&self) {
        let other = self.folder.path().join("other");
        let mut up = Command::new(env!("CARGO_BIN_EXE_ondol"));
        let output = up.args(["--instance", &self.name, "up"]).env("KUBECONFIG", &other).output();
        let output = output.expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("already runs"), "{said}");
        let read = |path: &Path| std::fs::read_to_string(path).expect("a kubeconfig");
        let context = format!("current-context: ondol-{}\n", self.name);
        assert!(said.contains("other") && read(&other).contains(&context), "{said}");
        assert_eq!(read(&other), read(&self.kubeconfig()), "the same entry in both");
    }

    fn client(&self) -> Arc<dyn Api> {
        let config = Kubeconfig::read(&self.kubeconfig(), None).expect("the context that up wrote");
        Arc::new(Client::new(&config, &Clock::system(), &Tasks::new()).expect("a client"))
    }

    /// Everything on this machine that carries the instance's name.
    fn traces(&self) -> Vec<String> {
        let mut traces = Vec::new();
        let mut lines = |what: &str, text: String, needle: &str| {
            traces.extend(
                text.lines().filter(|line| line.contains(needle)).map(|line| format!("{what}: {line}")),
            );
        };
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let network = net::instance::Instance::new(&self.name).expect("a name");
        let data = self.folder.path().display().to_string();
        lines("mount", read("/proc/self/mountinfo"), &data);
        lines("mount", read("/proc/self/mountinfo"), &format!("/run/ondol/{}", self.name));
        lines("link", read("/proc/net/dev"), &network.bridge());
        lines("route", read("/proc/net/route"), &network.bridge());
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let command = read(&process.path().join("cmdline").display().to_string()).replace('\0', " ");
            lines("process", command, &format!("--instance {} ", self.name));
        }
        let rules =
            net::rules::Rules::open(&network).and_then(|mut rules| rules.loaded()).expect("nftables answers");
        traces.extend(rules.map(|_| format!("table: {}", network.table())));
        for root in ["/sys/fs/cgroup", "/run/ondol", "/var/lib/ondol"] {
            find(Path::new(root), &self.name, 3, &mut traces);
        }
        let left = std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        traces.extend(left.map(|entry| format!("file: {}", entry.path().display())));
        traces
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // After a failed test; otherwise there is nothing left to do.
        self.ondol(&["down", "--wipe", "--yes"]);
    }
}

fn find(folder: &Path, name: &str, depth: usize, traces: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy() == name {
            traces.push(format!("file: {}", entry.path().display()));
        }
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&entry.path(), name, depth - 1, traces);
        }
    }
}

fn deployment(replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "echo"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "echo"}}, "template": {
            "metadata": {"labels": {"app": "echo"}},
            "spec": {"containers": [{"name": "echo", "image": "ondol.local/echo:v1"}]}
        }}
    })
}

fn is_ready(pod: &Value) -> bool {
    pod.array_at(&["status", "conditions"]).iter().any(|condition| {
        condition.str_at(&["type"]) == Some("Ready") && condition.str_at(&["status"]) == Some("True")
    })
}

fn restarts(pod: &Value) -> Option<i64> {
    pod.array_at(&["status", "containerStatuses"]).first()?.int_at(&["restartCount"])
}

/// Watches pods until `count` have been seen ready that began again so often: what they were before stands in their
/// status until the node has looked.
async fn ready_pods(api: &Arc<dyn Api>, count: usize, began_again: i64) {
    let watch = Watch {
        collection: Collection::new(&PODS, "default"),
        label_selector: "app=echo".into(),
        field_selector: "".into(),
        from: None,
        bookmarks: true,
        initial_events: false,
    };
    let seen = async {
        let mut events = api.watch(watch).await.expect("a watch");
        let mut ready = std::collections::BTreeSet::new();
        while ready.len() < count {
            match events.next().await.expect("the watch goes on").expect("an event") {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                    let tree = pod.to_tree();
                    if is_ready(&tree) && restarts(&tree) == Some(began_again) {
                        ready.insert(pod.name().to_owned());
                    }
                }
                _ => {}
            }
        }
    };
    assert!(Clock::system().timeout(PODS_DEADLINE, seen).await.is_some(), "{count} pods ready in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_serves_a_client_and_leaves_no_trace() {
    let instance = Instance::new();
    let steps = instance.succeeds(&["up"]);
    assert!(steps.contains("✓ node") && steps.contains("is Ready"), "{steps}");
    assert!(instance.succeeds(&["up"]).contains("already runs"));
    instance.another_kubeconfig_gets_the_context_too();
    let api = instance.client();

    api.create(&DEPLOYMENTS, "default", &deployment(2)).await.expect("a deployment");
    ready_pods(&api, 2, 0).await;
    let status: serde_json::Value =
        serde_json::from_str(&instance.succeeds(&["status", "-o", "json"])).unwrap();
    assert_eq!((&status["pods"]["ready"], &status["node"]["ready"]), (&2.into(), &true.into()), "{status}");
    assert!(instance.succeeds(&["why", "deployment/echo"]).contains("as it should be: 2 of 2"));

    lists_are_paged_and_errors_are_statuses(&api).await;

    instance.succeeds(&["down"]);
    let again = instance.succeeds(&["up"]);
    assert!(again.contains("is Ready"), "{again}");
    let api = instance.client();
    // The same pods come back, and say that they began again.
    ready_pods(&api, 2, 1).await;
    assert_eq!(api.list(&PODS, "default").await.expect("pods").items.len(), 2);
    instance.succeeds(&["down", "--wipe", "--yes"]);
    assert_eq!(instance.traces(), Vec::<String>::new());
}

async fn lists_are_paged_and_errors_are_statuses(api: &Arc<dyn Api>) {
    let creating = (0..MANY).map(|number| {
        let api = api.clone();
        async move {
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": (format!("many-{number}")), "labels": {"many": "yes"}}});
            api.create(&CONFIG_MAPS, "default", &object).await.expect("a config map");
        }
    });
    futures::stream::iter(creating).buffer_unordered(32).collect::<Vec<()>>().await;
    let many = ListOptions { label_selector: "many=yes".into(), ..ListOptions::default() };
    let collection = Collection::new(&CONFIG_MAPS, "default");
    let list =
        api.call(Call::List(collection.clone(), many.clone())).await.and_then(Answer::list).expect("a list");
    assert_eq!((list.items.len(), list.continue_token.as_str()), (MANY, ""));
    let page = ListOptions { limit: 10, ..many.clone() };
    let page = api.call(Call::List(collection.clone(), page)).await.and_then(Answer::list).expect("a page");
    assert_eq!((page.items.len(), page.continue_token.is_empty()), (10, false));

    let missing = api.get(&CONFIG_MAPS, "default", "none").await.expect_err("nothing there");
    assert_eq!((missing.reason, missing.code), (Reason::NotFound, 404));
    let target = Target::new(&CONFIG_MAPS, "default", "many-0");
    let patch = json!({"metadata": {"resourceVersion": "1"}, "data": {"a": "b"}});
    let stale = api.patch(target.clone(), PatchKind::Merge, &patch).await.expect_err("an old version");
    assert_eq!(stale.reason, Reason::Conflict);
    let patched = api.patch(target, PatchKind::Merge, &json!({"data": {"a": "b"}})).await.expect("a patch");
    assert_eq!(patched.to_tree().str_at(&["data", "a"]), Some("b"));
    api.call(Call::DeleteCollection(collection, many, DeleteOptions::default())).await.expect("all go");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_server_with_damaged_data_is_wiped() {
    let instance = Instance::new();
    instance.succeeds(&["up"]);
    let api = instance.client();
    api.create(&DEPLOYMENTS, "default", &deployment(1)).await.expect("a deployment");
    ready_pods(&api, 1, 0).await;
    kill(&instance);
    for file in ["instance.json", "network.json", "keys/ca.crt"] {
        std::fs::write(instance.data().join(file), "damaged").unwrap();
    }
    for segment in std::fs::read_dir(instance.data().join("store")).unwrap().flatten() {
        std::fs::write(segment.path(), "damaged").unwrap();
    }
    let refused = instance.ondol(&["up"]);
    assert!(!refused.status.success(), "damage is told, not overwritten");
    instance.succeeds(&["down", "--wipe", "--yes"]);
    assert_eq!(instance.traces(), Vec::<String>::new());
}

/// Verbs that print, with arguments that work while the instance runs, and such that need none. Not here: `image pull`,
/// which needs a registry and prints as `image import` does, and `server` and `agent`, which log.
const PRINTING: &[&[&str]] = &[
    &["--help"],
    &["version"],
    &["completion", "bash"],
    &["up"],
    &["status"],
    &["status", "-o", "json"],
    &["logs"],
    &["logs", "--follow"],
    &["why", "node/printing"],
    &["credential"],
    &["image", "list"],
    &["image", "list", "-o", "json"],
    &["image", "inspect", "ondol.local/echo:v1"],
    &["image", "save", "ondol.local/echo:v1"],
    &["image", "tag", "ondol.local/echo:v1", "t-printing"],
    &["image", "remove", "t-printing"],
    &["image", "import", "LAYOUT", "--name", "t-printing"],
];
/// The same, of verbs that need an instance that does not run.
const PRINTING_OF_NONE: &[&[&str]] =
    &[&["down"], &["store", "inspect", "STORE"], &["store", "salvage", "STORE", "SALVAGED"], &["up"]];

impl Instance {
    /// Runs a verb whose output goes nowhere: to a reader that has gone, or to a disk that is full. `places` stand for
    /// what the test knows only now.
    fn prints_nowhere(&self, verb: &[&str], places: &dyn Fn(&str) -> PathBuf) {
        for full in [false, true] {
            if verb.starts_with(&["image", "remove"]) {
                self.succeeds(&["image", "tag", "ondol.local/echo:v1", "t-printing"]);
            }
            let (reader, writer) = std::io::pipe().expect("a pipe");
            drop(reader);
            let stdout = match full {
                true => std::fs::File::options().write(true).open("/dev/full").expect("a full disk").into(),
                false => std::process::Stdio::from(writer),
            };
            let output = Command::new(env!("CARGO_BIN_EXE_ondol"))
                .args(["--instance", &self.name, "--data-dir"])
                .arg(self.data())
                .args(verb.iter().map(|word| places(word)))
                .env("KUBECONFIG", self.kubeconfig())
                .stdout(stdout)
                .output()
                .expect("the binary runs");
            let said = String::from_utf8_lossy(&output.stderr);
            let (code, lines) = if full { (1, 1) } else { (0, 0) };
            assert_eq!(output.status.code(), Some(code), "{verb:?}: {said}");
            assert_eq!(said.lines().count(), lines, "{verb:?}: {said}");
            assert_eq!(said.contains("cannot write to standard output"), full, "{verb:?}: {said}");
        }
    }
}

#[test]
fn every_verb_that_prints_bears_a_reader_that_goes_away_and_a_full_disk() {
    let instance = Instance::new();
    instance.succeeds(&["up", "--node-name", "printing"]);
    let (archive, layout) = (instance.folder.path().join("a.tar"), instance.folder.path().join("layout"));
    instance.succeeds(&["image", "save", "ondol.local/echo:v1", "-o", &archive.display().to_string()]);
    std::fs::create_dir(&layout).unwrap();
    let unpacked = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&layout).status();
    assert!(unpacked.expect("tar runs").success());
    // Which is also how a layout in a folder comes in.
    let imported =
        instance.succeeds(&["image", "import", &layout.display().to_string(), "--name", "t-layout"]);
    assert!(imported.contains("t-layout"), "{imported}");
    let places = |word: &str| match word {
        "LAYOUT" => layout.clone(),
        "STORE" => instance.data().join("store"),
        "SALVAGED" => instance.folder.path().join(Random::system().suffix(8)),
        word => PathBuf::from(word),
    };
    PRINTING.iter().for_each(|verb| instance.prints_nowhere(verb, &places));
    for verb in PRINTING_OF_NONE {
        instance.succeeds(&["down"]);
        instance.prints_nowhere(verb, &places);
    }
    assert!(instance.succeeds(&["status"]).contains("Ready"), "what it printed nowhere it did");
    instance.succeeds(&["down", "--wipe", "--yes"]);
}

#[test]
fn names_are_answered_before_anything_is_checked_again() {
    let instance = Instance::new();
    instance.succeeds(&["up"]);
    let names = PathBuf::from(format!("/run/ondol/{}/names.json", instance.name));
    // It is written a moment after the names are known.
    while !names.exists() {
        std::thread::yield_now();
    }
    kill(&instance);
    // What is checked after that fails, so that what was said before stands alone.
    let status = std::fs::read_to_string(instance.data().join("instance.json")).unwrap();
    let facts: serde_json::Value = serde_json::from_str(&status).unwrap();
    let port = u16::try_from(facts["apiPort"].as_u64().unwrap()).unwrap();
    let holder = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let before = instance.succeeds(&["logs"]);
    let refused = instance.ondol(&["up"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--api-port"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    let log = instance.succeeds(&["logs"]);
    let answered = "names are answered as before";
    assert_eq!(log.matches(answered).count(), before.matches(answered).count() + 1, "{log}");
    drop(holder);
    assert!(instance.succeeds(&["up"]).contains("the machine has what is needed"));
    instance.succeeds(&["down", "--wipe", "--yes"]);
    assert_eq!(instance.traces(), Vec::<String>::new());
}

/// Kills the process of an instance, and returns when it has let go of all.
fn kill(instance: &Instance) {
    let lock = format!("/run/ondol/{}/lock", instance.name);
    let pid: i32 = std::fs::read_to_string(&lock).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let held = std::fs::File::open(lock).unwrap();
    rustix::fs::flock(held, rustix::fs::FlockOperation::LockShared).unwrap();
}

#[test]
fn what_cannot_work_is_told_in_one_sentence() {
    let instance = Instance::new();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    for (arguments, hint) in [
        (vec!["up", "--api-port", port.as_str()], "--api-port"),
        (vec!["up", "--pod-cidr", "127.0.0.0/8", "--service-cidr", "127.1.0.0/16"], "overlap"),
        (vec!["up", "--pod-cidr", "junk"], "--pod-cidr"),
        (vec!["up", "--node-name", "No Name"], "--node-name"),
        (vec!["status"], "ondol up"),
        (vec!["credential"], "ondol up"),
        (vec!["why", "backend"], "deployment/backend"),
        (vec!["agent", "--kubeconfig", "/dev/null"], "--node NAME=ADDRESS"),
    ] {
        let output = instance.ondol(&arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(hint), "{arguments:?}: {text}");
        assert_eq!(text.trim().lines().count(), 1, "{arguments:?}: {text}");
    }
    instance.succeeds(&["down", "--wipe", "--yes"]);
    assert_eq!(instance.traces(), Vec::<String>::new());
}
