//! The query part of a URL, and the options that it carries.

use std::borrow::Cow;

use api::interface::{DeleteOptions, GetOptions, ListOptions, Propagation, WriteOptions};
use api::status::{Cause, Status};
use api::value::{Str, Value};

/// The parameters of a query. Nothing is decoded before it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// From the text behind the question mark.
    pub fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// All parameters, decoded, in their order.
    pub fn pairs(self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        self.0.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
    }

    /// The first value of `key`.
    pub fn get(self, key: &str) -> Option<Cow<'a, str>> {
        self.pairs().find(|(other, _)| other == key).map(|(_, value)| value)
    }

    /// All values of `key`.
    pub fn all(self, key: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
        self.pairs().filter(move |(other, _)| other == key).map(|(_, value)| value)
    }

    /// Whether `key` is there and not false; upstream takes `watch` and `watch=x` for true.
    pub fn flag(self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    /// The text of `key`, empty if it is not there.
    pub fn text(self, key: &str) -> Str {
        self.get(key).map(|value| Str::from(value.as_ref())).unwrap_or_default()
    }

    /// The whole number of `key`.
    pub fn number(self, key: &str) -> Result<Option<i64>, Status> {
        let Some(value) = self.get(key).filter(|value| !value.is_empty()) else { return Ok(None) };
        value.parse().map(Some).map_err(|error: std::num::ParseIntError| {
            use std::num::IntErrorKind::{NegOverflow, PosOverflow};
            let why = match error.kind() {
                PosOverflow | NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Status::bad_request(format!("strconv.ParseInt: parsing \"{value}\": {why}"))
        })
    }
}

fn decode(text: &str) -> Cow<'_, str> {
    if text.contains(['%', '+']) { Cow::Owned(percent_decode(text, true)) } else { Cow::Borrowed(text) }
}

/// Undoes percent-encoding; what is no valid escape stays, and invalid UTF-8 becomes U+FFFD. `plus` is a space
/// in queries, itself in paths.
pub fn percent_decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |offset: usize| bytes.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
        match bytes[at] {
            b'%' if hex(1).is_some() && hex(2).is_some() => {
                out.push((hex(1).unwrap_or(0) * 16 + hex(2).unwrap_or(0)) as u8);
                at += 2;
            }
            b'+' if plus_is_space => out.push(b' '),
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Options of a read.
pub fn get_options(query: Query<'_>) -> GetOptions {
    GetOptions { resource_version: query.text("resourceVersion") }
}

/// Options of a list or of a deletion of a collection.
pub fn list_options(query: Query<'_>) -> Result<ListOptions, Status> {
    // How long a list may take is the server's to say, but what is said of it must be a number.
    query.number("timeoutSeconds")?;
    let options = ListOptions {
        label_selector: query.text("labelSelector"),
        field_selector: query.text("fieldSelector"),
        limit: query.number("limit")?.and_then(|limit| u64::try_from(limit).ok()).unwrap_or_default(),
        continue_token: query.text("continue"),
        resource_version: query.text("resourceVersion"),
        resource_version_match: query.text("resourceVersionMatch"),
    };
    if query.get("sendInitialEvents").is_some_and(|value| !value.is_empty()) {
        let mut causes = crate::verbs::list::option_causes(&options);
        let why = "sendInitialEvents is forbidden for list";
        causes.push(api::validation::cause::forbidden("sendInitialEvents", why));
        return Err(Status::invalid("meta.k8s.io", "ListOptions", "", causes));
    }
    Ok(options)
}

/// Options of a create (`CreateOptions`), update (`UpdateOptions`) or patch (`PatchOptions`); `kind` names them in
/// messages.
pub fn write_options(query: Query<'_>, kind: &str) -> Result<WriteOptions, Status> {
    let options = WriteOptions {
        dry_run: dry_run(query.all("dryRun").map(|value| Str::from(value.as_ref())), kind)?,
        field_manager: query.text("fieldManager"),
        field_validation: query.text("fieldValidation"),
        force: query.get("force").is_some_and(|force| force == "true" || force == "1"),
    };
    check_write_options(&options, kind)?;
    Ok(options)
}

/// The rules of `metav1/validation` for options of writes.
pub fn check_write_options(options: &WriteOptions, kind: &str) -> Result<(), Status> {
    let mut causes = Vec::new();
    if options.field_manager.len() > 128 {
        causes.push(Cause {
            reason: "FieldValueTooLong".into(),
            message: "Too long: may not be more than 128 bytes".into(),
            field: "fieldManager".into(),
        });
    }
    let manager = options.field_manager.as_str();
    for (at, letter) in manager.char_indices().filter(|(_, letter)| letter.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(letter));
        causes.push(api::validation::cause::invalid("fieldManager", manager, &why));
    }
    if !matches!(options.field_validation.as_str(), "" | "Ignore" | "Warn" | "Strict") {
        causes.push(Cause {
            reason: "FieldValueNotSupported".into(),
            message: format!(
                "Unsupported value: \"{}\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
                options.field_validation
            ),
            field: "fieldValidation".into(),
        });
    }
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", kind, "", causes)) }
}

