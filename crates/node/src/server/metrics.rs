//! `/metrics` and `/metrics/resource` in Prometheus' text format: the few that are asked for most, each measured when
//! it is asked for. What is not here we do not count, and it is not made up.

use std::collections::BTreeMap;
use std::fmt::Write;

use jiff::Timestamp;
use sandbox::{Phase, Usage};

use super::PodHandle;
use crate::machine::{Load, Machine};

/// The format's own name.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const NANOSECONDS: f64 = 1e9;

/// The text, family by family.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{escaped}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// How many pods and containers there are.
pub fn own(node: &str, pods: &[PodHandle]) -> String {
    let mut containers: BTreeMap<&str, u32> =
        [("created", 0), ("exited", 0), ("running", 0), ("unknown", 0)].into();
    for pod in pods {
        let Some(sandbox) = &pod.sandbox else { continue };
        for container in sandbox.state().containers.values() {
            let state = match &container.phase {
                Phase::Starting => "created",
                Phase::Running { .. } => "running",
                Phase::Ended(_) | Phase::Failed(_) => "exited",
            };
            *containers.entry(state).or_default() += 1;
        }
    }
    let mut text = Text::default();
    text.family("kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    text.sample("kubelet_node_name", &[("node", node)], 1.0);
    text.family("kubelet_running_containers", "gauge", "Number of containers by their state.");
    for (state, count) in containers {
        text.sample("kubelet_running_containers", &[("container_state", state)], f64::from(count));
    }
    text.family("kubelet_running_pods", "gauge", "Number of pods that have a sandbox.");
    let running = pods.iter().filter(|pod| pod.sandbox.is_some()).count();
    text.sample("kubelet_running_pods", &[], running as f64);
    text.0
}

/// What one pod uses, and each of its running containers.
pub struct PodUsage {
    namespace: String,
    name: String,
    whole: Option<Usage>,
    containers: Vec<(String, Timestamp, Usage)>,
}

/// Measures all pods.
pub async fn measure(pods: &[PodHandle]) -> Vec<PodUsage> {
    let mut measured = Vec::new();
    for pod in pods {
        let Some(sandbox) = &pod.sandbox else { continue };
        let mut containers = Vec::new();
        for (attempt, container) in &sandbox.state().containers {
            let Phase::Running { started_at, .. } = &container.phase else { continue };
            if let Some(usage) = sandbox.container_usage(attempt).await {
                containers.push((attempt.name.clone(), *started_at, usage));
            }
        }
        let (namespace, name) = (pod.object.namespace().to_owned(), pod.object.name().to_owned());
        measured.push(PodUsage { namespace, name, whole: sandbox.usage().await, containers });
    }
    measured
}

/// Processor and memory of node, pods and containers, as metrics-server reads them.
pub fn resource(machine: &Machine, load: &Load, node_cpu_ns: u64, pods: &[PodUsage]) -> String {
    let cpu = |usage: &Usage| usage.cpu_ns as f64 / NANOSECONDS;
    let memory = |usage: &Usage| usage.memory_working_set_bytes as f64;
    let started = |_: &Usage, at: Timestamp| at.as_millisecond() as f64 / 1e3;
    let mut text = Text::default();
    let mut of_containers = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Usage, Timestamp) -> f64| {
        text.family(name, kind, help);
        for pod in pods {
            for (container, at, usage) in &pod.containers {
                let labels =
                    [("container", &**container), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
                text.sample(name, &labels, value(usage, *at));
            }
        }
    };
    of_containers(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        &|usage, _| cpu(usage),
    );
    of_containers(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        &|usage, _| memory(usage),
    );
    of_containers(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
        &started,
    );
    text.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
    );
    text.sample("node_cpu_usage_seconds_total", &[], node_cpu_ns as f64 / NANOSECONDS);
    text.family("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    let used = machine.memory_bytes.saturating_sub(load.memory_available_bytes);
    text.sample("node_memory_working_set_bytes", &[], used as f64);
    for (name, kind, help, value) in [
        (
            "pod_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the pod in core-seconds",
            &cpu as &dyn Fn(&Usage) -> f64,
        ),
        ("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes", &memory),
    ] {
        text.family(name, kind, help);
        for pod in pods {
            if let Some(usage) = &pod.whole {
                text.sample(name, &[("namespace", &pod.namespace), ("pod", &pod.name)], value(usage));
            }
        }
    }
    text.family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    text.sample("resource_scrape_error", &[], 0.0);
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_its_family_and_labels_are_escaped() {
        let usage = Usage { cpu_ns: 1_500_000_000, memory_bytes: 9, memory_working_set_bytes: 4096 };
        let pods = [PodUsage {
            namespace: "a".into(),
            name: "p\"".into(),
            whole: Some(usage),
            containers: vec![("c".into(), Timestamp::UNIX_EPOCH, usage)],
        }];
        let machine = Machine { memory_bytes: 100, ..Machine::default() };
        let load = Load { memory_available_bytes: 30, ..Load::default() };
        let text = resource(&machine, &load, 2_000_000_000, &pods);
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"a\",pod=\"p\\\"\"} 1.5",
            "container_start_time_seconds{container=\"c\",namespace=\"a\",pod=\"p\\\"\"} 0",
            "node_cpu_usage_seconds_total 2",
            "node_memory_working_set_bytes 70",
            "pod_memory_working_set_bytes{namespace=\"a\",pod=\"p\\\"\"} 4096",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for sample in text.lines().filter(|line| !line.starts_with('#')) {
            let name = sample.split(['{', ' ']).next().unwrap_or_default();
            assert!(text.contains(&format!("# TYPE {name} ")), "{sample}");
        }
        assert!(own("n", &[]).contains("kubelet_node_name{node=\"n\"} 1\n"));
    }
}
