//! The environment and the command line of a container: sources resolved, `$(VAR)` expanded.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::object::Object;
use api::quantity::Quantity;
use api::value::Value;
use k8s_openapi::api::core::v1 as core;

use crate::pod::sources::{Missing, Sources};

/// What downward fields show beside the pod object itself.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Addresses of the node, the primary first.
    pub host_ips: Vec<IpAddr>,
    /// Addresses of the pod, the primary first.
    pub pod_ips: Vec<IpAddr>,
    /// What a container without limits may use.
    pub allocatable: BTreeMap<String, String>,
}

/// Why a container's configuration cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An object that it names is not there.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// A field that it names does not exist.
    #[error("{0}")]
    Field(String),
}

/// The variables of a container in upstream's order of precedence: services, `envFrom`, `env`.
pub fn variables(
    object: &Object,
    pod: &core::Pod,
    container: &core::Container,
    facts: &Facts,
    sources: &dyn Sources,
    services: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut put = |name: String, value: String, known: &mut BTreeMap<String, String>| {
        known.insert(name.clone(), value.clone());
        all.retain(|(other, _)| *other != name);
        all.push((name, value));
    };
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (key, value) in bulk(object.namespace(), from, sources)? {
            put(format!("{prefix}{key}"), value, &mut known);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(from)) => match single(object, pod, container, from, facts, sources)? {
                Some(value) => value,
                // An optional source that is not there leaves the variable unset.
                None => continue,
            },
            (Some(text), None) => {
                expand(text, |name| known.get(name).or_else(|| services.get(name)).cloned())
            }
            (None, None) => String::new(),
        };
        put(variable.name.clone(), value, &mut known);
    }
    let unclaimed = services.iter().filter(|(name, _)| !known.contains_key(*name));
    let mut result: Vec<(String, String)> =
        unclaimed.map(|(name, value)| (name.clone(), value.clone())).collect();
    result.extend(all);
    Ok(result)
}

fn bulk(
    namespace: &str,
    from: &core::EnvFromSource,
    sources: &dyn Sources,
) -> Result<Vec<(String, String)>, Missing> {
    let data = if let Some(reference) = &from.config_map_ref {
        optional(sources.config_map_text(namespace, &reference.name), reference.optional)?
    } else if let Some(reference) = &from.secret_ref {
        optional(sources.secret(namespace, &reference.name), reference.optional)?
    } else {
        None
    };
    let text = |(key, value): (String, Vec<u8>)| Some((key, String::from_utf8(value).ok()?));
    Ok(data.into_iter().flatten().filter_map(text).collect())
}

fn optional<T>(found: Result<T, Missing>, optional: Option<bool>) -> Result<Option<T>, Missing> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Missing::Object { .. } | Missing::Key { .. }) if optional == Some(true) => Ok(None),
        Err(missing) => Err(missing),
    }
}

fn single(
    object: &Object,
    pod: &core::Pod,
    container: &core::Container,
    from: &core::EnvVarSource,
    facts: &Facts,
    sources: &dyn Sources,
) -> Result<Option<String>, ConfigError> {
    let namespace = object.namespace();
    let text = |bytes: Option<Vec<u8>>| bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if let Some(key) = &from.config_map_key_ref {
        let found = sources.config_map_text(namespace, &key.name).and_then(|data| {
            data.get(&key.key)
                .cloned()
                .ok_or_else(|| Missing::key("ConfigMap", namespace, &key.name, &key.key))
        });
        return Ok(text(optional(found, key.optional)?));
    }
    if let Some(key) = &from.secret_key_ref {
        let found = sources.secret(namespace, &key.name).and_then(|data| {
            data.get(&key.key).cloned().ok_or_else(|| Missing::key("Secret", namespace, &key.name, &key.key))
        });
        return Ok(text(optional(found, key.optional)?));
    }
    if let Some(reference) = &from.field_ref {
        return field(object, pod, &reference.field_path, facts).map(Some);
    }
    if let Some(reference) = &from.resource_field_ref {
        let divisor = reference.divisor.as_ref().map(|quantity| quantity.0.as_str());
        let named = reference.container_name.as_deref();
        return resource(pod, Some(container), named, &reference.resource, divisor, facts).map(Some);
    }
    Err(ConfigError::Field("a source of a variable is of a sort that this node does not know yet".to_owned()))
}

