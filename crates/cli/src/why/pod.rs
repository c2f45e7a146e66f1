//! Why a pod does not run, or is not ready.

use api::value::Value;
use jiff::Timestamp;

use super::world::{World, condition, deletion, holds, lasting, message, name_of, span, time_at};
use super::{Finding, taints};

/// Headline and findings of one pod.
pub fn pod(pod: &Value, world: &World, now: Timestamp) -> (String, Vec<Finding>) {
    let findings = findings(pod, world, now);
    let phase = pod.str_at(&["status", "phase"]).unwrap_or("Pending");
    let name = name_of(pod);
    let headline = match (phase, holds(pod, "Ready"), findings.is_empty()) {
        ("Succeeded", ..) => format!("pod/{name} has done its work"),
        (_, true, true) => format!("pod/{name} is running and ready"),
        (_, _, true) => format!(
            "pod/{name} is {phase}{} and on its way; nothing is wrong so far",
            lasting(pod, &["metadata", "creationTimestamp"], now)
        ),
        _ => {
            format!("pod/{name} is {phase}{}", if holds(pod, "Ready") { " and ready" } else { ", not ready" })
        }
    };
    (headline, findings)
}

/// What is wrong with a pod; empty if nothing is.
pub fn findings(pod: &Value, world: &World, now: Timestamp) -> Vec<Finding> {
    let mut found: Vec<Finding> = deletion(pod, now).into_iter().collect();
    if pod.str_at(&["status", "phase"]) == Some("Succeeded") {
        return found;
    }
    let unplaced = unplaced(pod, world, now);
    if !unplaced.is_empty() {
        found.extend(unplaced);
        return found;
    }
    if pod.str_at(&["status", "phase"]) == Some("Failed") {
        found.extend(failed(pod, now));
    }
    found.extend(node_gone(pod, world, now));
    let before = found.len();
    for list in ["initContainerStatuses", "containerStatuses"] {
        for status in pod.array_at(&["status", list]) {
            found.extend(container(pod, status, world, now));
        }
    }
    if found.len() == before && !holds(pod, "Ready") {
        // What keeps all containers from being made is told by events alone.
        found.extend(gated(pod, now).or_else(|| not_begun(pod, world, now)));
    }
    found.dedup();
    found
}

/// The scheduler that is here; pods may ask for others, which users run themselves.
const SCHEDULER: &str = "default-scheduler";

/// Containers that are all ready do not make a pod ready that waits for others' word.
fn gated(pod: &Value, now: Timestamp) -> Option<Finding> {
    let ready =
        condition(pod, "Ready").filter(|c| c.str_at(&["reason"]) == Some("ReadinessGatesNotReady"))?;
    let since = lasting(ready, &["lastTransitionTime"], now);
    Some(Finding::new(
        format!(
            "its containers are ready, and its readiness gates have held it back{since}: {}",
            message(ready)
        ),
        "the program that is to say so must set the condition in the pod's status; without one, remove \
         spec.readinessGates from the template",
    ))
}

/// Why no node takes it; empty if one has, or nobody has looked yet.
fn unplaced(pod: &Value, world: &World, now: Timestamp) -> Vec<Finding> {
    let scheduled = condition(pod, "PodScheduled").filter(|c| c.str_at(&["status"]) == Some("False"));
    let Some(scheduled) = scheduled else { return unlooked(pod, now).into_iter().collect() };
    let since = lasting(scheduled, &["lastTransitionTime"], now);
    if scheduled.str_at(&["reason"]) == Some("SchedulingGated") {
        let gates: Vec<&str> = pod
            .array_at(&["spec", "schedulingGates"])
            .iter()
            .filter_map(|gate| gate.str_at(&["name"]))
            .collect();
        let what = format!("it is held back{since} by its scheduling gates: {}", gates.join(", "));
        return vec![Finding::new(what, "whoever set a gate must remove it")];
    }
    let words = message(scheduled);
    let mut found = vec![Finding::new(format!("no node takes it{since}: {words}"), "")];
    if words.contains("untolerated taint") || words.contains("were unschedulable") {
        found.extend(taints::keeping_away(pod, world));
    }
    if found.len() == 1 || words.contains("Insufficient") {
        placing_advice(words).clone_into(&mut found[0].advice);
    }
    found
}

/// A pod that is for a scheduler of which nothing was heard.
fn unlooked(pod: &Value, now: Timestamp) -> Option<Finding> {
    let scheduler = pod.str_at(&["spec", "schedulerName"]).filter(|name| *name != SCHEDULER)?;
    let is_placed = pod.str_at(&["spec", "nodeName"]).is_some_and(|node| !node.is_empty());
    let since = lasting(pod, &["metadata", "creationTimestamp"], now);
    (!is_placed && condition(pod, "PodScheduled").is_none()).then(|| {
        Finding::new(
            format!("it has waited{since} for the scheduler {scheduler:?}, of which nothing was heard"),
            format!("run that scheduler, or remove spec.schedulerName so that {SCHEDULER} places it"),
        )
    })
}

