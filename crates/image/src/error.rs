//! What can go wrong with an image, named by what the caller can do about it.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::{digest, reference, unpack};

/// A failure of the image hand.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name itself is wrong.
    #[error(transparent)]
    Reference(#[from] reference::Error),
    /// There is no such image, in the store or at the registry.
    #[error("{what} was not found: {hint}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// What to try.
        hint: String,
    },
    /// The registry wants other credentials.
    #[error("{registry} refused access to {what}: {hint}")]
    Unauthorized {
        /// Host and port of the registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// What to try.
        hint: String,
    },
    /// The registry could not be spoken to: name, network, TLS, time, or its own failure.
    #[error("{registry} could not be reached ({reason}): {hint}")]
    Unreachable {
        /// Host and port of the registry.
        registry: String,
        /// What happened.
        reason: String,
        /// What to try.
        hint: String,
    },
    /// The registry asks for patience.
    #[error("{registry} limits its rate: try again later, or sign in for a higher limit")]
    Throttled {
        /// Host and port of the registry.
        registry: String,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// Content that breaks its format or its digest. Trying again does not help.
    #[error("{what} is not valid: {reason}")]
    Invalid {
        /// Which content.
        what: String,
        /// How it is broken.
        reason: String,
    },
    /// Content beyond a named limit.
    #[error("{what} has {bytes} bytes, more than the limit of {limit}: use a smaller one")]
    TooLarge {
        /// Which content.
        what: String,
        /// The limit in bytes.
        limit: u64,
        /// The size that was announced or seen, in bytes.
        bytes: u64,
    },
    /// Well formed, but not served here.
    #[error("{what} is not supported: {hint}")]
    Unsupported {
        /// What it is.
        what: String,
        /// What to use in its stead.
        hint: String,
    },
    /// A layer could not be unpacked.
    #[error("layer {layer} could not be unpacked")]
    Unpack {
        /// The layer's blob.
        layer: digest::Digest,
        /// Why.
        #[source]
        source: unpack::Error,
    },
    /// Another process has the store.
    #[error("the image store {path} is in use by another process: ask that one, or stop it first")]
    InUse {
        /// Where the store is.
        path: String,
    },
    /// The disk or the kernel refused.
    #[error("{action} failed: check the disk's space and permissions")]
    Storage {
        /// What was being done.
        action: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Wraps what the kernel said about `path`.
    pub(crate) fn storage(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let action = format!("{action} {}", path.display());
        move |source| Self::Storage { action, source }
    }

    /// Content that breaks its format.
    pub(crate) fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), reason: reason.into() }
    }

    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Throttled { .. })
    }

    /// The error and all its sources in one line, for an event or a status.
    pub fn in_full(&self) -> String {
        base::with_causes(self)
    }
}
