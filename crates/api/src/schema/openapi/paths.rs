//! The paths and operations of resources.

use super::schemas::PATCH;
use super::{Dialect, root, words};
use crate::json;
use crate::schema::descriptions::Descriptions;
use crate::table::{KindFacts, Kinds, Shape, Subresource, types};
use crate::value::Value;

/// Parameters in queries, by verb: name and type. Every operation on objects has [`PRETTY`] beside them.
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("shardSelector", "string"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
/// What of those a deletion of many has not: it is no watch.
const WATCH_ALONE: [&str; 2] = ["allowWatchBookmarks", "watch"];
const PRETTY: (&str, &str) = ("pretty", "string");
const WRITE: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCHED: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

const LOG: &[(&str, &str)] = &[
    ("container", "string"),
    ("follow", "boolean"),
    ("insecureSkipTLSVerifyBackend", "boolean"),
    ("limitBytes", "integer"),
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("stream", "string"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
];

/// The media types of patches.
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// The media types of objects.
pub(super) const OBJECTS: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
/// Those of what may be a watch.
const WATCHED: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
/// Those of a log.
const LOGGED: &[&str] =
    &["text/plain", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
/// Of what goes through: whatever the other side says.
const ANY: &[&str] = &["*/*"];

/// Kinds that a deletion shows once more (`ReturnDeletedObject` in upstream's storage), as group and resource.
pub const RETURNED: &[(&str, &str)] = &[
    ("", "namespaces"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

/// What an operation takes and gives.
struct Operation {
    /// HTTP method in lower case.
    method: &'static str,
    /// Upstream's word for it (`x-kubernetes-action`).
    action: &'static str,
    /// First word of its id.
    word: &'static str,
    query: Vec<(&'static str, &'static str)>,
    body: Option<String>,
    /// The name of a schema; empty for a text.
    answer: String,
    /// The media types of the answer.
    gives: &'static [&'static str],
}

impl Operation {
    /// An operation on objects.
    fn on_objects(
        method: &'static str,
        action: &'static str,
        word: &'static str,
        query: &[(&'static str, &'static str)],
        answer: String,
    ) -> Self {
        let mut query = query.to_vec();
        query.push(PRETTY);
        Self { method, action, word, query, body: None, answer, gives: OBJECTS }
    }

    fn taking(mut self, body: String) -> Self {
        self.body = Some(body);
        self
    }

    fn giving(mut self, media: &'static [&'static str]) -> Self {
        self.gives = media;
        self
    }
}

/// Makes paths.
#[derive(Clone, Copy)]
pub(super) struct Writer<'a> {
    pub(super) kinds: &'a Kinds,
    pub(super) dialect: Dialect,
    pub(super) words: &'a Descriptions<'a>,
}

/// Where an operation is.
#[derive(Clone, Copy)]
struct Place<'a> {
    kind: &'a KindFacts,
    /// None for a collection, else what comes behind the name.
    below: Option<&'a str>,
    /// Whether it is a collection of all namespaces.
    everywhere: bool,
    /// Whether any path follows.
    has_path: bool,
}

impl<'a> Writer<'a> {
    /// The paths of some kinds, one by one.
    pub(super) fn of(
        self,
        wanted: impl Fn(&KindFacts) -> bool + 'a,
    ) -> impl Iterator<Item = (String, Value)> + 'a {
        self.kinds.iter().filter(move |kind| wanted(kind)).flat_map(move |kind| self.of_kind(kind))
    }

    fn of_kind(self, kind: &KindFacts) -> Vec<(String, Value)> {
        let base = root(kind.group, kind.version);
        let home = |base: &str| match kind.namespaced {
            true => format!("{base}/namespaces/{{namespace}}/{}", kind.resource),
            false => format!("{base}/{}", kind.resource),
        };
        let (own, watched) = (home(&base), home(&format!("{base}/watch")));
        let at = |below, everywhere| Place { kind, below, everywhere, has_path: false };
        let (can_list, can_watch) = (kind.can("list"), kind.can("watch"));
        let mut out = vec![(own.clone(), self.path(at(None, false), collection(kind)))];
        if kind.namespaced && can_list {
            let name = format!("{base}/{}", kind.resource);
            out.push((name, self.path(at(None, true), vec![list(kind)])));
        }
        let single = single(kind);
        if !single.is_empty() {
            out.push((format!("{own}/{{name}}"), self.path(at(Some(""), false), single)));
        }
        for sub in &kind.subresources {
            let name = format!("{own}/{{name}}/{}", sub.name);
            let place = at(Some(sub.name), false);
            out.push((name.clone(), self.path(place, below(sub))));
            if sub.name == "proxy" {
                let place = Place { has_path: true, ..place };
                out.push((format!("{name}/{{path}}"), self.path(place, below(sub))));
            }
        }
        if can_watch {
            out.push((watched.clone(), self.path(at(None, false), vec![watch("watchlist")])));
            if kind.can("get") {
                out.push((
                    format!("{watched}/{{name}}"),
                    self.path(at(Some(""), false), vec![watch("watch")]),
                ));
            }
            if kind.namespaced {
                let name = format!("{base}/watch/{}", kind.resource);
                out.push((name, self.path(at(None, true), vec![watch("watchlist")])));
            }
        }
        out
    }
}

