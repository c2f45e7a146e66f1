//! `ondol up`, as a person calls it: checks, starts the background process, shows its steps, writes the kubeconfig.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use base::Clock;
use cli::admin::Admin;
use cli::arguments::{Arguments, DETACHED, Up};
use cli::kubeconfig::{self, Entry};
use cli::output;
use cli::steps::Steps;
use serde_json::{Value, json};

use crate::checks;
use crate::down::{ended, undo};
use crate::facts::Facts;
use crate::layout::Layout;
use crate::notify::Manager;
use crate::run::{Begun, Role, longest_end, run};
use crate::turn::Turn;

/// How often the background process is looked for until it answers.
const LOOK: Duration = Duration::from_millis(5);
/// How long a killed process may take to let go of what it holds.
const DYING: Duration = Duration::from_secs(5);
/// How long its port may stay taken after that.
const LETTING_GO: Duration = Duration::from_millis(500);
/// Lines of the log that are shown when the start fails.
const TAIL_LINES: usize = 5;

/// Starts the instance.
pub fn up(arguments: &Arguments, options: &Up, clock: &Clock) -> anyhow::Result<()> {
    let layout = Layout::new(&arguments.instance, arguments.data_dir.as_deref())?;
    checks::root()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let admin = Admin::new(&layout.admin_socket());
    let node = node_name(options.node_name.as_deref())?;
    if arguments.detached {
        // The command that has started us has the turn.
        let begun = Begun::at_once(&layout, clock)?;
        let facts = prepare(&layout, options, clock)?;
        leave_session(&layout);
        let role = Role::Up { node, address: options.node_ip };
        return run(&layout, Some(&facts), role, clock, &Manager::default(), begun);
    }
    let kubeconfig = (!options.no_kubeconfig).then(|| kubeconfig_path(arguments)).transpose()?;
    if let Some(path) = &kubeconfig {
        kubeconfig::check(path)?;
    }
    let turn = Turn::take(&layout)?;
    if options.foreground {
        runtime.block_on(running(&admin, &layout, clock))?;
        checks::alone(&layout)?;
        let begun = Begun::at_once(&layout, clock)?;
        let is_new = layout.is_new();
        let facts = prepare(&layout, options, clock)?;
        if let Some(path) = &kubeconfig {
            remember(path, &layout, facts.clone(), None, clock)?;
        }
        // From here on the instance's own lock tells that it runs.
        turn.end();
        let manager = Manager::at(arguments.notify_socket.clone());
        let role = Role::Up { node, address: options.node_ip };
        return run(&layout, Some(&facts), role, clock, &manager, begun).inspect_err(|_| {
            if is_new {
                undo(&layout, clock)
            }
        });
    }
    if let Some(status) = runtime.block_on(running(&admin, &layout, clock))? {
        output::line(format_args!(
            "ondol already runs (instance {}, pid {}, {}); \"ondol status\" tells more",
            layout.instance,
            status["pid"],
            status["server"].as_str().unwrap_or("no API here")
        ));
        tell_pressures(&status);
        if let Some(path) = kubeconfig.filter(|_| status["role"] == "up") {
            again(&path, layout, clock)?;
        }
        turn.end();
        return Ok(());
    }
    let mut steps = Steps::new(clock);
    let is_new = layout.is_new();
    let facts = if layout.has_run() {
        // The process that is started answers names before it checks the rest, and nobody has to wait twice.
        Facts::load_or_choose(&layout, &options.ranges)?
    } else {
        let facts = prepare(&layout, options, clock)?;
        steps.done(checks::PASSED);
        facts
    };
    let mut started = spawn(&layout)?;
    let waited = runtime.block_on(async {
        let wait = Duration::from_secs(options.wait);
        clock.timeout(wait, follow(&admin, &mut started, clock)).await
    });
    match waited {
        Some(result) => result.inspect_err(|_| {
            if is_new {
                undo(&layout, clock)
            }
        })?,
        None => bail!(
            "not everything is ready after {} seconds; it goes on in the background: \"ondol logs -f\" shows it",
            options.wait
        ),
    }
    if let Some(path) = kubeconfig {
        let mut steps = Steps::new(clock);
        remember(&path, &layout, facts, None, clock).context("all is up, but kubectl does not know of it")?;
        steps.done(&format!("context {} is current in {}", layout.context(), path.display()));
    }
    turn.end();
    // Without it pods would wait, and nothing here would say for what. An instance that ends at once says nothing.
    if let Ok(status) = runtime.block_on(admin.get("/pressures")) {
        tell_pressures(&status);
    }
    output::line("ready. Try:  kubectl create deployment hello --image=ondol.local/echo:v1 --replicas=3");
    Ok(())
}

