//! The gate as one value: what all requests share.

use std::sync::Arc;
use std::time::Duration;

use api::interface::Api;
use base::{Clock, Random, Stop, Tasks};
use jiff::Timestamp;
use store::Store;
use tokio::sync::{Mutex, MutexGuard};

use crate::authn::{self, Authenticator};
use crate::identity::Identity;
use crate::inprocess::InProcess;
use crate::server::packed::Kept;
use crate::server::run::Runs;
use crate::shares::Shares;
use crate::storage::{Record, Storage};
use crate::strategy::Strategy;
use crate::subresource::connect::Dialer;

/// What a gate is made of.
pub struct Config {
    /// The open store; its codec is [`Record::decode`].
    pub store: Store<Record>,
    /// Time.
    pub clock: Clock,
    /// Names and uids.
    pub random: Random,
    /// Signs and verifies the tokens of ServiceAccounts.
    pub keys: Arc<dyn authn::Keys>,
    /// The issuer that tokens name, as `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// What tokens are for when nothing else is said; usually the issuer.
    pub audiences: Vec<String>,
    /// The address of this server that clients of `/api` are told, as `10.0.0.1:6443`.
    pub advertised: String,
    /// Reaches nodes and pods.
    pub dialer: Arc<dyn Dialer>,
    /// Ends watches and streams.
    pub stop: Stop,
    /// How long a watch without a timeout lasts at least; [`crate::limits::WATCH_MINIMUM`] unless a test wants it shorter.
    pub watch_minimum: Duration,
}

/// The one door to the state.
pub struct Gate {
    storage: Storage,
    clock: Clock,
    random: Random,
    authenticator: Authenticator,
    advertised: String,
    dialer: Arc<dyn Dialer>,
    stop: Stop,
    tasks: Tasks,
    watch_minimum: Duration,
    /// Held by writes that choose among what lists show (addresses, ports).
    alone: Mutex<()>,
    /// Encodings that are kept beside objects.
    pub(crate) packed: Kept,
    /// What several watches are told in one piece.
    pub(crate) runs: Runs,
    /// Who may have how much at once.
    pub(crate) shares: Shares,
}

impl Gate {
    /// Opens the gate. What must be there before anybody else comes is made by [`crate::bootstrap`].
    pub fn open(config: Config) -> Arc<Self> {
        let storage = Storage::new(config.store, config.clock.clone(), config.random.clone());
        Arc::new(Self {
            authenticator: Authenticator::new(config.keys, config.issuer, config.audiences),
            storage,
            clock: config.clock,
            random: config.random,
            advertised: config.advertised,
            dialer: config.dialer,
            stop: config.stop,
            tasks: Tasks::new(),
            watch_minimum: config.watch_minimum,
            alone: Mutex::new(()),
            packed: Kept::default(),
            runs: Runs::default(),
            shares: Shares::default(),
        })
    }

    /// The API as `identity` sees it, inside the process. Rights, admission and validation are the same as over
    /// HTTPS.
    pub fn as_user(self: &Arc<Self>, identity: Identity) -> Arc<dyn Api> {
        Arc::new(InProcess::new(Arc::clone(self), identity))
    }

    /// Waits for the watches and streams that `stop` ended.
    pub async fn join(&self, deadline: Duration) -> bool {
        self.tasks.join(deadline).await
    }

    /// The present state, for strategies and for what our own wiring looks up without asking for rights.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn random(&self) -> &Random {
        &self.random
    }

    pub(crate) fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    pub(crate) fn advertised(&self) -> &str {
        &self.advertised
    }

    pub(crate) fn dialer(&self) -> &Arc<dyn Dialer> {
        &self.dialer
    }

    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    pub(crate) fn watch_minimum(&self) -> Duration {
        self.watch_minimum
    }

    /// The lock of writes that must not run twice at once; nothing for all others.
    pub(crate) async fn exclusive(&self, strategy: &dyn Strategy) -> Option<MutexGuard<'_, ()>> {
        if strategy.is_exclusive() { Some(self.alone.lock().await) } else { None }
    }
}
