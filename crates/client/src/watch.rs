//! A watch: the body of a response as events.

use std::collections::VecDeque;

use api::interface::{WatchEvent, WatchStream};
use api::status::{Reason, Status};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use wire::Body;

use crate::decode;
use crate::lines::Lines;

/// A watch that is read.
struct Reading {
    body: http_body_util::BodyDataStream<Body>,
    /// Taken when the body has ended.
    lines: Option<Lines>,
    ready: VecDeque<Bytes>,
    failed: bool,
}

/// The events of `body`. The stream ends with it, or after the first error.
pub(crate) fn events(body: Body) -> WatchStream {
    let reading = Reading {
        body: body.into_data_stream(),
        lines: Some(Lines::default()),
        ready: VecDeque::new(),
        failed: false,
    };
    futures::stream::unfold(reading, |mut reading| async move {
        let event = reading.next().await?;
        reading.failed = event.is_err();
        Some((event, reading))
    })
    .boxed()
}

impl Reading {
    async fn next(&mut self) -> Option<Result<WatchEvent, Status>> {
        if self.failed {
            return None;
        }
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(decode::event(&line));
            }
            match self.fill().await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(status) => return Some(Err(status)),
            }
        }
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> Result<bool, Status> {
        let Some(lines) = &mut self.lines else { return Ok(false) };
        match self.body.next().await {
            Some(Ok(chunk)) => {
                lines.push(&chunk).map_err(Status::internal)?;
                while let Some(line) = lines.next_line().map_err(Status::internal)? {
                    self.ready.push_back(line);
                }
                Ok(true)
            }
            Some(Err(error)) => {
                // Whoever watches begins anew from the last revision it saw.
                Err(Status::new(Reason::ServiceUnavailable, format!("the watch broke: {error}")))
            }
            None => {
                // A half line at the end is a cut connection, and its event comes again from the last revision.
                self.lines = None;
                Ok(false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str, name: &str) -> String {
        format!(
            "{{\"type\":\"{kind}\",\"object\":{{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":\
             {{\"name\":\"{name}\",\"resourceVersion\":\"3\"}}}}}}\n"
        )
    }

    #[tokio::test]
    async fn events_come_in_order_across_buffers_and_the_stream_ends_after_an_error() {
        let text = line("ADDED", "a")
            + &line("DELETED", "a")
            + "{\"type\":\"ERROR\",\"object\":{\"code\":410,\"reason\":\"Expired\"}}\n"
            + &line("ADDED", "never");
        let chunks: Vec<Bytes> = text.as_bytes().chunks(7).map(Bytes::copy_from_slice).collect();
        let body = Body::stream(futures::stream::iter(chunks.into_iter().map(Ok)));
        let events: Vec<_> = events(body).collect().await;
        assert_eq!(events.len(), 3);
        assert!(matches!(&events[0], Ok(WatchEvent::Added(object)) if object.name() == "a"));
        assert!(matches!(&events[1], Ok(WatchEvent::Deleted(_))));
        assert_eq!(events[2].as_ref().unwrap_err().reason, Reason::Expired);
    }

    #[tokio::test]
    async fn a_cut_line_is_no_event() {
        let text = line("ADDED", "a");
        let body = Body::from(format!("{text}{}", &text[..20]));
        assert_eq!(events(body).collect::<Vec<_>>().await.len(), 1);
    }
}