fn dry_run(values: impl Iterator<Item = Str>, kind: &str) -> Result<bool, Status> {
    let values: Vec<Str> = values.collect();
    if !values.iter().all(|value| value == "All") {
        let all: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
        return Err(Status::invalid(
            "meta.k8s.io",
            kind,
            "",
            vec![Cause {
                reason: "FieldValueNotSupported".into(),
                message: format!("Unsupported value: [{}]: supported values: \"All\"", all.join(",")),
                field: "dryRun".into(),
            }],
        ));
    }
    Ok(!values.is_empty())
}

/// Options of a deletion: from the body if there is one, else from the query.
pub fn delete_options(query: Query<'_>, body: Option<&Value>) -> Result<DeleteOptions, Status> {
    let Some(body) = body else {
        let (policy, orphan) = (query.get("propagationPolicy"), orphan_query(query));
        let grace_period_seconds = query.number("gracePeriodSeconds")?;
        let given = Given {
            propagation: policy.is_some(),
            orphan: orphan.is_some(),
            grace_period: grace_period_seconds.is_some(),
            preconditions: false,
        };
        return settled(
            DeleteOptions {
                grace_period_seconds,
                ignore_read_error: query.flag(IGNORE_READ_ERROR),
                ..DeleteOptions::default()
            },
            propagation(policy.as_deref(), orphan),
            dry_run(query.all("dryRun").map(|value| Str::from(value.as_ref())), "DeleteOptions"),
            &given,
        );
    };
    if body.as_object().is_none() {
        return Err(Status::bad_request("the body of a deletion must be a DeleteOptions object"));
    }
    if let Some(kind) = body.str_at(&["kind"])
        && !matches!(kind, "DeleteOptions" | "")
    {
        let version = body.str_at(&["apiVersion"]).unwrap_or_default();
        return Err(Status::bad_request(format!(
            "no kind \"{kind}\" is registered for version \"{version}\" in scheme \"pkg/runtime/scheme.go:111\""
        )));
    }
    check_types(body)?;
    let mut values = Vec::new();
    for value in body.array_at(&["dryRun"]) {
        values.push(Str::from(value.as_str().unwrap_or_default()));
    }
    let text = |path: &[&str]| body.str_at(path).map(Str::from);
    let has = |key: &str| body.get(key).is_some_and(|value| !value.is_null());
    let given = Given {
        propagation: has("propagationPolicy"),
        orphan: has("orphanDependents"),
        grace_period: has("gracePeriodSeconds"),
        preconditions: has("preconditions"),
    };
    settled(
        DeleteOptions {
            grace_period_seconds: body.int_at(&["gracePeriodSeconds"]),
            uid: text(&["preconditions", "uid"]),
            resource_version: text(&["preconditions", "resourceVersion"]),
            ignore_read_error: body.bool_at(&[IGNORE_READ_ERROR]).unwrap_or_default(),
            ..DeleteOptions::default()
        },
        propagation(body.str_at(&["propagationPolicy"]), body.bool_at(&["orphanDependents"])),
        dry_run(values.into_iter(), "DeleteOptions"),
        &given,
    )
}

