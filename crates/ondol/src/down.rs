//! `ondol down`: ends pods and server; with `--wipe` leaves no trace. Works without a server and with damaged data.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use base::{Clock, Tasks};
use cli::admin::Admin;
use cli::arguments::{Arguments, Down};
use cli::kubeconfig;
use cli::output;
use cli::steps::Steps;
use rustix::process::{Pid, Signal, kill_process};
use sandbox::{Adopted, Sandboxes};
use serde_json::json;

use crate::checks;
use crate::facts::{Facts, refuse_others};
use crate::layout::Layout;
use crate::run::longest_end;
use crate::turn::Turn;
use crate::up::{holder, kubeconfig_path};

/// How often a process that ends is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// What a server that does not answer gets, on top of the pods' time.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a killed process may take.
const KILLED: Duration = Duration::from_secs(10);

/// Ends the instance.
pub fn down(arguments: &Arguments, options: &Down, clock: &Clock) -> anyhow::Result<()> {
    checks::root()?;
    let mut layout = Layout::new(&arguments.instance, arguments.data_dir.as_deref())?;
    // Damage is no reason not to end or to remove an instance.
    let kept = |path: PathBuf| Facts::read(&path).ok().flatten();
    let last_run = kept(layout.run.join("instance.json"));
    if arguments.data_dir.is_none()
        && let Some(facts) = &last_run
        && facts.data_dir.is_absolute()
    {
        // It runs, or ran before the next reboot, with a place of its own.
        layout.data.clone_from(&facts.data_dir);
    }
    if !layout.run.exists() && !layout.facts().exists() && !options.wipe {
        bail!(
            "there is no instance {}: nothing in {}; \"--instance\" names another, \"--data-dir\" another place",
            layout.instance,
            layout.data.display()
        );
    }
    refuse_others(&layout)?;
    if options.wipe && !options.yes && !is_sure(&layout)? {
        bail!("nothing was removed");
    }
    // The common place is ours by its name; another is ours if an instance has said so.
    let is_ours = layout.facts().exists()
        || arguments.data_dir.is_none()
        || last_run.as_ref().is_some_and(|facts| facts.data_dir == layout.data);
    let facts = kept(layout.facts()).or(last_run);
    let turn = Turn::take(&layout)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut steps = Steps::new(clock);
    runtime.block_on(async {
        if end_server(&layout, options, clock).await? {
            steps.done("pods and server have ended");
        }
        if end_sandboxes(&layout, clock).await? {
            steps.done("what pods left is removed");
        }
        anyhow::Ok(())
    })?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    if !options.wipe {
        turn.end();
        output::line("down; \"ondol up\" brings everything back, \"ondol down --wipe\" removes the data");
        return Ok(());
    }
    wipe(arguments, &layout, facts.as_ref(), is_ours, &mut steps)?;
    turn.end();
    for root in Layout::roots() {
        // Ours if it is empty.
        let _ = std::fs::remove_dir(root);
    }
    Ok(())
}