fn schema_name(group: &str, version: &str, kind: &str) -> String {
    types().of_kind(group, version, kind).map(|ty| types().openapi_name(types().get(ty))).unwrap_or_default()
}

fn own(kind: &KindFacts) -> String {
    schema_name(kind.group, kind.version, kind.kind)
}

/// A schema of the package that all groups share.
fn shared(name: &str) -> String {
    types()
        .find(&format!("meta/v1.{name}"))
        .map(|ty| types().openapi_name(types().get(ty)))
        .unwrap_or_default()
}

fn list(kind: &KindFacts) -> Operation {
    let answer = schema_name(kind.group, kind.version, &format!("{}List", kind.kind));
    Operation::on_objects("get", "list", "list", LIST, answer).giving(WATCHED)
}

/// The old way to watch, by a path of its own.
fn watch(action: &'static str) -> Operation {
    Operation::on_objects("get", action, "watch", LIST, shared("WatchEvent")).giving(WATCHED)
}

fn collection(kind: &KindFacts) -> Vec<Operation> {
    let mut out = Vec::new();
    if kind.can("list") {
        out.push(list(kind));
    }
    if kind.can("create") {
        out.push(Operation::on_objects("post", "post", "create", WRITE, own(kind)).taking(own(kind)));
    }
    if kind.can("deletecollection") {
        let listed = LIST.iter().filter(|(name, _)| !WATCH_ALONE.contains(name));
        let query: Vec<_> = DELETE.iter().chain(listed).copied().collect();
        let deletion =
            Operation::on_objects("delete", "deletecollection", "deleteCollection", &query, shared("Status"));
        out.push(deletion.taking(shared("DeleteOptions")));
    }
    out
}

fn single(kind: &KindFacts) -> Vec<Operation> {
    let mut out = object_operations(&own(kind), &kind.verbs);
    if kind.can("delete") {
        // Upstream's document forgets that a namespace is shown, too.
        let shown = RETURNED.contains(&(kind.group, kind.resource)) && kind.resource != "namespaces";
        let answer = if shown { own(kind) } else { shared("Status") };
        let deletion = Operation::on_objects("delete", "delete", "delete", DELETE, answer);
        out.push(deletion.taking(shared("DeleteOptions")));
    }
    out
}

/// Reading, replacing and patching one object.
fn object_operations(schema: &str, verbs: &[&str]) -> Vec<Operation> {
    let mut out = Vec::new();
    let answer = || schema.to_owned();
    if verbs.contains(&"get") {
        out.push(Operation::on_objects("get", "get", "read", &[], answer()));
    }
    if verbs.contains(&"update") {
        out.push(Operation::on_objects("put", "put", "replace", WRITE, answer()).taking(answer()));
    }
    if verbs.contains(&"patch") {
        out.push(
            Operation::on_objects("patch", "patch", "patch", PATCHED, answer()).taking(PATCH.to_owned()),
        );
    }
    out
}

fn below(sub: &Subresource) -> Vec<Operation> {
    if sub.name == "log" {
        return vec![Operation::on_objects("get", "get", "read", LOG, String::new()).giving(LOGGED)];
    }
    if sub.kind.ends_with("Options") {
        return connections(sub).collect();
    }
    let schema = schema_name(sub.group, sub.version, sub.kind);
    let mut out = object_operations(&schema, &sub.verbs);
    if sub.verbs.contains(&"create") {
        out.push(Operation::on_objects("post", "post", "create", WRITE, schema.clone()).taking(schema));
    }
    out
}

