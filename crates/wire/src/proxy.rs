//! What every proxy must do with the headers of a request, and with connections that have been upgraded.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use base::{Clock, Stop};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

/// Headers that concern one connection only (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Whether a request asks to switch protocols.
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade")))
}

/// Makes the headers of a request those of the next hop: without what concerns one connection only, but for the wish
/// to switch protocols, if there is one.
pub fn next_hop(headers: &mut HeaderMap) {
    let wish = if wants_upgrade(headers) { headers.get(header::UPGRADE).cloned() } else { None };
    strip_hop_by_hop(headers);
    if let Some(protocol) = wish {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

/// Removes the headers that concern one connection only.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Tells the server behind us whom we ask for.
pub fn add_forwarded_for(headers: &mut HeaderMap, peer: IpAddr) {
    const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    let before: Vec<&str> =
        headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let all = before.into_iter().chain([peer.to_string().as_str()]).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&all) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// Copies both ways until both sides have ended, one fails, nothing has come from either for as long as `idle`, or
/// `stop` comes.
pub async fn pump(
    one: impl AsyncRead + AsyncWrite + Unpin,
    other: impl AsyncRead + AsyncWrite + Unpin,
    clock: &Clock,
    idle: Duration,
    stop: &Stop,
) {
    let reads = Arc::new(AtomicU64::new(0));
    let (mut one, mut other) = (Counted(one, reads.clone()), Counted(other, reads.clone()));
    let silence = async {
        let mut seen = reads.load(Ordering::Relaxed);
        loop {
            clock.sleep(idle).await;
            let now = reads.load(Ordering::Relaxed);
            if now == seen {
                return;
            }
            seen = now;
        }
    };
    let copying = async {
        tokio::select! {
            copied = copy_bidirectional(&mut one, &mut other) => copied.map(|_| ()),
            () = silence => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came for too long")),
        }
    };
    if let Some(Err(error)) = stop.or(copying).await {
        tracing::debug!(%error, "a proxied connection broke");
    }
}

/// A stream whose reads are counted.
struct Counted<S>(S, Arc<AtomicU64>);

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.0).poll_read(context, buffer);
        if read.is_ready() {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_stay_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("accept", "*/*"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        assert!(!wants_upgrade(&headers));
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), [header::ACCEPT]);
    }

    #[test]
    fn a_wish_to_switch_protocols_goes_on_and_nothing_else_that_is_named_beside_it() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", HeaderValue::from_static("keep-alive, upgrade, x-private"));
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
        headers.insert("x-private", HeaderValue::from_static("1"));
        next_hop(&mut headers);
        assert_eq!((headers.len(), headers["connection"].as_bytes()), (2, &b"Upgrade"[..]));
        assert_eq!(headers["upgrade"], "websocket");
        headers.insert("x-forwarded-for", HeaderValue::from_static("10.0.0.1"));
        add_forwarded_for(&mut headers, "10.0.0.2".parse().unwrap());
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1, 10.0.0.2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pump_ends_when_nothing_has_come_for_too_long_and_not_before() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let clock = Clock::simulated(jiff::Timestamp::UNIX_EPOCH);
        let (mut near, one) = tokio::io::duplex(64);
        let (other, mut far) = tokio::io::duplex(64);
        let (stopper, idle) = (base::Stopper::new(), Duration::from_secs(60));
        let stop = stopper.signal();
        let talk = async {
            for _ in 0..5 {
                clock.sleep(Duration::from_secs(50)).await;
                near.write_all(b"x").await.unwrap();
                assert_eq!(far.read_u8().await.unwrap(), b'x');
            }
            assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0, "silence ends it");
        };
        tokio::join!(pump(one, other, &clock, idle, &stop), talk);
        let passed = clock.monotonic();
        assert!((Duration::from_secs(310)..=Duration::from_secs(370)).contains(&passed), "{passed:?}");
    }
}
