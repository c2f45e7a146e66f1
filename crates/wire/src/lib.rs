//! HTTP serving and the streams that several floors share: TLS and certificates, limits, WebSocket, SPDY.
//!
//! Invariants: this crate knows no Kubernetes kinds (a status on an error channel is opaque bytes here); everything
//! that a stranger sends is bounded by a limit with a name; no redirect is ever followed; ring is the one crypto
//! provider, and it is named explicitly, so no process-wide default is installed or needed.

pub mod body;
pub mod compress;
pub mod connect;
pub mod jwt;
pub mod keepalive;
pub mod path;
pub mod proxy;
pub mod query;
pub mod serve;
pub mod spdy;
pub mod streams;
pub mod tls;
pub mod websocket;

/// A request, as servers receive and clients send it.
pub type Request = http::Request<body::Body>;
/// A response, as servers send and clients receive it.
pub type Response = http::Response<body::Body>;

pub use body::Body;
