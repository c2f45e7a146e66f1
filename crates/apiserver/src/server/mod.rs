//! HTTP in, HTTP out: reads a request, sends it down the pipeline, and writes what comes back.

pub mod health;
pub mod packed;
pub mod refusals;
pub mod render;
pub mod run;
mod watching;
mod yaml;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use api::interface::{Answer, Call, Collection, List, PatchKind, Target};
use api::print::IncludeObject;
use api::schema::protobuf;
use api::status::{Reason, Status};
use bytes::Bytes;
use futures::FutureExt as _;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, USER_AGENT};
use http::{Method, StatusCode};
use sha2::Digest as _;
use tokio::runtime::{Handle, RuntimeFlavor};
use wire::serve::ConnectionInfo;
use wire::{Body, Request, Response};

use crate::authn::legacy;
use crate::authz::Attributes;
use crate::caller::Caller;
use crate::gate::Gate;
use crate::identity::Identity;
use crate::inprocess::{authorize, panicked};
use crate::kinds::Kind;
use crate::negotiate::{self, Accepted, BodyMedia, Endpoint, Media, Shape, negotiate};
use crate::query::{self, Query};
use crate::route::{Info, Route, route};
use crate::shares::Share;
use crate::subresource::connect;
use crate::table::Include;
use crate::{discovery, kinds, limits, metrics, openapi, verbs};

pub use health::GIT_VERSION;

/// What a failure is written in when nothing could be agreed on.
const PLAIN: Accepted = Accepted { media: Media::Json, shape: Shape::Whole };

/// What all of one request's handling shares.
struct Exchange<'a> {
    gate: &'a Arc<Gate>,
    identity: &'a Identity,
    headers: &'a HeaderMap,
    query: Query<'a>,
    /// From where it came.
    peer: std::net::IpAddr,
    pretty: bool,
}

impl Gate {
    /// Answers one request over HTTP: the service of a [`wire::serve::Server`].
    pub async fn handle(self: &Arc<Self>, request: Request, connection: Arc<ConnectionInfo>) -> Response {
        let accept = request.headers().get(ACCEPT).cloned();
        let is_head = request.method() == Method::HEAD;
        // Boxed here and below: a future holds room for all that it may ever wait for, and is copied at every step
        // until it is a task.
        let handling = AssertUnwindSafe(Box::pin(answer(self, request, &connection))).catch_unwind();
        let mut response = match handling.await {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => {
                let accept = accept.as_ref().and_then(|accept| accept.to_str().ok()).unwrap_or_default();
                let accepted = negotiate(accept, Endpoint::Plain, false).unwrap_or(PLAIN);
                render::failure(&status, Accepted { shape: Shape::Whole, ..accepted }, false)
            }
            Err(panic) => render::failure(&panicked(panic), PLAIN, false),
        };
        // Over HTTP/2 nobody else withholds it, and clients take a body here for a broken stream.
        if is_head {
            *response.body_mut() = Body::Empty;
        }
        response
    }
}

async fn answer(gate: &Arc<Gate>, request: Request, connection: &ConnectionInfo) -> Result<Response, Status> {
    let identity = gate.authenticator().identify(request.headers(), connection, gate.storage());
    legacy::write_uses(gate);
    let identity = identity?;
    let uri = request.uri().clone();
    let query = Query::new(uri.query().unwrap_or_default());
    let route = route(request.method(), uri.path(), &query);
    let headers = request.headers().clone();
    let pretty = is_pretty(&headers, query);
    let peer = connection.peer.ip();
    let exchange = Exchange { gate, identity: &identity, headers: &headers, query, peer, pretty };
    match route {
        Route::Other { verb, path } => exchange.other(&verb, &path),
        Route::Resource(info) => exchange.resource(request, &info, uri.query().unwrap_or_default()).await,
    }
}

