//! `cargo xtask bench gate`: the same load on our API server and on upstream's, in one run, measured by what each
//! server's processes spend of the CPU.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base::Clock;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wire::tls::{Presented, Roots, client_config};

use crate::command::{self, command};
use crate::project::Project;

/// How long each measurement lasts.
const MEASURE: Duration = Duration::from_secs(4);
/// How long a server may take to answer first.
const STARTUP: Duration = Duration::from_secs(60);
/// Writers and readers at the same time.
const CLIENTS: usize = 64;
/// Watchers, and changes that each of them sees.
const WATCHERS: usize = 200;
const CHANGES: usize = 100;
/// Pods that lists go over, and those of them that the label selects.
const STORED: usize = 4000;

/// A server under load.
pub struct Peer {
    name: &'static str,
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    token: Option<&'static str>,
    processes: Vec<Child>,
    folder: Option<tempfile::TempDir>,
    tasks: base::Tasks,
}

impl Drop for Peer {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended by itself; either way nothing of it is left.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Runs the whole comparison and returns what is to be recorded.
pub fn compare(project: &Project) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let clock = Clock::system();
    let mut table = String::from(
        "| what | Ondol | per s of its CPU | upstream | per s of its CPU | ratio |\n|---|---|---|---|---|---|\n",
    );
    let ours = runtime.block_on(measure(ondol(project)?, &clock))?;
    let theirs = runtime.block_on(measure(upstream(project)?, &clock))?;
    for ((what, own), (_, peer)) in ours.iter().zip(&theirs) {
        table.push_str(&format!(
            "| {what} | {:.0}/s | {:.0} | {:.0}/s | {:.0} | {:.1} |\n",
            own.rate,
            own.per_cpu_second,
            peer.rate,
            peer.per_cpu_second,
            own.per_cpu_second / peer.per_cpu_second
        ));
    }
    Ok(table)
}

struct Figure {
    rate: f64,
    per_cpu_second: f64,
}

