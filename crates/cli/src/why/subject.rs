//! What is asked about.

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// As `Deployment`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Empty for nodes.
    pub namespace: String,
}

/// Kind, group, version and resource of what an explanation reads.
pub type Need = (&'static str, &'static str, &'static str, &'static str);

const EVERYTHING: &[Need] = &[
    ("Deployment", "apps", "v1", "deployments"),
    ("ReplicaSet", "apps", "v1", "replicasets"),
    ("Pod", "", "v1", "pods"),
    ("Service", "", "v1", "services"),
    ("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices"),
    ("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets"),
    ("Node", "", "v1", "nodes"),
    ("Event", "", "v1", "events"),
];

impl Subject {
    /// Reads `kind/name` with kubectl's names and short names.
    pub fn parse(text: &str, namespace: &str) -> Result<Self, String> {
        let (word, name) = text
            .split_once('/')
            .ok_or_else(|| format!("write {text:?} as KIND/NAME, for example deployment/{text}"))?;
        let kind = match word.to_ascii_lowercase().trim_end_matches(".apps") {
            "deployment" | "deployments" | "deploy" => "Deployment",
            "replicaset" | "replicasets" | "rs" => "ReplicaSet",
            "pod" | "pods" | "po" => "Pod",
            "service" | "services" | "svc" => "Service",
            "node" | "nodes" | "no" => "Node",
            _ => {
                return Err(format!(
                    "{word:?} cannot be explained; deployments, replicasets, pods, services and nodes can"
                ));
            }
        };
        if name.is_empty() {
            return Err(format!("which {word}? write {word}/NAME"));
        }
        let namespace = if kind == "Node" { String::new() } else { namespace.to_owned() };
        Ok(Self { kind, name: name.to_owned(), namespace })
    }

    /// What must be known to explain it.
    pub fn needs(&self) -> &'static [Need] {
        EVERYTHING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_kubectls() {
        let subject = Subject::parse("deploy/web", "shop").unwrap();
        assert_eq!(
            (subject.kind, subject.name.as_str(), subject.namespace.as_str()),
            ("Deployment", "web", "shop")
        );
        assert_eq!(Subject::parse("node/a", "shop").unwrap().namespace, "");
        for bad in ["web", "job/x", "pod/"] {
            assert!(Subject::parse(bad, "default").is_err(), "{bad}");
        }
    }
}
