//! A cache of one collection, fed by list and watch.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use api::interface::{Api, Call, Collection, ListOptions, Watch, WatchEvent};
use api::names::Resource;
use api::object::Object;
use api::status::{Reason, Status};
use api::value::Str;
use base::{Backoff, Clock, Level, Stop};
use futures::{FutureExt, StreamExt};
use tracing::{debug, error, warn};

/// Wait between attempts to list or watch, first and longest: a node is to hear again within a second of a server that
/// was away for long.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_millis(500);
/// Wait before everything is listed anew once more, first and longest, where the last time is not long ago: who cannot
/// keep up must not ask for all objects all the time.
const LIST_FIRST: Duration = Duration::from_millis(200);
const LIST_LONGEST: Duration = Duration::from_secs(5);
/// When a list is long enough ago for the next one to be made at once.
const LIST_QUIET: Duration = Duration::from_secs(60);

/// Namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Empty for kinds without namespaces.
    pub namespace: Str,
    /// The object's name.
    pub name: Str,
}

/// What happened to one object: at least one side is there.
#[derive(Clone, Debug)]
pub struct Change {
    /// As it was, unless it is new.
    pub old: Option<Arc<Object>>,
    /// As it is, unless it is gone.
    pub new: Option<Arc<Object>>,
}

type Listener = Box<dyn Fn(&Change) + Send + Sync>;

/// Objects under a value that is derived from each of them.
pub type IndexFn = fn(&Object) -> Vec<Str>;

/// The present state of a collection, at one revision or later.
pub struct Mirror {
    collection: Collection,
    label_selector: Str,
    field_selector: Str,
    state: RwLock<State>,
    listeners: Mutex<Vec<Listener>>,
    progress: Level<Progress>,
}

/// How far a mirror is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether the first list is complete.
    pub synced: bool,
    /// All events up to this revision have been applied.
    pub revision: u64,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Arc<Object>>,
    owned: Entries,
    indexes: Vec<(&'static str, IndexFn, Entries)>,
}

/// Keys under a derived value.
type Entries = BTreeMap<Str, BTreeSet<Key>>;