fn header(headers: &HeaderMap, name: http::header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Whether a path that leads nowhere begins like one of the API's, so that its clients expect a Status.
fn is_of_api(path: &str) -> bool {
    let mut parts = path.trim_matches('/').split('/');
    match (parts.next(), parts.next()) {
        (Some("api" | "version"), Some(_)) => true,
        (Some("apis"), Some(group)) => api::table::kinds().groups().iter().any(|known| known.name == group),
        _ => false,
    }
}

/// People get indented answers: those who ask, and those who come with a tool for people.
fn is_pretty(headers: &HeaderMap, query: Query<'_>) -> bool {
    if let Some(pretty) = query.get("pretty").filter(|pretty| !pretty.is_empty()) {
        return matches!(pretty.as_ref(), "1" | "t" | "T" | "TRUE" | "true" | "True");
    }
    let agent = header(headers, USER_AGENT);
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|tool| agent.starts_with(tool))
}

/// A strong tag of some bytes.
pub fn etag(bytes: &[u8]) -> String {
    let digest = sha2::Sha512::digest(bytes);
    digest.iter().take(32).map(|byte| format!("{byte:02X}")).collect()
}

impl Exchange<'_> {
    /// Paths that are no resources.
    fn other(&self, verb: &str, path: &str) -> Result<Response, Status> {
        authorize(self.gate, self.identity, &Attributes::Path { verb, path })?;
        if let Some(response) = health::health(path, self.query, self.gate.stop().is_stopped()) {
            return Ok(response);
        }
        let accept = header(self.headers, ACCEPT);
        let writes = matches!(verb, "post" | "put" | "patch" | "delete");
        if let Some(document) = discovery::document(path, accept, self.gate.advertised()) {
            // Before the answer, which is the same for all who only read.
            return if writes { Err(verbs::method_not_allowed()) } else { self.discovered(document, accept) };
        }
        if let Some(response) = openapi::respond(path, self.headers, self.query) {
            return Ok(response);
        }
        match path.trim_end_matches('/') {
            "/version" if writes => Err(verbs::method_not_allowed()),
            "/version" => Ok(health::version(true)),
            "/metrics" => Ok(render::metrics(metrics::text(self.gate))),
            "/.well-known/openid-configuration" => Ok(self.issuer()),
            "/openid/v1/jwks" => {
                let keys = self.gate.authenticator().keys().key_set();
                Ok(render::response(200, Media::Json, self.pretty, keys.to_bytes()))
            }
            "" => Ok(self.index()),
            _ if is_of_api(path) => Err(kinds::not_found()),
            _ => Ok(render::text(404, "404 page not found\n")),
        }
    }

    fn discovered(&self, document: discovery::Document, accept: &str) -> Result<Response, Status> {
        if !document.etag.is_empty() {
            let quoted = format!("\"{}\"", document.etag);
            let mut response = if header(self.headers, IF_NONE_MATCH) == quoted {
                let mut response = Response::new(Body::Empty);
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            } else {
                Response::new(Body::from(document.body))
            };
            let headers = response.headers_mut();
            if let Ok(value) = HeaderValue::from_str(&quoted) {
                headers.insert(ETAG, value);
            }
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(document.content_type));
            headers.insert(http::header::VARY, HeaderValue::from_static("Accept"));
            return Ok(wire::compress::response(self.headers, response, wire::compress::LEVEL));
        }
        let media = negotiate(accept, Endpoint::Plain, false)?.media;
        Ok(render::response(200, media, self.pretty, document.body.to_vec()))
    }

    fn issuer(&self) -> Response {
        let issuer = self.gate.authenticator().issuer();
        let document = api::json!({
            "issuer": issuer,
            "jwks_uri": (format!("https://{}/openid/v1/jwks", self.gate.advertised())),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"]
        });
        render::response(200, Media::Json, self.pretty, document.to_bytes())
    }

    /// `/`: what paths there are.
    fn index(&self) -> Response {
        let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
        for group in api::table::kinds().groups().iter().filter(|group| !group.name.is_empty()) {
            paths.push(format!("/apis/{}", group.name));
            paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{version}", group.name)));
        }
        let others = [
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ];
        paths.extend(others.map(str::to_owned));
        let document = api::json!({"paths": paths});
        render::response(200, Media::Json, true, document.to_bytes())
    }

    async fn resource(&self, request: Request, info: &Info, raw_query: &str) -> Result<Response, Status> {
        if info.verb.is_empty() {
            return Err(verbs::method_not_allowed());
        }
        self.authorize(info)?;
        let Some(kind) = kinds::find(&info.resource) else {
            let group = &info.resource.group;
            let known = api::table::kinds().groups().iter().any(|known| known.name == group.as_str());
            return if known {
                Err(kinds::not_found())
            } else {
                Ok(render::text(404, "404 page not found\n"))
            };
        };
        require_path(request.method(), info, kind)?;
        let share = self.gate.shares.of(self.identity);
        if !info.subresource.is_empty() && connect::is_way(&info.subresource) {
            let place = share.streams.take(self.identity)?;
            return Box::pin(connect::connect(self.gate, info, request, raw_query, self.peer, place)).await;
        }
        if info.verb == "watch" {
            let place = share.streams.take(self.identity)?;
            return watching::respond(self, kind, info, place);
        }
        let accepted = negotiate(header(self.headers, ACCEPT), Endpoint::Objects, info.verb == "list")?;
        let include = self.include(accepted)?;
        let (parts, body) = request.into_parts();
        // Before a place is taken: who sends slowly holds up nobody.
        let body = self.body(share, body).await?;
        let reads = matches!(info.verb, "get" | "list");
        let _place = if reads { &share.reads } else { &share.writes }.take(self.identity)?;
        let bytes = body.len();
        let call = Box::pin(self.call(&parts.method, info, kind, body, accepted, include));
        let work = aside(share, bytes, call);
        self.gate.clock().timeout(limits::REQUEST_TIMEOUT, work).await.unwrap_or_else(|| {
            Err(Status::new(
                Reason::Timeout,
                "Timeout: request did not complete within the allotted timeout; the write may still happen",
            ))
        })
    }

    fn authorize(&self, info: &Info) -> Result<(), Status> {
        let selector = self.query.text("fieldSelector");
        // Streams into containers are creations for upstream's rules when they are posted, reads when they are got.
        let attributes = Attributes::Resource {
            verb: info.verb,
            group: &info.resource.group,
            resource: &info.resource.resource,
            namespace: &info.namespace,
            name: &info.name,
            subresource: &info.subresource,
            field_selector: &selector,
        };
        authorize(self.gate, self.identity, &attributes)
    }

    /// The body, which most clients send together with the headers. Others have a place and some seconds for it.
    async fn body(&self, share: &Share, body: Body) -> Result<Bytes, Status> {
        let mut reading = std::pin::pin!(read_body(body));
        if let Some(outcome) = reading.as_mut().now_or_never() {
            return outcome;
        }
        let _place = share.bodies.take(self.identity)?;
        self.gate.clock().timeout(limits::BODY_TIMEOUT, reading).await.unwrap_or_else(|| {
            let seconds = limits::BODY_TIMEOUT.as_secs();
            let words =
                format!("Timeout: the request's body did not come within {seconds} seconds; send it again");
            Err(Status::new(Reason::Timeout, words))
        })
    }

    async fn call(
        &self,
        method: &Method,
        info: &Info,
        kind: &'static Kind,
        body: Bytes,
        accepted: Accepted,
        include: Include,
    ) -> Result<Response, Status> {
        let call = self.to_call(method, info, kind, body)?;
        let caller = Caller::new(self.identity, header(self.headers, USER_AGENT));
        if let Some(warning) = deprecation(kind) {
            caller.warn(warning);
        }
        let outcome = verbs::call(self.gate, &caller, &call).await;
        let warnings = caller.take_warnings();
        let mut response = match outcome {
            Ok(verbs::Outcome { answer: Answer::List(list), code, raw: None })
                if self.packs(kind, &list, accepted) =>
            {
                let body = packed::list(kind, &list, &self.gate.packed);
                let mut response = render::bytes(code, accepted.media, body);
                wire::compress::mark_gzip(response.headers_mut());
                response
            }
            Ok(outcome) => {
                let json = match outcome.raw {
                    Some(json) => json,
                    None => render::answer(kind, &outcome.answer, accepted.shape, include),
                };
                render::response(outcome.code, accepted.media, self.pretty, json)
            }
            Err(status) => render::failure(&status, accepted, self.pretty),
        };
        for warning in warnings {
            let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\r', '\n'], " ");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                response.headers_mut().append(http::header::WARNING, value);
            }
        }
        Ok(wire::compress::response(self.headers, response, wire::compress::LEVEL_FAST))
    }

    /// Whether a list goes out put together of packed items: whole objects as they are stored, so many that they
    /// are worth it, to a client that takes gzip.
    fn packs(&self, kind: &Kind, list: &List, accepted: Accepted) -> bool {
        let bytes = || list.items.iter().map(|item| item.body().len()).sum::<usize>();
        accepted == PLAIN
            && !self.pretty
            && kind.is_stored_version()
            && wire::compress::accepts_gzip(self.headers)
            && bytes() > wire::compress::THRESHOLD_BYTES
    }

    fn include(&self, accepted: Accepted) -> Result<Include, Status> {
        let object = if accepted.shape == Shape::Table {
            let word = self.query.text("includeObject");
            IncludeObject::parse(&word).ok_or_else(|| {
                Status::bad_request(format!(
                    "Unable to convert to Table as requested: includeObject: Invalid value: \"{word}\": must be \
                     'Metadata', 'Object', 'None', or empty"
                ))
            })?
        } else {
            IncludeObject::Metadata
        };
        Ok(Include { object, now: self.gate.now() })
    }

    fn to_call(&self, method: &Method, info: &Info, kind: &Kind, body: Bytes) -> Result<Call, Status> {
        let query = self.query;
        // The name of a namespace is its namespace in URLs; its key has none.
        let namespace = if kind.namespaced { info.namespace.as_str() } else { "" };
        let target = || Target::new(&info.resource, namespace, &info.name).subresource(&info.subresource);
        let collection = || Collection::new(&info.resource, namespace);
        let content_type = header(self.headers, CONTENT_TYPE);
        let words = |unreadable: Unreadable| unreadable.must_be(expected_kind(kind, &info.subresource));
        Ok(match info.verb {
            "get" => Call::Get(target(), query::get_options(query)),
            "list" => Call::List(collection(), query::list_options(query)?),
            "create" => Call::Create(
                target(),
                to_json(content_type, body).map_err(words)?,
                query::write_options(query, "CreateOptions")?,
            ),
            "update" => Call::Update(
                target(),
                to_json(content_type, body).map_err(words)?,
                query::write_options(query, "UpdateOptions")?,
            ),
            "patch" => {
                let (how, body) = patch_of(content_type, body)?;
                Call::Patch(target(), how, body, query::write_options(query, "PatchOptions")?)
            }
            "delete" if !info.subresource.is_empty() => return Err(verbs::method_not_allowed()),
            "delete" => Call::Delete(
                target(),
                query::delete_options(query, options_body(content_type, body)?.as_ref())?,
            ),
            "deletecollection" => Call::DeleteCollection(
                collection(),
                query::list_options(query)?,
                query::delete_options(query, options_body(content_type, body)?.as_ref())?,
            ),
            _ => {
                tracing::debug!(%method, "no verb for a method");
                return Err(verbs::method_not_allowed());
            }
        })
    }
}

