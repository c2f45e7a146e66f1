//! What happened lately, for watches and for reads of the past; bounded in age, count and bytes.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::key::{Key, Resource, Revision, Scope};
use crate::limits;
use crate::record::{Entry, Event, Record};

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    /// Events older than this are forgotten.
    pub age: Duration,
    /// Most events.
    pub events: usize,
    /// Most bytes of values that only the history holds.
    pub bytes: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self {
            age: limits::HISTORY_AGE,
            events: limits::HISTORY_EVENTS_MAX,
            bytes: limits::HISTORY_BYTES_MAX,
        }
    }
}

/// An event and when it came, on the monotonic clock (negative for what was recovered).
struct Aged<R> {
    event: Arc<Event<R>>,
    at_ms: i64,
}

/// Events, oldest first: of all, and of each resource.
pub(super) struct History<R> {
    all: VecDeque<Aged<R>>,
    resources: HashMap<Resource, VecDeque<Arc<Event<R>>>>,
    bytes: usize,
    /// How many of the youngest events may hold encodings, and how many bytes their values have.
    encoded: usize,
    encoded_bytes: usize,
    limits: HistoryLimits,
}

impl<R: Record> History<R> {
    pub(super) fn new(limits: HistoryLimits) -> Self {
        let (all, resources) = (VecDeque::new(), HashMap::new());
        Self { all, resources, bytes: 0, encoded: 0, encoded_bytes: 0, limits }
    }

    /// Remembers an event. They come in the order of revisions.
    pub(super) fn push(&mut self, event: Arc<Event<R>>, at_ms: i64) {
        self.bytes += event_bytes(&event);
        self.encoded += 1;
        self.encoded_bytes += shown_bytes(&event);
        let resource = &event.key().resource;
        match self.resources.get_mut(resource) {
            Some(events) => events.push_back(Arc::clone(&event)),
            None => drop(self.resources.insert(resource.clone(), VecDeque::from([Arc::clone(&event)]))),
        }
        self.all.push_back(Aged { event, at_ms });
        while self.encoded > limits::ENCODED_EVENTS_MAX
            || (self.encoded_bytes > limits::ENCODED_BYTES_MAX && self.encoded > 1)
        {
            let event = &self.all[self.all.len() - self.encoded].event;
            event.encodings.clear();
            self.encoded_bytes -= shown_bytes(event);
            self.encoded -= 1;
        }
    }

    /// Events younger than `revision`, oldest first.
    pub(super) fn after<'a>(
        &'a self,
        resource: Option<&Resource>,
        revision: Revision,
    ) -> Box<dyn Iterator<Item = &'a Arc<Event<R>>> + 'a> {
        match resource {
            None => {
                let start = self.all.partition_point(|aged| aged.event.revision <= revision);
                Box::new(self.all.range(start..).map(|aged| &aged.event))
            }
            Some(resource) => match self.resources.get(resource) {
                Some(events) => {
                    let start = events.partition_point(|event| event.revision <= revision);
                    Box::new(events.range(start..))
                }
                None => Box::new(std::iter::empty()),
            },
        }
    }

    /// How many events there are, and how many bytes only the history holds.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.all.len(), self.bytes)
    }

    /// The revision up to which the limits keep nothing; `None` if they keep all.
    pub(super) fn surplus(&self, now_ms: i64) -> Option<Revision> {
        let oldest_ms = now_ms - i64::try_from(self.limits.age.as_millis()).unwrap_or(i64::MAX / 2);
        let mut until = None;
        let (mut events, mut bytes) = self.size();
        for aged in &self.all {
            if aged.at_ms > oldest_ms && events <= self.limits.events && bytes <= self.limits.bytes {
                break;
            }
            events -= 1;
            bytes -= event_bytes(&aged.event);
            until = Some(aged.event.revision);
        }
        until
    }

    /// Forgets the events up to `revision`, and gives them back.
    pub(super) fn forget(&mut self, revision: Revision) -> Vec<Arc<Event<R>>> {
        let mut gone = Vec::new();
        while let Some(aged) = self.all.pop_front_if(|aged| aged.event.revision <= revision) {
            self.bytes -= event_bytes(&aged.event);
            if self.encoded > self.all.len() {
                self.encoded -= 1;
                self.encoded_bytes -= shown_bytes(&aged.event);
            }
            let resource = &aged.event.key().resource;
            if let Some(events) = self.resources.get_mut(resource) {
                events.pop_front();
                if events.is_empty() {
                    self.resources.remove(resource);
                }
            }
            gone.push(aged.event);
        }
        gone
    }

    /// Drops what was encoded of events that are not young any more, also where a watcher that lagged has had it made
    /// again. Who lags still has it made once more.
    pub(super) fn drop_encodings(&self, now_ms: i64) {
        let age_ms = i64::try_from(limits::ENCODED_AGE.as_millis()).unwrap_or(i64::MAX / 2);
        let old = self.all.partition_point(|aged| aged.at_ms <= now_ms - age_ms);
        self.all.range(..old).for_each(|aged| aged.event.encodings.clear());
    }
}