fn placing_advice(words: &str) -> &'static str {
    if words.contains("found a potential placement")
        || words.contains("terminating pod on the nominated node")
    {
        "pods of lower priority are being sent away for it; wait until they have gone"
    } else if words.contains("unschedulable") {
        "the node is cordoned: kubectl uncordon NODE"
    } else if words.contains("Insufficient") {
        "lower the pod's requests, or remove other pods (kubectl describe node shows who holds what)"
    } else if words.contains("untolerated taint") {
        "add a toleration to the pod, or remove the taint: kubectl taint node NODE KEY-"
    } else if words.contains("anti-affinity rules") {
        "pods that must be apart leave it no node: join another node, or change the podAntiAffinity"
    } else if words.contains("pod affinity rules") {
        "no pod runs that it must be near: start that one first, or change the podAffinity"
    } else if words.contains("topology spread") {
        "it would make its pods too uneven: raise maxSkew, or label nodes with the topologyKey"
    } else if words.contains("affinity") || words.contains("selector") {
        "label a node as the pod wants it, or change the pod's nodeSelector or affinity"
    } else if words.contains("free ports") {
        "another pod has the host port: remove hostPort, or run fewer replicas"
    } else if words.contains("Too many pods") {
        "the node holds as many pods as it may; remove some, or join another node"
    } else {
        "\"kubectl describe pod\" shows what it asks for"
    }
}

fn failed(pod: &Value, now: Timestamp) -> Option<Finding> {
    let reason = pod.str_at(&["status", "reason"])?;
    let words = pod.str_at(&["status", "message"]).unwrap_or_default();
    let since = lasting(pod, &["status", "startTime"], now);
    Some(Finding::new(
        format!("it has failed ({reason}{since}): {words}"),
        "delete it; its owner makes another",
    ))
}

fn node_gone(pod: &Value, world: &World, now: Timestamp) -> Option<Finding> {
    let name = pod.str_at(&["spec", "nodeName"]).filter(|name| !name.is_empty())?;
    let Some(node) = world.find("Node", "", name) else {
        return Some(Finding::new(
            format!("its node {name} is gone"),
            "delete the pod by force: --force --grace-period=0",
        ));
    };
    let ready = condition(node, "Ready").filter(|c| c.str_at(&["status"]) != Some("True"))?;
    let since = lasting(ready, &["lastTransitionTime"], now);
    Some(Finding::new(format!("its node {name} is not ready{since}"), format!("ondol why node/{name}")))
}

fn container(pod: &Value, status: &Value, world: &World, now: Timestamp) -> Option<Finding> {
    let name = status.str_at(&["name"]).unwrap_or_default();
    if let Some(waiting) = status.at(&["state", "waiting"]) {
        return waits(pod, status, waiting, world, now);
    }
    if let Some(ended) =
        status.at(&["state", "terminated"]).filter(|ended| ended.int_at(&["exitCode"]) != Some(0))
    {
        let what = format!("container {name} has ended: {}", ending(ended, now));
        return Some(Finding::new(what, logs_advice(pod, name, ended, false)));
    }
    let runs = status.at(&["state", "running"]).is_some();
    if runs && status.bool_at(&["ready"]) == Some(false) {
        let event = world.warning(pod, &["Unhealthy"]);
        let since = lasting(status, &["state", "running", "startedAt"], now);
        return Some(match event {
            Some(event) => Finding::new(
                format!("container {name} runs{since} but is not ready: {}", message(event)),
                format!("see what it says: kubectl logs{} {} -c {name}", namespace(pod), name_of(pod)),
            ),
            None if status.bool_at(&["started"]) == Some(false) => Finding::new(
                format!("container {name} runs{since} and its startup probe has not succeeded yet"),
                "",
            ),
            None => Finding::new(format!("container {name} runs{since} and is not ready yet"), ""),
        });
    }
    None
}