/// What a path lacks or has too much of is found before the body is read.
fn require_path(method: &Method, info: &Info, kind: &Kind) -> Result<(), Status> {
    let is_namespace = kind.facts.group.is_empty() && kind.facts.resource == "namespaces";
    let in_namespace = !info.namespace.is_empty() && !is_namespace;
    if in_namespace && !kind.namespaced || info.name_in_path && kind.namespaced && !in_namespace {
        return Err(kinds::not_found());
    }
    let fits = match info.verb {
        "create" => {
            (!info.name_in_path || !info.subresource.is_empty()) && (in_namespace || !kind.namespaced)
        }
        "update" | "patch" => info.name_in_path,
        "deletecollection" => in_namespace || !kind.namespaced,
        _ => true,
    };
    let can = !info.subresource.is_empty() || kind.facts.can(info.verb);
    if fits && can && *method != Method::HEAD { Ok(()) } else { Err(verbs::method_not_allowed()) }
}

/// Works on a large body in the place of a thread of its own. Reading, comparing and checking an object never waits, so
/// whoever shares the thread could not go on in between.
async fn aside<T>(share: &Share, bytes: usize, work: impl Future<Output = T> + Send) -> T {
    if bytes <= limits::LARGE_BODY_BYTES {
        return work.await;
    }
    let runtime = Handle::current();
    // With one thread for all there is nobody to go on meanwhile.
    if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work.await;
    }
    let _turn = share.large.acquire().await;
    tokio::task::block_in_place(|| runtime.block_on(work))
}

