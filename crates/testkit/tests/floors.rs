//! The floors of ARCHITECTURE.md, held against what cargo says: imports go down only.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// The floors from the ground up. Crates of one floor do not import each other.
const FLOORS: [&[&str]; 9] = [
    &["base"],
    &["wire"],
    &["api"],
    &["store"],
    &["sandbox", "image", "net"],
    &["control", "client"],
    &["apiserver", "controllers", "scheduler", "node"],
    &["cli"],
    &["ondol"],
];
/// Beside the house: they may look into every room, and nobody looks at them.
const BESIDE: [&str; 2] = ["testkit", "xtask"];
/// The gate, and the roof, which opens the store for it and looks at the files of a server that is not running.
const USERS_OF_STORE: [&str; 2] = ["apiserver", "ondol"];

fn metadata() -> Value {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path", manifest])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// For each of our crates, which of our crates it is made with. What only its tests use does not count.
fn imports() -> BTreeMap<String, Vec<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |package: &Value| package["name"].as_str().unwrap().to_owned();
    let ours: Vec<String> = packages.iter().map(name).collect();
    let imports = packages.iter().map(|package| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let normal = dependencies.filter(|dependency| dependency["kind"].is_null()).map(name);
        (name(package), normal.filter(|dependency| ours.contains(dependency)).collect())
    });
    imports.collect()
}

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&name))
}

#[test]
fn every_crate_has_a_floor() {
    for name in imports().keys() {
        assert!(
            floor(name).is_some() || BESIDE.contains(&name.as_str()),
            "{name} has no floor; say in ARCHITECTURE.md and here where it lives"
        );
    }
}

#[test]
fn imports_go_down_only() {
    for (name, dependencies) in imports() {
        let Some(own) = floor(&name) else { continue };
        for dependency in dependencies {
            assert!(
                floor(&dependency).is_some_and(|other| other < own),
                "{name} imports {dependency}, which is not below it"
            );
        }
    }
}

#[test]
fn loops_and_nodes_reach_the_store_only_through_the_gate() {
    for (name, dependencies) in imports() {
        let may = USERS_OF_STORE.contains(&name.as_str()) || BESIDE.contains(&name.as_str());
        assert!(may || !dependencies.iter().any(|other| other == "store"), "{name} imports store");
    }
}
