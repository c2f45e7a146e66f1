//! `/stats/summary`: what node and pods use, in the kubelet's form.

use std::path::Path;

use api::json;
use api::time::seconds;
use api::value::Value;
use jiff::Timestamp;
use sandbox::{Sandbox, Usage};

use super::PodHandle;
use crate::machine::{Load, Machine};

/// The kernel counts processor time in hundredths of a second here.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// The whole summary.
pub async fn summary(
    node: &str,
    machine: &Machine,
    data: &Path,
    pods: Vec<PodHandle>,
    now: Timestamp,
) -> Value {
    let mut shown = Vec::new();
    for pod in &pods {
        let object = &pod.object;
        let containers = match &pod.sandbox {
            Some(sandbox) => containers(sandbox, now).await,
            None => Vec::new(),
        };
        let mut entry = json!({
            "podRef": {"name": (object.name()), "namespace": (object.namespace()), "uid": (object.uid())},
            "containers": (Value::Array(containers))
        });
        if let Some(started) = object.to_tree().str_at(&["status", "startTime"]) {
            entry.set(&["startTime"], started);
        }
        if let Some(sandbox) = &pod.sandbox
            && let Some(usage) = sandbox.usage().await
        {
            set_usage(&mut entry, usage, now);
        }
        shown.push(entry);
    }
    let load = Load::read(data).unwrap_or_default();
    let used = machine.memory_bytes.saturating_sub(load.memory_available_bytes);
    let time = seconds(now);
    json!({
        "node": {
            "nodeName": node,
            "cpu": {"time": (time.as_str()), "usageCoreNanoSeconds": (number(processor_time()))},
            "memory": {
                "time": (time.as_str()),
                "availableBytes": (number(load.memory_available_bytes)),
                "usageBytes": (number(used)),
                "workingSetBytes": (number(used))
            }
        },
        "pods": (Value::Array(shown))
    })
}

async fn containers(sandbox: &Sandbox, now: Timestamp) -> Vec<Value> {
    let state = sandbox.state();
    let mut shown = Vec::new();
    for (attempt, container) in &state.containers {
        let sandbox::Phase::Running { started_at, .. } = &container.phase else { continue };
        let mut entry = json!({"name": (attempt.name.as_str()), "startTime": (seconds(*started_at))});
        if let Some(usage) = sandbox.container_usage(attempt).await {
            set_usage(&mut entry, usage, now);
        }
        shown.push(entry);
    }
    shown
}

fn set_usage(entry: &mut Value, usage: Usage, now: Timestamp) {
    let time = seconds(now);
    entry.set(&["cpu"], json!({"time": (time.as_str()), "usageCoreNanoSeconds": (number(usage.cpu_ns))}));
    let memory = json!({
        "time": time,
        "usageBytes": (number(usage.memory_bytes)),
        "workingSetBytes": (number(usage.memory_working_set_bytes))
    });
    entry.set(&["memory"], memory);
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Time that all processors were busy since the boot, in nanoseconds.
pub fn processor_time() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    busy_ticks(&text).unwrap_or_default().saturating_mul(NANOSECONDS_PER_TICK)
}

fn busy_ticks(text: &str) -> Option<u64> {
    let fields: Vec<u64> = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; what guests use is in user already.
    Some([0, 1, 2, 5, 6, 7].iter().filter_map(|index| fields.get(*index)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_counted() {
        assert_eq!(busy_ticks("cpu  1 2 3 1000 1000 4 5 6 7 8\ncpu0 1\n"), Some(21));
        assert!(processor_time() > 0);
    }
}
