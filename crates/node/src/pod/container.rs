//! A container of a pod, turned into what the sandbox starts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::object::Object;
use image::document::ImageConfig;
use k8s_openapi::api::core::v1 as core;
use sandbox::capabilities::{self, Capabilities, Set};
use sandbox::{
    Attempt, ContainerSpec, Log, Mount, MountSource, PidScope, Propagation, Resources, Root, Seccomp, User,
    WindowSize,
};

use crate::pod::environment::{ConfigError, expand};
use crate::pod::quality::{Quality, milli, units};
use crate::volume;

/// Size of a log file before it is rotated, and how many are kept (kubelet's defaults).
const LOG_BYTES: u64 = 10 << 20;
const LOG_FILES: u32 = 5;
/// Microseconds in which a CPU quota holds.
const PERIOD_US: u64 = 100_000;

/// All that a container is made of, besides the pod.
pub struct Parts<'a> {
    /// The pod as stored.
    pub object: &'a Object,
    /// The pod as read.
    pub pod: &'a core::Pod,
    /// The container.
    pub container: &'a core::Container,
    /// Which attempt it will be.
    pub restarts: u32,
    /// What the image says.
    pub image: &'a ImageConfig,
    /// Its layers and the writable directory of this attempt.
    pub root: Root,
    /// Its variables.
    pub variables: Vec<(String, String)>,
    /// Who runs it, if the image knows the user that is asked for.
    pub user: User,
    /// Where each volume of the pod lies.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// Directories for the volumes that the image declares: path inside, and on the node.
    pub image_volumes: Vec<(String, PathBuf)>,
    /// Files that every container gets: `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`.
    pub files: Vec<(String, PathBuf)>,
    /// Where the termination message is written.
    pub termination_file: PathBuf,
    /// Where the log is written.
    pub log: PathBuf,
    /// Bytes of memory of the node, by which the kernel's choice of victims is weighted.
    pub node_memory_bytes: i64,
}

/// The specification for the sandbox. Pure.
pub fn spec(parts: Parts) -> Result<ContainerSpec, ConfigError> {
    let container = parts.container;
    let pod_spec = parts.pod.spec.as_ref();
    let security = container.security_context.as_ref();
    let pod_security = pod_spec.and_then(|spec| spec.security_context.as_ref());
    let privileged = security.and_then(|security| security.privileged).unwrap_or_default();
    let non_root = security
        .and_then(|security| security.run_as_non_root)
        .or(pod_security.and_then(|security| security.run_as_non_root));
    if non_root == Some(true) && parts.user.uid == 0 {
        let why = "container has runAsNonRoot and image will run as root; set runAsUser to a number above 0";
        return Err(ConfigError::Field(why.to_owned()));
    }
    let capabilities = powers(security, privileged, parts.user.uid)?;
    let mounts = mounts(&parts)?;
    let working_dir = match container.working_dir.as_deref().filter(|dir| !dir.is_empty()) {
        Some(dir) => dir.to_owned(),
        None => parts.image.working_dir.clone(),
    };
    let tty = container.tty.unwrap_or_default();
    let mut env: Vec<(String, String)> = image_variables(parts.image);
    if tty && !parts.variables.iter().any(|(name, _)| name == "TERM") {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    env.push(("HOSTNAME".to_owned(), hostname(parts.object, parts.pod)));
    for (name, value) in &parts.variables {
        env.retain(|(other, _)| other != name);
        env.push((name.clone(), value.clone()));
    }
    Ok(ContainerSpec {
        attempt: Attempt::new(container.name.as_str(), parts.restarts),
        root: parts.root,
        read_only_root: security.and_then(|security| security.read_only_root_filesystem).unwrap_or_default(),
        args: command_line(container, parts.image, &parts.variables)?,
        env,
        working_dir,
        user: parts.user,
        capabilities,
        no_new_privileges: security.and_then(|s| s.allow_privilege_escalation) == Some(false),
        seccomp: seccomp(security, pod_security, privileged)?,
        privileged,
        mounts,
        masked_paths: unmasked(security).then(Vec::new),
        read_only_paths: unmasked(security).then(Vec::new),
        resources: resources(container),
        oom_score_adj: Quality::of(parts.pod).oom_score(container, parts.node_memory_bytes),
        pid_scope: match pod_spec {
            Some(spec) if spec.host_pid == Some(true) => PidScope::Host,
            Some(spec) if spec.share_process_namespace == Some(true) => PidScope::Pod,
            _ => PidScope::Container,
        },
        terminal: tty.then_some(WindowSize { columns: 80, rows: 24 }),
        input: container.stdin.unwrap_or_default(),
        input_once: container.stdin_once.unwrap_or_default(),
        log: Log { path: parts.log, max_bytes: LOG_BYTES, max_files: LOG_FILES },
        ..ContainerSpec::default()
    })
}

/// The host name of a pod: what it asks for, or its name, cut to what the kernel takes. In the host's network it is
/// the host's.
pub fn hostname(object: &Object, pod: &core::Pod) -> String {
    if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
        return rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
    let asked = pod.spec.as_ref().and_then(|spec| spec.hostname.as_deref()).filter(|name| !name.is_empty());
    let name = asked.unwrap_or(object.name());
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

fn image_variables(image: &ImageConfig) -> Vec<(String, String)> {
    let pairs = image.env.iter().filter_map(|line| line.split_once('='));
    let mut variables: Vec<(String, String)> =
        pairs.map(|(name, value)| (name.into(), value.into())).collect();
    if !variables.iter().any(|(name, _)| name == "PATH") {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        variables.insert(0, ("PATH".to_owned(), path.to_owned()));
    }
    variables
}

/// Replaces `$(NAME)` in a path; a name without a value is an error, as upstream's.
fn expand_path(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
    let missing = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let path = expand(text, |name| {
        let value = lookup(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.borrow_mut().insert(name.to_owned());
        }
        value
    });
    let missing: Vec<String> = missing.into_inner().into_iter().collect();
    if missing.is_empty() {
        return Ok(path);
    }
    Err(ConfigError::Field(format!("missing value for {}", missing.join(", "))))
}

/// `command` and `args` over the image's entrypoint and cmd: a command alone drops the image's arguments. What is
/// replaced in them are the container's own variables, not the image's, as upstream does.
fn command_line(
    container: &core::Container,
    image: &ImageConfig,
    own: &[(String, String)],
) -> Result<Vec<String>, ConfigError> {
    let lookup =
        |name: &str| own.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value.clone());
    let given = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| expand(word, lookup)).collect()
    };
    let (command, args) = (given(&container.command), given(&container.args));
    let line = match (command.is_empty(), args.is_empty()) {
        (true, true) => [image.entrypoint.clone(), image.cmd.clone()].concat(),
        (true, false) => [image.entrypoint.clone(), args].concat(),
        (false, _) => [command, args].concat(),
    };
    if line.is_empty() {
        let why =
            "no command specified: the image has neither entrypoint nor cmd, so give the container a command";
        return Err(ConfigError::Field(why.to_owned()));
    }
    Ok(line)
}

