//! Ways to a container through its node's agent: `log`, `exec`, `attach`, `portforward`.

use api::names;
use api::status::Status;
use api::value::Value;

use super::Way;
use super::target::dial_agent;
use crate::gate::Gate;
use crate::kinds;
use crate::query::Query;
use crate::route::Info;

/// The way to the container that is meant.
pub(super) async fn to_container(gate: &Gate, info: &Info, query: &str) -> Result<Way, Status> {
    let kind = kinds::require(&names::PODS)?;
    let pod = gate.storage().require(kind, &info.namespace, &info.name)?.to_tree();
    let node = node_of(&pod, &info.name)?;
    let parameters = Query::new(query);
    let container =
        |pod: &Value| container(pod, &info.name, parameters.get("container").as_deref().unwrap_or_default());
    let place = format!("{}/{}", info.namespace, info.name);
    let path = match info.subresource.as_str() {
        "log" => format!("/containerLogs/{place}/{}{}", container(&pod)?, renamed(query, &[])),
        "portforward" => format!("/portForward/{place}{}", renamed(query, &[])),
        verb => {
            let names = [("stdin", "input"), ("stdout", "output"), ("stderr", "error")];
            format!("/{verb}/{place}/{}{}", container(&pod)?, renamed(query, &names))
        }
    };
    dial_agent(gate, &node, path).await
}

/// The query with the names that the agent knows; the container is in the path.
fn renamed(query: &str, names: &[(&str, &str)]) -> String {
    let parameters: Vec<String> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if key == "container" {
                return None;
            }
            let key = names.iter().find(|(from, _)| *from == key).map_or(key, |(_, to)| *to);
            let value = if names.is_empty() || value != "true" { value } else { "1" };
            Some(format!("{key}={value}"))
        })
        .collect();
    if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) }
}

/// Whether a pod has no node yet.
pub(super) fn is_unplaced(gate: &Gate, info: &Info) -> Result<bool, Status> {
    let kind = kinds::require(&names::PODS)?;
    let pod = gate.storage().require(kind, &info.namespace, &info.name)?.to_tree();
    Ok(pod.str_at(&["spec", "nodeName"]).unwrap_or_default().is_empty())
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
        let names = [("stdin", "input"), ("stdout", "output")];
        assert_eq!(
            renamed("command=ls&container=c&stdin=true&tty=true", &names),
            "?command=ls&input=1&tty=1"
        );
        assert_eq!(renamed("follow=true&container=c", &[]), "?follow=true");
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
