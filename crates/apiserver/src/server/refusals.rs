//! What a client is told whose request never became one, because its line or its headers are too long.

use api::status::{Reason, Status};
use http::StatusCode;
use wire::serve::{Limits, REQUEST_TARGET_BYTES, Refusal};

/// The Status for a code that the server gives by itself; see [`wire::serve::Server::with_refusals`].
pub fn refusal(code: StatusCode) -> Refusal {
    let limits = Limits::default();
    let words = if code == StatusCode::URI_TOO_LONG {
        format!(
            "the request line is too long: at most {REQUEST_TARGET_BYTES} bytes are taken; give a long script to a \
             command by its standard input (kubectl exec -i), and ask for fewer values in one selector"
        )
    } else {
        format!(
            "the request's headers are too long: at most {} bytes in {} fields are taken; send fewer or shorter ones",
            limits.header_bytes, limits.header_fields
        )
    };
    let status = Status { code: code.as_u16(), ..Status::new(Reason::Unknown, words) };
    Refusal { content_type: "application/json", body: status.to_value().to_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_status_with_words() {
        let refusal = refusal(StatusCode::URI_TOO_LONG);
        let status = api::value::parse(&refusal.body).unwrap();
        assert_eq!((status.str_at(&["kind"]), status.int_at(&["code"])), (Some("Status"), Some(414)));
        assert!(status.str_at(&["message"]).unwrap().contains("65534 bytes"), "{status}");
    }
}
