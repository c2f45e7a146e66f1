//! Telling users what happened, as Events: repeated ones are counted, similar ones become one, chatty sources are
//! quietened ([`memory`]). What a server that is away cannot take is told again until it does.

mod memory;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::interface::{Api, PatchKind, Target};
use api::json;
use api::names::EVENTS;
use api::object::Object;
use api::status::{Reason, Status};
use api::time::seconds;
use api::validation::names::is_subdomain;
use api::value::{Str, Value};
use base::{Backoff, Clock, Stop};
use futures::FutureExt as _;
use jiff::Timestamp;
use memory::{Memory, Telling};
use tokio::sync::mpsc;
use tracing::{debug, error, warn};

/// Notes that wait to be written; more are dropped, for users' events must never hold up the system.
const QUEUE_NOTES: usize = 4096;
/// Wait before an Event that could not be written is written again, first and longest, and how long that is tried in
/// all. Upstream's recorder comes twelve times, ten seconds apart.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
const RETRIES: Duration = Duration::from_secs(120);

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
    /// Whether it was told that notes are dropped.
    overflows: Arc<AtomicBool>,
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
        (Self { source: source.into(), sender, overflows: Arc::default() }, writer)
    }

    /// The same writer, another source.
    #[must_use]
    pub fn for_source(&self, source: &str) -> Self {
        Self { source: source.into(), ..self.clone() }
    }

    /// Takes a note.
    pub fn note(&self, note: Note) {
        match self.sender.try_send((self.source.clone(), note)) {
            Ok(()) => {
                if self.overflows.load(Ordering::Relaxed) {
                    self.overflows.store(false, Ordering::Relaxed);
                }
            }
            Err(mpsc::error::TrySendError::Full(_)) if !self.overflows.swap(true, Ordering::Relaxed) => {
                warn!(source = %self.source, "events are dropped: too many wait to be written");
            }
            Err(error) => debug!(source = %self.source, %error, "an event was dropped"),
        }
    }
}

impl Writer {
    /// Writes notes as Events until `stop`, then what is still waiting, once each.
    pub async fn run(mut self, api: &dyn Api, clock: &Clock, stop: &Stop) {
        while let Some(Some((source, note))) = stop.or(self.receiver.recv()).await {
            let telling = AssertUnwindSafe(self.tell(api, clock, stop, &source, &note));
            if let Err(panic) = telling.catch_unwind().await {
                let message = base::panics::caught(panic);
                error!(%source, message, "telling an event panicked; this is a bug");
            }
        }
        self.receiver.close();
        while let Ok((source, note)) = self.receiver.try_recv() {
            self.tell(api, clock, stop, &source, &note).await;
        }
    }

    async fn tell(&mut self, api: &dyn Api, clock: &Clock, stop: &Stop, source: &Str, note: &Note) {
        let now = clock.now();
        let Some(telling) = self.memory.decide(source, note, now) else { return };
        let (begun, mut backoff) = (clock.monotonic(), Backoff::new(RETRY_FIRST, RETRY_LONGEST));
        loop {
            let Err(status) = self.write(api, source, note, &telling, now).await else { return };
            let comes_again = matches!(
                status.reason,
                Reason::ServiceUnavailable
                    | Reason::Timeout
                    | Reason::ServerTimeout
                    | Reason::TooManyRequests
            );
            let passed = clock.monotonic().saturating_sub(begun);
            if !comes_again || passed >= RETRIES || stop.or(clock.sleep(backoff.fail())).await.is_none() {
                return warn!(error = %status, reason = %note.reason, "an event could not be written");
            }
        }
    }

    async fn write(
        &mut self,
        api: &dyn Api,
        source: &Str,
        note: &Note,
        telling: &Telling,
        now: Timestamp,
    ) -> Result<(), Status> {
        let namespace =
            if note.about.namespace.is_empty() { "default" } else { note.about.namespace.as_str() };
        let message = telling.message.as_str();
        if let Some((name, count)) = &telling.written {
            let patch = json!({"count": (*count), "lastTimestamp": (seconds(now)), "message": message});
            let target = Target::new(&EVENTS, namespace, name);
            match api.patch(target, PatchKind::StrategicMerge, &patch).await {
                // It has expired meanwhile; it is told anew.
                Err(status) if status.reason == Reason::NotFound => {}
                answer => return answer.map(|_| ()),
            }
        }
        let name = event_name(&note.about, now);
        let count = telling.count();
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": (name.as_str()), "namespace": namespace},
            "involvedObject": (note.about.to_value()),
            "reason": (note.reason.clone()),
            "message": message,
            "type": (if note.warning { "Warning" } else { "Normal" }),
            "source": (self.source_value(source)),
            "reportingComponent": (source.clone()),
            "reportingInstance": (self.host.clone()),
            "firstTimestamp": (seconds(now)),
            "lastTimestamp": (seconds(now)),
            "count": count
        });
        match api.create(&EVENTS, namespace, &event).await {
            Ok(_) => {}
            // An earlier attempt, whose answer was lost, has come through.
            Err(status) if status.reason == Reason::AlreadyExists => {}
            // A namespace that is going away takes no more events.
            Err(status) if matches!(status.reason, Reason::Forbidden | Reason::NotFound) => {
                debug!(error = %status, "an event was refused");
                return Ok(());
            }
            Err(status) => return Err(status),
        }
        self.memory.written(telling, name.into(), count);
        Ok(())
    }

    fn source_value(&self, source: &Str) -> Value {
        let mut value = json!({"component": (source.clone())});
        if !self.host.is_empty() {
            value.set(&["host"], self.host.clone());
        }
        value
    }
}

