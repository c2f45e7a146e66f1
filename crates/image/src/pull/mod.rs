//! Pulling images from OCI and Docker registries.
//!
//! What a name means is asked first; manifest and configuration are small and come next; then layers come in
//! parallel, while those that are complete are unpacked bottom up. Every byte is checked against a digest before
//! anything uses it. The name is given last, so a pull that breaks off anywhere leaves the old image as it was,
//! and the next one goes on where it stopped.

mod auth;
mod blob;
mod registry;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Tasks};
use futures::stream::{self, StreamExt};
use tracing::debug;

use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::document::{CONFIG_MAX_BYTES, Configuration, Descriptor, Document, Manifest, Platform};
use crate::error::Error;
use crate::reference::Reference;
use crate::store::{Lease, Named, Origin, Store};
use registry::Session;
use transport::Transport;

/// Layers of one image that are fetched at a time.
pub const PARALLEL_LAYERS: usize = 4;
/// Attempts for one request or one layer before the pull fails.
pub const ATTEMPTS_MAX: u32 = 5;
/// The wait after a first failure; it doubles.
pub const RETRY_INITIAL: Duration = Duration::from_millis(250);
/// The longest wait between attempts.
pub const RETRY_CEILING: Duration = Duration::from_secs(8);
/// The longest wait that a registry may ask for by Retry-After.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// How deep indexes may lie in one another.
const INDEX_DEPTH_MAX: u32 = 4;

/// How to reach registries.
#[derive(Clone, Debug)]
pub struct Options {
    /// Registries (`host` or `host:port`) that are spoken to in plain HTTP. Loopback always is.
    pub insecure: Vec<String>,
    /// Further certificate authorities, as PEM.
    pub extra_ca_pem: Vec<u8>,
    /// What images must run on.
    pub platform: Platform,
    /// What we call ourselves.
    pub user_agent: String,
    /// The wait after a first failure.
    pub retry_initial: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            extra_ca_pem: Vec::new(),
            platform: Platform::here(),
            user_agent: concat!("ondol/", env!("CARGO_PKG_VERSION")).to_owned(),
            retry_initial: RETRY_INITIAL,
        }
    }
}

/// What a pull is doing, for a progress bar or an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The name means this manifest with these layers (digest and bytes), bottom first.
    Resolved {
        /// The manifest for this platform.
        manifest: Digest,
        /// Digest and length in bytes of each layer.
        layers: Vec<(Digest, u64)>,
    },
    /// Bytes of a layer that are here; it is complete when `done` is `total`.
    Fetched {
        /// The layer.
        layer: Digest,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// An attempt failed and another comes.
    Retrying {
        /// What failed.
        what: String,
        /// Why.
        reason: String,
        /// The wait before the next attempt.
        after: Duration,
    },
    /// A layer is unpacked.
    Unpacked {
        /// The layer.
        layer: Digest,
    },
}

/// Who is told. It is called often and must not block.
pub type Progress = Arc<dyn Fn(Event) + Send + Sync>;

/// Tells nobody.
pub fn silent() -> Progress {
    Arc::new(|_| {})
}

/// Pulls images into a store. Clones share connections.
#[derive(Clone)]
pub struct Puller {
    store: Store,
    transport: Arc<Transport>,
    options: Arc<Options>,
    clock: Clock,
}

impl Puller {
    /// A puller into `store`; its connections run as `tasks`.
    pub fn new(store: Store, options: Options, tasks: Tasks) -> Result<Self, Error> {
        let clock = store.clock().clone();
        let transport = Arc::new(Transport::new(&options, clock.clone(), tasks)?);
        Ok(Self { store, transport, options: Arc::new(options), clock })
    }

    /// Pulls `reference` and gives it its name. `credentials` are tried one after another; with none, the
    /// registry is asked anonymously.
    pub async fn pull(
        &self,
        reference: &Reference,
        credentials: &[Credentials],
        progress: &Progress,
    ) -> Result<Named, Error> {
        let mut attempts = credentials.iter().map(Some).collect::<Vec<_>>();
        if attempts.is_empty() {
            attempts.push(None);
        }
        let last = attempts.len() - 1;
        for (at, credentials) in attempts.into_iter().enumerate() {
            let session = Session::new(&self.transport, reference, credentials.cloned())?;
            match self.pull_with(&session, reference, progress).await {
                Err(Error::Unauthorized { hint, .. }) if at < last => {
                    debug!(%reference, hint, "credentials were refused; trying the next");
                }
                other => return other,
            }
        }
        Err(Error::invalid("the list of credentials", "it is empty"))
    }

