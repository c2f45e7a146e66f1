//! The bytes of netlink: headers, attributes, batches (linux/netlink.h).

pub(crate) const HEADER_BYTES: usize = 16;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
pub(crate) const NLM_F_ACK_TLVS: u16 = 0x200;

pub(crate) const NLMSGERR_ATTR_MSG: u16 = 1;

/// Marks an attribute that holds attributes.
const NLA_F_NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are flags.
const NLA_FLAGS: u16 = 0xc000;

/// The header of a received message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
}

impl Header {
    /// Cuts the first message off `bytes`: header, payload, rest.
    pub(crate) fn split(bytes: &[u8]) -> Option<(Self, &[u8], &[u8])> {
        let length = u32::from_ne_bytes(*bytes.first_chunk::<4>()?) as usize;
        let header = Self {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32::from_ne_bytes(*bytes.get(8..)?.first_chunk::<4>()?),
        };
        let payload = bytes.get(HEADER_BYTES..length)?;
        Some((header, payload, bytes.get(align(length)..).unwrap_or_default()))
    }
}

/// Walks over attributes; stops at the first that is cut off.
#[derive(Clone, Debug)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The payload of the first attribute of type `wanted`.
    pub(crate) fn get(&self, wanted: u16) -> Option<&'a [u8]> {
        self.clone().find(|(kind, _)| *kind == wanted).map(|(_, payload)| payload)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & !NLA_FLAGS;
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some((kind, payload))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk::<2>()?))
}

const fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Messages that are sent together.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    next_sequence: u32,
}

/// Where a nested attribute began, so that its length can be filled in.
#[must_use]
#[derive(Debug)]
pub(crate) struct Nest(usize);

impl Batch {
    pub(crate) fn new(first_sequence: u32) -> Self {
        Self { bytes: Vec::with_capacity(512), next_sequence: first_sequence }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn last_sequence(&self) -> u32 {
        self.next_sequence.wrapping_sub(1)
    }

    /// Writes one message: its fixed header `fixed`, then the attributes that `fill` adds.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        fill: impl FnOnce(&mut Self),
    ) -> u32 {
        let start = self.bytes.len();
        let sequence = self.next_sequence;
        self.next_sequence = sequence.wrapping_add(1);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        self.pad();
        fill(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        sequence
    }

    pub(crate) fn attribute(&mut self, kind: u16, payload: &[u8]) {
        let length = 4 + payload.len();
        assert!(length <= usize::from(u16::MAX), "an attribute holds at most 64 KiB");
        self.bytes.extend_from_slice(&(length as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
    }

    /// In the byte order of this machine, as rtnetlink has it.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// In network byte order, as netfilter has it.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// With the zero byte at its end.
    pub(crate) fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// An attribute that holds attributes.
    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let nest = self.begin(kind);
        fill(self);
        self.end(nest);
    }

    pub(crate) fn begin(&mut self, kind: u16) -> Nest {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        Nest(start)
    }

    pub(crate) fn end(&mut self, Nest(start): Nest) {
        let length = self.bytes.len() - start;
        assert!(length <= usize::from(u16::MAX), "a nested attribute holds at most 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
    }

    /// Bytes so far: for those who split lists before an attribute is full.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that belong to the attribute written now, as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut batch = Batch::new(7);
        batch.message(16, NLM_F_ACK, &[1, 2, 3, 4], |m| {
            m.string(3, "eth0");
            m.nested(18, |m| m.u32(1, 5));
        });
        let (header, payload, rest) = Header::split(batch.bytes()).expect("one message");
        assert_eq!((header.kind, header.flags, header.sequence), (16, NLM_F_ACK | NLM_F_REQUEST, 7));
        assert!(rest.is_empty());
        let attributes = Attributes::new(&payload[4..]);
        assert_eq!(attributes.get(3), Some(&b"eth0\0"[..]));
        let inner = Attributes::new(attributes.get(18).expect("nested"));
        assert_eq!(inner.get(1), Some(&5_u32.to_ne_bytes()[..]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = &bytes[..];
            while let Some((_, payload, next)) = Header::split(rest) {
                prop_assert!(next.len() < rest.len());
                rest = next;
                Attributes::new(payload).for_each(drop);
            }
            prop_assert!(Attributes::new(&bytes).count() <= bytes.len());
        }
    }
}