/// The value of a downward field.
pub fn field(object: &Object, pod: &core::Pod, path: &str, facts: &Facts) -> Result<String, ConfigError> {
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return Err(unknown_field(path)),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => object.name().to_owned(),
        "metadata.namespace" => object.namespace().to_owned(),
        "metadata.uid" => object.uid().to_owned(),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" => join(&facts.host_ips[..facts.host_ips.len().min(1)]),
        "status.hostIPs" => join(&facts.host_ips),
        "status.podIP" => join(&facts.pod_ips[..facts.pod_ips.len().min(1)]),
        "status.podIPs" => join(&facts.pod_ips),
        _ => return Err(unknown_field(path)),
    })
}

fn unknown_field(path: &str) -> ConfigError {
    ConfigError::Field(format!("unsupported fieldPath: {path}"))
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// A map as upstream writes it into a file: `key="value"` lines, sorted.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let line = |(key, value): (&String, &String)| format!("{key}={}", Value::from(value.as_str()));
    map.into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

/// The value of `limits.cpu` and the like, divided and rounded up.
pub fn resource(
    pod: &core::Pod,
    own: Option<&core::Container>,
    named: Option<&str>,
    name: &str,
    divisor: Option<&str>,
    facts: &Facts,
) -> Result<String, ConfigError> {
    let spec = pod.spec.as_ref();
    let wrong = |why: String| ConfigError::Field(why);
    let container = match named.filter(|name| !name.is_empty()) {
        Some(named) => spec
            .into_iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
            .find(|container| container.name == named)
            .ok_or_else(|| wrong(format!("container {named} not found")))?,
        None => own.ok_or_else(|| wrong("a container must be named".to_owned()))?,
    };
    let (list, which) =
        name.split_once('.').ok_or_else(|| wrong(format!("unsupported container resource : {name}")))?;
    let resources = container.resources.as_ref();
    let amounts = match list {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(wrong(format!("unsupported container resource : {name}"))),
    };
    let given = amounts.and_then(|amounts| amounts.get(which)).map(|quantity| quantity.0.clone());
    // A container without a limit may use what the node has.
    let given = given.or_else(|| (list == "limits").then(|| facts.allocatable.get(which).cloned()).flatten());
    let parse = |text: &str| Quantity::parse(text).map_err(|error| wrong(error.to_string()));
    let amount = parse(given.as_deref().unwrap_or("0"))?;
    let divisor = parse(divisor.filter(|text| !text.is_empty() && *text != "0").unwrap_or("1"))?;
    let ratio = if which == "cpu" {
        (amount.milli_value(), divisor.milli_value())
    } else {
        (amount.value(), divisor.value())
    };
    let (amount, divisor) = (ratio.0, ratio.1.max(1));
    Ok(((amount + divisor - 1) / divisor).to_string())
}

/// Replaces `$(NAME)` by its value; what is not known stays as it is, `$$` is a dollar (upstream's expansion).
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// A Service as the environment of pods shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Name (may be empty), protocol and number of its ports, in order.
    pub ports: Vec<(String, String, i64)>,
}

/// The variables by which pods find Services (Docker's old links, as upstream still writes them).
pub fn of_services(services: &[ServiceFacts]) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for service in services {
        let Some((_, protocol, number)) = service.ports.first() else { continue };
        let prefix = shout(&service.name);
        let url =
            |protocol: &str, port: i64| format!("{}://{}:{port}", protocol.to_lowercase(), service.address);
        variables.insert(format!("{prefix}_SERVICE_HOST"), service.address.clone());
        variables.insert(format!("{prefix}_SERVICE_PORT"), number.to_string());
        variables.insert(format!("{prefix}_PORT"), url(protocol, *number));
        for (name, protocol, number) in &service.ports {
            if !name.is_empty() {
                variables.insert(format!("{prefix}_SERVICE_PORT_{}", shout(name)), number.to_string());
            }
            let port = format!("{prefix}_PORT_{number}_{protocol}");
            variables.insert(port.clone(), url(protocol, *number));
            variables.insert(format!("{port}_PROTO"), protocol.to_lowercase());
            variables.insert(format!("{port}_PORT"), number.to_string());
            variables.insert(format!("{port}_ADDR"), service.address.clone());
        }
    }
    variables
}

