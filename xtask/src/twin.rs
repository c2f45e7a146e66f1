//! `cargo xtask twin`: sends the requests of `crates/apiserver/tests/twin` to a real kube-apiserver, records its
//! answers beside them, and runs the test that compares our gate with them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::{self, command};
use crate::project::Project;

#[path = "../../crates/apiserver/tests/twin/exchange.rs"]
mod exchange;

use exchange::{Answer, HEADERS, Kept, Request, USERS};

/// How often a starting server is asked, and how long between.
const READY_TRIES: u32 = 300;
const READY_PAUSE: Duration = Duration::from_millis(200);

/// What `cargo xtask twin` is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder with upstream's etcd and kube-apiserver; by default where `cargo xtask upstream` puts them.
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Records only, compares nothing.
    #[arg(long)]
    record: bool,
}

/// Records upstream's answers and compares ours with them.
pub fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    let binaries = match &arguments.binaries {
        Some(folder) => folder.clone(),
        None => crate::upstream::folder(project),
    };
    for name in ["etcd", "kube-apiserver"] {
        if !binaries.join(name).exists() {
            bail!(
                "there is no {name} in {}; run cargo xtask upstream, or name --binaries",
                binaries.display()
            );
        }
    }
    record(project, &binaries)?;
    if arguments.record {
        return Ok(());
    }
    let arguments = ["test", "--locked", "--package", "apiserver", "--test", "twin", "--", "--nocapture"];
    command::run(command("cargo", arguments).current_dir(project.root()))
}

fn record(project: &Project, binaries: &Path) -> Result<()> {
    let folder = project.root().join("crates/apiserver/tests/twin");
    let scratch = project.target().join(format!("twin-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let upstream = Upstream::start(binaries, &scratch)?;
    let mut kept = Kept::default();
    let answers = folder.join("answers");
    fs::create_dir_all(&answers)?;
    let mut count = 0;
    for file in exchange::files(&folder.join("requests")) {
        let name = file.file_stem().context("a file has a name")?.to_string_lossy().into_owned();
        let mut lines = String::new();
        for request in exchange::parse(&name, &fs::read_to_string(&file)?) {
            let answer = upstream.send(&kept.fill(&request), |body| kept.keep(&request, body))?;
            if request.upstream_only {
                continue;
            }
            let line = serde_json::json!({
                "request": request.name, "code": answer.code, "headers": answer.headers, "body": answer.body
            });
            lines.push_str(&format!("{line}\n"));
            count += 1;
        }
        fs::write(answers.join(format!("{name}.jsonl")), lines)?;
    }
    drop(upstream);
    fs::remove_dir_all(&scratch)?;
    println!("{count} answers of upstream recorded in {}", answers.display());
    Ok(())
}

/// A running etcd and kube-apiserver; dropping it ends them.
struct Upstream {
    processes: Vec<Child>,
    base: String,
    scratch: PathBuf,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            // A process that is already gone needs no ending.
            let _gone = process.kill();
            let _status = process.wait();
        }
    }
}

impl Upstream {
    fn start(binaries: &Path, scratch: &Path) -> Result<Self> {
        let [client, peer, secure] = crate::upstream::free_ports()?;
        let mut upstream = Self {
            processes: Vec::new(),
            base: format!("https://127.0.0.1:{secure}"),
            scratch: scratch.to_owned(),
        };
        let etcd = format!("http://127.0.0.1:{client}");
        upstream.spawn(crate::upstream::etcd(&binaries.join("etcd"), &scratch.join("etcd"), client, peer))?;
        let key = scratch.join("accounts.key");
        command::read(&mut command("openssl", ["genrsa", "-out", &key.to_string_lossy(), "2048"]))?;
        let lines =
            USERS.iter().map(|(name, groups)| format!("{},{name},,\"{}\"\n", token(name), groups.join(",")));
        let tokens = scratch.join("tokens.csv");
        fs::write(&tokens, lines.collect::<String>())?;
        let key = key.display();
        upstream.spawn(command(
            binaries.join("kube-apiserver"),
            [
                format!("--etcd-servers={etcd}"),
                format!("--cert-dir={}", scratch.join("certificates").display()),
                format!("--secure-port={secure}"),
                "--bind-address=127.0.0.1".to_owned(),
                "--advertise-address=127.0.0.1".to_owned(),
                "--endpoint-reconciler-type=none".to_owned(),
                "--service-cluster-ip-range=10.0.0.0/16".to_owned(),
                format!("--token-auth-file={}", tokens.display()),
                format!("--service-account-key-file={key}"),
                format!("--service-account-signing-key-file={key}"),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                "--authorization-mode=Node,RBAC".to_owned(),
                "--enable-admission-plugins=NodeRestriction".to_owned(),
                "--v=0".to_owned(),
            ],
        ))?;
        for _ in 0..READY_TRIES {
            let ready = upstream.curl("GET", "/readyz", "admin").output().context("curl is not installed")?;
            if ready.stdout.ends_with(b"ok") {
                return Ok(upstream);
            }
            thread::sleep(READY_PAUSE);
        }
        let log = fs::read_to_string(scratch.join("kube-apiserver.log")).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(20).collect();
        bail!("upstream's kube-apiserver does not get ready:\n{}", last.join("\n"))
    }

    fn spawn(&mut self, mut command: Command) -> Result<()> {
        let name = Path::new(command.get_program()).file_name().context("a program has a name")?;
        let log = fs::File::create(self.scratch.join(name).with_extension("log"))?;
        let shown = command::shown(&command);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        self.processes.push(child.with_context(|| format!("cannot run {shown}"))?);
        Ok(())
    }

    fn curl(&self, method: &str, path: &str, user: &str) -> Command {
        let url = format!("{}{path}", self.base);
        let mut curl =
            command("curl", ["--silent", "--insecure", "--include", "--http1.1", "--globoff", "--request"]);
        curl.args([method, url.as_str(), "--header", "expect:"]);
        if method == "HEAD" {
            curl.arg("--head");
        }
        if user != "nobody" {
            curl.args(["--header", &format!("authorization: Bearer {}", token(user))]);
        }
        curl
    }

    fn send(&self, request: &Request, show: impl FnOnce(&[u8])) -> Result<Answer> {
        let mut curl = self.curl(&request.method, &request.path, &request.user);
        for (name, value) in &request.headers {
            curl.args(["--header", &format!("{name}: {value}")]);
        }
        if !request.body.is_empty() {
            curl.args(["--data-binary", "@-"]);
        }
        let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        // A server that refuses a body by its length does not read it all.
        let mut input = child.stdin.take().context("the input was asked for")?;
        let _cut = input.write_all(request.body.as_bytes());
        drop(input);
        let output = child.wait_with_output()?.stdout;
        let end = output.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let end = end.with_context(|| format!("no answer to {}", request.name))?;
        let head = String::from_utf8_lossy(&output[..end]).into_owned();
        let code =
            head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("an answer has a code")?;
        let body = &output[end + 4..];
        show(body);
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
            let name = name.to_lowercase();
            if HEADERS.contains(&name.as_str()) {
                headers
                    .entry(name)
                    .and_modify(|all| *all = format!("{all}, {value}"))
                    .or_insert_with(|| value.to_owned());
            }
        }
        Ok(Answer::new(code, headers, body))
    }
}

fn token(user: &str) -> String {
    format!("twin-{}", user.replace(':', "-"))
}
