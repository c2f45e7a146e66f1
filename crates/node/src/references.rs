//! ConfigMaps and Secrets that pods of this node name: each watched as long as a pod needs it, and no others, for a
//! node may read only those.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::interface::{Api, Collection};
use api::names::{CONFIG_MAPS, Resource, SECRETS};
use api::value::Value;
use base::{Clock, Stop, Stopper, Tasks};
use control::mirror::Mirror;

use crate::pod::sources::{Data, Missing, Sources};

/// How long a pod waits for the first reading of what it names.
const FIRST_READING: Duration = Duration::from_secs(10);

type Name = (Resource, String, String);

/// The watched objects.
pub struct References {
    api: Arc<dyn Api>,
    clock: Clock,
    tasks: Tasks,
    stop: Stop,
    entries: Mutex<BTreeMap<Name, Entry>>,
    changed: Arc<dyn Fn(&str) + Send + Sync>,
}

struct Entry {
    mirror: Arc<Mirror>,
    stopper: Stopper,
    pods: BTreeSet<String>,
}

impl References {
    /// None yet. `changed` is told the uid of each pod that names an object that has changed.
    pub fn new(
        api: Arc<dyn Api>,
        clock: Clock,
        tasks: Tasks,
        stop: Stop,
        changed: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> Arc<Self> {
        Arc::new(Self { api, clock, tasks, stop, entries: Mutex::default(), changed })
    }

    /// Watches what a pod names, and returns when all of it has been read once (or cannot be read in time).
    pub async fn ensure(self: &Arc<Self>, pod: &str, namespace: &str, maps: &[String], secrets: &[String]) {
        let maps = maps.iter().map(|name| (CONFIG_MAPS, namespace.to_owned(), name.clone()));
        let secrets = secrets.iter().map(|name| (SECRETS, namespace.to_owned(), name.clone()));
        let mirrors: Vec<Arc<Mirror>> = maps.chain(secrets).map(|name| self.watch(pod, name)).collect();
        let all = async {
            for mirror in &mirrors {
                mirror.synced().await;
            }
        };
        // What is not read by then is told as unreachable, and tried again by the pod.
        let _ = self.clock.timeout(FIRST_READING, all).await;
    }

    fn watch(self: &Arc<Self>, pod: &str, name: Name) -> Arc<Mirror> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(name.clone()).or_insert_with(|| self.open(&name));
        entry.pods.insert(pod.to_owned());
        entry.mirror.clone()
    }

    fn open(self: &Arc<Self>, name: &Name) -> Entry {
        let (resource, namespace, object) = name;
        let selector = format!("metadata.name={object}");
        let mirror = Arc::new(Mirror::selecting(Collection::new(resource, namespace), "", &selector));
        let (references, key) = (Arc::downgrade(self), name.clone());
        mirror.on_change(move |_| {
            if let Some(references) = references.upgrade() {
                references.tell(&key);
            }
        });
        let stopper = Stopper::child(&self.stop);
        let (task, api, clock, stop) =
            (mirror.clone(), self.api.clone(), self.clock.clone(), stopper.signal());
        self.tasks.spawn("reference", async move { task.run(&*api, &clock, &stop).await });
        Entry { mirror, stopper, pods: BTreeSet::new() }
    }

    fn tell(&self, name: &Name) {
        let pods = {
            let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.get(name).map(|entry| entry.pods.clone()).unwrap_or_default()
        };
        pods.iter().for_each(|pod| (self.changed)(pod));
    }

    /// A pod has gone; what only it named is watched no longer.
    pub fn release(&self, pod: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| {
            entry.pods.remove(pod);
            let needed = !entry.pods.is_empty();
            if !needed {
                entry.stopper.stop();
            }
            needed
        });
    }

    fn read(
        &self,
        resource: &Resource,
        kind: &'static str,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Missing> {
        let key = (resource.clone(), namespace.to_owned(), name.to_owned());
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let unreachable =
            |why: &str| Missing::Unreachable { kind, name: name.to_owned(), why: why.to_owned() };
        let entry = entries.get(&key).ok_or_else(|| unreachable("the pod does not name it"))?;
        if !entry.mirror.progress().synced {
            return Err(unreachable("the API server has not answered yet"));
        }
        let object = entry.mirror.get(namespace, name);
        object.map(|object| object.to_tree()).ok_or_else(|| Missing::Object { kind, name: name.to_owned() })
    }
}

impl Sources for References {
    fn config_map_text(&self, namespace: &str, name: &str) -> Result<Data, Missing> {
        Ok(texts(&self.read(&CONFIG_MAPS, "ConfigMap", namespace, name)?, "data"))
    }

    fn config_map(&self, namespace: &str, name: &str) -> Result<Data, Missing> {
        let tree = self.read(&CONFIG_MAPS, "ConfigMap", namespace, name)?;
        let mut data = texts(&tree, "data");
        data.extend(decoded(&tree, "binaryData"));
        Ok(data)
    }

    fn secret(&self, namespace: &str, name: &str) -> Result<Data, Missing> {
        Ok(decoded(&self.read(&SECRETS, "Secret", namespace, name)?, "data"))
    }
}

fn pairs<'a>(tree: &'a Value, field: &str) -> impl Iterator<Item = (String, &'a str)> {
    let map = tree.get(field).and_then(Value::as_object);
    map.into_iter()
        .flat_map(api::value::Map::iter)
        .filter_map(|(key, value)| Some((key.to_string(), value.as_str()?)))
}

fn texts(tree: &Value, field: &str) -> Data {
    pairs(tree, field).map(|(key, text)| (key, text.as_bytes().to_vec())).collect()
}

fn decoded(tree: &Value, field: &str) -> Data {
    use base64::Engine;
    let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).ok();
    pairs(tree, field).filter_map(|(key, text)| Some((key, decode(text)?))).collect()
}
