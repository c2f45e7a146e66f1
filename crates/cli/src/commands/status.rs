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
    lines.extend(pressures(status).into_iter().map(|pressure| ("short", pressure)));
    lines.into_iter().map(|(name, text)| format!("{name:<10}{text}\n")).collect()
}

/// What the node is short of so that it takes no pods, and what to do, a line each.
pub fn pressures(status: &Value) -> Vec<String> {
    let word = |pressure: &Value, field: &str| pressure[field].as_str().unwrap_or_default().to_owned();
    let all = status.pointer("/node/pressures").and_then(Value::as_array);
    let told = all.into_iter().flatten().map(|pressure| {
        let (kind, message, advice) =
            (word(pressure, "type"), word(pressure, "message"), word(pressure, "advice"));
        format!("{kind}: {message}, so that it takes no new pods → {advice}")
    });
    told.collect()
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

    #[test]
    fn what_a_node_is_short_of_is_told_in_a_line() {
        let status = serde_json::json!({"node": {"name": "n", "pressures": [
            {"type": "DiskPressure", "message": "less than 2048 MiB are free", "advice": "make room"}]}});
        let line = "DiskPressure: less than 2048 MiB are free, so that it takes no new pods → make room";
        assert_eq!(pressures(&status), [line]);
        assert!(text(&status).ends_with(&format!("short     {line}\n")), "{}", text(&status));
        assert!(pressures(&serde_json::json!({"node": {"pressures": []}})).is_empty());
    }
}