/// Says what the node is short of so that it takes no pods.
fn tell_pressures(status: &Value) {
    for pressure in cli::commands::pressures(status) {
        output::line(format_args!("! {pressure}"));
    }
}

/// The file in use now may be another one than at the first `up`, or have lost our context since.
fn again(path: &Path, mut layout: Layout, clock: &Clock) -> anyhow::Result<()> {
    // It may run with a place of its own, which only its first `up` was told.
    let Some(facts) = Facts::read(&layout.run.join("instance.json"))? else { return Ok(()) };
    layout.data.clone_from(&facts.data_dir);
    remember(path, &layout, facts, None, clock)?;
    output::line(format_args!("context {} is current in {}", layout.context(), path.display()));
    Ok(())
}

/// Leaves the session in which `up` was typed, for the machine may end what a session leaves behind. Where that cannot
/// be done, nobody manages sessions by groups either.
fn leave_session(layout: &Layout) {
    let root = layout.cgroup_root();
    // It takes a while, for which nobody has to wait.
    std::thread::spawn(move || {
        if let Err(error) = sandbox::leave_session(&root) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the session could not be left");
        }
    });
}

/// What the running instance says of itself; `None` if there is none. One that ends, or was just killed and still takes
/// connections while it dies, holds its port and its store: it is waited for.
async fn running(admin: &Admin, layout: &Layout, clock: &Clock) -> anyhow::Result<Option<Value>> {
    let end = clock.monotonic() + DYING;
    while admin.is_alive().await && clock.monotonic() < end {
        match admin.get("/status").await {
            Ok(status) if status["ending"] == true => break,
            Ok(status) => return Ok(Some(status)),
            Err(_) => clock.sleep(LOOK).await,
        }
    }
    if !ended(layout, longest_end(), clock).await {
        bail!("the process that runs was told to end and does not: \"ondol down\" kills it");
    }
    Ok(None)
}

/// The machine's name as a node may be called.
pub fn node_name(wanted: Option<&str>) -> anyhow::Result<String> {
    let own = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name = wanted.unwrap_or(&own).to_owned();
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if !name.chars().all(is_plain) || !ends(name.chars().next()) || !ends(name.chars().last()) {
        bail!(
            "{name:?} is no name for a node (lower-case letters, digits, '-' and '.'): give one with --node-name"
        );
    }
    Ok(name)
}

/// Everything that can be known to fail before anything is touched.
fn prepare(layout: &Layout, options: &Up, clock: &Clock) -> anyhow::Result<Facts> {
    checks::kernel()?;
    let facts = Facts::load_or_choose(layout, &options.ranges)?;
    checks::ranges(layout, &facts)?;
    free_port(facts.api_port, clock)?;
    checks::data(layout)?;
    layout.make()?;
    facts.write(layout)?;
    Ok(facts)
}

/// The port is free, at the latest when a process that was just killed has let go of it.
fn free_port(port: u16, clock: &Clock) -> anyhow::Result<()> {
    let end = clock.monotonic() + LETTING_GO;
    loop {
        match checks::port(port) {
            Err(_) if clock.monotonic() < end => std::thread::sleep(LOOK),
            other => return other,
        }
    }
}

/// The background process, and where its words begin in the log that it shares with those before it.
struct Started {
    child: Child,
    log: PathBuf,
    begin: usize,
}

