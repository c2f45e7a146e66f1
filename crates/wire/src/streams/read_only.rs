//! One stream to a client over a WebSocket: logs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{Context, Refusal};
use crate::websocket::{self, Message};
use crate::{Request, Response};

const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";
const READ_MAX_BYTES: usize = 16 * 1024;

/// Answers a request for a WebSocket with what `source` gives, and closes at its end: in peace if that was the end, as
/// failed if it broke. What the client sends is ignored; when it closes, `source` is dropped.
pub fn accept_read_only(
    request: &mut Request,
    source: impl AsyncRead + Send + Unpin + 'static,
    context: &Context,
) -> Result<Response, Refusal> {
    let (response, protocol, socket) = websocket::accept(request, &["", BINARY, BASE64])?;
    let stop = context.stop.clone();
    let as_text = protocol == BASE64;
    context.tasks.spawn("websocket output", async move {
        let sending = async {
            let (mut sender, mut receiver) = socket.await.ok()?.split();
            let ignored = async { while let Ok(Some(_)) = receiver.receive().await {} };
            tokio::select! {
                () = ignored => {}
                outcome = send(source, &mut sender, as_text) => outcome.ok()?,
            }
            Some(())
        };
        stop.or(sending).await;
    });
    Ok(response)
}

async fn send(
    mut source: impl AsyncRead + Unpin,
    sender: &mut websocket::Sender<websocket::UpgradedIo>,
    as_text: bool,
) -> Result<(), websocket::Error> {
    let mut buffer = vec![0; READ_MAX_BYTES];
    loop {
        let count = match source.read(&mut buffer).await {
            Ok(0) => return sender.close().await,
            Ok(count) => count,
            Err(error) => {
                tracing::debug!(%error, "what a WebSocket shows broke off");
                return sender.fail("what is shown here broke off in the middle").await;
            }
        };
        let message = match as_text {
            true => Message::Text(STANDARD.encode(&buffer[..count])),
            false => Message::Binary(Bytes::copy_from_slice(&buffer[..count])),
        };
        sender.feed(message).await?;
        sender.flush().await?;
    }
}