/// The option to delete what cannot be read, and nothing else.
const IGNORE_READ_ERROR: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// Which options were given, whatever they say.
struct Given {
    propagation: bool,
    orphan: bool,
    grace_period: bool,
    preconditions: bool,
}

/// The options, if nothing is wrong with any of them.
fn settled(
    options: DeleteOptions,
    propagation: Result<Option<Propagation>, Status>,
    dry_run: Result<bool, Status>,
    given: &Given,
) -> Result<DeleteOptions, Status> {
    let mut together: Vec<Cause> = [
        (given.propagation, "propagationPolicy"),
        (given.orphan, "orphanDependents"),
        (given.grace_period, "gracePeriodSeconds"),
        (given.preconditions, "preconditions"),
    ]
    .into_iter()
    .filter(|(given, _)| *given && options.ignore_read_error)
    .map(|(_, name)| {
        let why = format!("cannot be set together with .{name}");
        api::validation::cause::invalid(IGNORE_READ_ERROR, true, &why)
    })
    .collect();
    match (propagation, dry_run) {
        (Ok(propagation), Ok(dry_run)) if together.is_empty() => {
            Ok(DeleteOptions { propagation, dry_run, ..options })
        }
        (propagation, dry_run) => {
            let wrong = [propagation.err(), dry_run.err()].into_iter().flatten();
            let mut causes: Vec<Cause> =
                wrong.filter_map(|status| status.details).flat_map(|details| details.causes).collect();
            causes.append(&mut together);
            Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", causes))
        }
    }
}

/// Refuses to delete many objects that cannot be read: who asks for that must name each.
pub fn refuse_unreadable_collection(options: &DeleteOptions) -> Result<(), Status> {
    if !options.ignore_read_error {
        return Ok(());
    }
    let why = "is not allowed with DELETECOLLECTION, try again after removing the option";
    let cause = api::validation::cause::invalid(IGNORE_READ_ERROR, true, why);
    Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", vec![cause]))
}

/// A deletion whose options are misunderstood cannot be undone, so a wrong type is refused.
fn check_types(body: &Value) -> Result<(), Status> {
    type Fits = fn(&Value) -> bool;
    let members: [(&[&str], &str, Fits); 7] = [
        (&["gracePeriodSeconds"], "int64", |value| value.as_int().is_some()),
        (&["orphanDependents"], "bool", |value| matches!(value, Value::Bool(_))),
        (&[IGNORE_READ_ERROR], "bool", |value| matches!(value, Value::Bool(_))),
        (&["propagationPolicy"], "v1.DeletionPropagation", |value| value.as_str().is_some()),
        (&["preconditions"], "v1.Preconditions", |value| value.as_object().is_some()),
        (&["preconditions", "uid"], "types.UID", |value| value.as_str().is_some()),
        (&["preconditions", "resourceVersion"], "string", |value| value.as_str().is_some()),
    ];
    for (path, ty, fits) in members {
        let Some(value) = body.at(path).filter(|value| !value.is_null() && !fits(value)) else { continue };
        let (shape, last) = (json_shape(value), path.join("."));
        return Err(Status::bad_request(format!(
            "json: cannot unmarshal {shape} into Go struct field DeleteOptions.{last} of type {ty}"
        )));
    }
    Ok(())
}

fn json_shape(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Array(_) => "array",
        _ if value.as_object().is_some() => "object",
        _ => "number",
    }
}

fn orphan_query(query: Query<'_>) -> Option<bool> {
    query.get("orphanDependents").map(|value| value == "true" || value == "1")
}