/// The methods by which a stream or proxy is reached. The members of its options are its parameters.
fn connections(sub: &Subresource) -> impl Iterator<Item = Operation> {
    const METHODS: &[(&str, &str, &str)] = &[
        ("create", "post", "connectPost"),
        ("delete", "delete", "connectDelete"),
        // Who takes every method takes these two, which are no verbs.
        ("delete", "head", "connectHead"),
        ("delete", "options", "connectOptions"),
        ("get", "get", "connectGet"),
        ("patch", "patch", "connectPatch"),
        ("update", "put", "connectPut"),
    ];
    let verbs = sub.verbs.clone();
    let query = options(sub);
    METHODS.iter().filter(move |(verb, ..)| verbs.contains(verb)).map(move |(_, method, word)| Operation {
        method,
        action: "connect",
        word,
        query: query.clone(),
        body: None,
        answer: String::new(),
        gives: ANY,
    })
}

fn options(sub: &Subresource) -> Vec<(&'static str, &'static str)> {
    let Some(ty) = types().of_kind(sub.group, sub.version, sub.kind) else { return Vec::new() };
    let fields = types().get(ty).fields.iter().filter(|field| !matches!(field.name, "kind" | "apiVersion"));
    let named = |shape| match super::schemas::innermost(types(), shape) {
        Shape::Bool => "boolean",
        Shape::Int32 | Shape::Int64 => "integer",
        _ => "string",
    };
    fields.map(|field| (field.name, named(field.shape))).collect()
}

impl Writer<'_> {
    /// A path with its operations. What all of them take is said once, as upstream does.
    fn path(self, place: Place<'_>, operations: Vec<Operation>) -> Value {
        let mut shared = Vec::new();
        if place.below.is_some() {
            shared.push(("name", "path", "string"));
        }
        if place.kind.namespaced && !place.everywhere {
            shared.push(("namespace", "path", "string"));
        }
        if place.has_path {
            shared.push(("path", "path", "string"));
        }
        let in_all = |each: &(&str, &str)| operations.iter().all(|operation| operation.query.contains(each));
        let common: Vec<_> = operations
            .first()
            .map(|first| first.query.iter().copied().filter(in_all).collect())
            .unwrap_or_default();
        shared.extend(common.iter().map(|(name, ty)| (*name, "query", *ty)));
        shared.sort_unstable();
        let mut out = Value::object();
        for mut operation in operations {
            operation.query.retain(|each| !common.contains(each));
            operation.query.sort_unstable();
            out.set(&[operation.method], self.render(place, &operation));
        }
        if !shared.is_empty() {
            let shared = shared.iter().map(|(name, home, ty)| self.parameter(name, home, ty));
            out.set(&["parameters"], shared.collect::<Vec<_>>());
        }
        out
    }

    fn parameter(self, name: &str, place: &str, ty: &str) -> Value {
        let mut out = Value::object();
        if let Some(words) = words::parameter(self.words, name) {
            out.set(&["description"], words);
        }
        out.set(&["name"], name);
        out.set(&["in"], place);
        if place == "path" {
            out.set(&["required"], true);
        }
        let home: &[&str] = if self.dialect == Dialect::V2 { &[] } else { &["schema"] };
        out.set(&[home, &["type"][..]].concat(), ty);
        out.set(&[home, &["uniqueItems"][..]].concat(), true);
        out
    }

    fn render(self, place: Place<'_>, operation: &Operation) -> Value {
        let (kind, dialect) = (place.kind, self.dialect);
        let mut out = Value::object();
        out.set(
            &["description"],
            words::operation(operation.action, operation.method, kind.kind, place.below),
        );
        out.set(&["operationId"], operation_id(place, operation));
        out.set(&["tags"], vec![format!("{}_{}", tag(kind.group), kind.version)]);
        let mut parameters: Vec<Value> =
            operation.query.iter().map(|(name, ty)| self.parameter(name, "query", ty)).collect();
        let takes = if operation.method == "patch" && operation.body.is_some() { PATCHES } else { ANY };
        if dialect == Dialect::V2 {
            out.set(&["consumes"], media(takes));
        }
        if let Some(body) = &operation.body {
            let required = operation.method != "delete";
            match dialect {
                Dialect::V2 => {
                    let mut entry = json!({"name": "body", "in": "body"});
                    entry.set(&["schema"], dialect.reference(body));
                    if required {
                        entry.set(&["required"], true);
                    }
                    parameters.push(entry);
                }
                Dialect::V3 => {
                    out.set(&["requestBody", "content"], content(dialect, takes, body));
                    if required {
                        out.set(&["requestBody", "required"], true);
                    }
                }
            }
        }
        if !parameters.is_empty() {
            out.set(&["parameters"], parameters);
        }
        let codes: &[&str] = match (operation.method, operation.action) {
            (_, "connect") => &["200"],
            ("post", _) => &["200", "201", "202"],
            ("put" | "patch", _) => &["200", "201"],
            (_, "delete") => &["200", "202"],
            _ => &["200"],
        };
        responses(dialect, codes, operation.gives, &operation.answer, &mut out);
        out.set(&["x-kubernetes-action"], operation.action);
        let (group, version, name) = match place.below.and_then(|name| kind.subresource(name)) {
            Some(sub) => (sub.group, sub.version, sub.kind),
            None => (kind.group, kind.version, kind.kind),
        };
        for (key, value) in [("group", group), ("version", version), ("kind", name)] {
            out.set(&["x-kubernetes-group-version-kind", key], value);
        }
        out
    }
}

