//! The bridge of an instance and the veth pairs of its pods.
//!
//! A pod's address is a host address (`/32`) and its only neighbour is the bridge: traffic between pods passes
//! through this machine's IP layer, where connection tracking sees both directions, with or without the
//! `br_netfilter` module. Every link carries an alias that begins with its instance, which is how they are found.

mod messages;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::thread::LinkNameSpaceType;
use thiserror::Error;

pub use crate::netlink::NetlinkError;

use crate::address::Cidr;
use crate::instance::{BRIDGE_PREFIX, Instance, fnv1a};
use crate::netlink::{Socket, Subsystem};
use crate::rules;
use crate::sysctl::{self, Record, SysctlError};
use messages::{Link, VethPair};

/// The pod's end of a veth pair.
pub const POD_INTERFACE: &str = "eth0";

/// What routing for pods needs of the machine, in the order that it is set; restored in the other order, because
/// writing `ip_forward` also changes `accept_redirects`, which is only noted. Redirects are sent where either `all`
/// or the interface says so: with `all` off, other interfaces go on by their own setting. They must be off at the
/// bridge, since they use up the allowance of ICMP messages that refusals need.
const SETTINGS: [(&str, Option<&str>); 3] = [
    ("net/ipv4/conf/all/accept_redirects", None),
    ("net/ipv4/conf/all/send_redirects", Some("0")),
    ("net/ipv4/ip_forward", Some("1")),
];

/// Why a link could not be made or removed.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The kernel refused or could not be spoken to.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Somebody else's link has our name.
    #[error(
        "a link named {0} exists that is not ours: remove it (ip link delete {0}) or choose another instance"
    )]
    NameTaken(String),
    /// The bridge is missing.
    #[error("bridge {0} does not exist: it is made when the node starts, restart the agent")]
    NoBridge(String),
    /// The network namespace cannot be used.
    #[error("network namespace {name} cannot be {action}; has the pod ended?")]
    Netns { name: String, action: &'static str, source: std::io::Error },
    /// A sysctl could not be read or written.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The rule tables could not be removed.
    #[error(transparent)]
    Rules(#[from] rules::RulesError),
}

/// What a node's bridge is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeSpec {
    /// The bridge's own addresses with the pods' ranges: `10.244.0.1/24`. One a family.
    pub addresses: Vec<Cidr>,
    /// Ranges that this machine itself reaches through the bridge: the Services' ranges, so that a host without
    /// a default route has a route to them.
    pub routes: Vec<Cidr>,
    /// In bytes.
    pub mtu: u32,
}

/// A bridge that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The link's name.
    pub name: String,
    /// The link's index.
    pub index: u32,
}

/// What a pod's network is to be.
#[derive(Clone, Debug)]
pub struct Attachment<'a> {
    /// What names the pod for good: its UID. The veth's name derives from it.
    pub key: &'a str,
    /// The pod's network namespace, open.
    pub netns: BorrowedFd<'a>,
    /// The pod's addresses, at most one a family.
    pub addresses: &'a [IpAddr],
    /// The bridge's addresses, one for each family that the pod has.
    pub gateways: &'a [IpAddr],
    /// In bytes.
    pub mtu: u32,
}

/// A pod's link as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attached {
    /// The host's end.
    pub veth: String,
    /// The key that it was attached with.
    pub key: String,
}

/// The links of one instance. Opened in, and acting on, the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Network {
    instance: Instance,
    socket: Mutex<Socket>,
    ipv6: bool,
}

impl Network {
    /// Speaks to the kernel for `instance`; changes nothing yet.
    pub fn open(instance: &Instance) -> Result<Self, LinkError> {
        let socket = Mutex::new(Socket::open(Subsystem::Route)?);
        Ok(Self { instance: instance.clone(), socket, ipv6: Path::new("/proc/sys/net/ipv6").exists() })
    }