async fn read_body(body: Body) -> Result<Bytes, Status> {
    wire::body::read(body, limits::BODY_BYTES).await.map_err(|error| match error {
        wire::body::ReadError::TooLarge { limit_bytes } => Status::new(
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: limit is {limit_bytes}"),
        ),
        wire::body::ReadError::Broken(_) => Status::bad_request(error.to_string()),
    })
}

/// What upstream warns of whoever uses a resource that has a successor.
fn deprecation(kind: &Kind) -> Option<&'static str> {
    match (kind.facts.group, kind.facts.resource) {
        ("", "endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        ("", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

/// The body as JSON.
fn to_json(content_type: &str, body: Bytes) -> Result<Bytes, Unreadable> {
    let read = match negotiate::body_media(content_type).map_err(Unreadable::Refused)? {
        BodyMedia::Json => return Ok(body),
        BodyMedia::Yaml => api::schema::yaml_to_json(&body).map(Bytes::from),
        BodyMedia::Protobuf => match protobuf::open(&body) {
            Ok((meta, message)) => {
                let (group, version) = api::names::split_api_version(&meta.api_version);
                let ty = api::table::types().of_kind(group, version, &meta.kind).ok_or_else(|| {
                    Unreadable::Refused(Status::bad_request(format!(
                        "no kind \"{}\" is registered for version \"{}\"",
                        meta.kind, meta.api_version
                    )))
                })?;
                protobuf::decode(ty, &meta, message).map(|tree| Bytes::from(tree.to_bytes()))
            }
            Err(error) => Err(error),
        },
    };
    read.map_err(|error| Unreadable::Body { why: error.to_string(), summary: api::schema::summary(&body) })
}

/// Why a body cannot be read.
enum Unreadable {
    /// For what it says that it is.
    Refused(Status),
    /// For what is in it.
    Body { why: String, summary: String },
}

impl Unreadable {
    /// What is said of it where an object of `kind` must be.
    fn must_be(self, kind: &str) -> Status {
        match self {
            Self::Refused(status) => status,
            Self::Body { why, summary } => Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): {why} ({summary})"
            )),
        }
    }

    /// What is said of it where options must be.
    fn plain(self) -> Status {
        match self {
            Self::Refused(status) => status,
            Self::Body { why, .. } => Status::bad_request(why),
        }
    }
}