fn powers(
    security: Option<&core::SecurityContext>,
    privileged: bool,
    uid: u32,
) -> Result<Capabilities, ConfigError> {
    if privileged {
        return Ok(Capabilities::of(Set::ALL));
    }
    let wrong = |why: String| ConfigError::Field(format!("securityContext.capabilities: {why}"));
    let named = |names: &Option<Vec<String>>| -> Result<Set, ConfigError> {
        let names: Vec<&str> = names.iter().flatten().map(String::as_str).collect();
        if names.iter().any(|name| name.eq_ignore_ascii_case("ALL")) {
            return Ok(Set::ALL);
        }
        Set::from_names(names).map_err(wrong)
    };
    let default = Set::from_names(capabilities::DEFAULT).map_err(wrong)?;
    let changes = security.and_then(|security| security.capabilities.as_ref());
    let set = match changes {
        None => default,
        Some(changes) => {
            let all_dropped = changes.drop.iter().flatten().any(|name| name.eq_ignore_ascii_case("ALL"));
            let base = if all_dropped { Set::default() } else { default.without(named(&changes.drop)?) };
            base.with(named(&changes.add)?)
        }
    };
    let mut all = Capabilities::of(set);
    if uid != 0 {
        // As the kernel does when root becomes somebody else: what may be gained stays, what is held goes.
        all.effective = Set::default();
        all.permitted = Set::default();
        all.ambient = Set::default();
    }
    Ok(all)
}

fn seccomp(
    security: Option<&core::SecurityContext>,
    pod: Option<&core::PodSecurityContext>,
    privileged: bool,
) -> Result<Seccomp, ConfigError> {
    let own = security.and_then(|security| security.seccomp_profile.as_ref());
    let profile = own.or(pod.and_then(|pod| pod.seccomp_profile.as_ref()));
    match profile.map(|profile| profile.type_.as_str()) {
        _ if privileged => Ok(Seccomp::Unconfined),
        // Upstream's default without a profile.
        None | Some("Unconfined") => Ok(Seccomp::Unconfined),
        Some("RuntimeDefault") => Ok(Seccomp::RuntimeDefault),
        Some(other) => Err(ConfigError::Field(format!(
            "securityContext.seccompProfile: type {other} is not supported on this node yet; use RuntimeDefault"
        ))),
    }
}

