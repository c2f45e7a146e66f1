//! Ways to a container through its node's agent: `log`, `exec`, `attach`, `portforward`.

use api::names;
use api::status::Status;
use api::value::Value;

use super::Way;
use super::options::{LogOptions, check_ports};
use super::target::dial_agent;
use crate::gate::Gate;
use crate::kinds;
use crate::query::Query;
use crate::route::Info;

/// The way to a pod's log; none while the pod has no node, for upstream has nothing to say of a pod that nobody runs yet.
pub(super) async fn to_log(gate: &Gate, info: &Info, query: &str) -> Result<Option<Way>, Status> {
    let options = LogOptions::read(Query::new(query), &info.name)?;
    let pod = pod(gate, info)?;
    let container = container(&pod, &info.name, &options.container)?;
    let Ok(node) = node_of(&pod, &info.name) else { return Ok(None) };
    let path = format!("/containerLogs/{}/{}/{container}{}", info.namespace, info.name, options.to_query());
    dial_agent(gate, &node, path).await.map(Some)
}

/// The way to the container that is meant.
pub(super) async fn to_container(gate: &Gate, info: &Info, query: &str) -> Result<Way, Status> {
    let parameters = Query::new(query);
    if info.subresource == "portforward" {
        check_ports(parameters)?;
    }
    let pod = pod(gate, info)?;
    let node = node_of(&pod, &info.name)?;
    let place = format!("{}/{}", info.namespace, info.name);
    let path = match info.subresource.as_str() {
        "portforward" => format!("/portForward/{place}{}", renamed(query, &[])),
        verb => {
            let names = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
            let wanted = parameters.get("container").unwrap_or_default();
            let container = container(&pod, &info.name, &wanted)?;
            format!("/{verb}/{place}/{container}{}", renamed(query, &names))
        }
    };
    dial_agent(gate, &node, path).await
}

fn pod(gate: &Gate, info: &Info) -> Result<Value, Status> {
    let kind = kinds::require(&names::PODS)?;
    Ok(gate.storage().require(kind, &info.namespace, &info.name)?.to_tree())
}

/// The query with the names that the agent knows; the container is in the path. All that is named is a switch: on,
/// unless it says that it is off.
fn renamed(query: &str, names: &[(&str, &str)]) -> String {
    let parameters: Vec<String> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if key == "container" {
                return None;
            }
            match names.iter().find(|(from, _)| *from == key) {
                Some((_, to)) => {
                    (value != "0" && !value.eq_ignore_ascii_case("false")).then(|| format!("{to}=1"))
                }
                None => Some(format!("{key}={value}")),
            }
        })
        .collect();
    if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) }
}

fn node_of(pod: &Value, name: &str) -> Result<String, Status> {
    pod.str_at(&["spec", "nodeName"])
        .filter(|node| !node.is_empty())
        .map(str::to_owned)
        .ok_or_else(|| Status::bad_request(format!("pod {name} does not have a host assigned")))
}

/// The container that is meant, or upstream's error.
fn container(pod: &Value, name: &str, wanted: &str) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        pod.array_at(&["spec", list])
            .iter()
            .filter_map(|container| container.str_at(&["name"]).map(str::to_owned))
            .collect()
    };
    let (containers, inits) = (names("containers"), names("initContainers"));
    let others = names("ephemeralContainers");
    if !wanted.is_empty() {
        let known = [&containers, &inits, &others].into_iter().flatten().any(|known| known == wanted);
        return if known {
            Ok(wanted.to_owned())
        } else {
            Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")))
        };
    }
    match containers.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        many => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                many.join(" ")
            );
            if !inits.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", inits.join(" ")));
            }
            Err(Status::bad_request(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn the_agent_gets_the_names_that_it_knows() {
        let names = [("stdin", "input"), ("stdout", "output"), ("tty", "tty")];
        assert_eq!(
            renamed("command=true&container=c&stdin=maybe&stdout=False&tty=true", &names),
            "?command=true&input=1&tty=1"
        );
        assert_eq!(renamed("ports=80&container=c", &[]), "?ports=80");
        assert_eq!(renamed("", &[]), "");
    }

    #[test]
    fn the_only_container_need_not_be_named() {
        let pod = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&pod, "p", "").unwrap(), "a");
        assert_eq!(container(&pod, "p", "i").unwrap(), "i");
        assert_eq!(container(&pod, "p", "x").unwrap_err().message, "container x is not valid for pod p");
        let two = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert!(container(&two, "p", "").unwrap_err().message.ends_with("choose one of: [a b]"));
    }
}
