//! Upstream Kubernetes, built from its published Go modules: the kubectl of the tests, the oracle, the peer of the
//! benchmarks. What is built is pinned by `xtask/upstream/go.mod` and `go.sum`, and kept in the cache.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{self, command};
use crate::project::Project;

/// What is built.
const VERSION: &str = "v1.37.2";
/// Go of at least this minor version compiles it.
const GO_MINOR: u32 = 26;
/// Names of binaries and the packages that they are made of.
const BINARIES: [(&str, &str); 5] = [
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
];

/// What `cargo xtask upstream` is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these binaries; all of them if none is named.
    names: Vec<String>,
}

/// A kubectl and where it comes from.
pub struct Kubectl {
    /// The binary.
    pub path: PathBuf,
    /// In words, for the report of a test run.
    pub origin: String,
}

/// Builds the binaries.
pub fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    let known: Vec<&str> = BINARIES.iter().map(|(name, _)| *name).collect();
    for name in &arguments.names {
        if !known.contains(&name.as_str()) {
            bail!("there is no upstream binary \"{name}\" here; there are {}", known.join(", "));
        }
    }
    let go = go().with_context(|| format!("building upstream takes Go 1.{GO_MINOR} or later"))?;
    for name in known {
        if arguments.names.is_empty() || arguments.names.iter().any(|wanted| wanted == name) {
            println!("{}", build(project, &go, name)?.display());
        }
    }
    Ok(())
}

/// The kubectl to test with: built once when Go is there, else the machine's own.
pub fn kubectl(project: &Project) -> Result<Kubectl> {
    let cached = cached(project, "kubectl");
    if is_pinned(&cached) {
        return Ok(Kubectl {
            path: cached,
            origin: format!("kubectl {VERSION}, built from Go modules earlier"),
        });
    }
    let own = ["/usr/local/bin/kubectl", "/usr/bin/kubectl"].iter().map(Path::new).find(|path| path.exists());
    if let Some(path) = own.filter(|path| is_pinned(path)) {
        let origin = format!("kubectl {VERSION}, the machine's own {}", path.display());
        return Ok(Kubectl { path: path.to_owned(), origin });
    }
    match (go(), own) {
        (Ok(go), _) => {
            let path = build(project, &go, "kubectl")?;
            Ok(Kubectl { path, origin: format!("kubectl {VERSION}, built from Go modules now") })
        }
        (Err(why), Some(path)) => {
            let version = version(path).context("the machine's own kubectl does not run")?;
            let origin = format!(
                "kubectl {version}, the machine's own {} ({VERSION} was not built: {why})",
                path.display()
            );
            Ok(Kubectl { path: path.to_owned(), origin })
        }
        (Err(why), None) => {
            bail!(
                "no kubectl: {why}, and none is installed. Install Go 1.{GO_MINOR}, or kubectl as /usr/local/bin/kubectl"
            )
        }
    }
}

/// Where built binaries are kept.
pub fn folder(project: &Project) -> PathBuf {
    project.cache().join("upstream").join(VERSION)
}

fn cached(project: &Project, name: &str) -> PathBuf {
    folder(project).join(name)
}

fn is_pinned(kubectl: &Path) -> bool {
    kubectl.exists() && version(kubectl).is_ok_and(|version| version == VERSION)
}

fn version(kubectl: &Path) -> Result<String> {
    let printed = command::read(&mut command(kubectl, ["version", "--client", "-o", "json"]))?;
    let printed: serde_json::Value = serde_json::from_str(&printed).context("kubectl prints no JSON")?;
    let version = printed["clientVersion"]["gitVersion"].as_str();
    Ok(version.context("kubectl tells no version")?.to_owned())
}

/// A Go that is new enough.
fn go() -> Result<PathBuf> {
    let candidates =
        [PathBuf::from("/usr/local/go/bin/go"), PathBuf::from("/usr/bin/go"), PathBuf::from("go")];
    for go in candidates {
        let Ok(version) = command::read(command(&go, ["env", "GOVERSION"]).env("GOTOOLCHAIN", "local"))
        else {
            continue;
        };
        let minor =
            version.strip_prefix("go1.").and_then(|rest| rest.split(['.', 'r', '-']).next()?.parse().ok());
        if minor.is_some_and(|minor: u32| minor >= GO_MINOR) {
            return Ok(go);
        }
    }
    bail!("there is no Go 1.{GO_MINOR} or later")
}

/// A binary of upstream's, built if the cache has none.
pub fn binary(project: &Project, name: &str) -> Result<PathBuf> {
    let kept = folder(project).join(name);
    if kept.exists() { Ok(kept) } else { build(project, &go()?, name) }
}

/// The sources of Kubernetes, as Go's module cache keeps them: read-only.
pub fn kubernetes(project: &Project) -> Result<PathBuf> {
    let module = module(project)?;
    let mut download = command(go()?, ["mod", "download", "-json", "k8s.io/kubernetes"]);
    let told = command::read(download.current_dir(module).env("GOTOOLCHAIN", "local").env("GOFLAGS", ""))?;
    let told: serde_json::Value = serde_json::from_str(&told).context("go mod download tells no JSON")?;
    Ok(told["Dir"].as_str().context("go mod download tells no folder")?.into())
}

/// The module that pins all versions, where Go may work in it.
fn module(project: &Project) -> Result<PathBuf> {
    let module = project.cache().join("upstream").join("module");
    fs::create_dir_all(&module)?;
    for file in ["go.mod", "go.sum", "tools.go"] {
        let source = project.root().join("xtask/upstream").join(file);
        fs::copy(&source, module.join(file)).with_context(|| format!("copying {}", source.display()))?;
    }
    Ok(module)
}

/// Builds a binary unless the cache has it.
fn build(project: &Project, go: &Path, name: &str) -> Result<PathBuf> {
    let binary = cached(project, name);
    if binary.exists() {
        return Ok(binary);
    }
    let (_, package) = BINARIES.iter().find(|(other, _)| *other == name).context("an unknown binary")?;
    let module = module(project)?;
    fs::create_dir_all(binary.parent().context("the cache has a folder")?)?;
    let stamp = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {stamp}.gitVersion={VERSION} -X {stamp}.gitMajor=1 -X {stamp}.gitMinor=37 \
         -X {stamp}.gitTreeState=clean"
    );
    // Built beside its place and renamed, so that an interrupted build is never taken for a binary.
    let unfinished = binary.with_extension("unfinished");
    let mut build: Command = command(go, ["build", "-mod=readonly", "-trimpath", "-ldflags", &flags, "-o"]);
    build.arg(&unfinished).arg(package).current_dir(&module);
    command::run(build.env("GOTOOLCHAIN", "local").env("GOFLAGS", "").env("CGO_ENABLED", "0"))?;
    fs::rename(&unfinished, &binary)?;
    Ok(binary)
}

/// An etcd in a folder of its own, for clients at one port of the loopback; its peers would come to the other.
pub fn etcd(binary: &Path, folder: &Path, client: u16, peer: u16) -> Command {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    command(
        binary,
        [
            format!("--data-dir={}", folder.display()),
            format!("--listen-client-urls={}", url(client)),
            format!("--advertise-client-urls={}", url(client)),
            format!("--listen-peer-urls={}", url(peer)),
            format!("--initial-advertise-peer-urls={}", url(peer)),
            format!("--initial-cluster=default={}", url(peer)),
            "--log-level=error".to_owned(),
        ],
    )
}

/// Ports of the loopback that nobody listens on.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    // All are held until all are known, so that none comes twice.
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0"));
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}
