//! Checks base64 as Go's decoder does.

/// The canonical form of a base64 text; else the offset that Go names.
pub(crate) fn canonical(text: &str) -> Result<String, usize> {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    let mut at = 0;
    loop {
        let mut quantum = [0u8; 4];
        let mut count = 0;
        while count < 4 {
            let Some(byte) = bytes.get(at) else {
                return if count == 0 { Ok(out) } else { Err(at - count) };
            };
            at += 1;
            match sextet(*byte) {
                Some(value) => {
                    quantum[count] = value;
                    count += 1;
                }
                None if matches!(byte, b'\r' | b'\n') => {}
                None if *byte == b'=' && count >= 2 => {
                    at = padding(bytes, at, count)?;
                    push(&mut out, quantum, count);
                    return if at < bytes.len() { Err(at) } else { Ok(out) };
                }
                None => return Err(at - 1),
            }
        }
        push(&mut out, quantum, 4);
    }
}

/// Reads the rest of the padding after its first sign; gives the offset behind it and behind line ends.
fn padding(bytes: &[u8], mut at: usize, count: usize) -> Result<usize, usize> {
    let skip = |mut at: usize| {
        while matches!(bytes.get(at), Some(b'\r' | b'\n')) {
            at += 1;
        }
        at
    };
    if count == 2 {
        at = skip(at);
        match bytes.get(at) {
            None => return Err(bytes.len()),
            Some(b'=') => at += 1,
            Some(_) => return Err(at - 1),
        }
    }
    Ok(skip(at))
}

fn push(out: &mut String, mut quantum: [u8; 4], count: usize) {
    // Bits that no byte uses are zero in the canonical form.
    match count {
        2 => quantum[1] &= 0x30,
        3 => quantum[2] &= 0x3c,
        _ => {}
    }
    for (index, value) in quantum.into_iter().enumerate() {
        out.push(if index < count { char::from(ALPHABET[usize::from(value)]) } else { '=' });
    }
}

/// The bytes of a text in canonical form.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for quantum in text.as_bytes().chunks(4) {
        let mut word = 0u32;
        for byte in quantum {
            word = word << 6 | u32::from(sextet(*byte).unwrap_or_default());
        }
        let padding = quantum.iter().filter(|byte| **byte == b'=').count();
        out.extend_from_slice(&word.to_be_bytes()[1..4 - padding.min(2)]);
    }
    out
}

/// The canonical form of bytes.
pub(crate) fn text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut word = [0u8; 4];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(word);
        let quantum = [18, 12, 6, 0].map(|shift| (word >> shift & 0x3f) as u8);
        push(&mut out, quantum, chunk.len() + 1);
    }
    out
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, canonical, text};

    #[test]
    fn bytes_come_back() {
        for length in 0..10u8 {
            let all: Vec<u8> = (0..length).map(|n| n.wrapping_mul(91).wrapping_add(200)).collect();
            assert_eq!(bytes(&text(&all)), all);
            assert_eq!(canonical(&text(&all)).as_deref(), Ok(text(&all).as_str()));
        }
    }

    #[test]
    fn offsets_are_those_that_go_names() {
        let check = |text: &str, expect: Result<&str, usize>| {
            assert_eq!(canonical(text), expect.map(str::to_owned), "{text:?}");
        };
        check("", Ok(""));
        check("YWI=", Ok("YWI="));
        check("YW\nJj", Ok("YWJj"));
        check("YR==", Ok("YQ=="));
        check("!!", Err(0));
        check("YQ=", Err(3));
        check("YQ", Err(0));
        check("YQ==x", Err(4));
    }
}
