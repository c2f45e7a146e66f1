//! The paths and operations of resources.

use super::schemas::PATCH;
use super::{Dialect, root, words};
use crate::json;
use crate::schema::descriptions::Descriptions;
use crate::table::{KindFacts, Kinds, Subresource, types};
use crate::value::Value;

/// Parameters in queries, by verb: name and type.
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
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
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
/// The media types of objects.
const OBJECTS: &[&str] = &["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];

/// What an operation takes and gives.
struct Operation<'a> {
    /// HTTP method in lower case.
    method: &'static str,
    /// Upstream's word for it (`x-kubernetes-action`).
    action: &'static str,
    /// First word of its id.
    word: &'static str,
    query: Vec<(&'a str, &'a str)>,
    body: Option<String>,
    answer: String,
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
}

impl<'a> Writer<'a> {
    /// The paths of some kinds, one by one.
    pub(super) fn of(
        self,
        wanted: impl Fn(&KindFacts) -> bool + 'a,
    ) -> impl Iterator<Item = (String, Value)> + 'a {
        self.kinds.iter().filter(move |kind| wanted(kind)).flat_map(move |kind| {
            let base = root(kind.group, kind.version);
            let home =
                if kind.namespaced { format!("{base}/namespaces/{{namespace}}") } else { base.clone() };
            let at = |below, everywhere| Place { kind, below, everywhere };
            let mut out = Vec::new();
            out.push((format!("{home}/{}", kind.resource), self.path(at(None, false), collection(kind))));
            if kind.namespaced && kind.can("list") {
                out.push((format!("{base}/{}", kind.resource), self.path(at(None, true), vec![list(kind)])));
            }
            let single = single(kind);
            if !single.is_empty() {
                let name = format!("{home}/{}/{{name}}", kind.resource);
                out.push((name, self.path(at(Some(""), false), single)));
            }
            for sub in &kind.subresources {
                let name = format!("{home}/{}/{{name}}/{}", kind.resource, sub.name);
                out.push((name, self.path(at(Some(sub.name), false), below(sub))));
            }
            out
        })
    }
}

fn schema_name(group: &str, version: &str, kind: &str) -> String {
    types().of_kind(group, version, kind).map(|ty| types().openapi_name(types().get(ty))).unwrap_or_default()
}

fn own(kind: &KindFacts) -> String {
    schema_name(kind.group, kind.version, kind.kind)
}

fn status() -> String {
    schema_name("", "v1", "Status")
}

fn list(kind: &KindFacts) -> Operation<'static> {
    Operation {
        method: "get",
        action: "list",
        word: "list",
        query: LIST.to_vec(),
        body: None,
        answer: schema_name(kind.group, kind.version, &format!("{}List", kind.kind)),
    }
}

fn collection(kind: &KindFacts) -> Vec<Operation<'static>> {
    let mut out = Vec::new();
    if kind.can("list") {
        out.push(list(kind));
    }
    if kind.can("create") {
        let query = WRITE.to_vec();
        let body = Some(own(kind));
        out.push(Operation {
            method: "post",
            action: "post",
            word: "create",
            query,
            body,
            answer: own(kind),
        });
    }
    if kind.can("deletecollection") {
        let query = DELETE.iter().chain(LIST).copied().collect();
        let body = Some(schema_name("", "v1", "DeleteOptions"));
        out.push(Operation {
            method: "delete",
            action: "deletecollection",
            word: "deleteCollection",
            query,
            body,
            answer: status(),
        });
    }
    out
}

fn single(kind: &KindFacts) -> Vec<Operation<'static>> {
    let mut out = object_operations(&own(kind), &kind.verbs);
    if kind.can("delete") {
        let query = DELETE.to_vec();
        let body = Some(schema_name("", "v1", "DeleteOptions"));
        out.push(Operation {
            method: "delete",
            action: "delete",
            word: "delete",
            query,
            body,
            answer: status(),
        });
    }
    out
}

/// Reading, replacing and patching one object.
fn object_operations(schema: &str, verbs: &[&str]) -> Vec<Operation<'static>> {
    let mut out = Vec::new();
    let answer = || schema.to_owned();
    if verbs.contains(&"get") {
        let query = Vec::new();
        out.push(Operation {
            method: "get",
            action: "get",
            word: "read",
            query,
            body: None,
            answer: answer(),
        });
    }
    if verbs.contains(&"update") {
        let query = WRITE.to_vec();
        let body = Some(answer());
        out.push(Operation { method: "put", action: "put", word: "replace", query, body, answer: answer() });
    }
    if verbs.contains(&"patch") {
        let query = PATCHED.to_vec();
        let body = Some(PATCH.to_owned());
        out.push(Operation {
            method: "patch",
            action: "patch",
            word: "patch",
            query,
            body,
            answer: answer(),
        });
    }
    out
}

fn below(sub: &Subresource) -> Vec<Operation<'static>> {
    // Streams and proxies answer with texts, not objects.
    let stream = sub.kind.ends_with("Options") || sub.name == "log";
    let schema = if stream { String::new() } else { schema_name(sub.group, sub.version, sub.kind) };
    let mut out = object_operations(&schema, if stream { &[] } else { &sub.verbs });
    if sub.verbs.contains(&"create") && !stream {
        let query = WRITE.to_vec();
        let body = Some(schema.clone());
        out.push(Operation {
            method: "post",
            action: "post",
            word: "create",
            query,
            body,
            answer: schema.clone(),
        });
    }
    if sub.name == "log" {
        let query = LOG.to_vec();
        out.push(Operation {
            method: "get",
            action: "get",
            word: "read",
            query,
            body: None,
            answer: String::new(),
        });
    } else if stream {
        out.extend(connections(sub));
    }
    out
}

