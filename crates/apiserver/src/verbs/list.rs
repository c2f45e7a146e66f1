//! Reading collections: pages, selectors, revisions.

use std::sync::Arc;

use api::interface::{Collection, List, ListOptions};
use api::object::Object;
use api::selector::label::Operator;
use api::selector::{field, label};
use api::status::{Cause, Details, Reason, Status};
use api::validation::cause;
use api::value::Str;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use base64::{DecodeError, Engine as _, alphabet};
use store::{Key, ReadError, Revision};

use crate::gate::Gate;
use crate::kinds::{self, Kind};
use crate::storage::{Storage, indexed_field, label_term, object};
use crate::{codec, components};

/// What a list or watch shows.
#[derive(Clone)]
pub struct Choice {
    /// The kind in the version of the request.
    pub kind: &'static Kind,
    /// By labels.
    pub labels: label::Selector,
    /// By fields.
    pub fields: field::Selector,
}

impl Choice {
    /// Reads the two selectors of a request.
    pub fn parse(kind: &'static Kind, labels: &str, fields: &str) -> Result<Self, Status> {
        let labels =
            label::Selector::parse(labels).map_err(|error| Status::bad_request(error.to_string()))?;
        let fields = field::Selector::parse(fields)
            .and_then(|selector| {
                let known: Vec<&str> = kind.selectors.iter().map(Str::as_str).collect();
                selector.require_supported(&kind.kind.kind, &known).map(|()| selector)
            })
            .map_err(|error| Status::bad_request(error.to_string()))?;
        Ok(Self { kind, labels, fields })
    }

    /// Whether an object is shown.
    pub fn shows(&self, object: &Object) -> bool {
        self.labels.matches(object.labels())
            && self.fields.matches(|path| object.field(&kinds::stored_field(self.kind, path)))
    }

