//! The pod of the measurements: of the size and sort that workload controllers make.

use bytes::Bytes;
use serde_json::{Value, json};

/// Its size as it is read, with defaults and managed fields, within a hundredth; upstream's is the same.
pub const READ_BYTES: usize = 4400;

/// A pod that no scheduler takes and no controller collects. One in ten carries the label that lists select.
pub fn pod(name: &str, number: u64) -> Bytes {
    let group = if number.is_multiple_of(10) { "tenth" } else { "rest" };
    let env: Vec<Value> = (0..VARIABLES)
        .map(|n| json!({"name": format!("SETTING_{n:02}"), "value": format!("the value of setting {n:02}")}))
        .collect();
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 5});
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app": "bench", "group": group, "pod-template-hash": "5d4f8c7b9d"},
            "annotations": {"example.com/checksum": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}
        },
        "spec": {
            "schedulerName": "nobody",
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "main",
                "image": "registry.example/team/app:v1.2.3",
                "args": ["--listen=:8080", "--log-level=info"],
                "env": env,
                "ports": [{"name": "http", "containerPort": 8080}],
                "resources": {
                    "requests": {"cpu": "100m", "memory": "128Mi"},
                    "limits": {"cpu": "500m", "memory": "256Mi"}
                },
                "livenessProbe": probe("/live"),
                "readinessProbe": probe("/ready"),
                "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}]
            }],
            "volumes": [{"name": "scratch", "emptyDir": {}}]
        }
    });
    Bytes::from(pod.to_string())
}

/// How many variables make the pod as large as [`READ_BYTES`] says.
const VARIABLES: usize = 10;