impl Key {
    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Of an object.
    pub fn of(object: &Object) -> Self {
        Self::new(object.namespace(), object.name())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl Mirror {
    /// An empty mirror of all objects of a resource.
    pub fn new(resource: &Resource) -> Self {
        Self::selecting(Collection::new(resource, ""), "", "")
    }

    /// An empty mirror of a part of a collection.
    pub fn selecting(collection: Collection, label_selector: &str, field_selector: &str) -> Self {
        Self {
            collection,
            label_selector: label_selector.into(),
            field_selector: field_selector.into(),
            state: RwLock::default(),
            listeners: Mutex::default(),
            progress: Level::default(),
        }
    }

    /// Adds an index before the mirror runs.
    #[must_use]
    pub fn indexed(self, name: &'static str, index: IndexFn) -> Self {
        self.write().indexes.push((name, index, BTreeMap::new()));
        self
    }

    /// What it mirrors.
    pub fn resource(&self) -> &Resource {
        &self.collection.resource
    }

    /// Whether it shows every object of the resource: no selector, no single namespace.
    pub fn is_whole(&self) -> bool {
        self.collection.namespace.is_empty()
            && self.label_selector.is_empty()
            && self.field_selector.is_empty()
    }

    /// Calls `listener` after every change from now on. It must be quick and must not call back into the mirror's
    /// feeding side.
    pub fn on_change(&self, listener: impl Fn(&Change) + Send + Sync + 'static) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress.get()
    }

    /// Returns once `holds` does; it is asked now and after every change.
    pub async fn until(&self, holds: impl FnMut(Progress) -> bool) {
        self.progress.wait_for(holds).await;
    }

    /// Returns when the first list is complete.
    pub async fn synced(&self) {
        self.until(|progress| progress.synced).await;
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.read().objects.get(&Key::new(namespace, name)).cloned()
    }

    /// All objects of a namespace, or (empty) of all, by namespace and name.
    pub fn list(&self, namespace: &str) -> Vec<Arc<Object>> {
        let state = self.read();
        if namespace.is_empty() {
            return state.objects.values().cloned().collect();
        }
        state
            .objects
            .range(Key::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects that name `uid` among their owners.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<Object>> {
        let state = self.read();
        let keys = state.owned.get(uid).into_iter().flatten();
        keys.filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// The objects that the index `name` puts under `value`. The index must have been added.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<Object>> {
        let state = self.read();
        let index = state.indexes.iter().find(|(other, ..)| *other == name);
        let (_, _, entries) = index.expect("an index is added before it is asked for");
        let keys = entries.get(value).into_iter().flatten();
        keys.filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// Feeds the mirror until `stop`. Errors are retried; a revision of which the server knows nothing any more, or
    /// nothing yet, leads to a new list.
    pub async fn run(&self, api: &dyn Api, clock: &Clock, stop: &Stop) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        let (mut lists, mut listed) = (Backoff::new(LIST_FIRST, LIST_LONGEST), None::<Duration>);
        let mut from = None;
        while !stop.is_stopped() {
            let following = AssertUnwindSafe(self.follow(api, &mut from, &mut backoff)).catch_unwind();
            let Some(result) = stop.or(following).await else { return };
            let result = result.unwrap_or_else(|panic| {
                let message = base::panics::caught(panic);
                error!(resource = %self.collection.resource, message, "a mirror panicked; this is a bug");
                // Whatever was half done, a whole list puts right.
                Err(Status::expired(message))
            });
            let delay = match result {
                // The server ends watches now and then; the next one goes on where this one ended.
                Ok(()) => continue,
                Err(status) if is_of_no_use(&status) => {
                    debug!(resource = %self.collection.resource, error = %status, "listing anew");
                    from = None;
                    let now = clock.monotonic();
                    let quiet = listed.is_none_or(|at| now.saturating_sub(at) > LIST_QUIET);
                    listed = Some(now);
                    if quiet {
                        lists.succeed();
                        Duration::ZERO
                    } else {
                        lists.fail()
                    }
                }
                Err(status) => {
                    let delay = backoff.fail();
                    if backoff.failures() > 1 {
                        warn!(resource = %self.collection.resource, error = %status, ?delay, "watching failed");
                    }
                    delay
                }
            };
            if stop.or(clock.sleep(delay)).await.is_none() {
                return;
            }
        }
    }

    async fn follow(
        &self,
        api: &dyn Api,
        from: &mut Option<u64>,
        backoff: &mut Backoff,
    ) -> Result<(), Status> {
        let revision = match *from {
            Some(revision) => revision,
            None => {
                let options = ListOptions {
                    label_selector: self.label_selector.clone(),
                    field_selector: self.field_selector.clone(),
                    ..ListOptions::default()
                };
                let list = api.call(Call::List(self.collection.clone(), options)).await?.list()?;
                self.replace(list.items, list.revision);
                *from = Some(list.revision);
                list.revision
            }
        };
        let watch = Watch {
            collection: self.collection.clone(),
            label_selector: self.label_selector.clone(),
            field_selector: self.field_selector.clone(),
            from: Some(revision),
            bookmarks: true,
            initial_events: false,
        };
        let mut events = api.watch(watch).await?;
        while let Some(event) = events.next().await {
            let event = event?;
            backoff.succeed();
            *from = Some(self.apply(event));
        }
        Ok(())
    }

    /// Applies one event; returns its revision. Public for the simulated world.
    pub fn apply(&self, event: WatchEvent) -> u64 {
        let (revision, change) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let old = self.write().put(object.clone());
                (object.revision(), Change { old, new: Some(object) })
            }
            WatchEvent::Deleted(object) => {
                let old = self.write().take(&Key::of(&object));
                (object.revision(), Change { old: old.or(Some(object)), new: None })
            }
            WatchEvent::Bookmark { revision, .. } => {
                self.advance(revision);
                return revision;
            }
        };
        self.tell(&change);
        self.advance(revision);
        revision
    }

    /// Puts a whole list in the place of what is there; listeners hear only of differences.
    fn replace(&self, items: Vec<Arc<Object>>, revision: u64) {
        let mut changes = Vec::new();
        {
            let mut state = self.write();
            let listed: BTreeSet<Key> = items.iter().map(|object| Key::of(object)).collect();
            let gone: Vec<Key> = state.objects.keys().filter(|key| !listed.contains(key)).cloned().collect();
            for key in gone {
                changes.push(Change { old: state.take(&key), new: None });
            }
            for object in items {
                let old = state.put(object.clone());
                let same = old
                    .as_ref()
                    .is_some_and(|old| old.revision() == object.revision() && old.uid() == object.uid());
                if !same {
                    changes.push(Change { old, new: Some(object) });
                }
            }
        }
        for change in &changes {
            self.tell(change);
        }
        self.progress.update(|progress| *progress = Progress { synced: true, revision });
    }

    fn advance(&self, revision: u64) {
        self.progress.update(|progress| progress.revision = progress.revision.max(revision));
    }

    fn tell(&self, change: &Change) {
        for listener in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // Others hear of it all the same, and of what comes after it.
            if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| listener(change))) {
                let message = base::panics::caught(panic);
                let key = change.either().map(|object| Key::of(object).to_string());
                error!(resource = %self.collection.resource, key, message, "a listener panicked; this is a bug");
            }
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a watch's revision is no place to go on from: the server has forgotten what came after it, or has never come
/// so far, because its data were put back to an earlier state.
fn is_of_no_use(status: &Status) -> bool {
    matches!(status.reason, Reason::Expired | Reason::Gone | Reason::Timeout)
}

impl State {
    fn put(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let key = Key::of(&object);
        let old = self.take(&key);
        for owner in object.owners() {
            self.owned.entry(owner.uid.clone()).or_default().insert(key.clone());
        }
        for (_, index, entries) in &mut self.indexes {
            for value in index(&object) {
                entries.entry(value).or_default().insert(key.clone());
            }
        }
        self.objects.insert(key, object);
        old
    }

    fn take(&mut self, key: &Key) -> Option<Arc<Object>> {
        let old = self.objects.remove(key)?;
        for owner in old.owners() {
            forget(&mut self.owned, &owner.uid, key);
        }
        for (_, index, entries) in &mut self.indexes {
            for value in index(&old) {
                forget(entries, &value, key);
            }
        }
        Some(old)
    }
}

fn forget(entries: &mut Entries, value: &str, key: &Key) {
    if let Some(keys) = entries.get_mut(value) {
        keys.remove(key);
        if keys.is_empty() {
            entries.remove(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::interface::{Answer, List, WatchStream};
    use api::json;
    use api::names::PODS;
    use futures::future::BoxFuture;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn pod(name: &str, revision: &str, owner: &str) -> Arc<Object> {
        let tree = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": name, "namespace": "a", "resourceVersion": revision,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": owner}]
        }});
        Arc::new(Object::from_tree(&tree).unwrap())
    }

