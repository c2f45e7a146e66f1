//! What the Node tells of its ports, so that controllers need not see the machine: an annotation, kept as it is wanted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::interface::{Api, Collection, PatchKind, Target};
use api::names::{NODES, PORTS_ANNOTATION};
use api::object::Object;
use api::value::Value;
use base::{Backoff, Clock, Stop, Tasks};
use control::mirror::Mirror;
use tokio::sync::Notify;
use tracing::{debug, warn};

/// Wait before what failed is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// Tells what is wanted last. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Offer(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Nothing is told before the first.
    wanted: Mutex<Option<String>>,
    wake: Notify,
}

impl Offer {
    /// Tells `ports` from now on.
    pub(super) fn tell(&self, ports: &BTreeMap<String, String>) {
        let text = serde_json::to_string(ports).unwrap_or_default();
        let mut wanted = self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.as_ref() != Some(&text) {
            *wanted = Some(text);
            self.0.wake.notify_one();
        }
    }

    /// Keeps the annotation of `node` until `stop`, also on a Node that is made anew.
    pub(super) async fn keep(self, node: String, api: Arc<dyn Api>, clock: Clock, tasks: Tasks, stop: Stop) {
        let selector = format!("metadata.name={node}");
        let mirror = Arc::new(Mirror::selecting(Collection::new(&NODES, ""), "", &selector));
        let shared = self.0.clone();
        mirror.on_change(move |_| shared.wake.notify_one());
        let (fed, feeding, timing, ending) = (mirror.clone(), api.clone(), clock.clone(), stop.clone());
        tasks.spawn("watch of the own node", async move { fed.run(&*feeding, &timing, &ending).await });
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        while stop.or(self.0.wake.notified()).await.is_some() {
            let Some(wanted) = self.wanted() else { continue };
            let told = mirror.get("", &node);
            // A Node that is not there yet is waited for.
            if told.is_none_or(|node| annotation(&node).as_ref() == Some(&wanted)) {
                continue;
            }
            let mut patch = Value::object();
            patch.set(&["metadata", "annotations", PORTS_ANNOTATION], wanted);
            let target = Target::new(&NODES, "", &node);
            match stop.or(api.patch(target, PatchKind::Merge, &patch)).await {
                None => return,
                Some(Ok(_)) => {
                    debug!(node, "ports are told");
                    backoff.succeed();
                }
                Some(Err(error)) => {
                    warn!(node, %error, "the node's ports could not be told");
                    let _ = stop.or(clock.sleep(backoff.fail())).await;
                    self.0.wake.notify_one();
                }
            }
        }
    }

    fn wanted(&self) -> Option<String> {
        self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn annotation(node: &Object) -> Option<String> {
    node.to_tree().str_at(&["metadata", "annotations", PORTS_ANNOTATION]).map(str::to_owned)
}
