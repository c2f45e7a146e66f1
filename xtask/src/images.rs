//! `cargo xtask images`: test images from Debian packages, packed by the shipping layer writer.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base::{Clock, Random};
use image::document::{ImageConfig, Platform};
use image::{Reference, Store, layer};
use sha2::{Digest as _, Sha256};

use crate::command::{self, command};
use crate::project::Project;

/// Which versions with which contents the images are made of, written by `--update`.
const PINS: &str = "xtask/upstream/packages.txt";
/// Names of images, the package of each, and what a container of it runs.
const IMAGES: [(&str, &str, &str); 3] = [
    ("ondol.local/test/busybox:1", "busybox-static", "/bin/sh"),
    ("ondol.local/test/curl:1", "curl", "/usr/bin/curl"),
    ("ondol.local/test/tar:1", "tar", "/bin/tar"),
];
/// Applets of busybox that get names of their own in its image.
const APPLETS: [&str; 24] = [
    "sh", "cat", "ls", "echo", "sleep", "wget", "nc", "id", "env", "mount", "ps", "kill", "grep", "head",
    "tail", "nslookup", "true", "false", "test", "touch", "mkdir", "rm", "tar", "hostname",
];

/// What `cargo xtask images` is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// Takes what apt offers now, and writes its versions and digests down as the new pins.
    #[arg(long)]
    update: bool,
}

/// A package file.
struct Package {
    name: String,
    version: String,
    digest: String,
    path: PathBuf,
}

/// Packs the images.
pub fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    let folder = project.target().join("images");
    let packages = folder.join("packages");
    fs::create_dir_all(&packages)?;
    let pins = if arguments.update { BTreeMap::new() } else { read_pins(project)? };
    let mut found = BTreeMap::new();
    let mut closures = Vec::new();
    for (_, package, _) in IMAGES {
        let closure = closure(package)?;
        for name in &closure {
            if !found.contains_key(name) {
                found.insert(name.clone(), fetch(&packages, name, &pins, arguments.update)?);
            }
        }
        closures.push(closure);
    }
    if arguments.update {
        let lines = found
            .values()
            .map(|Package { name, version, digest, .. }| format!("{name} {version} {digest}\n"));
        fs::write(project.root().join(PINS), lines.collect::<String>())?;
    }
    let scratch = folder.join("store");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    let store = Store::open(&scratch, Clock::system(), Random::system())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for ((name, _, program), closure) in IMAGES.into_iter().zip(&closures) {
        let paths: Vec<&Path> = closure.iter().map(|package| found[package].path.as_path()).collect();
        let archive = folder.join(format!("{}.tar", file_name(name)));
        runtime.block_on(pack(&store, name, program, &paths, &archive))?;
        println!("{name} {}", archive.display());
    }
    drop(store);
    fs::remove_dir_all(&scratch)?;
    Ok(())
}

/// `ondol.local/test/busybox:1` is packed as `busybox`.
fn file_name(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split(':').next().unwrap_or(last)
}

/// The package and all that it needs to run, by name.
fn closure(package: &str) -> Result<Vec<String>> {
    let options =
        ["--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces"];
    let enhances = ["--no-enhances", "--no-pre-depends"];
    let mut query = command("apt-cache", ["depends"]);
    let printed = command::read(query.args(options).args(enhances).arg(package))?;
    // Unindented lines are packages; in angle brackets, virtual ones, which somebody else in the list provides. What
    // only serves installing is left out: nothing is installed here.
    let needless = ["debconf", "debconf-2.0", "dpkg", "perl-base", "cdebconf", "debianutils"];
    let mut names: Vec<String> = printed
        .lines()
        .filter(|line| !line.starts_with([' ', '<', '|']) && !needless.contains(line))
        .map(|line| line.split(':').next().unwrap_or(line).to_owned())
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        bail!("apt knows no package {package}; run \"apt-get update\"");
    }
    Ok(names)
}

fn read_pins(project: &Project) -> Result<BTreeMap<String, (String, String)>> {
    let path = project.root().join(PINS);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let pins = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), (words.next()?.to_owned(), words.next()?.to_owned())))
    });
    Ok(pins.collect())
}

