//! The client: requests with retries.

use std::sync::Arc;
use std::time::Duration;

use api::interface::{Answer, Api, Call, List, ListOptions, Watch, WatchStream};
use api::status::{Reason, Status};
use base::{Backoff, Clock, Tasks};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT as AGENT};
use wire::{Body, Response, connect, tls};

use crate::address::Ask;
use crate::kubeconfig::{Credential, Kubeconfig, KubeconfigError};
use crate::{decode, watch};

/// Objects of one page of a list.
const PAGE_OBJECTS: u64 = 500;
/// Attempts for a read whose connection breaks, and for a request that is told to come again.
const ATTEMPTS_MAX: u32 = 5;
/// The wait after a first failure; it doubles up to the ceiling.
const RETRY_INITIAL: Duration = Duration::from_millis(50);
const RETRY_CEILING: Duration = Duration::from_secs(2);
/// The longest wait that a server may ask for by Retry-After.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(65);
/// The largest answer that is held.
const ANSWER_BYTES: usize = 512 * 1024 * 1024;
/// How long the server keeps a watch open; it is then opened anew.
const WATCH_SECONDS: u64 = 1800;
/// Lists that began anew because their token had become too old.
const LIST_RESTARTS_MAX: u32 = 3;
/// What we call ourselves.
pub const USER_AGENT: &str = concat!("ondol/", env!("CARGO_PKG_VERSION"));

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig is not usable.
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[from] KubeconfigError),
    /// Certificates or keys are not usable.
    #[error("the certificates cannot be used")]
    Tls(#[from] tls::Error),
    /// The token has characters that no header may have.
    #[error("the token cannot be sent in a header; write it on one line, in plain characters")]
    Token,
}

/// The API over HTTPS as one identity. Clones share connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    /// Calls, over few connections.
    http: connect::Client,
    /// Watches, over a connection each: over one of HTTP/2, whose streams are few, they would hold up calls (and with
    /// them heartbeats) as soon as there are many.
    watches: connect::Client,
    server: String,
    clock: Clock,
    agent: HeaderValue,
    token: Option<HeaderValue>,
}

impl Client {
    /// A client for what `kubeconfig` names. Its background work joins `tasks`.
    pub fn new(kubeconfig: &Kubeconfig, clock: &Clock, tasks: &Tasks) -> Result<Self, Error> {
        let roots = match &kubeconfig.authority_pem {
            Some(pem) => tls::Roots::new(pem)?,
            None if kubeconfig.insecure => tls::Roots::any_server(),
            None => tls::Roots::none(),
        };
        let (presented, token) = match &kubeconfig.credential {
            Credential::Certificate { certificate_pem, key_pem } => {
                let pair = tls::KeyPair { chain_pem: certificate_pem.clone(), key_pem: key_pem.clone() };
                (tls::Presented::new(&pair)?, None)
            }
            Credential::Token(token) => {
                let header = connect::secret(&format!("Bearer {token}")).map_err(|_| Error::Token)?;
                (tls::Presented::none(), Some(header))
            }
            Credential::None => (tls::Presented::none(), None),
        };
        let mut config = connect::Config::new(roots, presented);
        config.server_name.clone_from(&kubeconfig.server_name);
        let watches = connect::Config { http2: false, ..config.clone() };
        let watches = connect::Client::new(watches, clock, tasks)?;
        let http = connect::Client::new(config, clock, tasks)?;
        let server = kubeconfig.server.trim_end_matches('/').to_owned();
        let agent = HeaderValue::from_static(USER_AGENT);
        Ok(Self(Arc::new(Inner { http, watches, server, clock: clock.clone(), agent, token })))
    }

    async fn one(&self, call: &Call) -> Result<Answer, Status> {
        let body = self.body_of(&Ask::of(call)).await?;
        decode::answer(call, &body)
    }

    async fn body_of(&self, ask: &Ask) -> Result<Bytes, Status> {
        let work = async {
            let (code, response) = self.send(&self.0.http, ask).await?;
            let body = wire::body::read(response.into_body(), ANSWER_BYTES)
                .await
                .map_err(|error| Status::new(Reason::ServiceUnavailable, error.to_string()))?;
            if code >= 300 { Err(decode::failure(code, &body)) } else { Ok(body) }
        };
        self.0.clock.timeout(REQUEST_TIMEOUT, work).await.unwrap_or_else(|| {
            Err(Status::new(Reason::Timeout, format!("{} did not answer in time", self.0.server)))
        })
    }

