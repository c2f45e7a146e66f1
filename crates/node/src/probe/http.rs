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

/// Redirects that are followed, as with Go's client.
const REDIRECTS_MAX: usize = 10;

/// Who asks: in a probe, and in a hook.
const PROBE_AGENT: &str = "kube-probe/1.37";
const HOOK_AGENT: &str = "kube-lifecycle/1.37";

/// Where to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    https: bool,
    host: String,
    port: u16,
    /// Path and query.
    target: String,
}

/// Asks, follows redirects to the same host, and judges the answer as upstream does.
pub async fn get(action: &HTTPGetAction, host: String, port: u16) -> Result<(), Failure> {
    match answer(action, Address::of(action, host, port), PROBE_AGENT).await? {
        // To another host: whoever is there is not the one who is probed.
        200..400 => Ok(()),
        code => Err(Failure(format!("HTTP probe failed with statuscode: {code}"))),
    }
}

/// Asks, and takes any answer: what a hook tells is told then. A server that answers HTTPS in plain HTTP is asked in
/// plain HTTP, without what only a secret channel should carry, as upstream does.
pub async fn tell(action: &HTTPGetAction, host: String, port: u16) -> Result<(), Failure> {
    let address = Address::of(action, host, port);
    let Err(failure) = answer(action, address.clone(), HOOK_AGENT).await else { return Ok(()) };
    if !address.https {
        return Err(failure);
    }
    let mut plain = action.clone();
    if let Some(headers) = &mut plain.http_headers {
        headers.retain(|header| !header.name.eq_ignore_ascii_case("authorization"));
    }
    let told = answer(&plain, Address { https: false, ..address }, HOOK_AGENT).await;
    told.map(drop).map_err(|_| failure)
}

/// The code of the last answer, after redirects to the same host.
async fn answer(action: &HTTPGetAction, mut address: Address, agent: &str) -> Result<u16, Failure> {
    for _ in 0..=REDIRECTS_MAX {
        let failed = |error: &dyn std::fmt::Display| Failure(format!("Get \"{}\": {error}", address.url()));
        let response = ask(action, &address, agent).await.map_err(|error| failed(&error))?;
        let next = response.location.as_deref().and_then(|location| address.redirected(location));
        match (response.code, next) {
            (301 | 302 | 303 | 307 | 308, Some(next)) => address = next,
            (code, _) => return Ok(code),
        }
    }
    Err(Failure(format!("Get \"{}\": stopped after {REDIRECTS_MAX} redirects", address.url())))
}

impl Address {
    fn of(action: &HTTPGetAction, host: String, port: u16) -> Self {
        let path = action.path.as_deref().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        let https = action.scheme.as_deref() == Some("HTTPS");
        Self { https, host, port, target: format!("{slash}{path}") }
    }

    fn authority(&self) -> String {
        let bracketed = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{bracketed}:{}", self.port)
    }

    fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.target)
    }

    /// Where `location` leads if it is on the same host.
    fn redirected(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next().unwrap_or_default();
        if let Some((scheme, rest)) = location.split_once("://") {
            let https = match scheme {
                "http" => false,
                "https" => true,
                _ => return None,
            };
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let authority: http::uri::Authority = rest[..end].parse().ok()?;
            let host = authority.host().trim_matches(['[', ']']);
            let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
            let target = if rest[end..].starts_with('/') {
                rest[end..].to_owned()
            } else {
                format!("/{}", &rest[end..])
            };
            return (host == self.host).then(|| Self { https, host: host.to_owned(), port, target });
        }
        let target = if location.starts_with("//") {
            return None;
        } else if location.starts_with('/') {
            location.to_owned()
        } else {
            let path = self.target.split('?').next().unwrap_or_default();
            format!("{}/{location}", path.rsplit_once('/').map_or("", |(folder, _)| folder))
        };
        Some(Self { target, ..self.clone() })
    }
}

/// What counts of an answer.
struct Answer {
    code: u16,
    location: Option<String>,
}

async fn ask(action: &HTTPGetAction, address: &Address, agent: &str) -> Result<Answer, String> {
    let authority = address.authority();
    let stream = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(|error| format!("dial tcp {authority}: {error}"))?;
    let request = request(action, &address.target, &authority, agent).map_err(|error| error.to_string())?;
    if !address.https {
        return exchange(stream, request).await.map_err(|error| error.to_string());
    }
    let name = ServerName::try_from(address.host.clone()).map_err(|error| error.to_string())?;
    // Probes do not verify certificates: a pod's is mostly its own (as upstream).
    let trusting =
        client_config(Roots::any_server(), Presented::none(), &[]).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(trusting);
    let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    exchange(stream, request).await.map_err(|error| error.to_string())
}

fn request(
    action: &HTTPGetAction,
    target: &str,
    authority: &str,
    agent: &str,
) -> Result<http::Request<Empty<Bytes>>, http::Error> {
    let mut request = http::Request::get(target);
    let mut given: Vec<String> = Vec::new();
    for header in action.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
        given.push(header.name.to_lowercase());
    }
    let defaults = [("host", authority), ("user-agent", agent), ("accept", "*/*"), ("connection", "close")];
    for (name, value) in defaults.into_iter().filter(|(name, _)| !given.iter().any(|other| other == name)) {
        request = request.header(name, value);
    }
    request.body(Empty::new())
}

async fn exchange<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<Answer, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let location = response.headers().get("location").and_then(|value| value.to_str().ok());
        let answer = Answer { code: response.status().as_u16(), location: location.map(str::to_owned) };
        // Read to its end, so that the server sees an orderly close; only the code counts.
        let _ = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        Ok(answer)
    };
    let (answer, _) = futures::join!(answer, connection);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_followed_on_the_same_host_alone() {
        let here = Address { https: false, host: "10.0.0.1".into(), port: 8080, target: "/a/b?c".into() };
        let check = |location: &str, expect: Option<&str>| {
            assert_eq!(here.redirected(location).map(|next| next.url()).as_deref(), expect, "{location}");
        };
        check("/x?y#z", Some("http://10.0.0.1:8080/x?y"));
        check("x", Some("http://10.0.0.1:8080/a/x"));
        check("https://10.0.0.1:8443/x", Some("https://10.0.0.1:8443/x"));
        check("https://10.0.0.1", Some("https://10.0.0.1:443/"));
        check("http://10.0.0.1?q", Some("http://10.0.0.1:80/?q"));
        check("http://10.0.0.2:8080/x", None);
        check("//10.0.0.2/x", None);
        check("ftp://10.0.0.1/x", None);
    }
}
