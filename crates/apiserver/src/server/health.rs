//! `/healthz`, `/livez`, `/readyz` and `/version`.

use wire::Response;

use super::render;
use crate::negotiate::Media;
use crate::query::Query;

/// What the checks are called; all of them hold as long as the gate answers at all, for it opens only when the
/// store is read and the authority is there.
const CHECKS: &[&str] = &["ping", "log", "store", "authority"];

/// What we call ourselves: parses as a semantic version, and as Kubernetes 1.37 for clients that compare.
pub const GIT_VERSION: &str = "v1.37.2+ondol";

/// Answers a health path, if it is one.
pub fn health(path: &str, query: Query<'_>, stopping: bool) -> Option<Response> {
    let (name, check) =
        path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    if !matches!(name, "healthz" | "livez" | "readyz") {
        return None;
    }
    if !check.is_empty() {
        // Installers know upstream's store by its name.
        let known = CHECKS.contains(&check) || check == "etcd";
        return Some(if known { render::text(200, "ok") } else { render::text(404, "404 page not found\n") });
    }
    let failing = name == "readyz" && stopping;
    if query.get("verbose").is_none() && !failing {
        return Some(render::text(200, "ok"));
    }
    let mut text = String::new();
    for check in CHECKS {
        text.push_str(&format!("[+]{check} ok\n"));
    }
    if failing {
        text.push_str("[-]shutdown failed: reason withheld\n");
        text.push_str("readyz check failed\n");
        return Some(render::text(500, text));
    }
    text.push_str(&format!("{name} check passed\n"));
    Some(render::text(200, text))
}

/// Answers `/version`.
pub fn version(pretty: bool) -> Response {
    let tree = api::json!({
        "major": "1",
        "minor": "37",
        "emulationMajor": "1",
        "emulationMinor": "37",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "36",
        "gitVersion": (GIT_VERSION),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": (platform())
    });
    render::response(200, Media::Json, pretty, tree.to_bytes())
}

/// As Go names it.
fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{architecture}", std::env::consts::OS)
}