fn unmasked(security: Option<&core::SecurityContext>) -> bool {
    security.and_then(|security| security.proc_mount.as_deref()) == Some("Unmasked")
}

/// Requests and limits as the kernel takes them.
pub fn resources(container: &core::Container) -> Resources {
    let list = |requests: bool| {
        let resources = container.resources.as_ref();
        resources.and_then(|r| if requests { r.requests.as_ref() } else { r.limits.as_ref() })
    };
    let cpu_limit = list(false).and_then(|limits| limits.get("cpu")).map(milli).filter(|milli| *milli > 0);
    let cpu_request =
        list(true).and_then(|requests| requests.get("cpu")).map(milli).or(cpu_limit).unwrap_or(0);
    let memory = list(false).and_then(|limits| limits.get("memory")).map(units).filter(|bytes| *bytes > 0);
    Resources {
        cpu_shares: Some(shares(cpu_request)),
        // The kernel knows no quota below a millisecond.
        cpu_quota_us: cpu_limit.map(|milli| (milli.unsigned_abs() * PERIOD_US / 1000).max(1000)),
        cpu_period_us: cpu_limit.map(|_| PERIOD_US),
        memory_bytes: memory.map(i64::unsigned_abs),
        pids: None,
        huge_pages: Vec::new(),
    }
}

/// Thousandths of a core as shares: 1,024 are a core, 2 is the least that there is.
pub fn shares(milli: i64) -> u64 {
    (milli.max(0).unsigned_abs() * 1024 / 1000).clamp(2, 262_144)
}

fn mounts(parts: &Parts) -> Result<Vec<Mount>, ConfigError> {
    let bind = |target: &str, path: PathBuf, sub_path: String, read_only: bool, propagation| Mount {
        target: target.to_owned(),
        source: MountSource::Bind { path, sub_path, recursive: true, propagation },
        read_only,
        no_exec: false,
        no_suid: false,
        no_dev: false,
    };
    let mut mounts = Vec::new();
    for wanted in parts.container.volume_mounts.iter().flatten() {
        let path = parts.volumes.get(&wanted.name).ok_or_else(|| {
            ConfigError::Field(format!("volumeMounts[{}]: the pod has no such volume", wanted.name))
        })?;
        let variables = |name: &str| {
            parts.variables.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
        };
        let sub_path = match (&wanted.sub_path, &wanted.sub_path_expr) {
            (_, Some(text)) if !text.is_empty() => expand_path(text, variables)?,
            (Some(text), _) => text.clone(),
            _ => String::new(),
        };
        let propagation = match wanted.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        };
        // What is brought up to date by the node is not for containers to change.
        let read_only = wanted.read_only.unwrap_or_default() || volume::is_of_files(parts.pod, &wanted.name);
        let target = if wanted.mount_path.starts_with('/') {
            wanted.mount_path.clone()
        } else {
            format!("/{}", wanted.mount_path)
        };
        mounts.push(bind(&target, path.clone(), sub_path, read_only, propagation));
    }
    for (target, path) in &parts.image_volumes {
        mounts.push(bind(target, path.clone(), String::new(), false, Propagation::Private));
    }
    let message = parts.container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    let covered = |target: &str, mounts: &[Mount]| mounts.iter().any(|mount| mount.target == target);
    for (target, path) in &parts.files {
        if !covered(target, &mounts) {
            mounts.push(bind(target, path.clone(), String::new(), false, Propagation::Private));
        }
    }
    if !message.is_empty() && !covered(message, &mounts) {
        let file = parts.termination_file.clone();
        mounts.push(bind(message, file, String::new(), false, Propagation::Private));
    }
    // A mount below another comes after it.
    mounts.sort_by_key(|mount| mount.target.matches('/').count());
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_know_the_containers_own_variables_alone() {
        let image = ImageConfig { env: vec!["PATH=/bin".to_owned()], ..ImageConfig::default() };
        let words = |words: &[&str]| Some(words.iter().map(ToString::to_string).collect());
        let container = core::Container {
            command: words(&["echo", "$(A)"]),
            args: words(&["$(PATH)|$(HOSTNAME)|$$(A)"]),
            ..core::Container::default()
        };
        let line = command_line(&container, &image, &[("A".to_owned(), "1".to_owned())]).unwrap();
        assert_eq!(line, ["echo", "1", "$(PATH)|$(HOSTNAME)|$(A)"]);
    }

    #[test]
    fn a_path_of_what_has_no_value_is_refused() {
        let known = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        assert_eq!(expand_path("$(A)/x", known).unwrap(), "1/x");
        let refused = expand_path("$(NOPE)/$(A)/$(EMPTY)", known).unwrap_err();
        assert_eq!(refused.to_string(), "missing value for EMPTY, NOPE");
    }
}
