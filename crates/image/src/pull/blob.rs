//! Fetching one blob: once for all who want it, resumed where it broke off, checked to the last byte.

use base::Backoff;
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_RANGE;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tracing::debug;

use super::registry::Session;
use super::transport::{STALL_TIMEOUT, broken_off};
use super::{ATTEMPTS_MAX, Event, Progress, Puller, RETRY_AFTER_MAX, RETRY_CEILING};
use crate::digest::Digest;
use crate::document::Descriptor;
use crate::error::Error;
use crate::store::Ingest;

/// The largest blob, in bytes.
pub const BLOB_MAX_BYTES: u64 = 32 << 30;
/// Pieces of a body that wait for the disk.
const WRITE_QUEUE: usize = 32;
/// Bytes between two reports of progress.
const REPORT_BYTES: u64 = 256 << 10;

impl Puller {
    /// Makes sure that the blob is in the store.
    pub(super) async fn fetch_blob(
        &self,
        session: &Session<'_>,
        wanted: &Descriptor,
        progress: &Progress,
    ) -> Result<(), Error> {
        let (digest, total) = (wanted.digest, wanted.size);
        if total > BLOB_MAX_BYTES {
            return Err(Error::TooLarge {
                what: format!("the blob {digest}"),
                limit: BLOB_MAX_BYTES,
                bytes: total,
            });
        }
        let _flight = self.store.flight(digest).await;
        if !self.store.has_blob(digest) {
            let what = format!("the blob {digest}");
            self.retrying(progress, &what, || self.fetch_once(session, digest, total, progress)).await?;
        }
        progress(Event::Fetched { layer: digest, done: total, total });
        Ok(())
    }

    /// Repeats `attempt` while its error is one that may pass.
    pub(super) async fn retrying<T, F: Future<Output = Result<T, Error>>>(
        &self,
        progress: &Progress,
        what: &str,
        attempt: impl Fn() -> F,
    ) -> Result<T, Error> {
        let mut backoff = Backoff::new(self.options.retry_initial, RETRY_CEILING);
        let mut damaged = false;
        loop {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let mut after = backoff.fail();
            let again = match &error {
                Error::Unreachable { .. } => true,
                Error::Throttled { retry_after, .. } => {
                    after = after.max(retry_after.unwrap_or_default());
                    after <= RETRY_AFTER_MAX
                }
                // One more try: what was on disk from an earlier attempt may be the culprit, and is gone now.
                Error::Invalid { .. } => !std::mem::replace(&mut damaged, true),
                _ => false,
            };
            if !again || backoff.failures() >= ATTEMPTS_MAX {
                return Err(error);
            }
            debug!(what, error = error.in_full(), "an attempt failed");
            progress(Event::Retrying { what: what.to_owned(), reason: error.in_full(), after });
            self.clock.sleep(after).await;
        }
    }

    async fn fetch_once(
        &self,
        session: &Session<'_>,
        digest: Digest,
        total: u64,
        progress: &Progress,
    ) -> Result<(), Error> {
        let mut ingest = self.store.blocking(move |store| store.ingest_resumable(digest)).await?;
        if ingest.bytes() > total {
            ingest.discard();
            ingest = self.store.blocking(move |store| store.ingest_resumable(digest)).await?;
        }
        if ingest.bytes() < total || total == 0 {
            let response = session.blob(digest, ingest.bytes()).await?;
            let resumed = response.status() == StatusCode::PARTIAL_CONTENT
                && starts_at(response.headers().get(CONTENT_RANGE), ingest.bytes());
            if !resumed && ingest.bytes() > 0 {
                ingest.discard();
                if response.status() != StatusCode::OK {
                    return Err(broken_off(&format!("the blob {digest}"), "it cannot be resumed".to_owned()));
                }
                ingest = self.store.blocking(move |store| store.ingest_resumable(digest)).await?;
            }
            ingest = self.receive(response.into_body(), ingest, digest, total, progress).await?;
        }
        self.store.blocking(move |_| ingest.commit(Some(digest)).map(|_| ())).await
    }

    /// Moves the body to a thread that hashes and writes. Returns the content once it is as long as announced.
    async fn receive(
        &self,
        mut body: Incoming,
        ingest: Ingest,
        digest: Digest,
        total: u64,
        progress: &Progress,
    ) -> Result<Ingest, Error> {
        let what = format!("the blob {digest}");
        let mut done = ingest.bytes();
        let (pieces, mut arriving) = tokio::sync::mpsc::channel::<Bytes>(WRITE_QUEUE);
        let writing = self.store.blocking(move |_| {
            let mut ingest = ingest;
            while let Some(piece) = arriving.blocking_recv() {
                ingest.write(&piece)?;
            }
            Ok(ingest)
        });
        let receiving = async {
            let mut reported = done;
            while let Some(frame) = match self.clock.timeout(STALL_TIMEOUT, body.frame()).await {
                Some(frame) => {
                    frame.transpose().map_err(|error| broken_off(&what, base::with_causes(&error)))?
                }
                None => return Err(broken_off(&what, "nothing came for a while".to_owned())),
            } {
                let Ok(data) = frame.into_data() else { continue };
                done += data.len() as u64;
                if done > total {
                    return Err(Error::invalid(&what, format!("more than the announced {total} bytes came")));
                }
                if done - reported >= REPORT_BYTES {
                    reported = done;
                    progress(Event::Fetched { layer: digest, done, total });
                }
                if pieces.send(data).await.is_err() {
                    break;
                }
            }
            drop(pieces);
            match done < total {
                true => Err(broken_off(&what, format!("only {done} of {total} bytes came"))),
                false => Ok(()),
            }
        };
        // The writer is joined first in any case: what it wrote is what the next attempt resumes from, and its
        // error (a full disk) is the cause of the other's.
        let (received, written) = tokio::join!(receiving, writing);
        let ingest = written?;
        match received {
            Ok(()) => Ok(ingest),
            Err(error @ Error::Invalid { .. }) => {
                ingest.discard();
                Err(error)
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether `Content-Range: bytes A-B/C` begins where we asked.
fn starts_at(range: Option<&http::HeaderValue>, from: u64) -> bool {
    let start = range
        .and_then(|range| range.to_str().ok()?.strip_prefix("bytes ")?.split_once('-'))
        .and_then(|(start, _)| start.parse::<u64>().ok());
    start == Some(from)
}
