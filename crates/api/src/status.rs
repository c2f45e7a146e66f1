//! The one error of the API: `metav1.Status`, with upstream's reasons, codes and words.

use std::fmt;

use crate::names::GroupResource;
use crate::validation::cause::quoted;
use crate::value::{Map, Str, Value};

/// An answer that is not an object: an error, or the success of a deletion.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// The machine's word for what happened.
    pub reason: Reason,
    /// The person's words.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
}

/// What a status is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// Name of the object.
    pub name: Str,
    /// Its API group.
    pub group: Str,
    /// Its resource (in errors, upstream writes the resource into `kind`).
    pub kind: Str,
    /// Its uid.
    pub uid: Str,
    /// The single things that are wrong.
    pub causes: Vec<Cause>,
    /// When to try again.
    pub retry_after_seconds: u32,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Upstream's word, as `FieldValueRequired`.
    pub reason: Str,
    /// What is wrong.
    pub message: String,
    /// Where: `spec.containers[0].image`.
    pub field: String,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal),* $(,)?) => {
        /// The machine's words for what happened (`metav1.StatusReason`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            /// A success, or no reason given.
            Unknown,
            $($(#[$doc])* $name),*
        }

        impl Reason {
            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    Self::Unknown => "",
                    $(Self::$name => stringify!($name)),*
                }
            }

            /// The word read back; `Unknown` for what we do not know.
            pub fn from_word(word: &str) -> Self {
                match word {
                    $(stringify!($name) => Self::$name,)*
                    _ => Self::Unknown,
                }
            }

            /// The HTTP status that goes with it.
            pub fn code(self) -> u16 {
                match self {
                    Self::Unknown => 500,
                    $(Self::$name => $code),*
                }
            }
        }
    };
}

reasons! {
    /// No or wrong credentials.
    Unauthorized = 401,
    /// The user may not do that.
    Forbidden = 403,
    /// No such object or resource.
    NotFound = 404,
    /// The name is taken.
    AlreadyExists = 409,
    /// Somebody else wrote in between.
    Conflict = 409,
    /// It is gone for good.
    Gone = 410,
    /// The object breaks rules.
    Invalid = 422,
    /// The server needs more time.
    ServerTimeout = 504,
    /// The server holds too many objects of some sort.
    StoreReadError = 500,
    /// It took too long.
    Timeout = 504,
    /// Ask more slowly.
    TooManyRequests = 429,
    /// The request makes no sense.
    BadRequest = 400,
    /// The resource has no such verb.
    MethodNotAllowed = 405,
    /// No representation that the client accepts.
    NotAcceptable = 406,
    /// The body is too large.
    RequestEntityTooLarge = 413,
    /// The body is of a type that is not read here.
    UnsupportedMediaType = 415,
    /// A bug, or a failing disk.
    InternalError = 500,
    /// The resource version is too old.
    Expired = 410,
    /// Not now.
    ServiceUnavailable = 503,
}

