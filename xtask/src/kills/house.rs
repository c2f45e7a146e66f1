//! The processes that are killed: `ondol up`, or `ondol server` and `ondol agent` in two network namespaces.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base::Clock;

use crate::command::{self, command};

/// Between two looks at something that only comes to be.
pub const LOOK: Duration = Duration::from_millis(5);
/// How long a process may take to write its files.
const STARTUP: Duration = Duration::from_secs(60);
/// Where the two find each other.
const SERVER_ADDRESS: &str = "198.51.100.1";
const AGENT_ADDRESS: &str = "198.51.100.2";
const NODE: &str = "house";

/// How the house stands.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `ondol up`.
    Together,
    /// `ondol server` and `ondol agent`.
    Apart,
}

/// All processes of a house.
pub struct House {
    ondol: PathBuf,
    folder: tempfile::TempDir,
    /// Holds the server's network namespace.
    holder: Option<Child>,
    /// In the order in which they are first started; the last one is the agent's.
    pub roles: Vec<Role>,
}

/// One process, which may be dead.
pub struct Role {
    /// `server`, `agent` or `up`.
    pub name: &'static str,
    instance: String,
    arguments: Vec<String>,
    in_server: bool,
    child: Option<Child>,
}

impl House {
    /// Prepares everything; nothing runs yet.
    pub fn new(ondol: &Path, form: Form) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ondol-kills-").tempdir()?;
        let instance = format!("k{}", base::Random::system().suffix(6));
        let role = |name, suffix: &str, arguments: &[&str], in_server| Role {
            name,
            instance: format!("{instance}{suffix}"),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
            in_server,
            child: None,
        };
        let (mut holder, roles) = match form {
            Form::Together => (None, vec![role("up", "", &["up", "--foreground"], false)]),
            Form::Apart => {
                let invitation = folder
                    .path()
                    .join(format!("{instance}-s/agents/{NODE}.kubeconfig"))
                    .display()
                    .to_string();
                let node = format!("{NODE}={AGENT_ADDRESS}");
                let serving = ["server", "--advertise-address", SERVER_ADDRESS, "--node", &node];
                let holder = Command::new("unshare").args(["--net", "sleep", "infinity"]).spawn()?;
                let roles = vec![
                    role("server", "-s", &serving, true),
                    role("agent", "", &["agent", "--kubeconfig", &invitation], false),
                ];
                (Some(holder), roles)
            }
        };
        if let Some(holder) = &mut holder {
            join(holder.id())?;
        }
        Ok(Self { ondol: ondol.to_owned(), folder, holder, roles })
    }

    /// Starts a role that is dead.
    pub fn start(&mut self, index: usize) -> Result<()> {
        let log = self.log(index);
        let log = File::options().create(true).append(true).open(log)?;
        let role = &self.roles[index];
        let mut command = self.ondol(role);
        command.args(&role.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.roles[index].child = Some(command.spawn().context("cannot start ondol")?);
        Ok(())
    }

    /// The program as one of the roles calls it, without a verb.
    fn ondol(&self, role: &Role) -> Command {
        let mut command = match (&self.holder, role.in_server) {
            (Some(holder), true) => {
                let namespace = format!("--net=/proc/{}/ns/net", holder.id());
                command("nsenter", [namespace.as_ref(), self.ondol.as_os_str()])
            }
            _ => Command::new(&self.ondol),
        };
        command
            .args(["--instance", &role.instance, "--data-dir"])
            .arg(self.folder.path().join(&role.instance));
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Kills a role at this instant.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        let name = self.roles[index].name;
        let mut child = self.roles[index].child.take().with_context(|| format!("{name} is dead already"))?;
        if let Some(status) = child.try_wait()? {
            bail!("{name} has ended by itself: {status}; its last words:\n{}", self.last_words(index));
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Whether a role lives. One that ended by itself is an error.
    pub fn lives(&mut self, index: usize) -> Result<bool> {
        let ended = match &mut self.roles[index].child {
            None => return Ok(false),
            Some(child) => child.try_wait()?,
        };
        match ended {
            None => Ok(true),
            Some(status) => {
                let name = self.roles[index].name;
                bail!("{name} has ended by itself: {status}; its last words:\n{}", self.last_words(index))
            }
        }
    }

    /// Starts everything for the first time: the agent once the server has invited it.
    pub async fn raise(&mut self, clock: &Clock) -> Result<()> {
        self.start(0)?;
        self.wait_for(&self.kubeconfig(), clock).await?;
        for index in 1..self.roles.len() {
            let invitation = self.roles[index].arguments.last().map(PathBuf::from).unwrap_or_default();
            self.wait_for(&invitation, clock).await?;
            self.start(index)?;
        }
        Ok(())
    }

    async fn wait_for(&self, file: &Path, clock: &Clock) -> Result<()> {
        let appears = async {
            while !file.exists() {
                clock.sleep(LOOK).await;
            }
        };
        let appeared = clock.timeout(STARTUP, appears).await;
        appeared.with_context(|| format!("no {}; last words:\n{}", file.display(), self.last_words(0)))
    }

    /// What the roles are called.
    pub fn names(&self) -> Vec<&'static str> {
        self.roles.iter().map(|role| role.name).collect()
    }

    /// Where the client finds the server.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    fn node_role(&self) -> &Role {
        // There is at least one role, whatever the form.
        &self.roles[self.roles.len() - 1]
    }

    /// Instance of the process that has the node.
    pub fn node_instance(&self) -> &str {
        &self.node_role().instance
    }

    /// Data of the process that has the node.
    pub fn node_data(&self) -> PathBuf {
        self.folder.path().join(&self.node_role().instance)
    }

    fn log(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("{}.log", self.roles[index].name))
    }

    /// The end of a role's log.
    pub fn last_words(&self, index: usize) -> String {
        let text = fs::read_to_string(self.log(index)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(30).collect();
        lines.into_iter().rev().map(|line| format!("    {line}\n")).collect()
    }

    /// Shows how all logs end.
    pub fn show_logs(&self) {
        for (index, role) in self.roles.iter().enumerate() {
            eprintln!("the log of {} ends:\n{}", role.name, self.last_words(index));
        }
    }

    /// Lines of all logs that tell of a panic. Whoever catches one goes on, but it is a bug all the same.
    pub fn panics(&self) -> Vec<String> {
        let of = |index: usize| {
            let text = fs::read_to_string(self.log(index)).unwrap_or_default();
            panics_in(&text).map(|line| format!("{}: {line}", self.roles[index].name)).collect::<Vec<_>>()
        };
        (0..self.roles.len()).flat_map(of).collect()
    }

    /// Ends everything by the ordinary way, and removes it.
    pub fn wipe(&mut self) -> Result<()> {
        let mut failed = None;
        for index in (0..self.roles.len()).rev() {
            let mut down = self.ondol(&self.roles[index]);
            if let Err(error) = command::read(down.args(["down", "--wipe", "--yes"])) {
                failed = Some(error);
            }
            if let Some(child) = &mut self.roles[index].child {
                child.wait()?;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Keeps logs and data for who looks for the cause.
    pub fn keep(mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for child in self.roles.iter_mut().filter_map(|role| role.child.as_mut()).chain(&mut self.holder) {
            // It may have ended already; with the process namespace everything ends anyway.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Joins our network namespace and the one of `holder`.
fn join(holder: u32) -> Result<()> {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/net"));
    let (own, mut looks) = (namespace("self")?, 0);
    while namespace(&holder.to_string())? == own {
        looks += 1;
        if looks > 1000 {
            bail!("no second network namespace comes to be");
        }
        std::thread::sleep(LOOK);
    }
    let script = format!(
        "ip link add to-server type veth peer name to-agent netns {holder} && \
         ip address add {AGENT_ADDRESS}/30 dev to-server && ip link set to-server up && \
         nsenter --net=/proc/{holder}/ns/net sh -c 'ip address add {SERVER_ADDRESS}/30 dev to-agent && \
         ip link set to-agent up && ip link set lo up'"
    );
    command::read(&mut command("sh", ["-c", &script])).map(drop)
}

fn panics_in(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter(|line| line.contains("panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found_in_a_log_whoever_caught_it() {
        let log =
            "up\nthread 'a' panicked at crates/x.rs:1:2:\nERROR planning panicked; this is a bug\ndown\n";
        assert_eq!(panics_in(log).count(), 2);
    }
}