    #[test]
    fn indexes_follow_every_change() {
        let mirror = Mirror::new(&PODS).indexed("first letter", |object| vec![object.name()[..1].into()]);
        mirror.apply(WatchEvent::Added(pod("x", "1", "u1")));
        mirror.apply(WatchEvent::Modified(pod("x", "2", "u2")));
        assert!(mirror.owned_by("u1").is_empty());
        assert_eq!(mirror.owned_by("u2").len(), 1);
        assert_eq!(mirror.by_index("first letter", "x").len(), 1);
        mirror.apply(WatchEvent::Deleted(pod("x", "3", "u2")));
        assert!(mirror.owned_by("u2").is_empty() && mirror.is_empty());
        assert_eq!(mirror.progress().revision, 3);
    }

    #[test]
    fn a_new_list_tells_only_differences() {
        let mirror = Mirror::new(&PODS);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = heard.clone();
        mirror.on_change(move |change| {
            let name = |side: &Option<Arc<Object>>| side.as_ref().map(|object| object.name().to_owned());
            ear.lock().unwrap().push((name(&change.old), name(&change.new)));
        });
        mirror.replace(vec![pod("x", "1", "u"), pod("y", "2", "u")], 2);
        heard.lock().unwrap().clear();
        mirror.replace(vec![pod("y", "2", "u"), pod("z", "4", "u")], 5);
        let heard = heard.lock().unwrap().clone();
        assert_eq!(heard, [(Some("x".into()), None), (None, Some("z".into()))]);
    }