/// Why an update conflicts, as upstream ends its sentence.
pub const OBJECT_MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl Status {
    /// An error with the code of its reason.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { code: reason.code(), reason, message: message.into(), details: None }
    }

    fn about(mut self, resource: &GroupResource, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.into(),
            group: resource.group.clone(),
            kind: resource.resource.clone(),
            ..Details::default()
        }));
        self
    }

    /// No object of that name.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::new(Reason::NotFound, format!("{resource} {} not found", quoted(name))).about(resource, name)
    }

    /// The name is taken.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::new(Reason::AlreadyExists, format!("{resource} {} already exists", quoted(name)))
            .about(resource, name)
    }

    /// Somebody wrote in between, or a precondition does not hold; `why` ends the sentence.
    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {}: {why}", quoted(name));
        Self::new(Reason::Conflict, message).about(resource, name)
    }

    /// The user may not do that; `why` ends the sentence.
    pub fn forbidden(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = match (resource.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{resource} is forbidden: {why}"),
            (false, false) => format!("{resource} {} is forbidden: {why}", quoted(name)),
        };
        Self::new(Reason::Forbidden, message).about(resource, name)
    }

    /// The object breaks rules. `kind` is the kind (not the resource), as upstream writes here.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut message = format!("{qualified} {} is invalid", quoted(name));
        // The sentence names equal causes once, as upstream's aggregate of errors does.
        let mut all: Vec<String> = Vec::with_capacity(causes.len());
        for words in causes.iter().map(ToString::to_string) {
            if !all.contains(&words) {
                all.push(words);
            }
        }
        match all.as_slice() {
            [] => {}
            [one] => message.push_str(&format!(": {one}")),
            many => message.push_str(&format!(": [{}]", many.join(", "))),
        }
        let mut status = Self::new(Reason::Invalid, message);
        status.details = Some(Box::new(Details {
            name: name.into(),
            group: group.into(),
            kind: kind.into(),
            causes,
            ..Details::default()
        }));
        status
    }

    /// The request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// A bug or a failing part; upstream's prefix is put before `message`.
    pub fn internal(message: impl fmt::Display) -> Self {
        let mut status = Self::new(Reason::InternalError, format!("Internal error occurred: {message}"));
        status.details = Some(Box::new(Details {
            causes: vec![Cause {
                reason: Str::default(),
                message: message.to_string(),
                field: String::new(),
            }],
            ..Details::default()
        }));
        status
    }

    /// Ask again after `seconds`.
    pub fn too_many_requests(message: impl Into<String>, seconds: u32) -> Self {
        let mut status = Self::new(Reason::TooManyRequests, message);
        status.details = Some(Box::new(Details { retry_after_seconds: seconds, ..Details::default() }));
        status
    }

    /// The resource version of a list or watch has been compacted away.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// The answer to a deletion that is complete.
    pub fn deleted(resource: &GroupResource, name: &str, uid: &str) -> Self {
        let mut status = Self { code: 200, reason: Reason::Unknown, message: String::new(), details: None }
            .about(resource, name);
        if let Some(details) = &mut status.details {
            details.uid = uid.into();
        }
        status
    }

    /// Whether it tells of a success.
    pub fn is_success(&self) -> bool {
        self.code < 300
    }

    /// The JSON object of `v1.Status`.
    pub fn to_value(&self) -> Value {
        let mut value = crate::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}});
        value.set(&["status"], if self.is_success() { "Success" } else { "Failure" });
        if !self.message.is_empty() {
            value.set(&["message"], self.message.as_str());
        }
        if self.reason != Reason::Unknown {
            value.set(&["reason"], self.reason.as_str());
        }
        if let Some(details) = &self.details {
            value.set(&["details"], details.to_value());
        }
        // Upstream leaves the code out of successful deletions.
        if self.code != 200 {
            value.set(&["code"], i64::from(self.code));
        }
        value
    }

    /// Reads the JSON object of `v1.Status`, as an HTTP client gets it.
    pub fn from_value(value: &Value, http_code: u16) -> Self {
        let text = |path: &[&str]| value.str_at(path).unwrap_or_default().to_owned();
        let details = value.get("details").map(|details| {
            Box::new(Details {
                name: text(&["details", "name"]).into(),
                group: text(&["details", "group"]).into(),
                kind: text(&["details", "kind"]).into(),
                uid: text(&["details", "uid"]).into(),
                causes: details.array_at(&["causes"]).iter().map(Cause::from_value).collect(),
                retry_after_seconds: details
                    .int_at(&["retryAfterSeconds"])
                    .and_then(|seconds| u32::try_from(seconds).ok())
                    .unwrap_or_default(),
            })
        });
        Self {
            code: value.int_at(&["code"]).and_then(|code| u16::try_from(code).ok()).unwrap_or(http_code),
            reason: Reason::from_word(value.str_at(&["reason"]).unwrap_or_default()),
            message: text(&["message"]),
            details,
        }
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !text.is_empty() {
                map.insert(key, text.clone());
            }
        }
        if !self.causes.is_empty() {
            let causes: Vec<Value> = self.causes.iter().map(Cause::to_value).collect();
            map.insert("causes", causes);
        }
        if self.retry_after_seconds > 0 {
            map.insert("retryAfterSeconds", i64::from(self.retry_after_seconds));
        }
        map.into()
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in
            [("reason", self.reason.as_str()), ("message", &self.message), ("field", &self.field)]
        {
            if !text.is_empty() {
                map.insert(key, text);
            }
        }
        map.into()
    }

    fn from_value(value: &Value) -> Self {
        let text = |key| value.str_at(&[key]).unwrap_or_default();
        Self { reason: text("reason").into(), message: text("message").into(), field: text("field").into() }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_lists_its_causes_as_upstream() {
        let cause = |field: &str| Cause {
            reason: "FieldValueRequired".into(),
            message: "Required value".into(),
            field: field.into(),
        };
        let status =
            Status::invalid("apps", "Deployment", "a", vec![cause("spec.selector"), cause("spec.x")]);
        assert_eq!(
            status.message,
            "Deployment.apps \"a\" is invalid: [spec.selector: Required value, spec.x: Required value]"
        );
        assert_eq!(status.code, 422);
        assert_eq!(Status::from_value(&status.to_value(), 0), status);
    }

    #[test]
    fn not_found_names_the_resource_with_its_group() {
        let deployments = GroupResource { group: "apps".into(), resource: "deployments".into() };
        assert_eq!(Status::not_found(&deployments, "x").message, "deployments.apps \"x\" not found");
    }
}
