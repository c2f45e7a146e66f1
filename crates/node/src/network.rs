//! Addresses and links of pods: the bridge of this node.
//!
//! Nothing of which pod has which address is written down: after a restart the agent says which pods live and what
//! they have ([`PodNetwork::adopt`]), and [`BridgeNetwork::sweep`] removes the links of all others. What is written
//! down is what the machine's settings were before us, so that a wipe restores them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use net::address::{Cidr, CidrError};
use net::instance::Instance;
use net::ipam::{Ipam, IpamError};
use net::link::{Attachment, BridgeSpec, LinkError, Network};
use net::sysctl::Record;
use tracing::{debug, info, warn};

use crate::context::PodNetwork;

/// The setting by which the machine routes.
const FORWARDING: &str = "net/ipv4/ip_forward";

/// What the bridge of a node is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names everything in the kernel.
    pub instance: Instance,
    /// The ranges of this node's pods (`spec.podCIDRs`), at most one a family.
    pub pod_ranges: Vec<Cidr>,
    /// The ranges of Services, which the machine itself reaches through the bridge.
    pub service_ranges: Vec<Cidr>,
    /// In bytes.
    pub mtu: u32,
    /// The file in which the machine's former settings are kept.
    pub record: PathBuf,
}

/// Why the network of the node is not there.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The range.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// The bridge's own address does not fit its range.
    #[error(transparent)]
    Range(#[from] CidrError),
    /// The file of former settings.
    #[error("{path} cannot be used: {why}; without it the machine's settings could not be restored")]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// The bridge of this node and the addresses of its pods. Cheap to clone.
#[derive(Clone)]
pub struct BridgeNetwork(Arc<Inner>);

struct Inner {
    network: Network,
    bridge: String,
    mtu: u32,
    gateways: Vec<IpAddr>,
    router_before: bool,
    state: Mutex<State>,
}

struct State {
    ranges: Vec<Ipam>,
    pods: BTreeMap<String, Vec<IpAddr>>,
}

impl BridgeNetwork {
    /// Makes the bridge, or takes over the one that is there, and lets the machine route for pods. Blocks for some
    /// milliseconds, and acts on the network namespace of the calling thread.
    pub fn open(settings: &Settings) -> Result<Self, NetworkError> {
        let ranges =
            settings.pod_ranges.iter().map(|range| Ipam::new(*range)).collect::<Result<Vec<_>, _>>()?;
        let addresses = ranges
            .iter()
            .map(|range| Cidr::new(range.gateway(), range.range().prefix()))
            .collect::<Result<Vec<_>, _>>()?;
        let network = Network::open(&settings.instance)?;
        let routes = settings.service_ranges.clone();
        let bridge = network.ensure_bridge(&BridgeSpec { addresses, routes, mtu: settings.mtu })?;
        let mut record = load(&settings.record)?;
        network.enable_forwarding(&mut record)?;
        save(&settings.record, &record)?;
        info!(bridge = bridge.name, "the bridge is up");
        Ok(Self(Arc::new(Inner {
            network,
            bridge: bridge.name,
            mtu: settings.mtu,
            gateways: ranges.iter().map(Ipam::gateway).collect(),
            router_before: record.0.get(FORWARDING).is_some_and(|value| value == "1"),
            state: Mutex::new(State { ranges, pods: BTreeMap::new() }),
        })))
    }

    /// The bridge's own addresses, at which pods find this machine.
    pub fn gateways(&self) -> &[IpAddr] {
        &self.0.gateways
    }

    /// Whether the bridge is still there; otherwise why no pod gets a network. Acts on the network namespace in which
    /// it was opened. Blocks for some microseconds.
    pub fn check(&self) -> Result<(), String> {
        match self.0.network.mtu(&self.0.bridge) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(format!("the bridge {} is gone; restart ondol to make it anew", self.0.bridge)),
            Err(error) => Err(format!("the network cannot be looked at: {}", base::with_causes(&error))),
        }
    }

    /// Whether the machine was a router before us. If not, nothing but pods' packets is to be forwarded.
    pub fn was_router(&self) -> bool {
        self.0.router_before
    }

    /// Deletes the links of all pods that were not adopted. Call it once, after adopting and before attaching.
    pub async fn sweep(&self) -> Result<usize, NetworkError> {
        let inner = self.0.clone();
        let keep: BTreeSet<String> = inner.state().pods.keys().cloned().collect();
        let swept = blocking(move || inner.network.sweep(&keep)).await?;
        Ok(swept)
    }
}