/// The kind of the body of a write: a subresource may have its own.
fn expected_kind<'a>(kind: &'a Kind, subresource: &str) -> &'a str {
    let own = kind.facts.subresource(subresource).map(|facts| facts.kind);
    own.filter(|own| !own.is_empty()).unwrap_or(kind.facts.kind)
}

/// The body of a deletion; none is allowed.
fn options_body(content_type: &str, body: Bytes) -> Result<Option<api::value::Value>, Status> {
    if body.is_empty() {
        return Ok(None);
    }
    let json = to_json(content_type, body).map_err(Unreadable::plain)?;
    api::schema::type_meta(&json).map_err(|error| Status::bad_request(error.to_string()))?;
    api::value::parse(&json).map(Some).map_err(|error| Status::bad_request(error.to_string()))
}

/// The sort of patch, by its media type, and its body as JSON.
fn patch_of(content_type: &str, body: Bytes) -> Result<(PatchKind, Bytes), Status> {
    let name = content_type.split(';').next().unwrap_or_default().trim();
    for how in [PatchKind::Json, PatchKind::Merge, PatchKind::StrategicMerge, PatchKind::Apply] {
        if how.media_type() == name {
            return Ok((how, body));
        }
    }
    let mut status = Status::new(Reason::UnsupportedMediaType, "415: Unsupported Media Type");
    status.details = Some(Box::default());
    Err(status)
}
