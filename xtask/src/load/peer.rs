//! Servers under load: how they are started, what they answer, and what they spend.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base::Clock;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wire::tls::{Authority, Leaf, Presented, Roots, Usage, client_config};

use crate::command::{self, command};
use crate::project::Project;

/// How long a server may take to answer first.
const STARTUP: Duration = Duration::from_secs(60);
/// Flow-control windows of a multiplexing client, those of Go's.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024 * 1024;
/// How long upstream's key for tokens holds.
const TOKEN_KEY_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// What `/proc/PID/stat` counts in.
const TICKS_A_SECOND: f64 = 100.0;

/// A connection of one request at a time.
pub type Single = http1::SendRequest<Full<Bytes>>;
/// A connection of many requests at once.
pub type Multiplexed = http2::SendRequest<Full<Bytes>>;

/// A server under load.
pub struct Peer {
    /// Whose it is.
    pub name: &'static str,
    address: SocketAddr,
    http1: Arc<rustls::ClientConfig>,
    http2: Arc<rustls::ClientConfig>,
    token: Option<&'static str>,
    processes: Processes,
    tasks: base::Tasks,
}

/// Processes with the folder that they work in; both go with this value.
#[derive(Default)]
pub struct Processes {
    running: Vec<Child>,
    folder: Option<tempfile::TempDir>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in &mut self.running {
            // It may have ended by itself; either way nothing of it is left.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Processes {
    /// Seconds of CPU that they have spent.
    pub fn spent(&self) -> Result<f64> {
        let mut ticks = 0;
        for process in &self.running {
            let stat = fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
            let number =
                |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
            ticks += number(11) + number(12);
        }
        Ok(ticks as f64 / TICKS_A_SECOND)
    }
}

/// Builds a binary or example of a package in release; returns where cargo put it.
pub fn built(project: &Project, package: &str, what: &[&str]) -> Result<PathBuf> {
    let mut build = command("cargo", ["build", "--release", "--locked", "--package", package]);
    build.args(what).arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let printed = command::read(build.current_dir(project.root()))?;
    printed
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .with_context(|| format!("cargo names no executable of {package}"))
}

fn quiet(mut command: Command) -> Result<Child> {
    let shown = command::shown(&command);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().with_context(|| format!("starting {shown}"))
}

/// Our gate alone with its store: what upstream's API server and etcd are together.
pub fn ondol(project: &Project) -> Result<Peer> {
    let folder = tempfile::tempdir()?;
    let binary = built(project, "apiserver", &["--example", "serve"])?;
    let process = quiet(command(binary, [folder.path()]))?;
    let kubeconfig = wait_for(&folder.path().join("kubeconfig"))?;
    let config: Value = serde_json::from_str(&kubeconfig)?;
    let decode = |value: &Value| -> Result<String> {
        use base64::Engine;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(value.as_str().context("the kubeconfig lacks a field")?)?;
        Ok(String::from_utf8(bytes)?)
    };
    let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
    let server = cluster["server"].as_str().context("the kubeconfig names no server")?;
    let pair = wire::tls::KeyPair {
        chain_pem: decode(&user["client-certificate-data"])?,
        key_pem: decode(&user["client-key-data"])?,
    };
    let roots = Roots::new(&decode(&cluster["certificate-authority-data"])?)?;
    let processes = Processes { running: vec![process], folder: Some(folder) };
    Peer::new("Ondol", server, roots, Presented::new(&pair)?, None, processes)
}

/// An etcd, alone in a folder; returns where clients reach it.
pub fn etcd(project: &Project) -> Result<(Processes, SocketAddr)> {
    let folder = tempfile::tempdir()?;
    let [peer, client] = crate::upstream::free_ports()?;
    let binary = crate::upstream::binary(project, "etcd")?;
    let process = quiet(crate::upstream::etcd(&binary, &folder.path().join("etcd"), client, peer))?;
    let address = SocketAddr::from(([127, 0, 0, 1], client));
    Ok((Processes { running: vec![process], folder: Some(folder) }, address))
}

/// Upstream's API server on an etcd of its own.
pub fn upstream(project: &Project) -> Result<Peer> {
    let (mut processes, store) = etcd(project)?;
    let [secure] = crate::upstream::free_ports()?;
    let folder = processes.folder.as_ref().context("etcd has a folder")?.path().to_owned();
    let tokens = folder.join("tokens");
    fs::write(&tokens, "bench,admin,admin,system:masters\n")?;
    let (key, certificate) = token_key(&folder)?;
    let path = |path: &Path| path.display().to_string();
    processes.running.push(quiet(command(
        crate::upstream::binary(project, "kube-apiserver")?,
        [
            format!("--etcd-servers=http://{store}"),
            format!("--secure-port={secure}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", path(&folder)),
            format!("--token-auth-file={}", path(&tokens)),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", path(&certificate)),
            format!("--service-account-signing-key-file={}", path(&key)),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        ],
    ))?);
    let server = format!("https://127.0.0.1:{secure}");
    Peer::new("upstream", &server, Roots::any_server(), Presented::none(), Some("bench"), processes)
}

/// A key for the tokens of upstream's accounts, and what verifies them: upstream reads a certificate there, but not
/// the public half of a key in PKCS#8.
fn token_key(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let now = Clock::system().now();
    let leaf = Leaf {
        common_name: "tokens".into(),
        organizations: Vec::new(),
        dns_names: Vec::new(),
        ips: Vec::new(),
        usages: vec![Usage::Client],
        lifetime: TOKEN_KEY_LIFETIME,
    };
    let pair = Authority::create("tokens", now)?.issue(&leaf, now)?;
    let (key, certificate) = (folder.join("tokens-key.pem"), folder.join("tokens.pem"));
    fs::write(&key, pair.key_pem)?;
    fs::write(&certificate, pair.chain_pem)?;
    Ok((key, certificate))
}

fn wait_for(path: &Path) -> Result<String> {
    for _ in 0..600 {
        if let Ok(text) = fs::read_to_string(path)
            && !text.is_empty()
        {
            return Ok(text);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("{} does not appear", path.display())
}

impl Peer {
    fn new(
        name: &'static str,
        server: &str,
        roots: Arc<Roots>,
        presented: Arc<Presented>,
        token: Option<&'static str>,
        processes: Processes,
    ) -> Result<Self> {
        Ok(Self {
            name,
            address: server.trim_start_matches("https://").parse()?,
            http1: client_config(Arc::clone(&roots), Arc::clone(&presented), &[b"http/1.1"])?,
            http2: client_config(roots, presented, &[b"h2"])?,
            token,
            processes,
            tasks: base::Tasks::new(),
        })
    }

    /// A running instance of ours, by what `ondol credential` and `ondol status -o json` say.
    pub fn of_instance(credential: &Value, status: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a field is missing");
        let given = &credential["status"];
        let pair = wire::tls::KeyPair {
            chain_pem: text(&given["clientCertificateData"])?,
            key_pem: text(&given["clientKeyData"])?,
        };
        let presented = Presented::new(&pair)?;
        Self::new(
            "Ondol",
            &text(&status["server"])?,
            Roots::any_server(),
            presented,
            None,
            Processes::default(),
        )
    }

    /// Its processes.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// One request on a connection of its own; `Null` is no body.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> Result<u64> {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let mut sender = self.connect().await?;
        self.ask(&mut sender, self.request(method, path, "application/json", body)?).await
    }

    /// A connection of one request at a time.
    pub async fn connect(&self) -> Result<Single> {
        let stream = self.dial(&self.http1).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn("connection", async move {
            // A connection that breaks shows in the request on it.
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// A connection of many requests at once.
    pub async fn connect_multiplexed(&self) -> Result<Multiplexed> {
        multiplexed(self.dial_multiplexed().await?, &self.tasks).await
    }

    /// A stream on which HTTP/2 is spoken.
    pub async fn dial_multiplexed(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
        self.dial(&self.http2).await
    }

    async fn dial(
        &self,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = rustls::pki_types::ServerName::try_from("localhost")?;
        Ok(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?)
    }

    /// A request as this server wants it. It asks for gzip, as client-go does.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        content: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if let Some(token) = self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if !body.is_empty() {
            request = request.header("content-type", content);
        }
        Ok(request.header("accept-encoding", "gzip").body(Full::new(body))?)
    }

    /// Sends a request and reads its answer whole; an answer that is no success is an error.
    pub async fn ask(&self, sender: &mut Single, request: Request<Full<Bytes>>) -> Result<u64> {
        sender.ready().await?;
        self.read(sender.send_request(request).await?).await
    }

    async fn read(&self, response: http::Response<hyper::body::Incoming>) -> Result<u64> {
        let status = response.status();
        let mut body = response.into_body();
        let (mut bytes, mut complaint) = (0, Vec::new());
        while let Some(frame) = body.frame().await {
            let frame = frame?;
            let data = frame.data_ref().map_or(&[][..], |data| data.as_ref());
            bytes += data.len() as u64;
            if !status.is_success() {
                complaint.extend_from_slice(data);
            }
        }
        if !status.is_success() {
            bail!("{} answered {status}: {}", self.name, String::from_utf8_lossy(&complaint));
        }
        Ok(bytes)
    }

    /// Returns when the server answers.
    pub async fn get_ready(&self, clock: &Clock) -> Result<()> {
        let ready = async {
            while self.call("GET", "/api/v1/namespaces/default", &Value::Null).await.is_err() {
                clock.sleep(Duration::from_millis(100)).await;
            }
        };
        clock.timeout(STARTUP, ready).await.with_context(|| format!("{} does not get ready", self.name))?;
        // Upstream's ServiceAccounts come from its controllers, which do not run here.
        for namespace in ["default", "kube-system", "kube-public"] {
            let account =
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
            let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
            let made = async {
                loop {
                    match self.call("POST", &path, &account).await {
                        Ok(_) => return Ok(()),
                        Err(error) if error.to_string().contains("AlreadyExists") => return Ok(()),
                        // The namespaces come a moment after the first answer.
                        Err(error) if error.to_string().contains("NotFound") => {
                            clock.sleep(Duration::from_millis(100)).await;
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            clock.timeout(STARTUP, made).await.context("the first namespaces do not come")??;
        }
        Ok(())
    }
}

/// A request with the whole address, as HTTP/2 wants it.
pub fn absolute(mut request: Request<Full<Bytes>>) -> Result<Request<Full<Bytes>>> {
    *request.uri_mut() = format!("https://localhost{}", request.uri()).parse()?;
    request.headers_mut().remove("host");
    Ok(request)
}

/// HTTP/2 on a stream.
pub async fn multiplexed(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    tasks: &base::Tasks,
) -> Result<Multiplexed> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .handshake(TokioIo::new(stream))
        .await?;
    tasks.spawn("connection", async move {
        // As above.
        let _ = connection.await;
    });
    Ok(sender)
}