fn waits(pod: &Value, status: &Value, waiting: &Value, world: &World, now: Timestamp) -> Option<Finding> {
    let name = status.str_at(&["name"]).unwrap_or_default();
    let image = status.str_at(&["image"]).unwrap_or_default();
    let words = waiting.str_at(&["message"]).unwrap_or_default();
    let since = lasting(pod, &["status", "startTime"], now);
    match waiting.str_at(&["reason"]).unwrap_or_default() {
        "ImagePullBackOff" | "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName"
        | "ImageInspectError" => {
            // While it waits between attempts, the status says only that; the reason is in the event.
            let event = world.warning(pod, &["Failed", "InspectFailed"]).map(message);
            let words = event.filter(|event| event.contains(image) && event.contains(": ")).unwrap_or(words);
            let what = format!("container {name} has had no image{since}: {words}");
            let advice = format!(
                "check the name {image:?}; try \"ondol image pull {image}\", or set another: kubectl set image"
            );
            Some(Finding::new(what, advice))
        }
        "CrashLoopBackOff" => {
            let count = status.int_at(&["restartCount"]).unwrap_or_default();
            let last = status.at(&["lastState", "terminated"])?;
            if let Some(probe) = killed_by(pod, name, last, world) {
                return Some(Finding::new(
                    format!(
                        "container {name} is ended again and again ({count} restarts): {}",
                        message(probe)
                    ),
                    "see what the probe asks and whether the program answers it in time (kubectl describe pod); \
                     failureThreshold, timeoutSeconds and a startupProbe give it more time",
                ));
            }
            let what = format!("container {name} keeps ending ({count} restarts): {}", ending(last, now));
            Some(Finding::new(what, logs_advice(pod, name, last, true)))
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" | "StartError" => {
            Some(Finding::new(format!("container {name} cannot start{since}: {words}"), start_advice(words)))
        }
        _ => None,
    }
}

/// The probe because of which a container was ended.
fn killed_by<'a>(pod: &Value, container: &str, ended: &Value, world: &'a World) -> Option<&'a Value> {
    let finished = time_at(ended, &["finishedAt"]);
    let path = format!("spec.containers{{{container}}}");
    world.warnings(pod).into_iter().find(|event| {
        let words = message(event);
        let told = time_at(event, &["lastTimestamp"]);
        let is_near = finished.zip(told).is_none_or(|(finished, told)| {
            finished.duration_since(told).as_secs().unsigned_abs() <= NEAR_SECONDS
        });
        event.str_at(&["reason"]) == Some("Unhealthy")
            && event.str_at(&["involvedObject", "fieldPath"]).is_none_or(|field| field == path)
            && (words.starts_with("Liveness") || words.starts_with("Startup"))
            && is_near
    })
}

/// Between the last failure of a probe and the end of its container lies the container's time to end.
const NEAR_SECONDS: u64 = 300;

fn start_advice(words: &str) -> &'static str {
    let lower = words.to_lowercase();
    if lower.contains("configmap") || lower.contains("secret") {
        "make what it names, or mark the reference optional; the pod goes on by itself"
    } else if lower.contains("root") {
        "set securityContext.runAsUser to another user than 0, or remove runAsNonRoot"
    } else {
        "\"kubectl describe pod\" shows its command and image"
    }
}

fn ending(ended: &Value, now: Timestamp) -> String {
    let code = ended.int_at(&["exitCode"]).unwrap_or_default();
    let ago =
        time_at(ended, &["finishedAt"]).map(|at| format!(", {} ago", span(at, now))).unwrap_or_default();
    match ended.str_at(&["reason"]) {
        Some("OOMKilled") => format!("the kernel killed it because it used more memory than its limit{ago}"),
        Some("Error") | None => format!("exit code {code}{ago}"),
        Some(reason) => {
            let words =
                ended.str_at(&["message"]).map(|words| format!(": {}", words.trim())).unwrap_or_default();
            format!("{reason}, exit code {code}{ago}{words}")
        }
    }
}

fn logs_advice(pod: &Value, container: &str, ended: &Value, again: bool) -> String {
    if ended.str_at(&["reason"]) == Some("OOMKilled") {
        return "raise resources.limits.memory, or let the program use less".to_owned();
    }
    let previous = if again { " --previous" } else { "" };
    format!("see its last words: kubectl logs{} {} -c {container}{previous}", namespace(pod), name_of(pod))
}

fn namespace(pod: &Value) -> String {
    match pod.str_at(&["metadata", "namespace"]) {
        None | Some("default" | "") => String::new(),
        Some(namespace) => format!(" -n {namespace}"),
    }
}

fn not_begun(pod: &Value, world: &World, now: Timestamp) -> Option<Finding> {
    let event = world.warnings(pod).into_iter().next()?;
    let since = lasting(pod, &["metadata", "creationTimestamp"], now);
    let advice = match event.str_at(&["reason"]).unwrap_or_default() {
        "FailedMount" | "FailedAttachVolume" => {
            "make what the volume names (kubectl get configmap,secret), or mark it optional; the pod goes on by itself"
        }
        "UnsupportedField" => "remove the field from the pod, or from the template that makes it",
        "FailedCreatePodSandBox" => "\"ondol logs\" tells what the kernel refused",
        _ => "",
    };
    Some(Finding::new(format!("it has not begun{since}: {}", message(event)), advice))
}
