//! A world of its own for each test: run directory, cgroup root, root file system of busybox.

use std::future::Future;
use std::os::unix::fs::symlink;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Random, Tasks};
use sandbox::{
    AttachSpec, Attempt, Config, ContainerSpec, ExecSpec, Exit, Log, Phase, Root, Sandbox, Sandboxes, Spec,
    StartError, State,
};
use tokio::io::AsyncReadExt;

/// Fivefold of what anything here should take.
pub const SLACK: Duration = Duration::from_secs(30);
const BUSYBOX: &str = "/bin/busybox";

/// One test's world; dropped with all that is left in it.
pub struct World {
    pub directory: PathBuf,
    pub config: Config,
    pub sandboxes: Sandboxes,
    pub tasks: Tasks,
}

/// Runs a test in a world and checks that nothing of it is left on the machine.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce(Arc<World>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = Arc::new(runtime.block_on(World::new()));
    let ran = AssertUnwindSafe(|| runtime.block_on(test(Arc::clone(&world))));
    // A test that fails leaves nothing behind either.
    let outcome = std::panic::catch_unwind(ran);
    runtime.block_on(async {
        let name = world.config.cgroup_root.clone();
        for adopted in world.open().await.adopt().await.unwrap() {
            match adopted {
                sandbox::Adopted::Live(sandbox) => sandbox.remove().await.unwrap(),
                sandbox::Adopted::Lost(remains) => remains.remove().await.unwrap(),
            }
        }
        world.sandboxes.remove_root().await.unwrap();
        // A process whose pod process was killed is reaped by the machine's own process 1, whenever that looks.
        let clean = async {
            while !traces(&name, &world.config.run_dir).is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(SLACK, clean).await;
        assert!(waited.is_ok(), "left on the machine: {:?}", traces(&name, &world.config.run_dir));
        std::fs::remove_dir_all(&world.directory).unwrap();
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// What a test left on the machine: cgroups, mounts, processes.
pub fn traces(cgroup_root: &str, run_dir: &Path) -> Vec<String> {
    let run_dir = run_dir.to_str().unwrap();
    let mut found = Vec::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if fields[4].starts_with(run_dir) {
            found.push(format!("mount {}", fields[4]));
        }
        if line.contains(" - cgroup") && Path::new(&format!("{}{cgroup_root}", fields[4])).exists() {
            found.push(format!("cgroup {}{cgroup_root}", fields[4]));
        }
    }
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        // What is dead and only waits for its new parent to notice is that parent's.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let alive =
            stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']));
        if cgroup.contains(cgroup_root) && alive {
            found.push(format!("process {stat} in {cgroup}"));
        }
    }
    found
}

impl World {
    async fn new() -> Self {
        let is_root = rustix::process::geteuid().is_root();
        assert!(is_root, "these tests make namespaces and cgroups: run them as root");
        assert!(Path::new(BUSYBOX).exists(), "these tests need {BUSYBOX}: apt-get install -y busybox-static");
        let suffix = Random::system().suffix(6);
        let directory = PathBuf::from(format!("/tmp/ondt-{suffix}"));
        let config = Config { run_dir: directory.join("run"), cgroup_root: format!("/ondt-{suffix}") };
        let tasks = Tasks::new();
        std::fs::create_dir_all(&directory).unwrap();
        make_root(&directory.join("base"));
        let sandboxes = Sandboxes::open(config.clone(), Clock::system(), tasks.clone()).await.unwrap();
        Self { directory, config, sandboxes, tasks }
    }

    /// A second manager, as after a restart of the agent.
    pub async fn open(&self) -> Sandboxes {
        Sandboxes::open(self.config.clone(), Clock::system(), self.tasks.clone()).await.unwrap()
    }

    pub fn spec(&self, id: &str) -> Spec {
        Spec { id: id.to_owned(), hostname: format!("host-{id}"), ..Spec::default() }
    }

    pub async fn pod(&self, id: &str) -> Sandbox {
        self.sandboxes.create(self.spec(id)).await.unwrap()
    }

    /// A container that runs a shell script.
    pub fn shell(&self, name: &str, script: &str) -> ContainerSpec {
        self.program(name, &["/bin/sh", "-c", script])
    }

    pub fn program(&self, name: &str, args: &[&str]) -> ContainerSpec {
        let place = self.directory.join("containers").join(name);
        ContainerSpec {
            attempt: Attempt::new(name, 0),
            root: Root::Overlay {
                lower: vec![self.directory.join("base")],
                upper: place.join("upper"),
                work: place.join("work"),
            },
            args: args.iter().map(ToString::to_string).collect(),
            env: vec![("PATH".into(), "/bin".into())],
            log: Log { path: self.log_path(name), max_bytes: 10 << 20, max_files: 5 },
            ..ContainerSpec::default()
        }
    }

    pub fn log_path(&self, name: &str) -> PathBuf {
        self.directory.join("logs").join(name).join("0.log")
    }

    /// The log's text without times, streams and tags.
    pub fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.log_path(name)).unwrap();
        text.lines().map(|line| format!("{}\n", line.splitn(4, ' ').nth(3).unwrap())).collect()
    }

    /// Starts a script, waits for its end, and gives its end and what it said.
    pub async fn outcome(&self, pod: &Sandbox, spec: ContainerSpec) -> (Exit, String) {
        let attempt = spec.attempt.clone();
        pod.start(spec).await.unwrap();
        let exit = ended(pod, &attempt).await;
        (exit, self.log(&attempt.name))
    }
}

