//! Blocks of names and values, packed with a dictionary that both sides know.

use std::sync::LazyLock;

use bytes::{Buf as _, BufMut as _};
use flate2::{Decompress, FlushDecompress, Status};

/// A block may unpack to this much.
const BLOCK_MAX_BYTES: usize = 64 * 1024;
/// Names in a block.
const NAMES_MAX: usize = 256;
/// How much is unpacked at once.
const STEP_BYTES: usize = 4096;
/// The longest stored block of deflate (RFC 1951, 3.2.4).
const STORED_MAX_BYTES: usize = 65535;
/// A zlib header (RFC 1950, 2.2): deflate with a window of 32 KiB, and a dictionary.
const ZLIB_HEADER: [u8; 2] = [0x78, 0x20];
const ZLIB_HEADER_BYTES: usize = 6;
/// An empty stored block.
const SYNC_MARKER: [u8; 5] = [0, 0, 0, 0xff, 0xff];
const DICTIONARY_FLAG: u8 = 0x20;
/// Checksum of the dictionary, by which zlib names it.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

/// The words of the dictionary that stand in it with their lengths (draft 3.1, 2.6.10.1).
const DICTIONARY_WORDS: &str = "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|\
    accept-language|accept-ranges|age|allow|authorization|cache-control|connection|content-base|content-encoding|\
    content-language|content-length|content-location|content-md5|content-range|content-type|date|etag|expect|\
    expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|\
    max-forwards|pragma|proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|\
    transfer-encoding|upgrade|user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|\
    HTTP/1.1|url|public|set-cookie|keep-alive|origin";
/// What follows them.
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417\
    502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    for word in DICTIONARY_WORDS.split('|') {
        bytes.put_u32(word.len() as u32);
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(DICTIONARY_TAIL.as_bytes());
    bytes
});

/// Why a block cannot be read. The connection's state is lost then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadersError {
    /// Not packed with the dictionary of SPDY/3.
    #[error("the headers are not packed with the dictionary of SPDY/3")]
    Dictionary,
    /// Broken data.
    #[error("the packed headers are damaged")]
    Damaged,
    /// Too much.
    #[error("the headers are longer than {BLOCK_MAX_BYTES} bytes or more than {NAMES_MAX}")]
    TooLarge,
}

/// Names, in lower case, and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// From pairs. Names become lower case.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect())
    }

    /// The first value of `name`, in whatever case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn parse(mut block: &[u8]) -> Result<Self, HeadersError> {
        fn text(block: &mut &[u8]) -> Result<String, HeadersError> {
            let length = block.try_get_u32().map_err(|_| HeadersError::Damaged)? as usize;
            let (text, rest) = block.split_at_checked(length).ok_or(HeadersError::Damaged)?;
            *block = rest;
            String::from_utf8(text.to_vec()).map_err(|_| HeadersError::Damaged)
        }
        let count = block.try_get_u32().map_err(|_| HeadersError::Damaged)? as usize;
        if count > NAMES_MAX {
            return Err(HeadersError::TooLarge);
        }
        let mut pairs = Vec::new();
        for _ in 0..count {
            pairs.push((text(&mut block)?, text(&mut block)?));
        }
        if block.is_empty() { Ok(Self(pairs)) } else { Err(HeadersError::Damaged) }
    }

    fn write(&self) -> Vec<u8> {
        let mut block = Vec::new();
        block.put_u32(self.0.len() as u32);
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(text.len() as u32);
            block.extend_from_slice(text.as_bytes());
        }
        block
    }
}

/// Unpacks the blocks of one connection, in their order.
#[derive(Default)]
pub struct Inflater(Option<Decompress>);

impl Inflater {
    /// Unpacks and reads the next block.
    pub fn read(&mut self, block: &[u8]) -> Result<Headers, HeadersError> {
        let (inflate, packed) = match &mut self.0 {
            Some(inflate) => (inflate, block),
            None => (self.0.insert(primed()?), check_zlib_header(block)?),
        };
        Headers::parse(&unpack(inflate, packed)?)
    }
}

/// The library's inflate takes no dictionary; but a dictionary is nothing else than output that came before.
fn primed() -> Result<Decompress, HeadersError> {
    let mut inflate = Decompress::new(false);
    let mut stored = Vec::new();
    put_stored(&DICTIONARY, &mut stored);
    let output = unpack(&mut inflate, &stored)?;
    debug_assert_eq!(output, *DICTIONARY);
    Ok(inflate)
}

