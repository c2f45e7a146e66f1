//! What hides in a pair of PEM texts, in the words of Go's `tls.X509KeyPair`. Whether key and certificate fit each other
//! is not judged here.

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";

/// The kinds of the blocks of a text, as `CERTIFICATE`.
fn blocks(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let mut out = Vec::new();
    let mut rest = &*text;
    while let Some(at) = rest.find(BEGIN) {
        let begins_line = at == 0 || rest.as_bytes()[at - 1] == b'\n';
        rest = &rest[at + BEGIN.len()..];
        let Some((kind, after)) = rest.split_once(DASHES).filter(|_| begins_line) else { continue };
        let end = format!("-----END {kind}-----");
        if let Some(end_at) = after.find(&end) {
            out.push(kind.to_owned());
            rest = &after[end_at + end.len()..];
        }
    }
    out
}

/// What is wrong with a certificate and its key, if anything can be seen without reading what is inside.
pub(super) fn pair_problem(certificate: &[u8], key: &[u8]) -> Option<String> {
    let kinds = blocks(certificate);
    if !kinds.iter().any(|kind| kind == "CERTIFICATE") {
        return Some(match kinds.as_slice() {
            [] => "tls: failed to find any PEM data in certificate input".to_owned(),
            [only] if only.ends_with("PRIVATE KEY") => {
                "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs \
                 may have been switched"
                    .to_owned()
            }
            others => format!(
                "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the \
                 following types: [{}]",
                others.join(" ")
            ),
        });
    }
    let kinds = blocks(key);
    if kinds.iter().any(|kind| kind == "PRIVATE KEY" || kind.ends_with(" PRIVATE KEY")) {
        return None;
    }
    Some(match kinds.as_slice() {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [only] if only == "CERTIFICATE" => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        others => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of \
             the following types: [{}]",
            others.join(" ")
        ),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pair_is_a_certificate_and_a_key() {
        let block = |kind: &str| format!("words\n-----BEGIN {kind}-----\nQUJD\n-----END {kind}-----\n");
        let check = |certificate: &str, key: &str, expect: Option<&str>| {
            let told = pair_problem(certificate.as_bytes(), key.as_bytes());
            assert_eq!(told.as_deref().map(|words| &words[5..]), expect);
        };
        let (certificate, key) = (block("CERTIFICATE"), block("EC PRIVATE KEY"));
        check(&certificate, &key, None);
        check("ABC", "ABC", Some("failed to find any PEM data in certificate input"));
        check(&certificate, "", Some("failed to find any PEM data in key input"));
        check(
            &certificate,
            &certificate,
            Some("found a certificate rather than a key in the PEM for the private key"),
        );
        check(
            &key,
            &key,
            Some(
                "failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may \
                 have been switched",
            ),
        );
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "(-----BEGIN |A|-----|-----END A-----|\n){0,12}") {
            pair_problem(&bytes, text.as_bytes());
            pair_problem(text.as_bytes(), &bytes);
        }
    }
}
