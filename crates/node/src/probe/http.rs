//! The one HTTP request of a probe or hook.

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use wire::tls::{Presented, Roots, client_config};

use super::{ANSWER_BYTES, Failure};

/// Asks, and judges the answer as upstream does.
pub async fn get(action: &HTTPGetAction, host: String, port: u16) -> Result<(), Failure> {
    let https = action.scheme.as_deref() == Some("HTTPS");
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let scheme = if https { "https" } else { "http" };
    let slash = if path.starts_with('/') { "" } else { "/" };
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let url = format!("{scheme}://{bracketed}:{port}{slash}{path}");
    let failed = |error: &dyn std::fmt::Display| Failure(format!("Get \"{url}\": {error}"));

    let stream = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|error| failed(&format!("dial tcp {bracketed}:{port}: {error}")))?;
    let request = request(action, &url, &format!("{bracketed}:{port}")).map_err(|error| failed(&error))?;
    let status = if https {
        let name = ServerName::try_from(host.clone()).map_err(|error| failed(&error))?;
        // Probes do not verify certificates: a pod's is mostly its own (as upstream).
        let trusting =
            client_config(Roots::any_server(), Presented::none(), &[]).map_err(|error| failed(&error))?;
        let connector = tokio_rustls::TlsConnector::from(trusting);
        let stream = connector.connect(name, stream).await.map_err(|error| failed(&error))?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    };
    let code = status.map_err(|error| failed(&error))?;
    if (200..400).contains(&code) {
        Ok(())
    } else {
        Err(Failure(format!("HTTP probe failed with statuscode: {code}")))
    }
}

fn request(
    action: &HTTPGetAction,
    url: &str,
    authority: &str,
) -> Result<http::Request<Empty<Bytes>>, http::Error> {
    let target = url.splitn(4, '/').nth(3).map_or("/".to_owned(), |rest| format!("/{rest}"));
    let mut request = http::Request::get(target);
    let mut given: Vec<String> = Vec::new();
    for header in action.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
        given.push(header.name.to_lowercase());
    }
    let defaults =
        [("host", authority), ("user-agent", "kube-probe/1.37"), ("accept", "*/*"), ("connection", "close")];
    for (name, value) in defaults.into_iter().filter(|(name, _)| !given.iter().any(|other| other == name)) {
        request = request.header(name, value);
    }
    request.body(Empty::new())
}

async fn exchange<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<u16, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let code = response.status().as_u16();
        // Read to its end, so that the server sees an orderly close; only the code counts.
        let _ = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        Ok(code)
    };
    let (code, _) = futures::join!(answer, connection);
    code
}