    /// Whether the kernel can make links of this kind; makes none.
    pub fn knows(&self, kind: &str) -> Result<bool, LinkError> {
        let mut socket = self.lock();
        let mut batch = socket.batch();
        messages::ask_for_kind(&mut batch, kind);
        match socket.execute(&batch, &format!("ask for links of kind {kind}")) {
            Err(error) if error.is(Errno::OPNOTSUPP) => Ok(false),
            // The rest of the wish was looked at, so that the kind was found.
            Err(NetlinkError::Refused { .. }) | Ok(()) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the bridge, or brings the one that exists to `spec`: its addresses are exactly those of `spec`.
    pub fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<Bridge, LinkError> {
        let name = self.instance.bridge();
        let mut socket = self.lock();
        let alias = format!("{}bridge", self.instance.alias_prefix());
        let link = match find_link(&mut socket, &name)? {
            // A crash between making and naming it leaves a bridge without an alias.
            Some(link)
                if link.kind == "bridge" && (link.alias.is_empty() || link.alias.starts_with(&alias)) =>
            {
                link
            }
            Some(_) => return Err(LinkError::NameTaken(name)),
            None => {
                let mut batch = socket.batch();
                // Without an address of its own the bridge takes its lowest port's, and the pods' ARP entries
                // would be wrong whenever a port comes or goes.
                messages::create_bridge(&mut batch, &name, bridge_mac(&self.instance), spec.mtu);
                socket.execute(&batch, &format!("create bridge {name}"))?;
                find_link(&mut socket, &name)?.ok_or_else(|| LinkError::NoBridge(name.clone()))?
            }
        };
        let present = addresses(&mut socket)?;
        let mut batch = socket.batch();
        let alias = link.alias.is_empty().then_some(alias.as_str());
        let mtu = (link.mtu != spec.mtu).then_some(spec.mtu);
        // In a namespace made for a node `lo` is down, and this machine's own refusals would not reach it.
        messages::configure_link(&mut batch, messages::LOOPBACK_INDEX, None, None, false);
        messages::configure_link(&mut batch, link.index, alias, mtu, self.ipv6);
        for (index, stale) in present {
            if index == link.index && !spec.addresses.contains(&stale) {
                messages::delete_address(&mut batch, index, stale);
            }
        }
        for address in &spec.addresses {
            messages::add_address(&mut batch, link.index, *address);
        }
        for route in &spec.routes {
            let same_family = |c: &&Cidr| c.address().is_ipv4() == route.address().is_ipv4();
            let source = spec.addresses.iter().find(same_family).map(Cidr::address);
            messages::add_route(&mut batch, link.index, *route, None, source);
        }
        socket.execute(&batch, &format!("set up bridge {name}"))?;
        Ok(Bridge { name, index: link.index })
    }

    /// The largest packet of any link of this namespace, in bytes; `None` if there is no such link.
    pub fn mtu(&self, name: &str) -> Result<Option<u32>, LinkError> {
        Ok(find_link(&mut self.lock(), name)?.map(|link| link.mtu))
    }

    /// Gives a pod its link: the pair, the pod's `lo`, addresses and default routes. Whatever was there under the
    /// same key is replaced. The link dies with the pod's namespace.
    pub fn attach(&self, attachment: &Attachment<'_>) -> Result<Attached, LinkError> {
        let bridge = self.instance.bridge();
        let veth = self.instance.veth(attachment.key);
        let mut inner = socket_in(attachment.netns, attachment.key)?;
        {
            let mut socket = self.lock();
            let bridge_index = find_link(&mut socket, &bridge)?.ok_or(LinkError::NoBridge(bridge))?.index;
            match self.create_pair(&mut socket, attachment, &veth, bridge_index) {
                Err(error) if error.is(Errno::EXIST) => {
                    // An earlier attempt left a pair, at the host's end, the pod's end or both.
                    for (socket, name) in [(&mut *socket, veth.as_str()), (&mut inner, POD_INTERFACE)] {
                        if let Some(link) = find_link(socket, name)? {
                            let mut batch = socket.batch();
                            messages::delete_link(&mut batch, link.index);
                            socket.execute(&batch, &format!("remove the stale link {name}"))?;
                        }
                    }
                    self.create_pair(&mut socket, attachment, &veth, bridge_index)?;
                }
                other => other?,
            }
            // A pod that had the address before may be remembered as the one that has it.
            for address in attachment.addresses {
                let mut batch = socket.batch();
                messages::delete_neighbour(&mut batch, bridge_index, *address);
                match socket.execute(&batch, &format!("forget the former neighbour {address}")) {
                    Err(error) if error.is(Errno::NOENT) => {}
                    other => other?,
                }
            }
        }
        let pod = find_link(&mut inner, POD_INTERFACE)?
            .ok_or_else(|| NetlinkError::Garbled { action: format!("creating {veth}") })?;
        let mut batch = inner.batch();
        for index in [messages::LOOPBACK_INDEX, pod.index] {
            messages::configure_link(&mut batch, index, None, None, false);
        }
        for address in attachment.addresses {
            messages::add_address(&mut batch, pod.index, Cidr::host(*address));
        }
        for gateway in attachment.gateways {
            messages::add_route(&mut batch, pod.index, Cidr::host(*gateway), None, None);
            let everywhere = match gateway {
                IpAddr::V4(_) => Cidr::new(IpAddr::from([0; 4]), 0),
                IpAddr::V6(_) => Cidr::new(IpAddr::from([0; 16]), 0),
            };
            if let Ok(everywhere) = everywhere {
                messages::add_route(&mut batch, pod.index, everywhere, Some(*gateway), None);
            }
        }
        inner.execute(&batch, &format!("set up {POD_INTERFACE} of pod {}", attachment.key))?;
        Ok(Attached { veth, key: attachment.key.to_owned() })
    }

    fn create_pair(
        &self,
        socket: &mut Socket,
        attachment: &Attachment<'_>,
        veth: &str,
        bridge_index: u32,
    ) -> Result<(), NetlinkError> {
        let mut batch = socket.batch();
        let pair = VethPair {
            host_name: veth,
            bridge_index,
            mtu: attachment.mtu,
            peer_name: POD_INTERFACE,
            peer_netns: attachment.netns,
        };
        messages::create_veth(&mut batch, &pair);
        let alias = format!("{}pod {}", self.instance.alias_prefix(), attachment.key);
        messages::configure_port(&mut batch, veth, &alias, self.ipv6);
        socket.execute(&batch, &format!("create veth {veth}"))
    }

    /// The pods' links that exist. A link whose pod ended disappears by itself soon after.
    pub fn attached(&self) -> Result<Vec<Attached>, LinkError> {
        let pods = format!("{}pod ", self.instance.alias_prefix());
        let mut attached: Vec<Attached> = links(&mut self.lock())?
            .into_iter()
            .filter_map(|link| {
                let key = link.alias.strip_prefix(&pods)?.to_owned();
                Some(Attached { veth: link.name, key })
            })
            .collect();
        attached.sort();
        Ok(attached)
    }

    /// Deletes the links of all pods but those whose keys are in `keep`; returns how many. Slow (tens of
    /// milliseconds, however many there are): for starts and repairs, not for the end of a pod.
    pub fn sweep(&self, keep: &BTreeSet<String>) -> Result<usize, LinkError> {
        let pods = format!("{}pod ", self.instance.alias_prefix());
        self.delete_links(|link| link.alias.strip_prefix(&pods).is_some_and(|key| !keep.contains(key)))
    }

    /// Lets this machine route for the pods. What is changed is noted in `record`, which the caller keeps and
    /// gives to [`Network::remove_all`]. The bridge exists already: other instances learn from its alias how the
    /// machine was before all of us.
    pub fn enable_forwarding(&self, record: &mut Record) -> Result<(), LinkError> {
        let name = self.instance.bridge();
        let mut socket = self.lock();
        let all = links(&mut socket)?;
        let bridge = all.iter().find(|l| l.name == name).ok_or_else(|| LinkError::NoBridge(name.clone()))?;
        let noted = all.iter().find_map(former_settings);
        for (number, (setting, _)) in SETTINGS.iter().enumerate() {
            if !record.0.contains_key(*setting) {
                let former = noted.as_ref().and_then(|noted| noted.get(number).cloned());
                let former = former.map_or_else(|| sysctl::read(setting), Ok)?;
                record.0.insert((*setting).to_owned(), former);
            }
        }
        let former: Vec<&str> =
            SETTINGS.iter().filter_map(|(name, _)| Some(record.0.get(*name)?.as_str())).collect();
        let alias = format!("{}bridge {FORMER}{}", self.instance.alias_prefix(), former.join(","));
        let mut batch = socket.batch();
        messages::configure_link(&mut batch, bridge.index, Some(&alias), None, false);
        socket.execute(&batch, &format!("note the former settings at {name}"))?;
        drop(socket);
        for (setting, value) in SETTINGS {
            if let Some(value) = value
                && sysctl::read(setting)? != value
            {
                sysctl::write(setting, value)?;
            }
        }
        // Pods must not be told to speak to each other directly; this setting dies with the bridge.
        sysctl::write(&format!("net/ipv4/conf/{name}/send_redirects"), "0")?;
        Ok(())
    }

    /// Removes everything of this instance from the kernel: rule tables, links with their routes, and the sysctls
    /// of `record` as long as no other instance needs them. Can be called again, and with nothing there.
    pub fn remove_all(&self, record: &Record) -> Result<(), LinkError> {
        rules::remove_tables(&self.instance)?;
        let (prefix, bridge) = (self.instance.alias_prefix(), self.instance.bridge());
        self.delete_links(|link| {
            link.alias.starts_with(&prefix) || (link.name == bridge && link.alias.is_empty())
        })?;
        let others = links(&mut self.lock())?.iter().any(|link| link.name.starts_with(BRIDGE_PREFIX));
        for (name, former) in record.0.iter().rev() {
            let shared = SETTINGS.iter().any(|(setting, _)| setting == name);
            if !(others && shared) && sysctl::read(name)? != *former {
                sysctl::write(name, former)?;
            }
        }
        Ok(())
    }

    fn delete_links(&self, doomed: impl Fn(&Link) -> bool) -> Result<usize, LinkError> {
        let mut socket = self.lock();
        let doomed: Vec<Link> = links(&mut socket)?.into_iter().filter(doomed).collect();
        if doomed.is_empty() {
            return Ok(0);
        }
        // A group that nobody else has: the instance's hash with the top bit set.
        let group = fnv1a(self.instance.table().as_bytes()) as u32 | 1 << 31;
        let mut batch = socket.batch();
        for link in &doomed {
            messages::set_group(&mut batch, link.index, group);
        }
        messages::delete_group(&mut batch, group);
        let gone = Errno::NODEV.raw_os_error();
        // A pod may end while we look: a link that is gone is what we want.
        match socket.submit(&batch)?.into_iter().find(|refusal| refusal.errno != gone) {
            Some(refusal) => Err(crate::netlink::refused(refusal, "delete links").into()),
            None => Ok(doomed.len()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In the alias of a bridge, before the values of [`SETTINGS`] as they were before any of us.
const FORMER: &str = "formerly ";

fn former_settings(link: &Link) -> Option<Vec<String>> {
    if !link.name.starts_with(BRIDGE_PREFIX) {
        return None;
    }
    let (_, former) = link.alias.split_once(FORMER)?;
    Some(former.split(',').map(str::to_owned).collect())
}

/// Opens the network namespace at `path` (`/proc/<pid>/ns/net` or a bind mount of one).
pub fn open_netns(path: &Path) -> Result<std::os::fd::OwnedFd, LinkError> {
    let name: PathBuf = path.to_owned();
    std::fs::File::open(path).map(Into::into).map_err(|source| LinkError::Netns {
        name: name.display().to_string(),
        action: "opened",
        source,
    })
}

/// A socket that stays in `netns`. A short-lived thread enters, because a thread that changed its namespace is of
/// no use to anyone else.
fn socket_in(netns: BorrowedFd<'_>, name: &str) -> Result<Socket, LinkError> {
    let failed =
        |action| move |source: std::io::Error| LinkError::Netns { name: name.to_owned(), action, source };
    std::thread::scope(|scope| {
        let enter = || {
            rustix::thread::move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|errno| failed("entered")(errno.into()))?;
            Ok(Socket::open(Subsystem::Route)?)
        };
        let thread = std::thread::Builder::new()
            .name("enter-netns".to_owned())
            .spawn_scoped(scope, enter)
            .map_err(failed("entered by a new thread"))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn find_link(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut batch = socket.batch();
    messages::get_link(&mut batch, name);
    match socket.query(&batch, &format!("look up link {name}")) {
        Ok(answers) => Ok(answers
            .iter()
            .filter(|(kind, _)| *kind == messages::RTM_NEWLINK)
            .find_map(|(_, payload)| messages::parse_link(payload))),
        Err(error) if error.is(Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn links(socket: &mut Socket) -> Result<Vec<Link>, NetlinkError> {
    let mut batch = socket.batch();
    messages::dump_links(&mut batch);
    let answers = socket.query(&batch, "list links")?;
    Ok(answers.iter().filter_map(|(_, payload)| messages::parse_link(payload)).collect())
}

fn addresses(socket: &mut Socket) -> Result<Vec<(u32, Cidr)>, NetlinkError> {
    let mut batch = socket.batch();
    messages::dump_addresses(&mut batch);
    let answers = socket.query(&batch, "list addresses")?;
    Ok(answers.iter().filter_map(|(_, payload)| messages::parse_address(payload)).collect())
}

/// A locally administered address that is the same at every start.
fn bridge_mac(instance: &Instance) -> [u8; 6] {
    let hash = fnv1a(instance.bridge().as_bytes()).to_be_bytes();
    [0x0a, hash[0], hash[1], hash[2], hash[3], hash[4]]
}