    /// Sends until there is an answer that is worth the caller's time.
    async fn send(&self, http: &connect::Client, ask: &Ask) -> Result<(u16, Response), Status> {
        let mut backoff = Backoff::new(RETRY_INITIAL, RETRY_CEILING);
        loop {
            let result = http.send(self.request(ask)?).await;
            let last = backoff.failures() + 1 >= ATTEMPTS_MAX;
            let wait = match result {
                Ok(response) => {
                    let code = response.status().as_u16();
                    match retry_after(&response).filter(|_| code == 429 && !last) {
                        // Told to come again, the server did nothing: even writes are safe.
                        Some(wait) => wait.max(backoff.fail()),
                        None => return Ok((code, response)),
                    }
                }
                // Without a connection nothing was sent, so that writes are safe here, too.
                Err(connect::Error::Connect(_)) if !last => backoff.fail(),
                Err(connect::Error::Broken(_)) if !last && ask.is_idempotent() => backoff.fail(),
                Err(error) => return Err(unreachable_server(&self.0.server, &error)),
            };
            tracing::debug!(path = ask.path, ?wait, "asking again");
            self.0.clock.sleep(wait).await;
        }
    }

    fn request(&self, ask: &Ask) -> Result<wire::Request, Status> {
        let mut builder = http::Request::builder()
            .method(ask.method.clone())
            .uri(format!("{}{}", self.0.server, ask.path))
            .header(ACCEPT, "application/json")
            .header(AGENT, self.0.agent.clone());
        if let Some(token) = &self.0.token {
            builder = builder.header(AUTHORIZATION, token.clone());
        }
        if !ask.body.is_empty() {
            builder = builder.header(CONTENT_TYPE, ask.content_type);
        }
        builder.body(Body::from(ask.body.clone())).map_err(|error| Status::bad_request(error.to_string()))
    }

    /// A list without a limit is read page by page, and is yet the state at one revision.
    async fn list_whole(&self, call: &Call) -> Result<Answer, Status> {
        let Call::List(collection, options) = call else { return self.one(call).await };
        let mut restarts = 0;
        let mut whole = List::default();
        let mut token = options.continue_token.clone();
        loop {
            let page = ListOptions { limit: PAGE_OBJECTS, continue_token: token.clone(), ..options.clone() };
            match self.one(&Call::List(collection.clone(), page)).await.and_then(Answer::list) {
                Ok(mut page) => {
                    whole.revision = page.revision;
                    whole.items.append(&mut page.items);
                    if page.continue_token.is_empty() {
                        return Ok(Answer::List(whole));
                    }
                    token = page.continue_token;
                }
                Err(status)
                    if status.reason == Reason::Expired
                        && !token.is_empty()
                        && restarts < LIST_RESTARTS_MAX =>
                {
                    restarts += 1;
                    whole.items.clear();
                    token = options.continue_token.clone();
                }
                Err(status) => return Err(status),
            }
        }
    }
}

impl Api for Client {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
        Box::pin(async move {
            match &call {
                Call::List(_, options) if options.limit == 0 && options.resource_version.is_empty() => {
                    self.list_whole(&call).await
                }
                _ => self.one(&call).await,
            }
        })
    }

    fn watch(&self, watched: Watch) -> BoxFuture<'_, Result<WatchStream, Status>> {
        Box::pin(async move {
            let ask = Ask::watching(&watched, WATCH_SECONDS);
            let (code, response) = self.send(&self.0.watches, &ask).await?;
            if code >= 300 {
                let body = wire::body::read(response.into_body(), ANSWER_BYTES)
                    .await
                    .map_err(|error| Status::new(Reason::ServiceUnavailable, error.to_string()))?;
                return Err(decode::failure(code, &body));
            }
            Ok(watch::events(response.into_body()))
        })
    }
}

/// How long the server asks to wait, in seconds; dates are not understood, as client-go does not either.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

