//! Packs what Kubernetes says of its types and fields, which `kubectl explain` shows, out of the sources of the
//! dependency `k8s-openapi`: its schemas hold upstream's descriptions to the letter.
//!
//! The sources are read as text. Building that crate once more for the host, with its schemas, would cost every cold
//! build 45 seconds of a core; reading them costs less than one.
//!
//! What is written is read by `schema::descriptions`, which says how it looks.

#![expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The facts of which types there are; a description of anything else is not carried.
const TYPES: &str = "src/table/data/types.txt";
/// The first line of a source that holds a definition, up to its name.
const GENERATED: &str = "// Generated from definition ";
/// The one definition that has no schema: lists of anything.
const LIST: &str = "io.k8s.List";
/// Fewer definitions mean that the sources look otherwise than this script believes.
const DEFINITIONS_LEAST: usize = 500;

/// Descriptions by the names of fields; that of the type itself is under the empty name.
type Definition = BTreeMap<String, String>;

fn main() {
    for watched in ["build.rs", TYPES, "../../Cargo.lock"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    let types = read(Path::new(TYPES));
    let packages = packages(&types);
    let mut definitions = BTreeMap::new();
    collect(&sources().join("src/v1_37"), &packages, &mut definitions);
    assert!(
        definitions.len() >= DEFINITIONS_LEAST && definitions.contains_key(LIST),
        "only {} definitions were found in the sources of k8s-openapi; teach build.rs how they look now",
        definitions.len()
    );
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(pack(&definitions).as_bytes()).expect("memory can be written to");
    let out = PathBuf::from(variable("OUT_DIR")).join("descriptions");
    fs::write(&out, packed.finish().expect("memory can be written to"))
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", out.display()));
}

/// Where cargo keeps the sources of `k8s-openapi`: in its registry, or in a folder of vendored crates.
fn sources() -> PathBuf {
    let target = variable("TARGET");
    let asked = ["metadata", "--format-version=1", "--locked", "--filter-platform", &target];
    let output = Command::new(variable("CARGO"))
        .args(asked)
        .output()
        .unwrap_or_else(|error| panic!("cannot run cargo metadata: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata failed; try cargo fetch\n{said}");
    let text = String::from_utf8(output.stdout).expect("cargo metadata writes UTF-8");
    // One member of this large document is wanted, and its value holds nothing that JSON would write otherwise.
    text.split("\"manifest_path\":\"")
        .filter_map(|rest| Path::new(rest.split_once('"')?.0).parent())
        .find(|folder| {
            folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("k8s-openapi"))
        })
        .map(Path::to_owned)
        .expect("k8s-openapi is a dependency of this crate")
}

/// What the names of definitions begin with that are in the facts.
fn packages(types: &str) -> Vec<&str> {
    let named = types.lines().filter_map(|line| line.strip_prefix("package ")?.split_once(' '));
    named
        .map(|(_, prefix)| prefix)
        .chain([
            "io.k8s.apimachinery.pkg.api.resource",
            "io.k8s.apimachinery.pkg.runtime",
            "io.k8s.apimachinery.pkg.util.intstr",
        ])
        .collect()
}

fn collect(folder: &Path, packages: &[&str], found: &mut BTreeMap<String, Definition>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.map(|entry| entry.expect("a folder can be read").path()) {
        if path.is_dir() {
            collect(&path, packages, found);
            continue;
        }
        let text = read(&path);
        let Some(name) = text.strip_prefix(GENERATED).and_then(|rest| rest.lines().next()) else { continue };
        if name == LIST {
            found.insert(name.to_owned(), documented(&text));
        } else if name.rsplit_once('.').is_some_and(|(package, _)| packages.contains(&package)) {
            found.insert(name.to_owned(), described(&text));
        }
    }
}

/// Reads the schema in a source. It is laid out one member a line, and how far a line is indented says what it is of.
fn described(text: &str) -> Definition {
    const OF_TYPE: usize = 12;
    const PROPERTY: usize = 16;
    const OF_PROPERTY: usize = 20;
    let mut out = Definition::new();
    let mut property = "";
    let schema = text.split_once("fn json_schema(").map_or("", |(_, schema)| schema);
    for line in schema.lines() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        // A property that refers to another definition is told apart by code.
        let told =
            trimmed.strip_prefix("\"description\": \"").and_then(|rest| rest.strip_suffix("\",")).or_else(
                || trimmed.split_once("insert(\"description\".into(), \"")?.1.strip_suffix("\".into());"),
            );
        match (indent, told) {
            (OF_TYPE, Some(words)) => drop(out.insert(String::new(), plain(words))),
            (OF_PROPERTY, Some(words)) => drop(out.insert(property.to_owned(), plain(words))),
            (PROPERTY, None) => {
                property =
                    trimmed.strip_prefix('"').and_then(|rest| rest.split('"').next()).unwrap_or(property);
            }
            _ => {}
        }
    }
    out
}

/// Reads the comments of a source that has no schema.
fn documented(text: &str) -> Definition {
    let mut out = Definition::new();
    let mut words = "";
    for line in text.lines().map(str::trim_start) {
        if let Some(comment) = line.strip_prefix("/// ") {
            words = comment;
        } else if line.starts_with("pub struct ") {
            out.insert(String::new(), words.to_owned());
        } else if let Some((field, _)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(':')) {
            out.insert(field.to_owned(), words.to_owned());
        } else if line == "}" {
            break;
        }
    }
    out
}

/// A text as Rust's source writes it, without its escapes.
fn plain(literal: &str) -> String {
    let mut out = String::with_capacity(literal.len());
    let mut letters = literal.chars();
    while let Some(letter) = letters.next() {
        match (letter, if letter == '\\' { letters.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some(quoted @ ('"' | '\'' | '\\'))) => out.push(quoted),
            ('\\', other) => panic!("build.rs does not know the escape {other:?} in {literal:?}"),
            _ => out.push(letter),
        }
    }
    out
}

/// Each text once; many fields share one.
fn pack(definitions: &BTreeMap<String, Definition>) -> String {
    let (mut index, mut texts) = (String::new(), String::new());
    let mut places = HashMap::new();
    for (name, fields) in definitions {
        writeln!(index, "{name}").expect("a text can be written to");
        for (field, words) in fields {
            let next = places.len();
            let place = *places.entry(words).or_insert_with(|| {
                texts.push('\0');
                texts.push_str(words);
                next
            });
            writeln!(index, " {field} {place}").expect("a text can be written to");
        }
    }
    index + &texts
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
