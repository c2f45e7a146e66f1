//! Every limit of the gate, by name and with its unit.

use std::time::Duration;

/// The largest request body; upstream's `MaxRequestBodyBytes`.
pub const BODY_BYTES: usize = 3 * 1024 * 1024;
/// The largest object that is kept; etcd's limit of a request, which upstream's users know.
pub const OBJECT_BYTES: usize = 3 * 1024 * 1024 / 2;
/// How long a body may take that has not come with its headers.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// Longer bodies are worked on where they hold up nobody else.
pub const LARGE_BODY_BYTES: usize = 64 * 1024;
/// How many of them are worked on at once in each share.
pub const LARGE_BODIES_AT_ONCE: usize = 2;

/// So many at once.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Of all users of a share together.
    pub all: usize,
    /// Of one of them.
    pub each: usize,
}

/// What the users of a share may have at once.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Requests that change something; upstream's `--max-mutating-requests-inflight`.
    pub writes: Bound,
    /// Requests that only read; upstream's `--max-requests-inflight`.
    pub reads: Bound,
    /// Watches and streams.
    pub streams: Bound,
    /// Bodies that are still on their way.
    pub bodies: Bound,
}

/// Administrators. Upstream exempts them.
pub const MASTERS: Bounds = Bounds {
    writes: Bound { all: 400, each: 400 },
    reads: Bound { all: 800, each: 800 },
    streams: Bound { all: 20_000, each: 20_000 },
    bodies: Bound { all: 400, each: 400 },
};
/// Nodes and what runs the cluster; upstream's levels `system`, `node-high` and `leader-election`.
pub const SYSTEM: Bounds = Bounds {
    writes: Bound { all: 400, each: 200 },
    reads: Bound { all: 800, each: 400 },
    streams: Bound { all: 20_000, each: 10_000 },
    bodies: Bound { all: 400, each: 200 },
};
/// Everybody else; upstream's levels `workload-high`, `workload-low` and `global-default`.
pub const OTHERS: Bounds = Bounds {
    writes: Bound { all: 400, each: 100 },
    reads: Bound { all: 800, each: 200 },
    streams: Bound { all: 20_000, each: 5_000 },
    bodies: Bound { all: 200, each: 50 },
};
/// When a client that was refused may come again.
pub const RETRY_AFTER_SECONDS: u32 = 1;
/// How long a request that is no watch may take; upstream's `--request-timeout`.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a watch lasts when its client names no timeout: between this and twice this, so that they do not all
/// come back at once; upstream's `--min-request-timeout`.
pub const WATCH_MINIMUM: Duration = Duration::from_secs(1800);
/// How often an idle watch that asked for bookmarks gets one.
pub const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// How often a new object is given others of the names that are allocated to it (addresses, ports), when somebody took
/// them in between.
pub const ALLOCATION_TRIES: usize = 32;
/// How many queues those share who write again because others wrote the same object in between.
pub const TURNS: usize = 64;
/// How often a generated name is tried when it is taken; upstream's `maxNameGenerationCreateAttempts`.
pub const NAME_ATTEMPTS: usize = 8;
/// How many letters `generateName` appends.
pub const NAME_SUFFIX_LETTERS: usize = 5;
/// How long a generated name's base may be, so that the suffix fits.
pub const NAME_BASE_BYTES: usize = 58;
/// How long an Event lives.
pub const EVENT_LIFETIME: Duration = Duration::from_secs(3600);
/// The shortest and longest life of a token that TokenRequest gives, in seconds.
pub const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=(1 << 32);
/// The life of a token when the request names none, in seconds.
pub const TOKEN_DEFAULT_SECONDS: i64 = 3600;
/// How long a bound token holds when its account, or what it is bound to, has been deleted and is about to go.
pub const TOKEN_OUTLIVES_DELETION_SECONDS: i64 = 60;
/// How many verified tokens are remembered, so that a signature is checked once and not for every request.
pub const TOKENS_REMEMBERED: usize = 4096;
/// How many objects of a collection are deleted side by side.
pub const DELETE_COLLECTION_WORKERS: usize = 8;
/// How long a warning may be, in bytes, and how many bytes of warnings one answer carries.
pub const WARNING_BYTES: usize = 256;
/// Bytes of all warnings of an answer.
pub const WARNINGS_BYTES: usize = 4096;
/// How long an upgraded stream may be silent; kubelet's `streamingConnectionIdleTimeout`.
pub const STREAM_IDLE: Duration = Duration::from_secs(4 * 3600);
/// How long a connection to a node or pod, and its handshake, may take each.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