/// Downloads a package of the pinned version, and checks its digest.
fn fetch(
    folder: &Path,
    name: &str,
    pins: &BTreeMap<String, (String, String)>,
    update: bool,
) -> Result<Package> {
    let version = match pins.get(name) {
        Some((version, _)) => version.clone(),
        None if update => candidate(name)?,
        None => {
            bail!("{name} has no pin in {PINS}; run \"cargo xtask images --update\" and look at what changes")
        }
    };
    let escaped = version.replace(':', "%3a");
    let is_it = |path: &Path| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        file.starts_with(&format!("{name}_{escaped}_")) && file.ends_with(".deb")
    };
    let find = || -> Result<Option<PathBuf>> {
        let files = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        Ok(files.into_iter().map(|file| file.path()).find(|path| is_it(path)))
    };
    if find()?.is_none() {
        let wanted = format!("{name}={version}");
        // apt drops its rights for downloads, and then cannot write into root's folders.
        let options = ["-o", "APT::Sandbox::User=root", "-qq", "download", &wanted];
        command::run(command("apt-get", options).current_dir(folder)).with_context(|| {
            format!("{wanted} is not offered (any more); run \"apt-get update\", or \"cargo xtask images --update\"")
        })?;
    }
    let path = find()?.with_context(|| format!("apt-get has downloaded no {name} {version}"))?;
    let digest =
        Sha256::digest(fs::read(&path)?).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if let Some((_, expected)) = pins.get(name).filter(|(_, expected)| *expected != digest) {
        bail!("{} has the SHA-256 digest {digest}, but {PINS} says {expected}", path.display());
    }
    Ok(Package { name: name.to_owned(), version, digest, path })
}

fn candidate(name: &str) -> Result<String> {
    let policy = command::read(&mut command("apt-cache", ["policy", name]))?;
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(line.with_context(|| format!("apt offers no {name}"))?.to_owned())
}

/// Makes one image: a layer of all packages, bottom first, and its configuration.
async fn pack(store: &Store, name: &str, program: &str, packages: &[&Path], archive: &Path) -> Result<()> {
    let reference: Reference = name.parse()?;
    let packed = store.write_layer(layer::Compression::Zstd, |writer| {
        // Debian's packages put files under these names; on a merged system they are links.
        for (link, target) in
            [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
        {
            writer.symlink(link, target)?;
        }
        for folder in
            ["etc", "proc", "sys", "dev", "tmp", "usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"]
        {
            writer.directory(folder, if folder == "tmp" { 0o1777 } else { 0o755 })?;
        }
        for package in packages {
            append(writer, package)?;
        }
        if program == "/bin/sh" {
            for applet in APPLETS {
                writer.symlink(&format!("usr/bin/{applet}"), "busybox")?;
            }
        }
        writer.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
        writer.file("etc/group", 0o644, b"root:x:0:\n")
    })?;
    let config = ImageConfig {
        cmd: vec![program.to_owned()],
        env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        platform: Platform::here(),
        ..ImageConfig::default()
    };
    store.build(&reference, &config, &[packed]).await?;
    let file = store.save(&[name.to_owned()], File::create(archive)?).await?;
    file.sync_all()?;
    Ok(())
}

/// Appends what a package would install, without documentation and the folders that are there already.
fn append(writer: &mut layer::Writer<image::store::Ingest>, package: &Path) -> io::Result<()> {
    let output = command("dpkg-deb", ["--fsys-tarfile"]).arg(package).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("dpkg-deb cannot read {}", package.display())));
    }
    let archive = output.stdout.as_slice();
    let done = writer.archive(archive, |mut entry| {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        let path = path.trim_start_matches("./").trim_end_matches('/');
        let documentation =
            ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian"];
        let is_directory = entry.kind == image::archive::Kind::Directory;
        if path.is_empty() || is_directory || documentation.iter().any(|prefix| path.starts_with(prefix)) {
            return None;
        }
        entry.path = merged(path).into_bytes();
        if entry.kind == image::archive::Kind::HardLink {
            let link = String::from_utf8_lossy(&entry.link).into_owned();
            entry.link = merged(link.trim_start_matches("./")).into_bytes();
        }
        Some(entry)
    });
    done.map_err(io::Error::other)
}

/// Where a file lies on a system whose `/bin`, `/sbin` and `/lib` are links into `/usr`.
fn merged(path: &str) -> String {
    let first = path.split('/').next().unwrap_or(path);
    if ["bin", "sbin", "lib", "lib64"].contains(&first) { format!("usr/{path}") } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_move_into_usr_as_debian_merges_them() {
        assert_eq!(merged("bin/busybox"), "usr/bin/busybox");
        assert_eq!(merged("usr/bin/curl"), "usr/bin/curl");
        assert_eq!(merged("library/x"), "library/x");
        assert_eq!(file_name("ondol.local/test/busybox:1"), "busybox");
    }
}
