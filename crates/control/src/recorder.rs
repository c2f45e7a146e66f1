//! Telling users what happened, as Events: repeated ones are counted, chatty sources are quietened.
//!
//! The rules are upstream's (client-go's correlator): equal events raise `count` on one object, and a source may say
//! 25 things about an object at once and one more every five minutes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::interface::{Api, PatchKind, Target};
use api::json;
use api::names::EVENTS;
use api::object::Object;
use api::status::Reason;
use api::time::seconds;
use api::value::{Str, Value};
use base::{Clock, Stop};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Notes that wait to be written; more are dropped, for users' events must never hold up the system.
const QUEUE_NOTES: usize = 4096;
/// Events that are remembered for counting, and sources for quietening.
const REMEMBERED: usize = 4096;
/// What a source may say about one object at once.
const BURST: f64 = 25.0;
/// Seconds until it may say one thing more.
const REFILL_SECONDS: f64 = 300.0;

/// One thing to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The object that it is about.
    pub about: About,
    /// Whether something is wrong.
    pub warning: bool,
    /// A machine's word, as `FailedCreate`.
    pub reason: Str,
    /// A person's sentence.
    pub message: String,
}

/// What a note is about (`v1.ObjectReference`).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct About {
    /// As `apps/v1`.
    pub api_version: Str,
    /// As `Deployment`.
    pub kind: Str,
    /// Empty for kinds without namespaces; their events live in `default`.
    pub namespace: Str,
    /// The object's name.
    pub name: Str,
    /// The object's uid.
    pub uid: Str,
    /// The object's revision when it was seen.
    pub resource_version: Str,
    /// As `spec.containers{app}`.
    pub field_path: Str,
}

/// Takes notes; cheap to clone. Never waits.
#[derive(Clone)]
pub struct Recorder {
    source: Str,
    sender: mpsc::Sender<(Str, Note)>,
}

/// Writes what recorders take.
pub struct Writer {
    receiver: mpsc::Receiver<(Str, Note)>,
    host: Str,
    memory: Memory,
}

impl Note {
    /// All is well.
    pub fn normal(about: &Object, reason: &str, message: impl Into<String>) -> Self {
        Self { about: About::object(about), warning: false, reason: reason.into(), message: message.into() }
    }

    /// Something is wrong.
    pub fn warning(about: &Object, reason: &str, message: impl Into<String>) -> Self {
        Self { warning: true, ..Self::normal(about, reason, message) }
    }

    /// With `placeholder` replaced in the message.
    #[must_use]
    pub fn filled(&self, placeholder: &str, text: &str) -> Self {
        Self { message: self.message.replace(placeholder, text), ..self.clone() }
    }
}

impl About {
    /// A whole object.
    pub fn object(object: &Object) -> Self {
        Self {
            api_version: object.kind().api_version().into(),
            kind: object.kind().kind.clone(),
            namespace: object.namespace().into(),
            name: object.name().into(),
            uid: object.uid().into(),
            resource_version: object.revision().to_string().into(),
            field_path: Str::default(),
        }
    }

    /// A part of it.
    #[must_use]
    pub fn field(mut self, path: &str) -> Self {
        self.field_path = path.into();
        self
    }

    fn to_value(&self) -> Value {
        let pairs = [
            ("apiVersion", &self.api_version),
            ("kind", &self.kind),
            ("namespace", &self.namespace),
            ("name", &self.name),
            ("uid", &self.uid),
            ("resourceVersion", &self.resource_version),
            ("fieldPath", &self.field_path),
        ];
        let given = pairs.into_iter().filter(|(_, text)| !text.is_empty());
        Value::Object(given.map(|(key, text)| (Str::from(key), Value::from(text.clone()))).collect())
    }
}

impl Recorder {
    /// A recorder for `source` (as `kubelet`) and the writer that must run. `host` is the node that the source is
    /// on, or empty.
    pub fn new(source: &str, host: &str) -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(QUEUE_NOTES);
        let writer = Writer { receiver, host: host.into(), memory: Memory::default() };
        (Self { source: source.into(), sender }, writer)
    }

    /// The same writer, another source.
    #[must_use]
    pub fn for_source(&self, source: &str) -> Self {
        Self { source: source.into(), sender: self.sender.clone() }
    }

    /// Takes a note.
    pub fn note(&self, note: Note) {
        if self.sender.try_send((self.source.clone(), note)).is_err() {
            debug!(source = %self.source, "an event was dropped: too many wait, or the writer has stopped");
        }
    }
}

impl Writer {
    /// Writes notes as Events until `stop`, then what is still waiting.
    pub async fn run(mut self, api: &dyn Api, clock: &Clock, stop: &Stop) {
        while let Some(Some((source, note))) = stop.or(self.receiver.recv()).await {
            self.write(api, clock, &source, &note).await;
        }
        self.receiver.close();
        while let Ok((source, note)) = self.receiver.try_recv() {
            self.write(api, clock, &source, &note).await;
        }
    }