fn ondol(project: &Project) -> Result<Peer> {
    let folder = tempfile::tempdir()?;
    let mut build =
        command("cargo", ["build", "--release", "--locked", "--package", "apiserver", "--example", "serve"]);
    command::run(build.current_dir(project.root()))?;
    let binary = find(&project.root().join("target"), "release/examples/serve")?;
    let process =
        Command::new(binary).arg(folder.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let kubeconfig = wait_for(&folder.path().join("kubeconfig"))?;
    let config: serde_json::Value = serde_json::from_str(&kubeconfig)?;
    let decode = |value: &serde_json::Value| -> Result<String> {
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
    let tls = client_config(
        Roots::new(&decode(&cluster["certificate-authority-data"])?)?,
        Presented::new(&pair)?,
        &[b"http/1.1"],
    )?;
    Ok(Peer {
        name: "Ondol",
        address: server.trim_start_matches("https://").parse()?,
        tls,
        token: None,
        processes: vec![process],
        folder: Some(folder),
        tasks: base::Tasks::new(),
    })
}

fn upstream(project: &Project) -> Result<Peer> {
    let folder = tempfile::tempdir()?;
    let binary = |name: &str| -> Result<PathBuf> { crate::upstream::binary(project, name) };
    let (peer, client, secure) = (free_port()?, free_port()?, free_port()?);
    let quiet = |mut command: Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let etcd = quiet(command(
        binary("etcd")?,
        [
            format!("--data-dir={}", folder.path().join("etcd").display()),
            format!("--listen-client-urls={}", url(client)),
            format!("--advertise-client-urls={}", url(client)),
            format!("--listen-peer-urls={}", url(peer)),
            format!("--initial-advertise-peer-urls={}", url(peer)),
            format!("--initial-cluster=default={}", url(peer)),
        ],
    ))?;
    let mut processes = vec![etcd];
    let tokens = folder.path().join("tokens");
    fs::write(&tokens, "bench,admin,admin,system:masters\n")?;
    let key = folder.path().join("key.pem");
    fs::write(&key, token_key()?)?;
    let path = |path: &Path| path.display().to_string();
    processes.push(quiet(command(
        binary("kube-apiserver")?,
        [
            format!("--etcd-servers={}", url(client)),
            format!("--secure-port={secure}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", path(folder.path())),
            format!("--token-auth-file={}", path(&tokens)),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", path(&key)),
            format!("--service-account-signing-key-file={}", path(&key)),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ],
    ))?);
    let tls = client_config(Roots::any_server(), Presented::none(), &[b"http/1.1"])?;
    Ok(Peer {
        name: "upstream",
        address: SocketAddr::from(([127, 0, 0, 1], secure)),
        tls,
        token: Some("bench"),
        processes,
        folder: Some(folder),
        tasks: base::Tasks::new(),
    })
}

/// A key for upstream's tokens.
fn token_key() -> Result<String> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("key");
    wire::jwt::SigningKey::load_or_create(&path)?;
    Ok(fs::read_to_string(path)?)
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn find(target: &Path, tail: &str) -> Result<PathBuf> {
    let direct = target.join(tail);
    let nested = fs::read_dir(target)?.flatten().map(|entry| entry.path().join(tail));
    nested.chain([direct]).find(|path| path.exists()).with_context(|| format!("{tail} was not built"))
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
    /// A running instance of ours, by what `ondol credential` and `ondol status -o json` say.
    pub fn of_instance(credential: &serde_json::Value, status: &serde_json::Value) -> Result<Self> {
        let text =
            |value: &serde_json::Value| value.as_str().map(str::to_owned).context("a field is missing");
        let given = &credential["status"];
        let pair = wire::tls::KeyPair {
            chain_pem: text(&given["clientCertificateData"])?,
            key_pem: text(&given["clientKeyData"])?,
        };
        let tls = client_config(Roots::any_server(), Presented::new(&pair)?, &[b"http/1.1"])?;
        let server = text(&status["server"])?;
        Ok(Self {
            name: "Ondol",
            address: server.trim_start_matches("https://").parse()?,
            tls,
            token: None,
            processes: Vec::new(),
            folder: None,
            tasks: base::Tasks::new(),
        })
    }

    /// One request on a connection of its own; `Null` is no body.
    pub async fn call(&self, method: &str, path: &str, body: &serde_json::Value) -> Result<u64> {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let mut sender = self.connect().await?;
        self.ask(&mut sender, self.request(method, path, "application/json", body)?).await
    }

    /// A connection.
    pub async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = rustls::pki_types::ServerName::try_from("localhost")?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn("connection", async move {
            // A connection that breaks shows in the request on it.
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// A request as this server wants it.
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

    async fn ask(&self, sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Result<u64> {
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!("{} answered {status}: {}", self.name, String::from_utf8_lossy(&body));
        }
        Ok(body.len() as u64)
    }

    async fn get_ready(&self, clock: &Clock) -> Result<()> {
        let ready = async {
            loop {
                let namespace = "/api/v1/namespaces/default";
                if let Ok(mut sender) = self.connect().await
                    && let Ok(request) = self.request("GET", namespace, "", Bytes::new())
                    && self.ask(&mut sender, request).await.is_ok()
                {
                    return;
                }
                clock.sleep(Duration::from_millis(100)).await;
            }
        };
        clock.timeout(STARTUP, ready).await.with_context(|| format!("{} does not get ready", self.name))
    }

    /// Seconds of CPU that the processes have spent.
    fn spent(&self) -> Result<f64> {
        let mut ticks = 0;
        for process in &self.processes {
            let stat = fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
            let number =
                |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
            ticks += number(11) + number(12);
        }
        Ok(ticks as f64 / 100.0)
    }

    async fn clients(&self, count: usize) -> Result<Vec<SendRequest<Full<Bytes>>>> {
        let mut senders = Vec::with_capacity(count);
        for _ in 0..count {
            senders.push(self.connect().await?);
        }
        Ok(senders)
    }

    /// `count` clients that ask as fast as they are answered; `path` and body are made from a running number.
    async fn load(
        &self,
        clock: &Clock,
        count: usize,
        ask: impl Fn(u64) -> Result<Request<Full<Bytes>>>,
    ) -> Result<Figure> {
        let mut senders = self.clients(count).await?;
        let (number, done) = (AtomicU64::new(0), AtomicU64::new(0));
        let (before, began) = (self.spent()?, clock.monotonic());
        let work = senders.iter_mut().map(async |sender| -> Result<()> {
            while clock.monotonic() - began < MEASURE {
                let request = ask(number.fetch_add(1, Ordering::Relaxed))?;
                self.ask(sender, request).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        for result in futures::future::join_all(work).await {
            result?;
        }
        self.figure(clock, began, before, done.load(Ordering::Relaxed))
    }

    fn figure(&self, clock: &Clock, began: Duration, before: f64, done: u64) -> Result<Figure> {
        let (seconds, cpu) = ((clock.monotonic() - began).as_secs_f64(), self.spent()? - before);
        Ok(Figure { rate: done as f64 / seconds, per_cpu_second: done as f64 / cpu.max(0.01) })
    }
}

/// A pod of the size that real ones have (4.4 KB): one in ten carries the label that lists select.
fn pod(name: &str, number: u64) -> Bytes {
    let group = if number.is_multiple_of(10) { "tenth" } else { "rest" };
    let env: Vec<String> = (0..40)
        .map(|n| format!(r#"{{"name":"VARIABLE_{n:02}","value":"value of the variable number {n:02}"}}"#))
        .collect();
    let text = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","labels":{{"group":"{group}","app":"bench"}},
"annotations":{{"note":"{}"}}}},"spec":{{"containers":[{{"name":"main","image":"registry.example/team/app:v1.2.3",
"env":[{}],"resources":{{"requests":{{"cpu":"100m","memory":"128Mi"}}}}}}]}}}}"#,
        "x".repeat(1200),
        env.join(",")
    );
    Bytes::from(text)
}

async fn measure(peer: Peer, clock: &Clock) -> Result<Vec<(&'static str, Figure)>> {
    let pods = "/api/v1/namespaces/default/pods";
    peer.get_ready(clock).await?;
    let folder = peer.folder.as_ref().map(|folder| folder.path().display().to_string()).unwrap_or_default();
    eprintln!("{} is ready in {folder}", peer.name);
    let mut figures = Vec::new();
    let created = peer
        .load(clock, CLIENTS, |n| {
            peer.request("POST", pods, "application/json", pod(&format!("made-{n}"), 1))
        })
        .await?;
    figures.push(("create a pod object, 64 writers", created));
    let one = format!("{pods}/made-1");
    figures.push((
        "get, 64 readers",
        peer.load(clock, CLIENTS, |_| peer.request("GET", &one, "", Bytes::new())).await?,
    ));

    let stored = "/api/v1/namespaces/kube-system/pods";
    let mut senders = peer.clients(8).await?;
    let fill = senders.iter_mut().enumerate().map(async |(client, sender)| -> Result<()> {
        for n in (client..STORED).step_by(8) {
            let body = pod(&format!("stored-{n}"), n as u64);
            peer.ask(sender, peer.request("POST", stored, "application/json", body)?).await?;
        }
        Ok(())
    });
    for result in futures::future::join_all(fill).await {
        result?;
    }
    let page = format!("{stored}?limit=500");
    figures.push((
        "list with limit 500, gzip",
        peer.load(clock, 8, |_| peer.request("GET", &page, "", Bytes::new())).await?,
    ));
    let labelled = format!("{stored}?labelSelector=group%3Dtenth");
    let listed = peer.load(clock, 8, |_| peer.request("GET", &labelled, "", Bytes::new())).await?;
    figures.push(("list by label, 400 of 4,000, gzip", listed));
    figures.push(("events to 200 watchers, own connections", watch(&peer, clock).await?));
    Ok(figures)
}

/// Status patches that every watcher is told of.
async fn watch(peer: &Peer, clock: &Clock) -> Result<Figure> {
    let namespace = "/api/v1/namespaces/kube-public/pods";
    let mut writer = peer.connect().await?;
    peer.ask(&mut writer, peer.request("POST", namespace, "application/json", pod("watched", 1))?).await?;
    let path = format!("{namespace}?watch=true&fieldSelector=metadata.name%3Dwatched");
    let mut senders = peer.clients(WATCHERS).await?;
    let mut bodies = Vec::new();
    for sender in &mut senders {
        sender.ready().await?;
        let request = peer.request("GET", &path, "", Bytes::new())?;
        bodies.push(sender.send_request(request).await?.into_body());
    }
    let (before, began) = (peer.spent()?, clock.monotonic());
    // The first line tells of the pod as it is.
    let wanted = CHANGES + 1;
    let watching = bodies.into_iter().map(async |mut body| -> Result<()> {
        let mut lines = 0;
        while lines < wanted {
            let frame = body.frame().await.context("a watch ended early")??;
            lines += frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
        }
        Ok(())
    });
    let writing = async {
        for n in 0..CHANGES {
            let patch = format!(r#"{{"status":{{"message":"change number {n}"}}}}"#);
            let target = format!("{namespace}/watched/status");
            let kind = "application/merge-patch+json";
            peer.ask(&mut writer, peer.request("PATCH", &target, kind, Bytes::from(patch))?).await?;
        }
        Ok::<(), anyhow::Error>(())
    };
    let (watched, written) = futures::join!(futures::future::join_all(watching), writing);
    written?;
    for result in watched {
        result?;
    }
    peer.figure(clock, began, before, (WATCHERS * CHANGES) as u64)
}