    async fn pull_with(
        &self,
        session: &Session<'_>,
        reference: &Reference,
        progress: &Progress,
    ) -> Result<Named, Error> {
        let mut lease = self.store.lease();
        let (target, digest, manifest) = self.manifest(session, reference, &mut lease, progress).await?;
        progress(Event::Resolved {
            manifest: digest,
            layers: manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect(),
        });
        lease.hold(manifest.config.digest);
        manifest.layers.iter().for_each(|layer| lease.hold(layer.digest));
        self.fetch_blob(session, &manifest.config, &Event::ignored()).await?;
        let config = manifest.config.digest;
        let configuration = self
            .store
            .blocking(move |store| Configuration::parse(&store.read_blob(config, CONFIG_MAX_BYTES)?))
            .await?;
        self.check_platform(&configuration)?;
        self.fetch_layers(session, &manifest, &configuration, &mut lease, progress).await?;
        let named = Named {
            name: reference.key(),
            manifest: digest,
            target,
            image_id: config,
            size_bytes: manifest.content_bytes(),
            origin: Origin::Pulled,
            stored_at: self.clock.now(),
        };
        self.store.blocking(move |store| store.put_name(named)).await
    }

    /// What the name points at, the manifest for this platform, and its digest. Both documents are stored.
    async fn manifest(
        &self,
        session: &Session<'_>,
        reference: &Reference,
        lease: &mut Lease,
        progress: &Progress,
    ) -> Result<(Digest, Digest, Manifest), Error> {
        let mut expected = reference.digest();
        let mut target = None;
        for _ in 0..INDEX_DEPTH_MAX {
            let wanted = expected.map_or_else(
                || reference.tag().unwrap_or(crate::reference::DEFAULT_TAG).to_owned(),
                |digest| digest.to_string(),
            );
            let bytes = self.retrying(progress, "the manifest", || session.manifest(&wanted)).await?;
            let digest = Digest::of(&bytes);
            if let Some(expected) = expected.filter(|expected| *expected != digest) {
                return Err(Error::invalid(
                    format!("the manifest {expected}"),
                    format!("the registry sent one with the digest {digest}; push the image again"),
                ));
            }
            let document = Document::parse(&bytes)?;
            lease.hold(digest);
            self.store.blocking(move |store| store.put_blob(&bytes)).await?;
            let target = *target.get_or_insert(digest);
            match document {
                Document::Manifest(manifest) => return Ok((target, digest, manifest)),
                Document::Index(index) => expected = Some(index.choose(&self.options.platform)?.digest),
            }
        }
        Err(Error::invalid(reference.to_string(), "its indexes lie too deep in one another"))
    }

    /// A name without an index may still be for another machine.
    fn check_platform(&self, configuration: &Configuration) -> Result<(), Error> {
        let (image, host) = (&configuration.config.platform, &self.options.platform);
        if image.architecture.is_empty() || image.os.is_empty() || image.runs_on(host) {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: format!("an image for {image}"),
            hint: format!("this machine is {host}: choose another tag or image"),
        })
    }

    /// Fetches in parallel, and unpacks bottom up what is complete.
    async fn fetch_layers(
        &self,
        session: &Session<'_>,
        manifest: &Manifest,
        configuration: &Configuration,
        lease: &mut Lease,
        progress: &Progress,
    ) -> Result<(), Error> {
        let plans = crate::store::plans(manifest, configuration)?;
        plans.iter().for_each(|plan| lease.hold(plan.chain_id));
        let (complete, mut completed) = tokio::sync::mpsc::unbounded_channel();
        let fetching = async move {
            let fetch = |layer: Descriptor| async move { self.fetch_blob(session, &layer, progress).await };
            let mut layers =
                stream::iter(manifest.layers.iter().cloned().map(fetch)).buffered(PARALLEL_LAYERS);
            while let Some(fetched) = layers.next().await {
                fetched?;
                // The other side ends early only with an error of its own.
                let _ = complete.send(());
            }
            Ok(())
        };
        let unpacking = async {
            let mut below = Vec::with_capacity(plans.len());
            for plan in plans {
                if completed.recv().await.is_none() {
                    return Ok(());
                }
                self.store.unpack_layer(plan, below.clone()).await?;
                below.push(plan.chain_id);
                progress(Event::Unpacked { layer: plan.blob });
            }
            Ok(())
        };
        tokio::try_join!(fetching, unpacking).map(|_: ((), ())| ())
    }
}

impl Event {
    /// Nobody is told about documents.
    fn ignored() -> Progress {
        silent()
    }
}
