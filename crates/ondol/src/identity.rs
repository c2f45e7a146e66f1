//! Who an agent is: what its invitation says at first, and from then on certificates that it has asked the server for,
//! keeps, and renews. So an invitation has to be good for a day only, and a node for as long as it runs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use api::interface::{Answer, Api, Call, Watch, WatchStream};
use api::json;
use api::names::Resource;
use api::status::Status;
use base::{Backoff, Clock, Stop, Tasks};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::kubeconfig::Credential;
use client::{Client, Kubeconfig};
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wire::tls::{KeyPair, PeerIdentity, Presented};

use crate::invitation::Invitation;
use crate::layout::Layout;
use crate::server::{client_leaf, kubelet_leaf};

/// How often it is looked whether a certificate is to be renewed.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Wait before it is asked again, first and longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(60);
/// How long the server may take to sign, and how often it is asked whether it has.
const SIGNED: Duration = Duration::from_secs(10);
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LONGEST: Duration = Duration::from_secs(1);

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To speak to the server as the node.
    Client,
    /// For the agent's own server.
    Serving,
}

impl Purpose {
    fn signer(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::Client => "client auth",
            Self::Serving => "server auth",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Client => "node-client.json",
            Self::Serving => "node-serving.json",
        }
    }
}

/// A certificate of our own, as it is kept, with the authority that has signed it.
#[derive(Serialize, Deserialize)]
struct Kept {
    authority: String,
    chain: String,
    key: String,
}

/// A certificate in use.
struct Held {
    pair: KeyPair,
    /// Asked for by this agent, not given with the invitation.
    is_own: bool,
    says: PeerIdentity,
}

impl Held {
    fn new(pair: KeyPair, is_own: bool) -> anyhow::Result<Self> {
        let says = PeerIdentity::of_pem(&pair.chain_pem).context("the certificate cannot be read")?;
        Ok(Self { pair, is_own, says })
    }

    /// Whether it is to be replaced: an invitation's at once, one of our own when two thirds of its life are over, or when
    /// the clock says that it has not begun.
    fn is_due(&self, now: Timestamp) -> bool {
        let (begin, end) = (self.says.not_before, self.says.not_after);
        let life = Duration::try_from(end.duration_since(begin)).unwrap_or_default();
        let renewal = begin.checked_add(life * 2 / 3).unwrap_or(Timestamp::MAX);
        !self.is_own || now < begin || now >= renewal
    }
}

/// An agent's certificates.
pub struct Identity {
    node: String,
    address: IpAddr,
    keys: PathBuf,
    authority_pem: String,
    clock: Clock,
    api: Arc<Renewed>,
    presented: Arc<Presented>,
    client: Held,
    serving: Held,
}

impl Identity {
    /// What this agent has kept, or else what its invitation gives.
    pub fn load(
        layout: &Layout,
        invitation: &Invitation,
        kubeconfig: &Kubeconfig,
        clock: &Clock,
    ) -> anyhow::Result<Self> {
        let Credential::Certificate { certificate_pem, key_pem } = &kubeconfig.credential else {
            bail!("the invitation gives no certificate; let the server write it anew");
        };
        let authority_pem = kubeconfig
            .authority_pem
            .clone()
            .context("the invitation names no authority; let the server write it anew")?;
        let (keys, node, now) = (layout.keys(), &invitation.node, clock.now());
        let kept = |purpose| kept(&keys, purpose, &authority_pem, node, invitation.address, now);
        let client = match kept(Purpose::Client) {
            Some(held) => held,
            None => {
                Held::new(KeyPair { chain_pem: certificate_pem.clone(), key_pem: key_pem.clone() }, false)?
            }
        };
        if client.says.not_after <= now {
            bail!(
                "the invitation of node {node} was good until {}: start \"ondol server\" again, which writes a new one, \
                 and give that to this agent",
                client.says.not_after
            );
        }
        let given = KeyPair {
            chain_pem: invitation.serving_certificate.clone(),
            key_pem: invitation.serving_key.clone(),
        };
        let serving = match kept(Purpose::Serving) {
            Some(held) => held,
            None => Held::new(given, false)?,
        };
        Ok(Self {
            node: node.clone(),
            address: invitation.address,
            authority_pem,
            clock: clock.clone(),
            api: Arc::new(Renewed::new(kubeconfig, &client.pair, clock)?),
            presented: Presented::new(&serving.pair)?,
            keys,
            client,
            serving,
        })
    }

    /// The server, as this node; always with the newest certificate.
    pub fn api(&self) -> Arc<dyn Api> {
        self.api.clone()
    }

    /// What the agent's own server shows, and whom it believes.
    pub fn serving(&self) -> (Arc<Presented>, String) {
        (self.presented.clone(), self.authority_pem.clone())
    }

