//! Tables (`as=Table`): upstream's columns, filled by `api::print`.

use std::sync::Arc;

use api::object::Object;
use api::value::write_string;
use jiff::Timestamp;

use crate::kinds::Kind;
use crate::server::render::{ListMeta, metadata};

/// What each row carries beside its cells (`includeObject`), and the time that ages are told from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Include {
    /// What each row carries.
    pub object: IncludeObject,
    /// Now.
    pub now: Timestamp,
}

/// What each row carries beside its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter.
    pub fn parse(text: &str) -> Result<Self, api::status::Status> {
        match text {
            "None" => Ok(Self::None),
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            other => Err(api::status::Status::bad_request(format!(
                "unrecognized includeObject value: \"{other}\"; use None, Metadata or Object"
            ))),
        }
    }
}

/// Writes a table. `headings` is false for all but the first event of a watch.
pub fn write(
    kind: &Kind,
    objects: &[Arc<Object>],
    meta: &ListMeta<'_>,
    include: Include,
    headings: bool,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":");
    meta.write(out);
    out.extend_from_slice(b",\"columnDefinitions\":");
    if headings { columns(kind, out) } else { out.extend_from_slice(b"null") }
    out.extend_from_slice(b",\"rows\":[");
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        row(kind, object, include, out);
    }
    out.extend_from_slice(b"]}");
}

fn columns(kind: &Kind, out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, column) in kind.facts.columns.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        for (start, text) in
            [("{\"name\":", column.name), (",\"type\":", column.ty), (",\"format\":", column.format), (",\"description\":", "")]
        {
            out.extend_from_slice(start.as_bytes());
            write_string(text, out);
        }
        out.extend_from_slice(format!(",\"priority\":{}}}", column.priority).as_bytes());
    }
    out.push(b']');
}

fn row(kind: &Kind, object: &Arc<Object>, include: Include, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"cells\":");
    api::value::Value::from(api::print::cells(kind.facts, &object.to_tree(), include.now)).write_to(out);
    match include.object {
        IncludeObject::None => {}
        IncludeObject::Metadata => {
            out.extend_from_slice(b",\"object\":");
            metadata(object, true, out);
        }
        IncludeObject::Object => {
            out.extend_from_slice(b",\"object\":");
            object.write_json(true, out);
        }
    }
    out.push(b'}');
}