/// The methods by which a stream or proxy is reached.
fn connections(sub: &Subresource) -> impl Iterator<Item = Operation<'static>> {
    const METHODS: &[(&str, &str, &str)] = &[
        ("create", "post", "connectPost"),
        ("delete", "delete", "connectDelete"),
        ("get", "get", "connectGet"),
        ("patch", "patch", "connectPatch"),
        ("update", "put", "connectPut"),
    ];
    let verbs = sub.verbs.clone();
    METHODS.iter().filter(move |(verb, ..)| verbs.contains(verb)).map(|(_, method, word)| Operation {
        method,
        action: "connect",
        word,
        query: Vec::new(),
        body: None,
        answer: String::new(),
    })
}

impl Writer<'_> {
    /// A path with its operations.
    fn path(self, place: Place<'_>, operations: Vec<Operation<'_>>) -> Value {
        let mut out = Value::object();
        for operation in operations {
            out.set(&[operation.method], self.render(place, &operation));
        }
        let mut parameters = Vec::new();
        if place.below.is_some() {
            parameters.push(self.parameter("name", "path", "string"));
        }
        if place.kind.namespaced && !place.everywhere {
            parameters.push(self.parameter("namespace", "path", "string"));
        }
        if !parameters.is_empty() {
            out.set(&["parameters"], parameters);
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

    fn render(self, place: Place<'_>, operation: &Operation<'_>) -> Value {
        let (kind, dialect) = (place.kind, self.dialect);
        let mut out = Value::object();
        out.set(
            &["description"],
            words::operation(operation.action, operation.method, kind.kind, place.below),
        );
        out.set(&["operationId"], operation_id(place, operation));
        let group =
            if kind.group.is_empty() { "core" } else { kind.group.split('.').next().unwrap_or_default() };
        out.set(&["tags"], vec![format!("{}_{}", group, kind.version)]);
        let mut parameters: Vec<Value> =
            operation.query.iter().map(|(name, ty)| self.parameter(name, "query", ty)).collect();
        let media = if operation.method == "patch" { PATCHES } else { OBJECTS };
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
                    out.set(&["consumes"], media.iter().map(|name| Value::from(*name)).collect::<Vec<_>>());
                }
                Dialect::V3 => {
                    let shown = if operation.method == "patch" { media } else { &["*/*"] };
                    out.set(&["requestBody", "content"], content(dialect, shown, body));
                    if required {
                        out.set(&["requestBody", "required"], true);
                    }
                }
            }
        }
        if !parameters.is_empty() {
            out.set(&["parameters"], parameters);
        }
        responses(dialect, operation, &mut out);
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

fn responses(dialect: Dialect, operation: &Operation<'_>, out: &mut Value) {
    let codes: &[(&str, &str)] = match operation.method {
        "post" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
        "put" | "patch" => &[("200", "OK"), ("201", "Created")],
        _ => &[("200", "OK")],
    };
    for (code, words) in codes {
        out.set(&["responses", code, "description"], *words);
        match dialect {
            Dialect::V2 if operation.answer.is_empty() => {
                out.set(&["responses", code, "schema"], json!({"type": "string"}));
            }
            Dialect::V2 => out.set(&["responses", code, "schema"], dialect.reference(&operation.answer)),
            Dialect::V3 if operation.answer.is_empty() => {
                out.set(&["responses", code, "content", "*/*", "schema"], json!({"type": "string"}));
            }
            Dialect::V3 => {
                out.set(&["responses", code, "content"], content(dialect, OBJECTS, &operation.answer));
            }
        }
    }
    out.set(&["responses", "401", "description"], "Unauthorized");
}

fn content(dialect: Dialect, media: &[&str], schema: &str) -> Value {
    let mut out = Value::object();
    for name in media {
        out.set(&[name, "schema"], dialect.reference(schema));
    }
    out
}

/// `listAppsV1NamespacedDeployment`, `readCoreV1NamespacedPodStatus`, ...
fn operation_id(place: Place<'_>, operation: &Operation<'_>) -> String {
    let Place { kind, below, everywhere } = place;
    let group: String = match kind.group {
        "" => "Core".to_owned(),
        name => name.trim_end_matches(".k8s.io").split(['.', '-']).map(capitalised).collect(),
    };
    let version = capitalised(kind.version);
    let (word, collection) = match operation.word {
        "deleteCollection" => ("delete", "Collection"),
        word => word.strip_prefix("connect").map_or((word, ""), |method| ("connect", method)),
    };
    let namespaced = if kind.namespaced && !everywhere { "Namespaced" } else { "" };
    let sub: String = below.unwrap_or_default().split('/').map(capitalised).collect();
    let tail = if everywhere { "ForAllNamespaces" } else { "" };
    format!("{word}{group}{version}{collection}{namespaced}{}{sub}{tail}", kind.kind)
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}