    /// Asks for certificates of our own, and renews them, until `stop`.
    pub async fn keep(mut self, stop: Stop) {
        let (clock, jumps) = (self.clock.clone(), self.clock.jumps());
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            let wait = match stop.or(self.renew()).await {
                None => return,
                Some(Ok(())) => {
                    backoff.succeed();
                    LOOK_EVERY
                }
                Some(Err(error)) => {
                    let error = format!("{error:#}");
                    tracing::warn!(error, "no new certificate was got yet; the one at hand goes on");
                    backoff.fail()
                }
            };
            let woken = async {
                tokio::select! {
                    () = clock.sleep(wait) => {}
                    () = jumps.next() => {}
                }
            };
            if stop.or(woken).await.is_none() {
                return;
            }
        }
    }

    async fn renew(&mut self) -> anyhow::Result<()> {
        if self.client.is_due(self.clock.now()) {
            self.client = self.ask(Purpose::Client).await?;
            self.api.set(&self.client.pair)?;
        }
        if self.serving.is_due(self.clock.now()) {
            self.serving = self.ask(Purpose::Serving).await?;
            self.presented.set(&self.serving.pair)?;
        }
        Ok(())
    }

    /// Asks the server for a certificate with a new key, and keeps it.
    async fn ask(&self, purpose: Purpose) -> anyhow::Result<Held> {
        let leaf = match purpose {
            Purpose::Client => client_leaf(&format!("system:node:{}", self.node), &["system:nodes"]),
            Purpose::Serving => kubelet_leaf(&self.node, &[self.address]),
        };
        let asked = wire::tls::request(&leaf)?;
        let object = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"generateName": "csr-"},
            "spec": {
                "request": (STANDARD.encode(&asked.request_pem)),
                "signerName": (purpose.signer()),
                "usages": ["digital signature", (purpose.usage())]
            }
        });
        let name = self.api().create(&requests(), "", &object).await?.name().to_owned();
        let signed = self.clock.timeout(SIGNED, self.signed(&name)).await;
        let chain_pem = signed.with_context(|| {
            format!("the server does not sign {name}: \"kubectl describe csr {name}\" says why")
        })??;
        let held = Held::new(KeyPair { chain_pem, key_pem: asked.key_pem }, true)?;
        let kept = Kept {
            authority: self.authority_pem.clone(),
            chain: held.pair.chain_pem.clone(),
            key: held.pair.key_pem.clone(),
        };
        std::fs::create_dir_all(&self.keys)?;
        wire::tls::write_private(&self.keys.join(purpose.file()), &serde_json::to_vec(&kept)?)?;
        tracing::info!(?purpose, until = %held.says.not_after, "the node has a new certificate");
        Ok(held)
    }

    async fn signed(&self, name: &str) -> anyhow::Result<String> {
        let mut backoff = Backoff::new(LOOK_FIRST, LOOK_LONGEST);
        loop {
            let request = self.api().get(&requests(), "", name).await?.to_tree();
            if let Some(text) = request.str_at(&["status", "certificate"]).filter(|text| !text.is_empty()) {
                let bytes = STANDARD.decode(text).context("the server gave no certificate")?;
                return String::from_utf8(bytes).map_err(|error| anyhow!(error));
            }
            self.clock.sleep(backoff.fail()).await;
        }
    }
}

/// What was kept, if it is still of use: of the same authority, node and address, and valid.
fn kept(
    keys: &Path,
    purpose: Purpose,
    authority_pem: &str,
    node: &str,
    address: IpAddr,
    now: Timestamp,
) -> Option<Held> {
    let text = wire::tls::read_private(&keys.join(purpose.file())).ok()??;
    let kept: Kept = serde_json::from_str(&text).ok()?;
    let held = Held::new(KeyPair { chain_pem: kept.chain, key_pem: kept.key }, true).ok()?;
    let is_ours = kept.authority == authority_pem && held.says.common_name == format!("system:node:{node}");
    let is_there = purpose == Purpose::Client || held.says.ips.contains(&address);
    (is_ours && is_there && now < held.says.not_after).then_some(held)
}

fn requests() -> Resource {
    Resource {
        group: "certificates.k8s.io".into(),
        version: "v1".into(),
        resource: "certificatesigningrequests".into(),
    }
}

/// The API over connections that show the newest certificate. Those made before it serve out what they carry: a server
/// looks at the validity for every request, and a watch begins anew after a while.
struct Renewed {
    kubeconfig: Kubeconfig,
    clock: Clock,
    client: RwLock<Client>,
}

impl Renewed {
    fn new(kubeconfig: &Kubeconfig, pair: &KeyPair, clock: &Clock) -> anyhow::Result<Self> {
        let client = RwLock::new(connected(kubeconfig, pair, clock)?);
        Ok(Self { kubeconfig: kubeconfig.clone(), clock: clock.clone(), client })
    }

