//! Builds the pod process, which `launch` embeds.
//!
//! It is a program with a profile of its own: small, static and not position independent, so that no page of it is
//! dirtied by relocations when it starts. Cargo cannot express that for a dependency, so it is built by a nested
//! cargo in a target directory of its own, with none of this build's variables.

#![expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Variables of this build that would change the nested one.
const FOREIGN: [&str; 8] = [
    "RUSTFLAGS",
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTDOCFLAGS",
    "CLIPPY_ARGS",
    "MAKEFLAGS",
];

fn main() {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let program = manifest.join("../../programs/pod-process");
    for watched in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", program.join(watched).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    let (out, target) = (PathBuf::from(variable("OUT_DIR")), variable("TARGET"));
    let built = build(&program, &out.join("pod-process-target"), &target);
    let to = out.join("pod-process");
    if let Err(error) = std::fs::copy(&built, &to) {
        panic!("cannot copy {} to {}: {error}", built.display(), to.display());
    }
}

fn build(program: &Path, target_dir: &Path, target: &str) -> PathBuf {
    let mut cargo = Command::new(variable("CARGO"));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let cargos_own = text.starts_with("CARGO") && text != "CARGO_HOME";
        if cargos_own || FOREIGN.contains(&text.as_ref()) || text.starts_with("DEP_") {
            cargo.env_remove(&name);
        }
    }
    cargo
        .current_dir(program)
        .env("RUSTFLAGS", "-C relocation-model=static -C target-feature=+crt-static")
        .args(["build", "--release", "--locked", "--target", target, "--target-dir"])
        .arg(target_dir);
    match cargo.status() {
        Ok(status) if status.success() => target_dir.join(target).join("release/pod-process"),
        Ok(status) => {
            panic!("building the pod process failed ({status}); run cargo build in {}", program.display())
        }
        Err(error) => panic!("cannot run cargo for the pod process: {error}"),
    }
}

fn variable(name: &str) -> String {
    match env::var(name) {
        Ok(value) => value,
        Err(_) => panic!("cargo sets {name} for build scripts"),
    }
}
