//! `ondol status`

use serde_json::Value;

use crate::admin::Admin;
use crate::arguments::{Output, Status};
use crate::output;

/// Prints what the instance says of itself.
pub async fn status(admin: &Admin, options: &Status) -> anyhow::Result<()> {
    let status = admin.get("/status").await?;
    if options.output == Some(Output::Json) {
        output::line(serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    output::text(text(&status));
    Ok(())
}

/// The same for people.
fn text(status: &Value) -> String {
    let word = |path: &str| match status.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let mebibytes = |path: &str| {
        status
            .pointer(path)
            .and_then(Value::as_u64)
            .map_or("-".to_owned(), |bytes| format!("{} MiB", bytes >> 20))
    };
    let mut lines = vec![
        ("instance", word("/instance")),
        ("version", format!("{} (Kubernetes {})", word("/version"), word("/kubernetes"))),
        ("role", format!("{}, pid {}, up {} s", word("/role"), word("/pid"), word("/uptimeSeconds"))),
        ("memory", mebibytes("/memoryBytes")),
        ("data", word("/dataDir")),
    ];
    if status.get("server").is_some_and(Value::is_string) {
        lines.push(("API", word("/server")));
    }
    if status.get("node").is_some_and(Value::is_object) {
        // An agent does not know what the server thinks of it.
        let ready = match status.pointer("/node/ready").and_then(Value::as_bool) {
            Some(true) => " Ready",
            Some(false) => " not Ready",
            None => "",
        };
        lines.push(("node", format!("{}{ready} at {}", word("/node/name"), word("/node/address"))));
    }
    if status.get("pods").is_some_and(Value::is_object) {
        lines.push((
            "pods",
            format!(
                "{} ({} running, {} ready)",
                word("/pods/total"),
                word("/pods/running"),
                word("/pods/ready")
            ),
        ));
    }
    lines.into_iter().map(|(name, text)| format!("{name:<10}{text}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_left_out_or_a_dash() {
        let status = serde_json::json!({"instance": "default", "version": "0.1.0", "kubernetes": "v1.37.2+ondol",
            "role": "up", "pid": 7, "uptimeSeconds": 3, "memoryBytes": 52428800, "dataDir": "/d",
            "node": {"name": "n", "ready": true, "address": "10.244.0.1"}});
        let text = text(&status);
        assert!(text.contains("memory    50 MiB\n"), "{text}");
        assert!(text.contains("node      n Ready at 10.244.0.1\n"), "{text}");
        assert!(!text.contains("pods"), "{text}");
    }
}