    /// What all that are shown can be found by, as far as that is indexed.
    fn terms(&self) -> Vec<u64> {
        let requirements = self.labels.requirements().iter();
        let labels =
            requirements.filter_map(|requirement| match (requirement.operator, &*requirement.values) {
                (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => {
                    Some(label_term(&requirement.key, value))
                }
                _ => None,
            });
        let fields = self.fields.terms().iter().filter(|term| !term.negated && self.kind.is_stored_version());
        labels.chain(fields.filter_map(|term| indexed_field(&term.field, &term.value))).collect()
    }

    /// Whether all are.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }
}

/// Lists a collection, or a page of it.
pub fn list(
    gate: &Gate,
    kind: &'static Kind,
    collection: &Collection,
    options: &ListOptions,
) -> Result<List, Status> {
    check_options(options)?;
    let choice = Choice::parse(kind, &options.label_selector, &options.field_selector)?;
    let storage = gate.storage();
    if let Some(mut items) = components::all(kind)? {
        items.retain(|part| choice.shows(part));
        return Ok(List { items, ..List::default() });
    }
    if let Some(name) = choice.fields.exact("metadata.name")
        && options.continue_token.is_empty()
        && (!kind.namespaced || !collection.namespace.is_empty())
        && options.resource_version_match != "Exact"
    {
        return one(gate, kind, collection, name, &choice, options);
    }
    let mut after = None;
    let mut at = None;
    if !options.continue_token.is_empty() {
        let token = Token::decode(&options.continue_token)?;
        if !matches!(options.resource_version.as_str(), "" | "0") {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        after = Some(Storage::key(kind, &token.namespace, &token.name));
        at = token.revision;
    } else if options.resource_version_match == "Exact"
        || (options.resource_version_match.is_empty()
            && options.limit > 0
            && !matches!(options.resource_version.as_str(), "" | "0"))
    {
        at = Some(Revision(parse_revision(&options.resource_version)?));
    } else if !options.resource_version.is_empty() {
        check_revision(gate, &options.resource_version)?;
    }
    pages(gate, kind, collection, options, &choice, after, at, storage)
}

#[expect(clippy::too_many_arguments, reason = "the parts of one list, each of its own sort")]
fn pages(
    gate: &Gate,
    kind: &'static Kind,
    collection: &Collection,
    options: &ListOptions,
    choice: &Choice,
    mut after: Option<Key>,
    mut at: Option<Revision>,
    storage: &Storage,
) -> Result<List, Status> {
    let limit = usize::try_from(options.limit).unwrap_or(usize::MAX);
    // A page of which nothing is shown must not be the answer, so selectors read on until the page is full.
    let chunk = if choice.is_everything() { limit } else { 0 };
    let scope = Storage::scope(kind, &collection.namespace);
    let request = store::List { scope, after: after.take(), limit: chunk, at, having: choice.terms() };
    let page = storage
        .store()
        .list(&request)
        .map_err(|error| read_error(gate, options, request.after.as_ref(), error))?;
    at.get_or_insert(page.revision);
    let mut list = List { revision: at.unwrap_or(page.revision).0, ..List::default() };
    let mut left = page.remaining;
    let mut entries = page.entries.iter().peekable();
    let mut last: Option<Arc<Object>> = None;
    while let Some(entry) = entries.next() {
        let shared = object(entry);
        if !choice.shows(&shared) {
            continue;
        }
        list.items.push(codec::answer(kind, &shared)?);
        last = Some(shared);
        if limit > 0 && list.items.len() == limit {
            left += entries.len();
            break;
        }
    }
    if left > 0
        && let Some(last) = last
    {
        list.continue_token =
            Token { revision: at, namespace: last.namespace().into(), name: last.name().into() }.encode();
        // With selectors, how many of the rest are shown is not known.
        list.remaining = choice.is_everything().then_some(left as u64);
    }
    Ok(list)
}

/// A list that can only show one object.
fn one(
    gate: &Gate,
    kind: &'static Kind,
    collection: &Collection,
    name: &str,
    choice: &Choice,
    options: &ListOptions,
) -> Result<List, Status> {
    if !options.resource_version.is_empty() {
        check_revision(gate, &options.resource_version)?;
    }
    let (entry, revision) =
        gate.storage().store().get_with_revision(&Storage::key(kind, &collection.namespace, name));
    let mut list = List { revision: revision.0, ..List::default() };
    if let Some(shared) = entry.map(|entry| object(&entry)).filter(|shared| choice.shows(shared)) {
        list.items.push(codec::answer(kind, &shared)?);
    }
    Ok(list)
}

fn read_error(gate: &Gate, options: &ListOptions, after: Option<&Key>, error: ReadError) -> Status {
    match error {
        ReadError::Compacted { .. } if !options.continue_token.is_empty() => {
            let mut status = Status::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a \
                 new list without the continue parameter, or use the continue token in this response to retrieve \
                 the remainder of the results. Continuing with the provided token results in an inconsistent list \
                 - objects that were created, modified, or deleted between the time the first chunk was returned \
                 and now may show up in the list.",
            );
            status.details = after.map(|key| {
                let token =
                    Token { revision: None, namespace: key.namespace.clone(), name: key.name.clone() };
                Box::new(Details {
                    causes: vec![Cause {
                        reason: "ResourceVersionTooOld".into(),
                        message: token.encode().to_string(),
                        field: String::new(),
                    }],
                    ..Details::default()
                })
            });
            status
        }
        ReadError::Compacted { requested, .. } => {
            Status::expired(format!("The resourceVersion for the provided list is too old: {requested}"))
        }
        ReadError::Future { requested, current } => too_large(requested.0, current.0),
        ReadError::TooManyWatchers => {
            let _ = gate;
            Status::too_many_requests(error.to_string(), crate::limits::RETRY_AFTER_SECONDS)
        }
    }
}

/// Refuses to answer from before a revision that the client has seen. The store is never behind, so such a
/// revision was not made here.
pub fn check_revision(gate: &Gate, text: &str) -> Result<(), Status> {
    let (asked, now) = (parse_revision(text)?, gate.storage().store().revision().0);
    if asked > now { Err(too_large(asked, now)) } else { Ok(()) }
}

/// What clients understand as leave to list anew, at whatever revision there is.
pub fn too_large(asked: u64, now: u64) -> Status {
    let mut status =
        Status::new(Reason::Timeout, format!("Timeout: Too large resource version: {asked}, current: {now}"));
    status.details = Some(Box::new(Details {
        causes: vec![Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        }],
        retry_after_seconds: crate::limits::RETRY_AFTER_SECONDS,
        ..Details::default()
    }));
    status
}

/// Reads a revision.
pub fn parse_revision(text: &str) -> Result<u64, Status> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        Status::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \
             \"{text}\": invalid syntax"
        ))
    })
}

/// The rules of `metav1/validation` for options of lists: all that is wrong. Pure.
pub fn option_causes(options: &ListOptions) -> Vec<Cause> {
    const FIELD: &str = "resourceVersionMatch";
    let (version, matching) = (options.resource_version.as_str(), options.resource_version_match.as_str());
    let mut causes = Vec::new();
    if matching.is_empty() {
        return causes;
    }
    let mut forbid = |holds: bool, why: &str| {
        if holds {
            causes.push(cause::forbidden(FIELD, why));
        }
    };
    forbid(version.is_empty(), "resourceVersionMatch is forbidden unless resourceVersion is provided");
    forbid(!options.continue_token.is_empty(), "resourceVersionMatch is forbidden when continue is provided");
    forbid(
        matching == "Exact" && version == "0",
        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
    );
    if !matches!(matching, "Exact" | "NotOlderThan") {
        causes.push(cause::not_supported(FIELD, matching, &["Exact", "NotOlderThan", ""]));
    }
    causes
}