    fn set(&self, pair: &KeyPair) -> anyhow::Result<()> {
        let client = connected(&self.kubeconfig, pair, &self.clock)?;
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }

    fn current(&self) -> Client {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn connected(kubeconfig: &Kubeconfig, pair: &KeyPair, clock: &Clock) -> anyhow::Result<Client> {
    let credential =
        Credential::Certificate { certificate_pem: pair.chain_pem.clone(), key_pem: pair.key_pem.clone() };
    Ok(Client::new(&Kubeconfig { credential, ..kubeconfig.clone() }, clock, &Tasks::new())?)
}

impl Api for Renewed {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
        let client = self.current();
        Box::pin(async move { client.call(call).await })
    }

    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream, Status>> {
        let client = self.current();
        Box::pin(async move { client.watch(watch).await })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wire::tls::Authority;

    use super::*;
    use crate::certificates::request_signer;
    use controllers::settings::NodeRequest;

    const NODE: &str = "n";

    fn clock() -> Clock {
        Clock::system()
    }

    #[test]
    fn what_is_kept_is_used_while_it_is_of_use() {
        let folder = tempfile::tempdir().unwrap();
        let (now, address) = (clock().now(), "192.0.2.1".parse::<IpAddr>().unwrap());
        let authority = Authority::create("ca", now).unwrap();
        let pair = authority.issue(&kubelet_leaf(NODE, &[address]), now).unwrap();
        let own = Kept {
            authority: authority.certificate_pem().to_owned(),
            chain: pair.chain_pem,
            key: pair.key_pem,
        };
        let path = folder.path().join(Purpose::Serving.file());
        wire::tls::write_private(&path, &serde_json::to_vec(&own).unwrap()).unwrap();
        let check = |authority: &str, node: &str, at: &str, now: Timestamp, expect: bool| {
            let found = kept(folder.path(), Purpose::Serving, authority, node, at.parse().unwrap(), now);
            assert_eq!(found.is_some(), expect, "{node} {at} {now}");
        };
        let pem = authority.certificate_pem();
        check(pem, NODE, "192.0.2.1", now, true);
        check("another", NODE, "192.0.2.1", now, false);
        check(pem, "m", "192.0.2.1", now, false);
        check(pem, NODE, "192.0.2.2", now, false);
        check(pem, NODE, "192.0.2.1", now + Duration::from_secs(25 * 3600), false);
    }

    #[test]
    fn an_invitations_certificate_is_replaced_at_once_and_an_own_one_in_time() {
        let now = clock().now();
        let authority = Authority::create("ca", now).unwrap();
        let pair = authority.issue(&client_leaf("system:node:n", &["system:nodes"]), now).unwrap();
        let check = |is_own: bool, hours: i64, expect: bool| {
            let held = Held::new(pair.clone(), is_own).unwrap();
            let at = Timestamp::from_second(now.as_second() + hours * 3600).unwrap();
            assert_eq!(held.is_due(at), expect, "{hours}");
        };
        check(false, 0, true);
        check(true, 0, false);
        check(true, 15, false);
        check(true, 17, true);
        check(true, -24, true);
    }

    #[test]
    fn a_node_gets_certificates_in_its_own_name_only() {
        let now = clock().now();
        let authority = Arc::new(Authority::create("ca", now).unwrap());
        let address = "192.0.2.1".parse::<IpAddr>().unwrap();
        let sign = request_signer(authority, BTreeMap::from([(NODE.to_owned(), address)]), clock());
        let check = |leaf: wire::tls::Leaf, node: &str, serving: bool, refused: &str| {
            let pem = wire::tls::request(&leaf).unwrap().request_pem;
            let signed = sign(&NodeRequest { node: node.to_owned(), serving, pem });
            let why = signed.as_ref().err().cloned().unwrap_or_default();
            assert!(why.contains(refused) && why.is_empty() == refused.is_empty(), "{why}");
            if let Ok(chain) = signed {
                assert_eq!(PeerIdentity::of_pem(&chain).unwrap().common_name, "system:node:n");
            }
        };
        let own = || client_leaf("system:node:n", &["system:nodes"]);
        check(own(), NODE, false, "");
        check(kubelet_leaf(NODE, &[address]), NODE, true, "");
        check(own(), "m", false, "m");
        check(client_leaf("system:node:m", &["system:nodes"]), NODE, false, "system:node:n");
        check(client_leaf("system:node:n", &["system:masters"]), NODE, false, "system:nodes");
        check(kubelet_leaf(NODE, &[address]), NODE, false, "address");
        check(kubelet_leaf(NODE, &["192.0.2.9".parse().unwrap()]), NODE, true, "192.0.2.1");
    }
}
