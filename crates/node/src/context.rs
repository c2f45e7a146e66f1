//! What every pod of the node shares.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

use api::interface::Api;
use base::{Clock, Random, Stop, Tasks};
use control::recorder::Recorder;
use futures::future::BoxFuture;
use image::pull::Puller;
use sandbox::Sandboxes;

use crate::pod::environment::ServiceFacts;
use crate::references::References;

/// Where pods get their addresses. One implementation drives the bridge; tests have their own.
pub trait PodNetwork: Send + Sync + 'static {
    /// Connects the sandbox of pod `uid`, and says its addresses.
    fn attach<'a>(
        &'a self,
        uid: &'a str,
        netns: BorrowedFd<'a>,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, String>>;

    /// Takes back the addresses that an earlier agent gave to a pod that still lives.
    fn adopt(&self, uid: &str, addresses: &[IpAddr]);

    /// The pod has gone; its addresses are free.
    fn release(&self, uid: &str);
}

/// What the agent is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the node.
    pub node: String,
    /// Addresses of the node, the primary first.
    pub host_ips: Vec<IpAddr>,
    /// Where pods' directories are.
    pub pods_dir: PathBuf,
    /// Where pods' logs are.
    pub logs_dir: PathBuf,
    /// Domain of Services, as `cluster.local`.
    pub cluster_domain: String,
    /// Address of the cluster's DNS.
    pub cluster_dns: IpAddr,
    /// `/etc/resolv.conf` of the host, as text.
    pub host_resolv_conf: String,
    /// Bytes of memory of the node.
    pub memory_bytes: i64,
    /// What pods may have, by resource.
    pub allocatable: BTreeMap<String, String>,
}

/// Services of a namespace.
pub type ServicesOf = Arc<dyn Fn(&str) -> Vec<ServiceFacts> + Send + Sync>;

/// What every pod of the node shares.
pub struct Context {
    /// What the agent was told.
    pub settings: Settings,
    /// The API as this node.
    pub api: Arc<dyn Api>,
    /// Clock.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// Events in the name of the kubelet.
    pub recorder: Recorder,
    /// Starts tasks.
    pub tasks: Tasks,
    /// Ends with the agent; pods live on.
    pub stop: Stop,
    /// Sandboxes.
    pub sandboxes: Sandboxes,
    /// Images on this node.
    pub images: image::Store,
    /// Images elsewhere.
    pub puller: Puller,
    /// Addresses.
    pub network: Arc<dyn PodNetwork>,
    /// ConfigMaps and Secrets.
    pub references: Arc<References>,
    /// Services of a namespace, as environments show them.
    pub services: ServicesOf,
}