fn unreachable_server(server: &str, error: &dyn std::error::Error) -> Status {
    let message = format!("the server {server} cannot be reached: {}", base::with_causes(error));
    Status::new(Reason::ServiceUnavailable, message)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use api::names::PODS;
    use base::Stopper;

    use super::*;

    fn page(names: &[&str], token: &str) -> String {
        let items: Vec<String> =
            names.iter().map(|name| format!("{{\"metadata\":{{\"name\":\"{name}\"}}}}")).collect();
        format!(
            "{{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"4\",\
             \"continue\":\"{token}\"}},\"items\":[{}]}}",
            items.join(",")
        )
    }

    async fn against<F>(answer: F) -> (Client, Stopper)
    where
        F: Fn(&str, usize) -> (u16, String) + Send + Sync + 'static,
    {
        let (clock, tasks, stopper) = (Clock::system(), Tasks::new(), Stopper::new());
        let server = wire::serve::Server::bind(&["127.0.0.1:0".parse().unwrap()], clock.clone()).unwrap();
        let address = server.addresses()[0];
        let (count, stop) = (AtomicUsize::new(0), stopper.signal());
        let answer = Arc::new(answer);
        let count = Arc::new(count);
        tasks.spawn("server", async move {
            let service = move |request: wire::Request, _| {
                let (answer, count) = (answer.clone(), count.clone());
                async move {
                    let at = count.fetch_add(1, Ordering::SeqCst);
                    let (code, body) = answer(&request.uri().to_string(), at);
                    let mut response = Response::new(Body::from(body));
                    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
                    if code == 429 {
                        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("0"));
                    }
                    response
                }
            };
            server.run(service, stop, Duration::ZERO).await;
        });
        let config = Kubeconfig { server: format!("http://{address}"), ..Kubeconfig::default() };
        (Client::new(&config, &clock, &tasks).unwrap(), stopper)
    }

    #[tokio::test]
    async fn a_list_without_limit_is_read_page_by_page() {
        let (client, stopper) = against(|uri, at| {
            assert!(uri.contains("limit=500"), "{uri}");
            (200, if at == 0 { page(&["a", "b"], "t") } else { page(&["c"], "") })
        })
        .await;
        let api: Arc<dyn Api> = Arc::new(client);
        let list = api.list(&PODS, "n").await.unwrap();
        assert_eq!(list.items.iter().map(|item| item.name()).collect::<Vec<_>>(), ["a", "b", "c"]);
        stopper.stop();
    }

    #[tokio::test]
    async fn who_is_told_to_come_again_comes_again() {
        let (client, stopper) =
            against(|_, at| if at < 2 { (429, String::new()) } else { (200, page(&[], "")) }).await;
        let api: Arc<dyn Api> = Arc::new(client);
        assert!(api.list(&PODS, "").await.is_ok());
        stopper.stop();
    }

    #[tokio::test]
    async fn an_error_is_the_servers_status() {
        let body =
            r#"{"kind":"Status","apiVersion":"v1","reason":"NotFound","message":"no such pod","code":404}"#;
        let (client, stopper) = against(move |_, _| (404, body.to_owned())).await;
        let api: Arc<dyn Api> = Arc::new(client);
        let status = api.get(&PODS, "n", "x").await.unwrap_err();
        assert_eq!((status.reason, status.message.as_str()), (Reason::NotFound, "no such pod"));
        stopper.stop();
    }

    fn pods_watched() -> Watch {
        Watch {
            collection: api::interface::Collection::new(&PODS, ""),
            label_selector: "".into(),
            field_selector: "".into(),
            from: None,
            bookmarks: true,
            initial_events: false,
        }
    }

    /// More than a server takes on one connection of HTTP/2.
    const MANY: usize = 300;

    #[tokio::test]
    async fn many_watches_hold_up_no_call() {
        let (clock, tasks, stopper) = (Clock::system(), Tasks::new(), Stopper::new());
        let authority = tls::Authority::create("test", clock.now()).unwrap();
        let leaf = tls::Leaf {
            common_name: "server".into(),
            organizations: Vec::new(),
            dns_names: Vec::new(),
            ips: vec!["127.0.0.1".parse().unwrap()],
            usages: vec![tls::Usage::Server],
            lifetime: Duration::from_secs(600),
        };
        let presented = tls::Presented::new(&authority.issue(&leaf, clock.now()).unwrap()).unwrap();
        let secure = wire::serve::ServerTls::new(presented, tls::Roots::none()).unwrap();
        let server = wire::serve::Server::bind(&["127.0.0.1:0".parse().unwrap()], clock.clone()).unwrap();
        let server = server.with_tls(secure);
        let (address, stop) = (server.addresses()[0], stopper.signal());
        tasks.spawn("server", async move {
            let service = |request: wire::Request, _| async move {
                let watches = request.uri().query().is_some_and(|query| query.contains("watch=1"));
                assert!(watches == (request.version() == http::Version::HTTP_11), "calls share a connection");
                let endless = || Body::stream(futures::stream::pending());
                Response::new(if watches { endless() } else { Body::from(page(&[], "")) })
            };
            server.run(service, stop, Duration::ZERO).await;
        });
        let config = Kubeconfig {
            server: format!("https://{address}"),
            authority_pem: Some(authority.certificate_pem().to_owned()),
            ..Kubeconfig::default()
        };
        let client = Client::new(&config, &clock, &tasks).unwrap();
        let opening = (0..MANY).map(|_| client.watch(pods_watched()));
        let watches = futures::future::try_join_all(opening).await.unwrap();
        let api: Arc<dyn Api> = Arc::new(client);
        let listed = clock.timeout(Duration::from_secs(5), api.list(&PODS, "n")).await;
        assert!(listed.expect("it is not held up").is_ok());
        assert_eq!(watches.len(), MANY);
        stopper.stop();
    }

    #[tokio::test]
    async fn a_watch_gives_events_as_they_come() {
        use futures::StreamExt as _;
        let event = r#"{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}}"#;
        let (client, stopper) = against(move |uri, _| {
            assert!(uri.contains("watch=1"), "{uri}");
            (200, format!("{event}\n"))
        })
        .await;
        let stream = client.watch(pods_watched()).await.unwrap();
        assert_eq!(stream.collect::<Vec<_>>().await.len(), 1);
        stopper.stop();
    }
}
