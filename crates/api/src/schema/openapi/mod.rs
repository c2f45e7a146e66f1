//! OpenAPI documents, made from the table when somebody asks and not kept.
//!
//! Facts come from the table, words from [`descriptions`]. Custom resources are not in here; who serves them adds their
//! documents.

mod addresses;
mod gnostic;
mod paths;
mod schemas;
mod words;

use crate::json;
use crate::schema::descriptions::{self, Descriptions};
use crate::table::{KindFacts, Kinds, kinds, types};
use crate::value::{Value, write_string};

pub use addresses::Subject;
pub use paths::RETURNED;

/// Which form of document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Swagger 2.0: one document of everything.
    V2,
    /// OpenAPI 3.0: a document for each group and version.
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> Value {
        let prefix = match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        };
        let mut out = Value::object();
        out.set(&["$ref"], format!("{prefix}{name}"));
        out
    }
}

/// A document of version 3.
#[derive(Debug, PartialEq, Eq)]
pub struct Document {
    /// What it is about.
    pub subject: Subject,
    /// Its path below `/openapi/v3/`, as `api/v1` or `apis/apps/v1`.
    pub path: String,
}

/// All documents of version 3.
pub fn documents() -> impl Iterator<Item = Document> {
    Subject::all().map(|subject| Document { subject, path: subject.path() })
}

/// What the code that makes documents amounts to.
const CODE: u64 = sum(
    sum(
        sum(sum(FIRST_SUM, include_bytes!("words.rs")), include_bytes!("paths.rs")),
        include_bytes!("schemas.rs"),
    ),
    include_bytes!("addresses.rs"),
);
const FIRST_SUM: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a; nothing here guards against malice.
const fn sum(mut sum: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        sum = (sum ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    sum
}

/// A word that changes when the documents do, for caches.
pub fn hash() -> String {
    let text =
        concat!(include_str!("../../table/data/types.txt"), include_str!("../../table/data/kinds.txt"));
    format!("{:016X}", sum(sum(CODE, text.as_bytes()), descriptions::PACKED))
}

/// The document of a subject, as JSON; `server` is the version that it names.
pub fn v3(subject: Subject, server: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 * 1024);
    out.extend_from_slice(b"{\"openapi\":\"3.0.0\",\"info\":");
    info(server).write_to(&mut out);
    let is_own = |kind: &KindFacts| matches!(subject, Subject::Version(group, version) if kind.group == group && kind.version == version);
    let wanted = schemas::closure(types(), kinds(), is_own, [subject].into_iter());
    described(Dialect::V3, Some(subject), |paths, schemas| {
        out.extend_from_slice(b",\"paths\":");
        members(&mut out, [subject.operation(Dialect::V3)].into_iter().chain(paths.of(is_own)));
        out.extend_from_slice(b",\"components\":{");
        let mut all = schemas.of(&wanted).peekable();
        if all.peek().is_some() {
            out.extend_from_slice(b"\"schemas\":");
            members(&mut out, all);
            out.push(b',');
        }
        out.extend_from_slice(b"\"securitySchemes\":{\"BearerToken\":");
    });
    bearer().write_to(&mut out);
    out.extend_from_slice(b"}}}");
    out
}

/// The document of everything in version 2, as JSON; `server` is the version that it names.
pub fn v2(server: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 * 1024 * 1024);
    out.extend_from_slice(b"{\"swagger\":\"2.0\",\"info\":");
    info(server).write_to(&mut out);
    let wanted = everything();
    described(Dialect::V2, None, |paths, schemas| {
        out.extend_from_slice(b",\"paths\":");
        members(&mut out, all_paths(paths));
        out.extend_from_slice(b",\"definitions\":");
        members(&mut out, schemas.of(&wanted));
    });
    out.extend_from_slice(b",\"securityDefinitions\":{\"BearerToken\":");
    bearer().write_to(&mut out);
    out.extend_from_slice(b"},\"security\":[{\"BearerToken\":[]}]}");
    out
}

/// The document of everything in version 2, as gnostic's protobuf.
pub fn v2_protobuf(server: &str) -> Vec<u8> {
    let mut out = gnostic::Message::default();
    out.text(1, "2.0");
    out.nested(2, |out| gnostic::info(out, &info(server)));
    let wanted = everything();
    described(Dialect::V2, None, |paths, schemas| {
        out.nested(8, |out| {
            for (name, value) in all_paths(paths) {
                out.named(2, &name, |out| gnostic::path_item(out, &value));
            }
        });
        out.nested(9, |out| {
            for (name, value) in schemas.of(&wanted) {
                if let Value::Object(map) = &value {
                    out.named(1, &name, |out| gnostic::schema(out, map));
                }
            }
        });
    });
    out.nested(12, |out| out.named(1, "BearerToken", |_| {}));
    out.nested(13, |out| out.named(1, "BearerToken", |out| gnostic::api_key(out, &bearer())));
    out.finish()
}

fn everything() -> schemas::Wanted {
    schemas::closure(types(), kinds(), |_| true, Subject::all())
}

fn all_paths(paths: paths::Writer<'_>) -> impl Iterator<Item = (String, Value)> {
    Subject::all().map(|subject| subject.operation(Dialect::V2)).chain(paths.of(|_| true))
}

/// Lends writers of paths and of schemas to `write`; the words go again when it is done.
fn described(
    dialect: Dialect,
    subject: Option<Subject>,
    write: impl FnOnce(paths::Writer<'_>, &schemas::Writer<'_>),
) {
    let text = descriptions::unpack();
    let words = Descriptions::read(&text);
    let paths = paths::Writer { kinds: kinds(), dialect, words: &words };
    write(paths, &schemas::Writer { types: types(), kinds: kinds(), dialect, subject, words: &words });
}

/// Writes an object member by member, so that no more than one of them is a tree at any time.
fn members(out: &mut Vec<u8>, members: impl Iterator<Item = (String, Value)>) {
    out.push(b'{');
    for (index, (name, value)) in members.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(&name, out);
        out.push(b':');
        value.write_to(out);
    }
    out.push(b'}');
}

fn info(server: &str) -> Value {
    let mut info = json!({"title": "Kubernetes"});
    info.set(&["version"], server);
    info
}

fn bearer() -> Value {
    json!({"type": "apiKey", "name": "authorization", "in": "header"})
}

/// `/api/v1` or `/apis/apps/v1`.
fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// The groups and versions in which a kind of a package (as `apps/v1`) is served.
fn group_of_package<'a>(kinds: &'a Kinds, package: &str) -> Option<(&'a str, &'a str)> {
    let (short, version) = package.split_once('/')?;
    kinds.groups().iter().find_map(|group| {
        let first = if group.name.is_empty() { "core" } else { group.name.split('.').next()? };
        let version = group.versions.iter().find(|other| **other == version)?;
        (first == short).then_some((group.name, *version))
    })
}

#[cfg(test)]
mod tests;