fn media(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| Value::from(*name)).collect()
}

/// The answers of an operation: a schema by its name, or a text if that is empty.
pub(super) fn responses(dialect: Dialect, codes: &[&str], gives: &[&str], answer: &str, out: &mut Value) {
    for code in codes {
        let words = match *code {
            "201" => "Created",
            "202" => "Accepted",
            _ => "OK",
        };
        out.set(&["responses", code, "description"], words);
        match dialect {
            Dialect::V2 => out.set(&["responses", code, "schema"], answered(dialect, answer)),
            Dialect::V3 => out.set(&["responses", code, "content"], content(dialect, gives, answer)),
        }
    }
    out.set(&["responses", "401", "description"], "Unauthorized");
    if dialect == Dialect::V2 {
        out.set(&["produces"], media(gives));
        out.set(&["schemes"], vec!["https"]);
    }
}

fn answered(dialect: Dialect, schema: &str) -> Value {
    if schema.is_empty() { json!({"type": "string"}) } else { dialect.reference(schema) }
}

fn content(dialect: Dialect, media: &[&str], schema: &str) -> Value {
    let mut out = Value::object();
    for name in media {
        out.set(&[name, "schema"], answered(dialect, schema));
    }
    out
}

/// `listAppsV1NamespacedDeployment`, `readCoreV1NamespacedPodStatus`, `connectCoreV1GetNodeProxyWithPath`, ...
fn operation_id(place: Place<'_>, operation: &Operation) -> String {
    let Place { kind, below, everywhere, has_path } = place;
    let (group, version) = (group_word(kind.group), capitalised(kind.version));
    let (word, collection) = match operation.word {
        "deleteCollection" => ("delete", "Collection"),
        word => word.strip_prefix("connect").map_or((word, ""), |method| ("connect", method)),
    };
    let namespaced = if kind.namespaced && !everywhere { "Namespaced" } else { "" };
    let sub: String = below.unwrap_or_default().split('/').map(capitalised).collect();
    let listed = if operation.action == "watchlist" { "List" } else { "" };
    let tail = match (everywhere, has_path) {
        (true, _) => "ForAllNamespaces",
        (false, true) => "WithPath",
        (false, false) => "",
    };
    format!("{word}{group}{version}{collection}{namespaced}{}{listed}{sub}{tail}", kind.kind)
}

/// What a group is called in ids: `Core`, `FlowcontrolApiserver`.
pub(super) fn group_word(group: &str) -> String {
    match group {
        "" => "Core".to_owned(),
        name => name.trim_end_matches(".k8s.io").split(['.', '-']).map(capitalised).collect(),
    }
}

/// What it is called in tags: `core`, `flowcontrolApiserver`.
pub(super) fn tag(group: &str) -> String {
    let word = group_word(group);
    word.chars().take(1).flat_map(char::to_lowercase).chain(word.chars().skip(1)).collect()
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}