fn shout(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::sources::Data;
    use proptest::prelude::*;

    #[test]
    fn expansion_follows_upstream() {
        let check = |text: &str, expect: &str| {
            assert_eq!(expand(text, |name| (name == "A").then(|| "1".to_owned())), expect, "{text}");
        };
        check("$(A)-$(A)", "1-1");
        check("$$(A)", "$(A)");
        check("$$$(A)", "$1");
        check("$(B)", "$(B)");
        check("$A ${A} $(A $", "$A ${A} $(A $");
        check("$$$$", "$$");
    }

    /// A ConfigMap with one key of text and one of bytes.
    struct OneMap;

    impl Sources for OneMap {
        fn config_map_text(&self, _: &str, _: &str) -> Result<Data, Missing> {
            Ok(Data::from([("text".to_owned(), b"warm".to_vec())]))
        }

        fn config_map(&self, _: &str, _: &str) -> Result<Data, Missing> {
            Ok(Data::from([("text".to_owned(), b"warm".to_vec()), ("bytes".to_owned(), b"\0".to_vec())]))
        }

        fn secret(&self, _: &str, name: &str) -> Result<Data, Missing> {
            Err(Missing::Object { kind: "Secret", name: name.to_owned() })
        }
    }

    #[test]
    fn only_the_text_of_config_maps_becomes_variables() {
        let of = |container: serde_json::Value| {
            let tree = serde_json::json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [container]}});
            let json = serde_json::to_vec(&tree).unwrap();
            let object = Object::from_tree(&api::value::parse(&json).unwrap()).unwrap();
            let pod: core::Pod = serde_json::from_value(tree).unwrap();
            let facts = Facts { host_ips: Vec::new(), pod_ips: Vec::new(), allocatable: BTreeMap::new() };
            let container = pod.spec.as_ref().unwrap().containers[0].clone();
            variables(&object, &pod, &container, &facts, &OneMap, &BTreeMap::new())
        };
        let all = of(serde_json::json!({"name": "c", "envFrom": [{"configMapRef": {"name": "m"}}]}));
        assert_eq!(all.unwrap(), [("text".to_owned(), "warm".to_owned())]);
        let key = serde_json::json!({"configMapKeyRef": {"name": "m", "key": "bytes"}});
        let one = of(serde_json::json!({"name": "c", "env": [{"name": "A", "valueFrom": key}]}));
        assert_eq!(one.unwrap_err().to_string(), "couldn't find key bytes in ConfigMap n/m");
    }

    #[test]
    fn services_show_as_links() {
        let service = ServiceFacts {
            name: "my-db".into(),
            address: "10.0.0.9".into(),
            ports: vec![("sql".into(), "TCP".into(), 3306)],
        };
        let variables = of_services(&[service]);
        assert_eq!(variables["MY_DB_SERVICE_HOST"], "10.0.0.9");
        assert_eq!(variables["MY_DB_PORT_3306_TCP"], "tcp://10.0.0.9:3306");
        assert_eq!(variables["MY_DB_SERVICE_PORT_SQL"], "3306");
    }

    proptest! {
        #[test]
        fn text_without_dollars_stays(text in "[^$]{0,60}") {
            prop_assert_eq!(expand(&text, |_| Some("x".to_owned())), text);
        }

        #[test]
        fn expansion_never_panics(text in "[$()a]{0,40}") {
            let _ = expand(&text, |_| None);
        }
    }
}