/// A root of busybox and its names.
pub fn make_root(base: &Path) {
    for folder in ["bin", "etc", "tmp", "proc", "root", "home/web"] {
        std::fs::create_dir_all(base.join(folder)).unwrap();
    }
    std::fs::copy(BUSYBOX, base.join("bin/busybox")).unwrap();
    let names = "sh cat echo sleep id mount umount mkdir mknod dd touch ls ps kill env pwd readlink hostname head \
                 stty tty true false grep wc seq unshare ip df stat chmod tail printf test awk sysctl nc tr";
    for name in names.split_whitespace() {
        symlink("busybox", base.join("bin").join(name)).unwrap();
    }
    std::fs::write(
        base.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(base.join("etc/group"), "root:x:0:\nweb:x:34:\nlogs:x:50:web\n").unwrap();
}

/// Waits until `holds`, for as long as the slack.
pub async fn wait_for(pod: &Sandbox, holds: impl Fn(&State) -> bool) -> Arc<State> {
    let mut states = pod.watch();
    let waited = tokio::time::timeout(SLACK, states.wait_for(|state| holds(state))).await;
    Arc::clone(&waited.unwrap_or_else(|_| panic!("waited in vain; the state is {:?}", pod.state())).unwrap())
}

pub async fn ended(pod: &Sandbox, attempt: &Attempt) -> Exit {
    let state =
        wait_for(pod, |state| state.get(attempt).is_some_and(|container| container.exit().is_some())).await;
    *state.get(attempt).unwrap().exit().unwrap()
}

/// Runs a command to its end: its code and what it wrote.
pub async fn exec(pod: &Sandbox, name: &str, args: &[&str]) -> Result<(i32, String, String), StartError> {
    let spec = ExecSpec {
        attempt: Attempt::new(name, 0),
        args: args.iter().map(ToString::to_string).collect(),
        terminal: None,
        input: false,
        output: true,
        errors: true,
    };
    let mut running = pod.exec(spec).await?;
    let (mut output, mut errors) = (String::new(), String::new());
    running.output.take().unwrap().read_to_string(&mut output).await.unwrap();
    running.errors.take().unwrap().read_to_string(&mut errors).await.unwrap();
    Ok((running.ended().await?.code, output, errors))
}

pub fn attach_to(name: &str, input: bool) -> AttachSpec {
    AttachSpec { attempt: Attempt::new(name, 0), input, output: true, errors: false }
}

pub fn pid_of(pod: &Sandbox, name: &str) -> u32 {
    match pod.state().get(&Attempt::new(name, 0)).unwrap().phase {
        Phase::Running { pid, .. } => pid,
        ref other => panic!("{name} does not run: {other:?}"),
    }
}