    #[test]
    fn a_listener_that_panics_keeps_nobody_else_from_hearing() {
        let mirror = Mirror::new(&PODS);
        let heard = Arc::new(AtomicUsize::new(0));
        let ear = heard.clone();
        mirror.on_change(|_| panic!("on purpose"));
        mirror.on_change(move |_| {
            ear.fetch_add(1, Ordering::Relaxed);
        });
        mirror.apply(WatchEvent::Added(pod("x", "1", "u")));
        mirror.apply(WatchEvent::Deleted(pod("x", "2", "u")));
        assert_eq!((heard.load(Ordering::Relaxed), mirror.progress().revision), (2, 2));
    }

    /// Says what its script says at each list, and ends each watch as that says.
    struct Scripted {
        lists: AtomicUsize,
        list: fn(usize) -> (u64, &'static str),
        end: fn() -> Status,
    }

    impl Api for Scripted {
        fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
            assert!(matches!(call, Call::List(..)));
            let (revision, name) = (self.list)(self.lists.fetch_add(1, Ordering::Relaxed));
            let items = vec![pod(name, &revision.to_string(), "u")];
            async move { Ok(Answer::List(List { revision, items, ..List::default() })) }.boxed()
        }

        fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream, Status>> {
            let answer = match watch.from {
                Some(5) => Ok(futures::stream::pending().boxed()),
                _ => Err((self.end)()),
            };
            async move { answer }.boxed()
        }
    }

    /// Feeds a mirror for a minute; returns it with the number of lists that were made.
    async fn fed(list: fn(usize) -> (u64, &'static str), end: fn() -> Status) -> (Mirror, usize) {
        let api = Scripted { lists: AtomicUsize::new(0), list, end };
        let (mirror, clock) = (Mirror::new(&PODS), Clock::simulated(jiff::Timestamp::UNIX_EPOCH));
        let stopper = base::Stopper::new();
        let stop = stopper.signal();
        let _ = clock.timeout(Duration::from_secs(60), mirror.run(&api, &clock, &stop)).await;
        (mirror, api.lists.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_whose_data_went_back_is_listed_anew() {
        let too_large =
            || Status::new(Reason::Timeout, "Timeout: Too large resource version: 100, current: 5");
        let (mirror, lists) =
            fed(|at| if at == 0 { (100, "later") } else { (5, "earlier") }, too_large).await;
        assert_eq!((lists, mirror.progress().revision), (2, 5));
        assert!(mirror.get("a", "earlier").is_some() && mirror.get("a", "later").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_keep_up_does_not_list_all_the_time() {
        let (_, lists) = fed(|_| (7, "x"), || Status::expired("too old")).await;
        assert!((10..=20).contains(&lists), "{lists}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_mirror_that_panics_begins_anew() {
        let (mirror, lists) =
            fed(|at| if at == 0 { panic!("on purpose") } else { (5, "x") }, || panic!("no")).await;
        assert_eq!((lists, mirror.len()), (2, 1));
    }
}