fn check_zlib_header(block: &[u8]) -> Result<&[u8], HeadersError> {
    let (header, packed) = block.split_at_checked(ZLIB_HEADER_BYTES).ok_or(HeadersError::Damaged)?;
    let is_zlib = u16::from_be_bytes([header[0], header[1]]).is_multiple_of(31) && header[0] & 0x0f == 8;
    let id = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
    if !is_zlib || header[1] & DICTIONARY_FLAG == 0 || id != DICTIONARY_ID {
        return Err(HeadersError::Dictionary);
    }
    Ok(packed)
}

fn unpack(inflate: &mut Decompress, mut packed: &[u8]) -> Result<Vec<u8>, HeadersError> {
    let mut output = Vec::new();
    loop {
        output.reserve(STEP_BYTES);
        let (read_before, written_before) = (inflate.total_in(), output.len());
        let status = inflate
            .decompress_vec(packed, &mut output, FlushDecompress::Sync)
            .map_err(|_| HeadersError::Damaged)?;
        packed = &packed[(inflate.total_in() - read_before) as usize..];
        if output.len() > BLOCK_MAX_BYTES {
            return Err(HeadersError::TooLarge);
        }
        if status == Status::StreamEnd {
            return Err(HeadersError::Damaged);
        }
        let room_is_left = output.len() < output.capacity();
        if room_is_left && (packed.is_empty() || output.len() == written_before) {
            return if packed.is_empty() { Ok(output) } else { Err(HeadersError::Damaged) };
        }
    }
}

/// Packs the blocks of one connection, in their order. They are stored, not squeezed: streams of Kubernetes have
/// three short headers, and nothing about lengths can be learned from what is not compressed (CRIME).
#[derive(Default)]
pub struct Deflater {
    begun: bool,
}

impl Deflater {
    /// Appends the next block to `out`.
    pub fn write(&mut self, headers: &Headers, out: &mut Vec<u8>) {
        if !self.begun {
            self.begun = true;
            out.extend_from_slice(&ZLIB_HEADER);
            out.put_u32(DICTIONARY_ID);
        }
        put_stored(&headers.write(), out);
        // Readers give out what they hold at an empty block only (zlib's sync flush; Go insists on it).
        out.extend_from_slice(&SYNC_MARKER);
    }
}

fn put_stored(bytes: &[u8], out: &mut Vec<u8>) {
    for part in bytes.chunks(STORED_MAX_BYTES) {
        let length = part.len() as u16;
        out.put_u8(0);
        out.put_u16_le(length);
        out.put_u16_le(!length);
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_dictionary_is_the_one_of_spdy_3() {
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in DICTIONARY.iter() {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((DICTIONARY.len(), (b << 16) | a), (1423, DICTIONARY_ID));
    }

    #[test]
    fn what_a_zlib_library_packs_is_read() {
        // Made by zlib with the dictionary and a sync flush: {"streamtype": "stdout"}, then {"a": "b"}.
        let first = include_bytes!("testdata/first_block.bin");
        let second = include_bytes!("testdata/second_block.bin");
        let mut inflater = Inflater::default();
        assert_eq!(inflater.read(first).unwrap(), Headers::new([("streamType", "stdout")]));
        assert_eq!(inflater.read(second).unwrap(), Headers::new([("a", "b"), ("streamtype", "stdout")]));
    }

    #[test]
    fn each_block_ends_so_that_its_reader_gives_it_out_at_once() {
        let mut deflater = Deflater::default();
        for _ in 0..2 {
            let mut out = Vec::new();
            deflater.write(&Headers::default(), &mut out);
            assert!(out.ends_with(&SYNC_MARKER));
        }
    }

    #[test]
    fn a_block_that_unpacks_to_too_much_is_refused() {
        let bomb = include_bytes!("testdata/bomb.bin");
        assert_eq!(Inflater::default().read(bomb), Err(HeadersError::TooLarge));
    }

    proptest! {
        #[test]
        fn blocks_come_back(blocks in proptest::collection::vec(
            proptest::collection::vec(("[a-z:]{1,9}", "\\PC{0,99}"), 0..5), 1..4)
        ) {
            let (mut inflater, mut deflater) = (Inflater::default(), Deflater::default());
            for pairs in blocks {
                let headers = Headers::new(pairs.iter().map(|(name, value)| (&**name, &**value)));
                let mut packed = Vec::new();
                deflater.write(&headers, &mut packed);
                prop_assert_eq!(inflater.read(&packed).unwrap(), headers);
            }
        }

        #[test]
        fn strange_blocks_do_not_panic(mut block in proptest::collection::vec(any::<u8>(), 0..200), known: bool) {
            let mut inflater = Inflater::default();
            if known {
                let mut first = Vec::new();
                Deflater::default().write(&Headers::default(), &mut first);
                inflater.read(&first).unwrap();
            } else {
                block.splice(0..0, [0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2]);
            }
            let _ = inflater.read(&block);
        }
    }
}