fn propagation(policy: Option<&str>, orphan: Option<bool>) -> Result<Option<Propagation>, Status> {
    let invalid = |why: String, reason: &str| {
        Status::invalid(
            "meta.k8s.io",
            "DeleteOptions",
            "",
            vec![Cause { reason: reason.into(), message: why, field: "propagationPolicy".into() }],
        )
    };
    match (policy.filter(|policy| !policy.is_empty()), orphan) {
        (Some(policy), Some(_)) => Err(invalid(
            format!(
                "Invalid value: \"{policy}\": orphanDependents and deletionPropagation cannot be both set"
            ),
            "FieldValueInvalid",
        )),
        (Some("Orphan"), None) => Ok(Some(Propagation::Orphan)),
        (Some("Background"), None) => Ok(Some(Propagation::Background)),
        (Some("Foreground"), None) => Ok(Some(Propagation::Foreground)),
        (Some(other), None) => Err(invalid(
            format!(
                "Unsupported value: \"{other}\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
            ),
            "FieldValueNotSupported",
        )),
        (None, Some(true)) => Ok(Some(Propagation::Orphan)),
        (None, Some(false)) => Ok(Some(Propagation::Background)),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::new("labelSelector=a%3Db%2Cc+in+%28d%29&limit=5&watch");
        assert_eq!(query.text("labelSelector"), "a=b,c in (d)");
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert!(query.flag("watch"));
        assert!(Query::new("limit=x").number("limit").is_err());
        let told = |query| list_options(Query::new(query)).unwrap_err().message.to_string();
        assert_eq!(told("timeoutSeconds=abc&limit=x"), "strconv.ParseInt: parsing \"abc\": invalid syntax");
        let far = "99999999999999999999";
        let expect = format!("strconv.ParseInt: parsing \"{far}\": value out of range");
        assert_eq!(told(&format!("limit={far}")), expect);
        let all = list_options(Query::new("sendInitialEvents=true&resourceVersionMatch=Exact")).unwrap_err();
        assert_eq!(all.details.unwrap().causes.len(), 2);
        assert_eq!(percent_decode("%zz%4", false), "%zz%4");
    }

    #[test]
    fn what_cannot_be_read_is_deleted_with_no_other_option() {
        let body = json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true});
        assert!(delete_options(Query::new(""), Some(&body)).unwrap().ignore_read_error);
        let query = "ignoreStoreReadErrorWithClusterBreakingPotential=true";
        assert!(delete_options(Query::new(query), None).unwrap().ignore_read_error);
        let mut all = body.clone();
        all.set(&["propagationPolicy"], "Orphan");
        all.set(&["orphanDependents"], true);
        all.set(&["gracePeriodSeconds"], 1);
        all.set(&["preconditions", "uid"], "x");
        let words = delete_options(Query::new(""), Some(&all)).unwrap_err().message;
        let each = |name: &str| {
            format!("{IGNORE_READ_ERROR}: Invalid value: true: cannot be set together with .{name}")
        };
        assert_eq!(
            words,
            format!(
                "DeleteOptions.meta.k8s.io \"\" is invalid: [propagationPolicy: Invalid value: \"Orphan\": \
                 orphanDependents and deletionPropagation cannot be both set, {}, {}, {}, {}]",
                each("propagationPolicy"),
                each("orphanDependents"),
                each("gracePeriodSeconds"),
                each("preconditions")
            )
        );
        let wrong = json!({"ignoreStoreReadErrorWithClusterBreakingPotential": "x"});
        assert_eq!(
            delete_options(Query::new(""), Some(&wrong)).unwrap_err().message,
            format!(
                "json: cannot unmarshal string into Go struct field DeleteOptions.{IGNORE_READ_ERROR} of type bool"
            )
        );
    }

    #[test]
    fn wrong_options_are_named() {
        let status = write_options(Query::new("fieldValidation=Loud"), "CreateOptions").unwrap_err();
        assert!(
            status.message.contains("supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""),
            "{status}"
        );
        assert!(write_options(Query::new("dryRun=Some"), "CreateOptions").is_err());
        assert!(write_options(Query::new("dryRun=All"), "CreateOptions").unwrap().dry_run);
    }
}