/// What an event alone keeps in memory: itself, and the version that it replaced or deleted.
fn event_bytes<R: Record>(event: &Event<R>) -> usize {
    superseded_bytes(event.previous.as_ref().map(|entry| entry.record.bytes().len()))
}

/// The same, by the length of the value that was replaced or deleted, if one was.
pub(crate) fn superseded_bytes(previous: Option<usize>) -> usize {
    limits::EVENT_BYTES + previous.map_or(0, |value| limits::VERSION_BYTES + value)
}

/// How long the value is that watchers are shown.
fn shown_bytes<R: Record>(event: &Event<R>) -> usize {
    event.current.as_ref().or(event.previous.as_ref()).map_or(0, |entry| entry.record.bytes().len())
}

/// What was alive in a scope behind a key: `live`, with the first of the `events` since then of each key undone.
pub(super) fn past<'a, R>(
    scope: &Scope,
    after: Option<&Key>,
    events: impl Iterator<Item = &'a Arc<Event<R>>>,
    live: impl Iterator<Item = &'a Arc<Entry<R>>> + 'a,
) -> impl Iterator<Item = &'a Arc<Entry<R>>> + 'a
where
    R: 'a,
{
    let mut undone: BTreeMap<&'a Key, Option<&'a Arc<Entry<R>>>> = BTreeMap::new();
    for event in events {
        let key = event.key();
        if scope.contains(key) && after.is_none_or(|after| after < key) {
            undone.entry(key).or_insert(event.previous.as_ref());
        }
    }
    let mut live = live.peekable();
    let mut undone = undone.into_iter().peekable();
    std::iter::from_fn(move || {
        loop {
            let from_live = match (live.peek(), undone.peek()) {
                (Some(entry), Some((key, _))) => match entry.key.cmp(key) {
                    Ordering::Less => true,
                    Ordering::Equal => {
                        live.next();
                        false
                    }
                    Ordering::Greater => false,
                },
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => return None,
            };
            if from_live {
                return live.next();
            }
            if let Some((_, Some(entry))) = undone.next() {
                return Some(entry);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Slot;

    struct Value(Vec<u8>);

    impl Record for Value {
        fn bytes(&self) -> &[u8] {
            &self.0
        }
    }

    fn event(revision: u64, size: usize) -> Arc<Event<Value>> {
        let entry = Arc::new(Entry {
            key: Key::namespaced(&Resource::new("pods"), "a", revision.to_string()),
            created: Revision(revision),
            modified: Revision(revision),
            version: 1,
            expires: None,
            record: Arc::new(Value(vec![0; size])),
        });
        let event = Event {
            revision: Revision(revision),
            current: None,
            previous: Some(entry),
            encodings: Slot::default(),
        };
        event.encodings.get_or_insert_with(|| revision);
        Arc::new(event)
    }

    fn encoded(history: &History<Value>) -> Vec<u64> {
        let all = history.all.iter().map(|aged| &aged.event);
        all.filter(|event| event.encodings.is_full()).map(|event| event.revision.0).collect()
    }

    #[test]
    fn encodings_are_kept_of_few_young_and_small_events() {
        let mut history = History::new(HistoryLimits::default());
        let half = limits::ENCODED_BYTES_MAX / 2;
        for (revision, size) in [(1, 10), (2, half), (3, half), (4, 10)] {
            history.push(event(revision, size), 0);
        }
        assert_eq!(encoded(&history), [3, 4], "more bytes than are allowed");
        // Who lags has it made again, until the next sweep.
        history.all[0].event.encodings.get_or_insert_with(|| 1_u64);
        let age_ms = limits::ENCODED_AGE.as_millis() as i64;
        history.push(event(5, 10), age_ms);
        history.drop_encodings(age_ms);
        assert_eq!(encoded(&history), [5]);
        for revision in 6..6 + limits::ENCODED_EVENTS_MAX as u64 {
            history.push(event(revision, 0), age_ms);
        }
        assert_eq!(encoded(&history).len(), limits::ENCODED_EVENTS_MAX);
        let forgotten = history.forget(Revision(500));
        assert_eq!((forgotten.len(), history.encoded), (500, history.all.len()));
        drop(history.forget(Revision(u64::MAX)));
        assert_eq!((history.size(), history.encoded, history.encoded_bytes), ((0, 0), 0, 0));
        assert!(history.resources.is_empty());
    }

    #[test]
    fn small_versions_count_what_they_cost_beside_their_values() {
        let mut history = History::new(HistoryLimits::default());
        let mut revision = 0;
        while history.surplus(0).is_none() {
            revision += 1;
            history.push(event(revision, 1), 0);
        }
        assert!(history.size().0 <= limits::HISTORY_BYTES_MAX / limits::VERSION_BYTES);
    }
}
