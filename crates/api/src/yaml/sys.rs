//! The scanner and parser: libyaml's Rust port, event by event. Upstream reads YAML by a translation of the same
//! library, so what is a document there is one here.
#![expect(unsafe_code, reason = "the port has only the interface of the library in C")]

use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::mem::MaybeUninit;

#[expect(clippy::unsafe_removed_from_name, reason = "this module is where unsafe code may be")]
use unsafe_libyaml_norway as libyaml;

/// What comes next in a text, and where its bytes begin and end.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) event: Event,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What comes next in a text.
#[derive(Debug)]
pub(super) enum Event {
    /// Begin or end of the stream or of a document; there is nothing to say of it.
    Frame,
    DocumentEnd,
    StreamEnd,
    Alias(String),
    Scalar {
        anchor: Option<String>,
        tag: Option<String>,
        value: String,
        /// Plain and without a tag, so that its text says what it is.
        implicit: bool,
    },
    SequenceStart {
        anchor: Option<String>,
        flow: bool,
    },
    MappingStart {
        anchor: Option<String>,
        flow: bool,
    },
    /// The end of a sequence or mapping.
    End,
}

/// A text that is being parsed.
pub(super) struct Parser<'text> {
    // On the heap: the library keeps pointers into it.
    raw: Box<libyaml::yaml_parser_t>,
    text: PhantomData<&'text [u8]>,
}

impl<'text> Parser<'text> {
    pub(super) fn new(text: &'text [u8]) -> Self {
        let mut raw = Box::new(MaybeUninit::<libyaml::yaml_parser_t>::uninit());
        // SAFETY: initialize writes every field of the parser, and fails only for want of memory, where allocation
        // aborts already; the input outlives the parser by its lifetime, and the box never moves its contents.
        let raw = unsafe {
            let _ = libyaml::yaml_parser_initialize(raw.as_mut_ptr());
            let mut raw = raw.assume_init();
            libyaml::yaml_parser_set_input_string(&raw mut *raw, text.as_ptr(), text.len() as u64);
            raw
        };
        Self { raw, text: PhantomData }
    }

    /// The next event; not to be called again after an error or [`Event::StreamEnd`].
    pub(super) fn next(&mut self) -> Result<Located, String> {
        let mut event = MaybeUninit::<libyaml::yaml_event_t>::uninit();
        // SAFETY: the parser is initialised; where parse succeeds it has written the whole event, whose strings live
        // until delete, which happens after they are copied.
        unsafe {
            if libyaml::yaml_parser_parse(&raw mut *self.raw, event.as_mut_ptr()).fail {
                return Err(self.problem());
            }
            let mut event = event.assume_init();
            let located = Located {
                event: read(&event),
                start: event.start_mark.index as usize,
                end: event.end_mark.index as usize,
            };
            libyaml::yaml_event_delete(&raw mut event);
            Ok(located)
        }
    }

    /// What is wrong, in upstream's words and with its way of counting lines.
    fn problem(&self) -> String {
        let (problem, context) = (self.raw.problem_mark.line, self.raw.context_mark.line);
        let line = match (problem, context) {
            (0, context) => context,
            (line, _) if self.raw.error == libyaml::YAML_SCANNER_ERROR => line + 1,
            (line, _) => line,
        };
        // SAFETY: the library's messages are constants that end with a zero byte, or null.
        let words = unsafe { string(self.raw.problem.cast()) };
        let words = words.unwrap_or_else(|| "unknown problem parsing YAML content".to_owned());
        if line == 0 { words } else { format!("line {line}: {words}") }
    }
}

impl Drop for Parser<'_> {
    fn drop(&mut self) {
        // SAFETY: it was initialised and is deleted once.
        unsafe { libyaml::yaml_parser_delete(&raw mut *self.raw) }
    }
}

/// Copies an event.
///
/// # Safety
/// The event is whole and not yet deleted.
unsafe fn read(event: &libyaml::yaml_event_t) -> Event {
    // SAFETY: the type says which member of the union was written.
    unsafe {
        match event.type_ {
            libyaml::YAML_ALIAS_EVENT => {
                Event::Alias(string(event.data.alias.anchor.cast()).unwrap_or_default())
            }
            libyaml::YAML_SCALAR_EVENT => {
                let scalar = &event.data.scalar;
                let bytes = std::slice::from_raw_parts(scalar.value, scalar.length as usize);
                Event::Scalar {
                    anchor: string(scalar.anchor.cast()),
                    tag: string(scalar.tag.cast()),
                    value: String::from_utf8_lossy(bytes).into_owned(),
                    implicit: scalar.plain_implicit,
                }
            }
            libyaml::YAML_SEQUENCE_START_EVENT => Event::SequenceStart {
                anchor: string(event.data.sequence_start.anchor.cast()),
                flow: event.data.sequence_start.style == libyaml::YAML_FLOW_SEQUENCE_STYLE,
            },
            libyaml::YAML_MAPPING_START_EVENT => Event::MappingStart {
                anchor: string(event.data.mapping_start.anchor.cast()),
                flow: event.data.mapping_start.style == libyaml::YAML_FLOW_MAPPING_STYLE,
            },
            libyaml::YAML_SEQUENCE_END_EVENT | libyaml::YAML_MAPPING_END_EVENT => Event::End,
            libyaml::YAML_DOCUMENT_END_EVENT => Event::DocumentEnd,
            libyaml::YAML_STREAM_START_EVENT | libyaml::YAML_DOCUMENT_START_EVENT => Event::Frame,
            _ => Event::StreamEnd,
        }
    }
}

/// A copy of a string that may not be there.
///
/// # Safety
/// The pointer is null or leads to bytes that end with a zero byte.
unsafe fn string(text: *const c_char) -> Option<String> {
    // SAFETY: as the caller says.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}