    async fn write(&mut self, api: &dyn Api, clock: &Clock, source: &Str, note: &Note) {
        let now = clock.now();
        let Some(action) = self.memory.decide(source, note, now) else { return };
        let namespace =
            if note.about.namespace.is_empty() { "default" } else { note.about.namespace.as_str() };
        if let Action::Count { name, count } = &action {
            let patch = json!({"count": (*count), "lastTimestamp": (seconds(now)), "message": (note.message.as_str())});
            let target = Target::new(&EVENTS, namespace, name);
            match api.patch(target, PatchKind::StrategicMerge, &patch).await {
                Ok(_) => return,
                // It has expired meanwhile; it is told anew.
                Err(status) if status.reason == Reason::NotFound => {}
                Err(status) => return warn!(error = %status, "an event could not be counted"),
            }
        }
        let name = format!("{}.{:x}", note.about.name, now.as_nanosecond());
        let count = action.count();
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": (name.as_str()), "namespace": namespace},
            "involvedObject": (note.about.to_value()),
            "reason": (note.reason.clone()),
            "message": (note.message.as_str()),
            "type": (if note.warning { "Warning" } else { "Normal" }),
            "source": (self.source_value(source)),
            "reportingComponent": (source.clone()),
            "reportingInstance": (self.host.clone()),
            "firstTimestamp": (seconds(now)),
            "lastTimestamp": (seconds(now)),
            "count": count
        });
        match api.create(&EVENTS, namespace, &event).await {
            Ok(_) => self.memory.written(source, note, name.into(), count),
            // A namespace that is going away takes no more events.
            Err(status) if matches!(status.reason, Reason::Forbidden | Reason::NotFound) => {
                debug!(error = %status, "an event was refused");
            }
            Err(status) => warn!(error = %status, "an event could not be written"),
        }
    }

    fn source_value(&self, source: &Str) -> Value {
        let mut value = json!({"component": (source.clone())});
        if !self.host.is_empty() {
            value.set(&["host"], self.host.clone());
        }
        value
    }
}

/// What the writer remembers; pure.
#[derive(Default)]
struct Memory {
    events: BTreeMap<EventKey, (Str, i64)>,
    order: std::collections::VecDeque<EventKey>,
    budgets: BTreeMap<(Str, Str), (f64, Timestamp)>,
}

type EventKey = (Str, About, bool, Str, String);

#[derive(Debug, PartialEq)]
enum Action {
    Tell,
    Count { name: Str, count: i64 },
}

impl Action {
    fn count(&self) -> i64 {
        match self {
            Self::Tell => 1,
            Self::Count { count, .. } => *count,
        }
    }
}

impl Memory {
    fn key(source: &Str, note: &Note) -> EventKey {
        // The revision differs each time something is seen; the thing is the same.
        let about = About { resource_version: Str::default(), ..note.about.clone() };
        (source.clone(), about, note.warning, note.reason.clone(), note.message.clone())
    }

    fn decide(&mut self, source: &Str, note: &Note, now: Timestamp) -> Option<Action> {
        let budget_key = (
            source.clone(),
            if note.about.uid.is_empty() { note.about.name.clone() } else { note.about.uid.clone() },
        );
        if self.budgets.len() >= REMEMBERED && !self.budgets.contains_key(&budget_key) {
            self.budgets.clear();
        }
        let (left, seen) = self.budgets.entry(budget_key).or_insert((BURST, now));
        let passed = Duration::try_from(now.duration_since(*seen)).unwrap_or_default().as_secs_f64();
        *left = (*left + passed / REFILL_SECONDS).min(BURST);
        *seen = now;
        if *left < 1.0 {
            return None;
        }
        *left -= 1.0;
        Some(match self.events.get_mut(&Self::key(source, note)) {
            None => Action::Tell,
            Some((name, count)) => {
                *count += 1;
                Action::Count { name: name.clone(), count: *count }
            }
        })
    }

    fn written(&mut self, source: &Str, note: &Note, name: Str, count: i64) {
        let key = Self::key(source, note);
        if self.events.insert(key.clone(), (name, count)).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.events.remove(&oldest);
        }
    }
}

/// A recorder whose notes a test can read.
pub fn channel_for_tests(source: &str) -> (Recorder, impl FnMut() -> Option<Note>) {
    let (recorder, mut writer) = Recorder::new(source, "");
    (recorder, move || writer.receiver.try_recv().ok().map(|(_, note)| note))
}

/// Starts writing on `tasks`.
pub fn start(writer: Writer, api: Arc<dyn Api>, clock: Clock, tasks: &base::Tasks, stop: Stop) {
    tasks.spawn("event writer", async move { writer.run(&*api, &clock, &stop).await });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        Note {
            about: About { uid: "u".into(), ..About::default() },
            warning: false,
            reason: "R".into(),
            message: message.into(),
        }
    }

    #[test]
    fn equal_notes_are_counted_and_chatter_is_quietened() {
        let (mut memory, source, start) = (Memory::default(), Str::from("s"), Timestamp::UNIX_EPOCH);
        assert_eq!(memory.decide(&source, &note("a"), start), Some(Action::Tell));
        memory.written(&source, &note("a"), "e1".into(), 1);
        assert_eq!(
            memory.decide(&source, &note("a"), start),
            Some(Action::Count { name: "e1".into(), count: 2 })
        );
        for i in 0..23 {
            assert!(memory.decide(&source, &note(&i.to_string()), start).is_some());
        }
        assert_eq!(memory.decide(&source, &note("z"), start), None);
        let later = start + Duration::from_secs(301);
        assert_eq!(memory.decide(&source, &note("z"), later), Some(Action::Tell));
    }
}
