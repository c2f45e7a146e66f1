//! Debian's `docker-registry`, `skopeo` and `buildah`, installed on the way if they are lacking.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use base::{Clock, Random};

/// Programs and the packages that have them.
const PACKAGES: [(&str, &str); 4] = [
    ("/usr/bin/docker-registry", "docker-registry"),
    ("/usr/bin/skopeo", "skopeo"),
    ("/usr/bin/buildah", "buildah"),
    ("/usr/sbin/setcap", "libcap2-bin"),
];
/// The registry starts in well under a second; this only bounds a broken one.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// bcrypt of "secret".
const HTPASSWD: &str = "tester:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// Makes sure that the programs are there.
pub fn require() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let missing: Vec<&str> = PACKAGES
            .iter()
            .filter(|(program, _)| !Path::new(program).exists())
            .map(|(_, package)| *package)
            .collect();
        if missing.is_empty() {
            return;
        }
        let install =
            |arguments: &[&str]| Command::new("apt-get").args(arguments).stdout(Stdio::null()).status();
        let _ = install(&["update", "-qq"]);
        let done =
            install(&[&["install", "-y", "-qq", "--no-install-recommends"][..], missing.as_slice()].concat());
        assert!(
            done.is_ok_and(|status| status.success()),
            "these tests need {missing:?}: run \"apt-get install {}\" as root",
            missing.join(" ")
        );
    });
}

/// Runs a program and returns what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A registry on loopback that ends with this value.
pub struct Registry {
    child: Child,
    pub address: String,
    _folder: tempfile::TempDir,
}

impl Registry {
    pub async fn start(with_password: bool) -> Self {
        require();
        let folder = tempfile::tempdir().unwrap();
        // Taken from the kernel and given back; nobody else on this machine gets it at once again.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let auth = match with_password {
            true => {
                std::fs::write(folder.path().join("htpasswd"), HTPASSWD).unwrap();
                format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path("htpasswd"))
            }
            false => String::new(),
        };
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{auth}",
            path("data")
        );
        std::fs::File::create(folder.path().join("config.yml"))
            .unwrap()
            .write_all(config.as_bytes())
            .unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", &path("config.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = format!("127.0.0.1:{port}");
        let clock = Clock::system();
        let started = clock.monotonic();
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(clock.monotonic() - started < START_DEADLINE, "docker-registry does not listen");
            clock.sleep(Duration::from_millis(10)).await;
        }
        Self { child, address, _folder: folder }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Buildah with a storage of its own.
pub struct Buildah {
    folder: tempfile::TempDir,
    options: Vec<String>,
}

/// An image that buildah made, and the tree that it shows for it.
pub struct Truth {
    pub image: String,
    pub tree: PathBuf,
}

impl Buildah {
    pub fn new() -> Self {
        require();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let options = vec![
            "--root".into(),
            path("root"),
            "--runroot".into(),
            path("run"),
            "--storage-driver".into(),
            "vfs".into(),
        ];
        Self { folder, options }
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        let options = self.options.iter().map(String::as_str);
        run("buildah", &options.chain(arguments.iter().copied()).collect::<Vec<_>>())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An image of two layers with all that a layer can have; the second changes the first.
    pub fn image(&self) -> Truth {
        let image = format!("ondt-{}", Random::system().suffix(8));
        let first = self.run(&["from", "scratch"]);
        let tree = self.run(&["mount", &first]);
        shell(
            &tree,
            "mkdir -p bin etc/app usr/share/empty var/cache/old tmp; chmod 1777 tmp; echo one > etc/app/one;
             echo two > etc/app/two; printf tool > bin/tool; chmod 4755 bin/tool; ln bin/tool bin/alias;
             ln -s ../etc/app/one bin/link; ln -s /nowhere/at/all dangling; mkfifo var/pipe; mknod var/null c 1 3;
             chown 1000:2000 etc/app/two; echo cached > var/cache/old/file; head -c 300000 /dev/urandom > usr/share/blob;
             mkdir -p deep/$(printf 'd%.0s' $(seq 120))/$(printf 'e%.0s' $(seq 120));
             cd deep/d*/e*; echo far > $(printf 'f%.0s' $(seq 100)); cd ../../..; touch -d '2001-02-03 04:05:06' etc/app/one;
             setcap cap_net_raw+ep bin/tool",
        );
        self.run(&[
            "config",
            "--entrypoint",
            "[\"/bin/tool\"]",
            "--env",
            "A=b",
            "--workingdir",
            "/etc",
            &first,
        ]);
        self.run(&["commit", "-q", &first, "base"]);
        let second = self.run(&["from", "--pull-never", "base"]);
        let tree = self.run(&["mount", &second]);
        shell(
            &tree,
            "rm etc/app/one; rm -r var/cache/old; mkdir var/cache/old; echo new > var/cache/old/other;
             rm -r usr/share/empty; echo file > usr/share/empty; echo changed >> etc/app/two; rm dangling",
        );
        self.run(&["commit", "-q", &second, &image]);
        let shown = self.run(&["from", "--pull-never", &image]);
        let tree = PathBuf::from(self.run(&["mount", &shown]));
        Truth { image, tree }
    }
}

fn shell(folder: &str, script: &str) {
    run("sh", &["-euc", &format!("cd {folder}\n{script}")]);
}
