//! Which representation a client gets: the `Accept` header against what is served. Pure.

use api::status::{Reason, Status};

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

impl Media {
    /// The value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

/// What is made of an object before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing.
    Whole,
    /// `PartialObjectMetadata`, and its list for lists.
    Metadata,
    /// A `Table` with upstream's columns.
    Table,
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// How it is written.
    pub media: Media,
    /// What is written.
    pub shape: Shape,
}

/// What the endpoint can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Objects of kinds: tables and metadata alone are possible.
    Objects,
    /// Only itself.
    Plain,
}

/// One media range of an `Accept` header.
#[derive(Clone, Debug, PartialEq)]
pub struct Range<'a> {
    /// As `application`.
    pub kind: &'a str,
    /// As `json`.
    pub subtype: &'a str,
    /// Parameters but for `q`, in their order.
    pub parameters: Vec<(&'a str, &'a str)>,
    weight: f32,
}

/// The media ranges of an `Accept` header, the most wanted first; equals keep their order.
pub fn ranges(accept: &str) -> Vec<Range<'_>> {
    let mut ranges: Vec<Range<'_>> = accept.split(',').filter_map(range).collect();
    // As upstream's library: by weight, and wildcards behind what is named.
    ranges.sort_by(|a, b| {
        let stars = |range: &Range<'_>| u8::from(range.kind == "*") + u8::from(range.subtype == "*");
        b.weight.total_cmp(&a.weight).then_with(|| stars(a).cmp(&stars(b)))
    });
    ranges
}

fn range(text: &str) -> Option<Range<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let (kind, subtype) = match parts.next()? {
        "*" => ("*", "*"),
        name => name.split_once('/')?,
    };
    let mut range = Range { kind: kind.trim(), subtype: subtype.trim(), parameters: Vec::new(), weight: 1.0 };
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        let (key, value) = (key.trim(), value.trim().trim_matches('"'));
        if key == "q" {
            range.weight = value.parse().unwrap_or(1.0);
        } else {
            range.parameters.push((key, value));
        }
    }
    Some(range)
}

impl Range<'_> {
    fn covers(&self, media: Media) -> bool {
        let (kind, subtype) = media.content_type().split_once('/').unwrap_or_default();
        (self.kind == kind || self.kind == "*") && (self.subtype == subtype || self.subtype == "*")
    }

    /// A parameter.
    pub fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(other, _)| *other == key).map(|(_, value)| *value)
    }

    /// The shape that the parameters ask for; `None` if the endpoint has no such.
    fn shape(&self, endpoint: Endpoint) -> Option<Shape> {
        match self.parameter("stream") {
            None | Some("" | "watch") => {}
            Some(_) => return None,
        }
        if self.parameter("sv").is_some_and(|version| !version.is_empty()) {
            return None;
        }
        let (wanted, group, version) = (self.parameter("as"), self.parameter("g"), self.parameter("v"));
        if wanted.is_none() && group.is_none() && version.is_none() {
            return Some(Shape::Whole);
        }
        let meta = group == Some("meta.k8s.io") && matches!(version, Some("v1" | "v1beta1"));
        match wanted {
            _ if endpoint == Endpoint::Plain || !meta => None,
            Some("Table") => Some(Shape::Table),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Shape::Metadata),
            _ => None,
        }
    }
}

/// Agrees on a representation. `list` tells whether the answer is a collection.
pub fn negotiate(accept: &str, endpoint: Endpoint, list: bool) -> Result<Accepted, Status> {
    let (accepted, wanted) = agree(accept, endpoint)?;
    // Who names the other of the two is mistaken about what there is, and is told so.
    let mistaken = match wanted {
        "PartialObjectMetadata" if list => "a list",
        "PartialObjectMetadataList" if !list => "not a list",
        _ => return Ok(accepted),
    };
    let why = format!("you requested {wanted}, but the requested object is {mistaken}");
    Err(Status::new(Reason::NotAcceptable, why))
}

/// The same for watches, which tell of single objects by either word.
pub fn negotiate_watch(accept: &str) -> Result<Accepted, Status> {
    agree(accept, Endpoint::Objects).map(|(accepted, _)| accepted)
}

/// What was agreed on, and the word for its shape.
fn agree(accept: &str, endpoint: Endpoint) -> Result<(Accepted, &str), Status> {
    if accept.is_empty() {
        return Ok((Accepted { media: Media::Json, shape: Shape::Whole }, ""));
    }
    let mut is_known = false;
    for range in ranges(accept) {
        for media in [Media::Json, Media::Yaml] {
            if !range.covers(media) {
                continue;
            }
            is_known = true;
            if let Some(shape) = range.shape(endpoint) {
                let wanted = range.parameters.iter().find(|(key, _)| *key == "as");
                return Ok((Accepted { media, shape }, wanted.map_or("", |(_, wanted)| wanted)));
            }
        }
    }
    let served = "application/json, application/yaml";
    if is_known {
        let words = format!("only the following media types are accepted: {served}");
        return Err(Status::new(Reason::NotAcceptable, words));
    }
    let words = format!("406: Not Acceptable\n\nAvailable representations: {served}");
    let mut status = Status::new(Reason::NotAcceptable, words);
    status.details = Some(Box::default());
    Err(status)
}

