//! What is asked about.

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// As `Deployment`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Empty for nodes and other objects of the whole cluster.
    pub namespace: String,
    /// What is read for it alone.
    own: Option<Need>,
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

/// Kinds that are explained by what Events and conditions say of them, with the words that kubectl knows them by.
const TOLD: &[(&[&str], Need)] = &[
    (&["statefulset", "sts"], ("StatefulSet", "apps", "v1", "statefulsets")),
    (&["daemonset", "ds"], ("DaemonSet", "apps", "v1", "daemonsets")),
    (&["job"], ("Job", "batch", "v1", "jobs")),
    (&["cronjob", "cj"], ("CronJob", "batch", "v1", "cronjobs")),
    (
        &["horizontalpodautoscaler", "hpa"],
        ("HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers"),
    ),
    (&["ingress", "ing"], ("Ingress", "networking.k8s.io", "v1", "ingresses")),
    (&["persistentvolumeclaim", "pvc"], ("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims")),
    (&["persistentvolume", "pv"], ("PersistentVolume", "", "v1", "persistentvolumes")),
    (&["replicationcontroller", "rc"], ("ReplicationController", "", "v1", "replicationcontrollers")),
    (&["poddisruptionbudget", "pdb"], ("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets")),
    (&["configmap", "cm"], ("ConfigMap", "", "v1", "configmaps")),
    (&["secret"], ("Secret", "", "v1", "secrets")),
    (&["serviceaccount", "sa"], ("ServiceAccount", "", "v1", "serviceaccounts")),
    (&["namespace", "ns"], ("Namespace", "", "v1", "namespaces")),
];

/// Kinds that the server does not take, because nothing would enforce them.
const REFUSED: &[&str] = &[
    "networkpolicy",
    "networkpolicies",
    "netpol",
    "role",
    "roles",
    "rolebinding",
    "rolebindings",
    "clusterrole",
    "clusterroles",
    "clusterrolebinding",
    "clusterrolebindings",
    "resourcequota",
    "resourcequotas",
    "quota",
    "limitrange",
    "limitranges",
    "limits",
    "customresourcedefinition",
    "customresourcedefinitions",
    "crd",
    "crds",
    "mutatingwebhookconfiguration",
    "mutatingwebhookconfigurations",
    "validatingwebhookconfiguration",
    "validatingwebhookconfigurations",
    "validatingadmissionpolicy",
    "validatingadmissionpolicies",
    "mutatingadmissionpolicy",
    "mutatingadmissionpolicies",
];

/// Resources whose objects are in no namespace.
pub const CLUSTER_WIDE: [&str; 3] = ["nodes", "namespaces", "persistentvolumes"];

/// The kind that a word means.
fn kind_of(word: &str) -> Result<(&'static str, Option<Need>), String> {
    let lower = word.to_ascii_lowercase();
    // As `deployment.apps`, or `deployments.v1.apps`.
    let word = lower.split('.').next().unwrap_or(&lower);
    let told = TOLD.iter().find(|(words, (_, _, _, resource))| words.contains(&word) || *resource == word);
    if let Some((_, need)) = told {
        return Ok((need.0, Some(*need)));
    }
    if REFUSED.contains(&word) {
        return Err(format!(
            "there is no {word}, for this version of Ondol takes none: nothing would enforce it yet; \
             remove it from your manifests"
        ));
    }
    match word {
        "deployment" | "deployments" | "deploy" => Ok(("Deployment", None)),
        "replicaset" | "replicasets" | "rs" => Ok(("ReplicaSet", None)),
        "pod" | "pods" | "po" => Ok(("Pod", None)),
        "service" | "services" | "svc" => Ok(("Service", None)),
        "node" | "nodes" | "no" => Ok(("Node", None)),
        _ => Err(format!(
            "{word:?} cannot be explained; deployments, replicasets, pods, services, nodes, namespaces, jobs and \
             other built-in kinds can; \"kubectl describe\" shows the events of any object"
        )),
    }
}

impl Subject {
    /// Reads `kind/name`, or the kind alone if the name is given apart, with kubectl's names and short names.
    pub fn parse(text: &str, name: Option<&str>, namespace: &str) -> Result<Self, String> {
        let (word, name) = match (text.split_once('/'), name) {
            (Some(both), None) => both,
            (None, Some(name)) => (text, name),
            (Some(_), Some(name)) => {
                return Err(format!("{name:?} is one name too many: write {text}, or KIND NAME"));
            }
            (None, None) if kind_of(text).is_ok() => (text, ""),
            (None, None) => {
                return Err(format!("write {text:?} as KIND/NAME, for example deployment/{text}"));
            }
        };
        let (kind, own) = kind_of(word)?;
        if name.is_empty() {
            return Err(format!("which {word}? write {word}/NAME"));
        }
        let everywhere =
            kind == "Node" || own.is_some_and(|(_, _, _, resource)| CLUSTER_WIDE.contains(&resource));
        let namespace = if everywhere { String::new() } else { namespace.to_owned() };
        Ok(Self { kind, name: name.to_owned(), namespace, own })
    }

    /// What must be known to explain it.
    pub fn needs(&self) -> Vec<Need> {
        let known = |need: &Need| EVERYTHING.iter().any(|(kind, ..)| *kind == need.0);
        EVERYTHING.iter().copied().chain(self.own.filter(|own| !known(own))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_kubectls() {
        let subject = Subject::parse("deploy/web", None, "shop").unwrap();
        assert_eq!(
            (subject.kind, subject.name.as_str(), subject.namespace.as_str()),
            ("Deployment", "web", "shop")
        );
        assert_eq!(Subject::parse("node/a", None, "shop").unwrap().namespace, "");
        assert_eq!(Subject::parse("deployments.v1.apps/web", None, "shop").unwrap().kind, "Deployment");
        assert_eq!(Subject::parse("sts/db", None, "shop").unwrap().kind, "StatefulSet");
        assert_eq!(Subject::parse("ns/shop", None, "default").unwrap().namespace, "");
        assert_eq!(
            Subject::parse("pod", Some("web-1"), "shop"),
            Subject::parse("po/web-1", None, "shop"),
            "the name may stand apart"
        );
        assert!(Subject::parse("pod/web", Some("web-1"), "shop").unwrap_err().contains("too many"));
        assert_eq!(Subject::parse("pod", None, "shop").unwrap_err(), "which pod? write pod/NAME");
        for bad in ["web", "house/x", "pod/"] {
            assert!(Subject::parse(bad, None, "default").is_err(), "{bad}");
        }
        assert!(Subject::parse("netpol/x", None, "default").unwrap_err().contains("takes none"));
    }
}