/// The name of an Event: that of its object with the time, as upstream has it; where that would be none, the object's uid.
fn event_name(about: &About, now: Timestamp) -> String {
    let of = |name: &str| format!("{name}.{:x}", now.as_nanosecond());
    let names = [about.name.as_str(), about.uid.as_str()].into_iter().map(of);
    names.into_iter().find(|name| is_subdomain(name).is_empty()).unwrap_or_else(|| of("event"))
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
    use std::sync::Mutex;

    use api::interface::{Answer, Call, Watch, WatchStream};
    use base::Stopper;
    use futures::future::BoxFuture;

    use super::*;

    /// Is away for some calls, and remembers what was created, and when.
    struct Absent {
        clock: Clock,
        away: Mutex<u32>,
        created: Mutex<Vec<(String, u64)>>,
    }

    impl Api for Absent {
        fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
            let Call::Create(_, body, _) = call else { panic!("events are created") };
            let mut away = self.away.lock().unwrap();
            let answer = if *away > 0 {
                *away -= 1;
                Err(Status::new(Reason::ServiceUnavailable, "away"))
            } else {
                let event = api::value::parse(&body).unwrap();
                let message = event.str_at(&["message"]).unwrap().to_owned();
                self.created.lock().unwrap().push((message, self.clock.monotonic().as_secs()));
                Ok(Answer::Object(Arc::new(Object::from_tree(&event).unwrap())))
            };
            async move { answer }.boxed()
        }

        fn watch(&self, _: Watch) -> BoxFuture<'_, Result<WatchStream, Status>> {
            panic!("nothing is watched")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_server_that_is_away_cannot_take_is_told_when_it_is_back() {
        let (clock, tasks, stopper) =
            (Clock::simulated(Timestamp::UNIX_EPOCH), base::Tasks::new(), Stopper::new());
        let api = Arc::new(Absent { clock: clock.clone(), away: Mutex::new(5), created: Mutex::default() });
        let (recorder, writer) = Recorder::new("kubelet", "n");
        start(writer, api.clone(), clock.clone(), &tasks, stopper.signal());
        let about = About { name: "p".into(), uid: "u".into(), ..About::default() };
        for message in ["first", "second"] {
            let (about, reason) = (about.clone(), "R".into());
            recorder.note(Note { about, warning: false, reason, message: message.into() });
        }
        clock.sleep(Duration::from_secs(60)).await;
        // 1 + 2 + 4 + 8 + 10 seconds.
        let expect = [("first".to_owned(), 25), ("second".to_owned(), 25)];
        assert_eq!(*api.created.lock().unwrap(), expect);
        *api.away.lock().unwrap() = u32::MAX;
        let reason: Str = "R".into();
        recorder.note(Note { about: about.clone(), warning: true, reason, message: "lost".into() });
        clock.sleep(Duration::from_secs(300)).await;
        *api.away.lock().unwrap() = 0;
        recorder.note(Note { about, warning: true, reason: "S".into(), message: "third".into() });
        clock.sleep(Duration::from_secs(1)).await;
        assert_eq!(api.created.lock().unwrap().last().unwrap().0, "third", "one is not tried for ever");
        stopper.stop();
        assert!(tasks.join(Duration::from_secs(5)).await);
    }

    #[test]
    fn an_event_has_a_good_name_whatever_its_object_is_called() {
        let now = Timestamp::from_nanosecond(255).unwrap();
        let of = |name: &str, uid: &str| {
            let about = About { name: name.into(), uid: uid.into(), ..About::default() };
            event_name(&about, now)
        };
        assert_eq!(of("p", "u"), "p.ff");
        assert_eq!(of(&"p".repeat(252), "u"), "u.ff");
        assert_eq!(of("system:node:n", ""), "event.ff");
    }
}