fn check_options(options: &ListOptions) -> Result<(), Status> {
    let causes = option_causes(options);
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", causes)) }
}

/// Where the next page begins. Clients must not look into it.
struct Token {
    /// `None` reads the rest as it is now.
    revision: Option<Revision>,
    namespace: Str,
    name: Str,
}

/// The form of a token, as upstream names its own.
const TOKEN_VERSION: &str = "meta.k8s.io/v1";
/// Tokens are base64 for URLs; bits that mean nothing do no harm.
const TOKEN_ENGINE: GeneralPurpose =
    GeneralPurpose::new(&alphabet::URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

impl Token {
    fn encode(&self) -> Str {
        let revision = self.revision.map_or(-1, |revision| revision.0 as i64);
        let start = format!("{}/{}\0", self.namespace, self.name);
        let tree = api::json!({"v": TOKEN_VERSION, "rv": revision, "start": start});
        TOKEN_ENGINE.encode(tree.to_bytes()).into()
    }

    fn decode(token: &str) -> Result<Self, Status> {
        Self::read(token).map_err(|why| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        })
    }

    fn read(token: &str) -> Result<Self, String> {
        let bytes = TOKEN_ENGINE.decode(token).map_err(|error| {
            let at = match error {
                DecodeError::InvalidByte(at, _) => at,
                DecodeError::InvalidLength(length) => length.saturating_sub(1),
                DecodeError::InvalidLastSymbol { .. } => token.len().saturating_sub(1),
                DecodeError::InvalidPadding => token.find('=').unwrap_or_default(),
            };
            format!("illegal base64 data at input byte {at}")
        })?;
        // Its words for what is no JSON are upstream's.
        api::schema::type_meta(&bytes).map_err(|error| {
            let words = error.to_string();
            words.rsplit_once("json parse error: ").map_or(words.clone(), |(_, why)| why.to_owned())
        })?;
        let tree = api::value::parse(&bytes).map_err(|error| error.to_string())?;
        let version = tree.str_at(&["v"]).unwrap_or_default();
        if version != TOKEN_VERSION {
            return Err(format!("server does not recognize this encoded version {version}"));
        }
        let revision = tree.int_at(&["rv"]).unwrap_or_default();
        if revision == 0 {
            return Err(format!("incorrect encoded start resourceVersion (version {TOKEN_VERSION})"));
        }
        let start = tree.str_at(&["start"]).unwrap_or_default().trim_end_matches('\0');
        let Some((namespace, name)) = start.split_once('/') else {
            return Err(format!("encoded start key empty (version {TOKEN_VERSION})"));
        };
        let revision = u64::try_from(revision).ok().map(Revision);
        Ok(Self { revision, namespace: namespace.into(), name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_that_is_wrong_with_a_match_is_told() {
        let check = |version: &str, matching: &str, token: &str, expect: &[&str]| {
            let options = ListOptions {
                resource_version: version.into(),
                resource_version_match: matching.into(),
                continue_token: token.into(),
                ..ListOptions::default()
            };
            let causes = option_causes(&options);
            let told: Vec<&str> = causes.iter().map(|cause| cause.message.as_str()).collect();
            assert_eq!(told, expect, "{version} {matching} {token}");
        };
        let none = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
        let paged = "Forbidden: resourceVersionMatch is forbidden when continue is provided";
        let zero = "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
        let unknown = "Unsupported value: \"Perhaps\": supported values: \"Exact\", \"NotOlderThan\", \"\"";
        check("", "", "abc", &[]);
        check("5", "Exact", "", &[]);
        check("", "Exact", "abc", &[none, paged]);
        check("", "Perhaps", "abc", &[none, paged, unknown]);
        check("0", "Exact", "", &[zero]);
    }

    #[test]
    fn tokens_lead_back() {
        let token = Token { revision: Some(Revision(7)), namespace: "".into(), name: "a".into() };
        let read = Token::decode(&token.encode()).unwrap();
        assert_eq!((read.revision, read.name.as_str()), (Some(Revision(7)), "a"));
        let rest = Token { revision: None, namespace: "n".into(), name: "b".into() };
        let read = Token::decode(&rest.encode()).unwrap();
        assert_eq!((read.revision, read.namespace.as_str(), read.name.as_str()), (None, "n", "b"));
        let check = |token: &str, expect: &str| {
            assert_eq!(Token::read(token).err().as_deref(), Some(expect), "{token}");
        };
        check("!", "illegal base64 data at input byte 0");
        check("e30", "server does not recognize this encoded version ");
    }

    proptest! {
        #[test]
        fn no_token_panics(token in ".{0,40}") {
            let _ = Token::decode(&token);
        }
    }
}