fn is_sure(layout: &Layout) -> anyhow::Result<bool> {
    let (instance, data) = (&layout.instance, layout.data.display());
    output::text(format_args!("Remove instance {instance} with all its data in {data}? [y/N] "));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Asks the server to end everything; a server that does not answer is told by signals. Says whether there was one.
async fn end_server(layout: &Layout, options: &Down, clock: &Clock) -> anyhow::Result<bool> {
    let Some(pid) = holder(&layout.lock()) else { return Ok(false) };
    let admin = Admin::new(&layout.admin_socket());
    let asked = json!({"timeoutSeconds": options.timeout});
    let longest = Duration::from_secs(options.timeout) + ANSWER;
    let answered = clock.timeout(longest, admin.post("/down", &asked)).await;
    if !matches!(answered, Some(Ok(_))) {
        tell(pid, Signal::TERM);
    }
    if !ended(layout, longest_end(), clock).await {
        tell(pid, Signal::KILL);
        if !ended(layout, KILLED, clock).await {
            bail!("process {} cannot be ended: it hangs in the kernel; see \"dmesg\"", pid.as_raw_nonzero());
        }
    }
    Ok(true)
}

fn tell(pid: Pid, signal: Signal) {
    // It may have ended by now.
    let _ = kill_process(pid, signal);
}

/// Whether no process holds the instance, at the latest after `within`.
pub async fn ended(layout: &Layout, within: Duration, clock: &Clock) -> bool {
    let wait = async {
        while holder(&layout.lock()).is_some() {
            clock.sleep(LOOK).await;
        }
    };
    clock.timeout(within, wait).await.is_some()
}

/// Removes sandboxes that no server has ended.
async fn end_sandboxes(layout: &Layout, clock: &Clock) -> anyhow::Result<bool> {
    let config = sandbox::Config { run_dir: layout.sandboxes(), cgroup_root: layout.cgroup_root() };
    let sandboxes = Sandboxes::open(config, clock.clone(), Tasks::new()).await?;
    let left = sandboxes.adopt().await?;
    let found = !left.is_empty();
    let removing = left.into_iter().map(|left| async {
        match left {
            Adopted::Live(sandbox) => sandbox.remove().await,
            Adopted::Lost(remains) => remains.remove().await,
        }
    });
    for result in futures::future::join_all(removing).await {
        result?;
    }
    sandboxes.remove_root().await?;
    Ok(found)
}

fn wipe(
    arguments: &Arguments,
    layout: &Layout,
    facts: Option<&Facts>,
    is_ours: bool,
    steps: &mut Steps,
) -> anyhow::Result<()> {
    let record = layout.network_record();
    if node::network::wipe(&layout.instance, &record).is_err() {
        wipe_network_without_record(layout)?;
    }
    steps.done("links, rules and settings are removed");
    forget_contexts(arguments, layout, facts, steps)?;
    remove(&layout.run)?;
    if is_ours {
        layout.data_entries().try_for_each(|path| remove(&path))?;
    }
    // What is somebody else's stays, and so does a folder on which a disk is mounted.
    let gone = is_ours && std::fs::remove_dir(&layout.data).is_ok() || !layout.data.exists();
    steps.done(&match gone {
        true => format!("{} is removed", layout.data.display()),
        false => {
            format!("what was Ondol's in {} is removed; the folder is not ours alone", layout.data.display())
        }
    });
    Ok(())
}

/// Takes back what a first start has made that came to nothing, as far as that can be done: why it came to nothing is
/// what the user has to know.
pub fn undo(layout: &Layout, clock: &Clock) {
    let facts = Facts::read(&layout.run.join("instance.json")).ok().flatten();
    for path in facts.into_iter().flat_map(|facts| facts.kubeconfigs) {
        let _ = kubeconfig::remove(&path, &layout.context());
    }
    if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
        let _ = runtime.block_on(end_sandboxes(layout, clock));
    }
    let _ = node::network::wipe(&layout.instance, &layout.network_record());
    let _ = remove(&layout.run);
    for path in layout.data_entries() {
        let _ = remove(&path);
    }
    // Also the common folders, if nothing else is in them.
    for folder in std::iter::once(layout.data.as_path()).chain(Layout::roots()) {
        let _ = std::fs::remove_dir(folder);
    }
}

/// Removes our context from every kubeconfig that has it.
fn forget_contexts(
    arguments: &Arguments,
    layout: &Layout,
    facts: Option<&Facts>,
    steps: &mut Steps,
) -> anyhow::Result<()> {
    let mut configs = facts.map(|facts| facts.kubeconfigs.clone()).unwrap_or_default();
    configs.push(kubeconfig_path(arguments)?);
    configs.sort();
    configs.dedup();
    for path in configs {
        if kubeconfig::remove(&path, &layout.context())? {
            steps.done(&format!("context {} is removed from {}", layout.context(), path.display()));
        }
    }
    Ok(())
}

/// The file that tells the machine's former settings is damaged: the bridge, if it is still there, tells them too.
fn wipe_network_without_record(layout: &Layout) -> anyhow::Result<()> {
    let network = net::link::Network::open(&layout.instance)?;
    let mut record = net::sysctl::Record::default();
    // Without a bridge nobody knows them any more.
    let _ = network.enable_forwarding(&mut record);
    network.remove_all(&record)?;
    Ok(())
}

/// Removes a file, or a folder with whatever is mounted in it.
fn remove(path: &Path) -> anyhow::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if metadata.is_dir() {
        unmount_below(path)?;
    }
    base::tree::remove(path)
        .with_context(|| format!("{} cannot be removed; see what holds it (\"lsof +D\")", path.display()))
}

fn unmount_below(folder: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("/proc is not mounted")?;
    for point in mounts_below(&text, folder).into_iter().rev() {
        let flags = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
        rustix::mount::unmount(&point, flags)
            .with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}

/// Mount points strictly below `folder`, in the order of mounting.
fn mounts_below(mountinfo: &str, folder: &Path) -> Vec<PathBuf> {
    base::mounts::points(mountinfo).filter(|point| point.starts_with(folder) && point != folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_folder_are_found_and_no_neighbours() {
        let text = "1 2 0:1 / /d rw - tmpfs a rw\n1 2 0:1 / /d/x rw - tmpfs a rw\n\
                    1 2 0:1 / /dd/x rw - tmpfs a rw\n1 2 0:1 / /d/with\\040blank rw - tmpfs a rw\n";
        assert_eq!(
            mounts_below(text, Path::new("/d")),
            [PathBuf::from("/d/x"), PathBuf::from("/d/with blank")]
        );
    }
}