/// How a request's body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyMedia {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf.
    Protobuf,
}

/// Reads the media type of a request's body.
pub fn body_media(content_type: &str) -> Result<BodyMedia, Status> {
    let (name, parameters) = content_type.split_at(content_type.find(';').unwrap_or(content_type.len()));
    let name = name.trim().to_ascii_lowercase();
    match name.as_str() {
        _ if !are_parameters(parameters) => Err(unknown_format()),
        "" | "application/json" | "text/json" => Ok(BodyMedia::Json),
        "application/yaml" => Ok(BodyMedia::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(BodyMedia::Protobuf),
        _ => Err(unknown_format()),
    }
}

fn unknown_format() -> Status {
    Status::new(
        Reason::UnsupportedMediaType,
        "the body of the request was in an unknown format - accepted media types include: application/json, \
         application/yaml, application/vnd.kubernetes.protobuf",
    )
}

/// Whether a text is parameters of a media type (`; a=b; c="d"`), each of which has one value. Go allows a semicolon
/// at the end.
fn are_parameters(text: &str) -> bool {
    let is_token = |c: char| c.is_ascii_graphic() && !"()<>@,;:\\\"/[]?=".contains(c);
    let mut given: Vec<(String, String)> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some(after) = rest.strip_prefix(';') else { return false };
        if after.trim().is_empty() {
            return true;
        }
        let after = after.trim_start();
        let (name, after) = after.split_at(after.find(|c| !is_token(c)).unwrap_or(after.len()));
        let Some(after) = after.trim_start().strip_prefix('=').filter(|_| !name.is_empty()) else {
            return false;
        };
        let after = after.trim_start();
        let value = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => {
                let (value, after) = after.split_at(after.find(|c| !is_token(c)).unwrap_or(after.len()));
                (!value.is_empty()).then(|| (value.to_owned(), after))
            }
        };
        let Some((value, after)) = value else { return false };
        let name = name.to_ascii_lowercase();
        if given.iter().any(|(known, other)| *known == name && *other != value) {
            return false;
        }
        given.push((name, value));
        rest = after.trim_start();
    }
    true
}

/// The text up to the quote that ends it, and what follows.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            '\r' | '\n' => return None,
            letter => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_body_has_a_media_type_with_whole_parameters() {
        for right in ["", "; charset=utf-8", ";", " ; a=\"b; c\"", "; a=b; A=b", "; a=\"\""] {
            let read = body_media(&format!("application/json{right}"));
            assert_eq!(read.unwrap(), BodyMedia::Json, "{right}");
        }
        for wrong in ["; charset=", "; ;", "; a", "; a=b; a=c", "; a=\"b", "; =b", ",text/html", "; a=b c"] {
            let status = body_media(&format!("application/json{wrong}")).unwrap_err();
            assert_eq!(status.code, 415, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_parameters_are_answered(text in "[; =a\"\\\\é]{0,20}") {
            let _ = are_parameters(&text);
        }
    }

    fn check(accept: &str, list: bool, expect: Option<(Media, Shape)>) {
        let got =
            negotiate(accept, Endpoint::Objects, list).ok().map(|accepted| (accepted.media, accepted.shape));
        assert_eq!(got, expect, "{accept}");
    }

    #[test]
    fn what_is_served_is_chosen_and_the_rest_refused() {
        check("", false, Some((Media::Json, Shape::Whole)));
        check("*/*", false, Some((Media::Json, Shape::Whole)));
        check("application/yaml", false, Some((Media::Yaml, Shape::Whole)));
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            true,
            Some((Media::Json, Shape::Whole)),
        );
        check("application/vnd.kubernetes.protobuf", true, None);
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            true,
            Some((Media::Json, Shape::Table)),
        );
        check(
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            true,
            Some((Media::Json, Shape::Metadata)),
        );
        check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", false, None);
        check("application/json;stream=watch", true, Some((Media::Json, Shape::Whole)));
        check(
            "application/json;as=Other;g=x;v=v1, application/yaml;q=0.5",
            true,
            Some((Media::Yaml, Shape::Whole)),
        );
    }

    #[test]
    fn strange_bodies_are_refused() {
        assert_eq!(body_media("application/cbor").unwrap_err().code, 415);
        assert_eq!(body_media("application/vnd.kubernetes.protobuf").unwrap(), BodyMedia::Protobuf);
        assert_eq!(body_media("application/json; charset=utf-8").unwrap(), BodyMedia::Json);
    }

    proptest! {
        #[test]
        fn no_header_panics(accept in ".{0,60}") {
            let _ = negotiate(&accept, Endpoint::Objects, true);
        }
    }
}