/// Removes everything of `instance` from the kernel and restores what `record` keeps. Can be called again, and with
/// nothing there. Blocks.
pub fn wipe(instance: &Instance, record: &Path) -> Result<(), NetworkError> {
    Network::open(instance)?.remove_all(&load(record)?)?;
    match std::fs::remove_file(record) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(unusable(record, error)),
        _ => Ok(()),
    }
}

impl PodNetwork for BridgeNetwork {
    fn attach<'a>(
        &'a self,
        uid: &'a str,
        netns: BorrowedFd<'a>,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, String>> {
        async move {
            let netns = netns
                .try_clone_to_owned()
                .map_err(|error| format!("the pod's network namespace: {error}"))?;
            let (addresses, new) = self.0.state().addresses_of(uid).map_err(|error| error.to_string())?;
            let (inner, key, given) = (self.0.clone(), uid.to_owned(), addresses.clone());
            let attached = blocking(move || {
                inner.network.attach(&Attachment {
                    key: &key,
                    netns: netns.as_fd(),
                    addresses: &given,
                    gateways: &inner.gateways,
                    mtu: inner.mtu,
                })
            })
            .await;
            match attached {
                Ok(attached) => {
                    debug!(pod = uid, veth = attached.veth, ?addresses, "connected");
                    Ok(addresses)
                }
                Err(error) => {
                    if new {
                        self.release(uid);
                    }
                    Err(base::with_causes(&error))
                }
            }
        }
        .boxed()
    }

    fn adopt(&self, uid: &str, addresses: &[IpAddr]) {
        let mut state = self.0.state();
        for address in addresses {
            let kept = state.ranges.iter_mut().any(|range| range.reserve_exactly(*address).is_ok());
            if !kept {
                // The range of the node changed, or two pods claim one address. The pod lives on with what it has.
                warn!(pod = uid, %address, "the address of a living pod cannot be kept from others");
            }
        }
        state.pods.insert(uid.to_owned(), addresses.to_vec());
    }

    fn release(&self, uid: &str) {
        let mut state = self.0.state();
        for address in state.pods.remove(uid).unwrap_or_default() {
            state.ranges.iter_mut().for_each(|range| _ = range.release(address));
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What the pod has, or gets now (`true`): one address of each range, or none at all.
    fn addresses_of(&mut self, uid: &str) -> Result<(Vec<IpAddr>, bool), IpamError> {
        if let Some(addresses) = self.pods.get(uid) {
            return Ok((addresses.clone(), false));
        }
        let mut addresses = Vec::new();
        for index in 0..self.ranges.len() {
            match self.ranges[index].reserve() {
                Ok(address) => addresses.push(address),
                Err(error) => {
                    for (range, address) in self.ranges.iter_mut().zip(addresses) {
                        range.release(address);
                    }
                    return Err(error);
                }
            }
        }
        self.pods.insert(uid.to_owned(), addresses.clone());
        Ok((addresses, true))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LinkError> + Send + 'static,
) -> Result<T, LinkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(LinkError::Netns {
            name: "of the node".to_owned(),
            action: "used while the agent stops",
            source: error.into(),
        }),
    }
}

fn unusable(path: &Path, error: impl ToString) -> NetworkError {
    NetworkError::Record { path: path.to_owned(), why: error.to_string() }
}

fn load(path: &Path) -> Result<Record, NetworkError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| unusable(path, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Record::default()),
        Err(error) => Err(unusable(path, error)),
    }
}

fn save(path: &Path, record: &Record) -> Result<(), NetworkError> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error| unusable(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(range: &str) -> State {
        let ranges = vec![Ipam::new(range.parse().expect("a range")).expect("large enough")];
        State { ranges, pods: BTreeMap::new() }
    }

    #[test]
    fn a_pod_keeps_its_address_and_a_full_range_is_told() {
        let mut state = state("10.1.0.0/29");
        let (first, new) = state.addresses_of("a").expect("free");
        assert!(new);
        assert_eq!(state.addresses_of("a").expect("known"), (first, false));
        for uid in ["b", "c", "d", "e"] {
            state.addresses_of(uid).expect("free");
        }
        assert!(state.addresses_of("f").is_err());
        assert!(!state.pods.contains_key("f"));
    }

    #[test]
    fn the_record_of_former_settings_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("settings.json");
        assert_eq!(load(&path).expect("nothing there yet"), Record::default());
        let record = Record([(FORWARDING.to_owned(), "0".to_owned())].into());
        save(&path, &record).expect("writable");
        assert_eq!(load(&path).expect("there"), record);
        std::fs::write(&path, "{").expect("writable");
        assert!(load(&path).is_err_and(|error| error.to_string().contains("settings.json")));
    }
}
