//! The names of the cluster, kept for the next process of this node: killed and started again, it answers what it knows
//! before it has heard from the API server.
//!
//! The file lies where it is gone after a reboot; it is written whole, beside its place, and moved there. It is not
//! synced to the disk: it has to outlive the process, not the machine.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Clock, Random, Stop, Tasks};
use net::dns::{self, DnsError, Zone};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

/// Between two writes: names change often while much is rolled out.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a process that was killed may take to let go of its sockets, and how often we look.
const LETTING_GO: Duration = Duration::from_millis(250);
const LOOK: Duration = Duration::from_millis(5);

/// What is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    addresses: Vec<SocketAddr>,
    domain: String,
    namespaces: BTreeSet<String>,
    /// Namespace, name and what it stands for.
    services: Vec<(String, String, dns::Service)>,
}

/// Answers names as the process before this one did, until a zone is published; `None` where nothing was kept, or its
/// addresses are not there any more. The server ends with the runtime, or when it is closed.
pub async fn resume(
    path: &Path,
    upstreams: &[SocketAddr],
    tasks: &Tasks,
    stop: Stop,
    clock: &Clock,
    random: &Random,
) -> Option<dns::Server> {
    let kept = read(path)?;
    let config = dns::Config { addresses: kept.addresses.clone(), upstreams: upstreams.to_vec() };
    let zone = kept.zone().of_the_past();
    let end = clock.monotonic() + LETTING_GO;
    loop {
        let (clock, random) = (clock.clone(), random.clone());
        let started =
            dns::Server::start(&config, zone.clone(), tasks, stop.clone(), clock.clone(), random).await;
        match started {
            Ok(server) => {
                info!(names = zone.services.len(), "names are answered as before");
                return Some(server);
            }
            Err(DnsError::Busy(_)) if clock.monotonic() < end => clock.sleep(LOOK).await,
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "names are not answered yet");
                return None;
            }
        }
    }
}

fn read(path: &Path) -> Option<Kept> {
    let bytes = std::fs::read(path).ok()?;
    serde_json::from_slice(&bytes)
        .inspect_err(|error| warn!(path = %path.display(), %error, "the names that were kept cannot be read"))
        .ok()
}

impl Kept {
    fn zone(&self) -> Zone {
        let mut zone = Zone::new(&self.domain);
        zone.namespaces.clone_from(&self.namespaces);
        let services = self.services.iter();
        zone.services = services
            .map(|(namespace, name, service)| ((namespace.clone(), name.clone()), service.clone()))
            .collect();
        zone
    }
}

/// Keeps the last zone that it is told of. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Shared>);

#[derive(Default)]
struct Shared {
    next: Mutex<Option<Arc<Zone>>>,
    wake: Notify,
}

impl Memory {
    /// Keeps `zone` from now on.
    pub(super) fn tell(&self, zone: Arc<Zone>) {
        *self.0.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(zone);
        self.0.wake.notify_one();
    }

    /// Writes what it is told, until `stop`.
    pub(super) async fn keep(self, path: PathBuf, addresses: Vec<SocketAddr>, clock: Clock, stop: Stop) {
        while stop.or(self.0.wake.notified()).await.is_some() {
            let next = self.0.next.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(zone) = next else { continue };
            let (path, addresses) = (path.clone(), addresses.clone());
            let written = tokio::task::spawn_blocking(move || write(&path, addresses, &zone)).await;
            if let Ok(Err(error)) = written {
                warn!(%error, "names cannot be kept; after a restart they are answered when the server is");
            }
            if stop.or(clock.sleep(PAUSE)).await.is_none() {
                return;
            }
        }
    }
}

fn write(path: &Path, addresses: Vec<SocketAddr>, zone: &Zone) -> std::io::Result<()> {
    let services = zone.services.iter();
    let kept = Kept {
        addresses,
        domain: zone.domain.clone(),
        namespaces: zone.namespaces.clone(),
        services: services
            .map(|((namespace, name), service)| (namespace.clone(), name.clone(), service.clone()))
            .collect(),
    };
    let beside = path.with_extension("new");
    std::fs::write(&beside, serde_json::to_vec(&kept)?)?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use base::Stopper;
    use tokio::net::UdpSocket;

    use super::*;

    fn zone() -> Zone {
        let mut zone = Zone::new("cluster.local");
        zone.namespaces.insert("shop".to_owned());
        let port = dns::Port { name: "http".to_owned(), protocol: net::address::Protocol::Tcp, port: 80 };
        let endpoint = dns::HeadlessEndpoint {
            hostname: Some("db-0".to_owned()),
            address: [10, 1, 0, 7].into(),
            ports: vec![port.clone()],
        };
        let services = [
            ("web", dns::Service::Cluster { addresses: vec![[10, 96, 0, 9].into()], ports: vec![port] }),
            ("db", dns::Service::Headless { endpoints: vec![endpoint] }),
            ("out", dns::Service::ExternalName("example.org".to_owned())),
        ];
        zone.services =
            services.map(|(name, service)| (("shop".to_owned(), name.to_owned()), service)).into();
        zone
    }

    /// The last bytes of the answer to who `web.shop.svc.cluster.local` is.
    async fn ask(server: SocketAddr) -> Vec<u8> {
        let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in ["web", "shop", "svc", "cluster", "local"] {
            question.push(label.len() as u8);
            question.extend_from_slice(label.as_bytes());
        }
        question.extend_from_slice(&[0, 0, 1, 0, 1]);
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        socket.send_to(&question, server).await.expect("sent");
        let mut answer = vec![0; 512];
        let length = socket.recv(&mut answer).await.expect("an answer");
        answer[..length].to_vec()
    }

    #[tokio::test]
    async fn names_that_a_process_knew_are_answered_by_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("names.json");
        let (tasks, stopper, clock, random) =
            (Tasks::new(), Stopper::new(), Clock::system(), Random::seeded(1));
        let again = || resume(&path, &[], &tasks, stopper.signal(), &clock, &random);
        assert!(again().await.is_none(), "nothing was kept");
        let memory = Memory::default();
        memory.tell(Arc::new(zone()));
        tasks.spawn(
            "memory",
            memory.keep(path.clone(), vec![([127, 0, 0, 1], 0).into()], clock.clone(), stopper.signal()),
        );
        while read(&path).is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(read(&path).expect("kept").zone(), zone());
        let server = again().await.expect("answers");
        assert!(ask(server.addresses()[0]).await.ends_with(&[10, 96, 0, 9]));
        server.close();
        std::fs::write(&path, "{\"addresses\": [").expect("written");
        assert!(again().await.is_none(), "what is damaged is as nothing");
        stopper.stop();
    }
}