/// Starts ourselves again, free of this terminal.
fn spawn(layout: &Layout) -> anyhow::Result<Started> {
    let path = layout.log();
    let log = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let begin = usize::try_from(log.metadata()?.len()).unwrap_or_default();
    let program = std::env::current_exe().context("cannot find our own program")?;
    let child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(DETACHED, "true")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the background process")?;
    Ok(Started { child, log: path, begin })
}

/// Shows the steps of the background process until it is ready.
async fn follow(admin: &Admin, started: &mut Started, clock: &Clock) -> anyhow::Result<()> {
    while !admin.is_alive().await {
        if let Some(status) = started.child.try_wait()? {
            return Err(started.died(&status.to_string()));
        }
        clock.sleep(LOOK).await;
    }
    let mut ready = false;
    let told = admin
        .follow("/progress", &json!({}), |line| {
            if let Some(step) = line.get("step").and_then(Value::as_str) {
                output::line(format_args!("✓ {step} ({} ms)", line["ms"]));
            }
            ready |= line.get("ready").is_some();
        })
        .await;
    if ready {
        return Ok(());
    }
    // Whether its talk was cut or came to an end: it has died, and its log says why.
    drop(told);
    let status = started.child.wait()?;
    Err(started.died(&status.to_string()))
}

impl Started {
    /// What it said last.
    fn died(&self, status: &str) -> anyhow::Error {
        let text = std::fs::read(&self.log).unwrap_or_default();
        // A log that was set aside meanwhile begins anew.
        let text = String::from_utf8_lossy(text.get(self.begin..).unwrap_or(&text));
        if let Some(error) = text.lines().rev().find_map(|line| line.strip_prefix("error: ")) {
            return anyhow::anyhow!("{error}");
        }
        let lines: Vec<&str> = text.lines().rev().take(TAIL_LINES).collect();
        let tail: Vec<&str> = lines.into_iter().rev().collect();
        anyhow::anyhow!("the background process ended ({status}); its last words:\n{}", tail.join("\n"))
    }
}

/// The user's kubeconfig.
pub fn kubeconfig_path(arguments: &Arguments) -> anyhow::Result<PathBuf> {
    let home = arguments.home.clone().unwrap_or_else(|| PathBuf::from("/root"));
    let path = kubeconfig::path(arguments.kubeconfig_path.as_deref(), &home);
    std::path::absolute(&path).context("KUBECONFIG cannot be used")
}

/// Writes our context into the user's kubeconfig, and remembers where. A server that is reached at an address of its
/// own is written down with that, so that kubectl may be in another network namespace than the server.
pub fn remember(
    path: &Path,
    layout: &Layout,
    mut facts: Facts,
    advertised: Option<IpAddr>,
    clock: &Clock,
) -> anyhow::Result<()> {
    let authority = wire::tls::Authority::load_or_create(&layout.keys(), "ca", clock.now())?;
    let program = std::env::current_exe().context("cannot find our own program")?;
    let program = program.to_string_lossy().trim_end_matches(" (deleted)").to_owned();
    let mut command =
        vec![program, "credential".to_owned(), "--instance".to_owned(), layout.instance.name().to_owned()];
    if layout.data != Layout::new(layout.instance.name(), None)?.data {
        command.extend(["--data-dir".to_owned(), layout.data.display().to_string()]);
    }
    let address = advertised.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let entry = Entry {
        name: layout.context(),
        server: format!("https://{}", SocketAddr::new(address, facts.api_port)),
        authority_pem: authority.certificate_pem().to_owned(),
        command,
    };
    if !facts.kubeconfigs.iter().any(|known| known == path) {
        facts.kubeconfigs.push(path.to_owned());
        facts.write(layout)?;
    }
    kubeconfig::add(path, &entry)?;
    Ok(())
}

/// The process id in the lock, if somebody holds it.
pub fn holder(lock: &Path) -> Option<rustix::process::Pid> {
    let file = File::open(lock).ok()?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    let text = std::fs::read_to_string(lock).ok()?;
    rustix::process::Pid::from_raw(text.trim().parse().ok()?)
}
