//! Builds the freestanding program of the carried images, which is embedded by `carried`.
#![expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let program = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("../../programs/echo");
    let out = PathBuf::from(variable("OUT_DIR"));
    for input in ["src", "build.rs", "Cargo.toml", "Cargo.lock", ".cargo/config.toml"] {
        println!("cargo:rerun-if-changed={}", program.join(input).display());
    }
    let target = variable("TARGET");
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .current_dir(&program)
        .args(["build", "--release", "--locked", "--offline", "--quiet", "--target", &target, "--target-dir"])
        .arg(out.join("echo-target"));
    // What the outer build sets (flags, wrappers, profiles) is not for a program with settings of its own.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let outer = text.starts_with("CARGO") && text != "CARGO_HOME";
        if outer || (text.starts_with("RUST") && !text.starts_with("RUSTUP")) {
            cargo.env_remove(&name);
        }
    }
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => {
            panic!("building {} failed ({status}); run cargo build there to see why", program.display())
        }
        Err(error) => panic!("cargo could not be run: {error}"),
    }
    let built = out.join("echo-target").join(&target).join("release/echo");
    std::fs::copy(&built, out.join("echo")).unwrap_or_else(|error| panic!("{}: {error}", built.display()));
}
