//! Several events in one piece.
//!
//! What has gathered for a watch goes out as one chunk: each chunk costs a frame, a record of TLS, and the way through
//! the connection. All watches of a form gather the same at about the same time, so a run is joined once for all.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

/// How long a run may be: with its headers it fits into one frame of HTTP/2 and one record of TLS (2^14 bytes each).
pub(super) const RUN_BYTES: usize = 16 * 1024 - 64;
/// How many runs are kept for those who come later. They come soon or not at all.
const KEPT: usize = 8;

/// The last runs that were joined.
#[derive(Default)]
pub struct Runs(Mutex<VecDeque<Run>>);

struct Run {
    /// The pieces, which are held so that no other can stand at their addresses.
    pieces: Vec<Bytes>,
    joined: Bytes,
}

impl Runs {
    /// The pieces one after the other, shared by all who ask for the same ones.
    pub(super) fn joined(&self, pieces: Vec<Bytes>) -> Bytes {
        if let [alone] = pieces.as_slice() {
            return alone.clone();
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = kept.iter().find(|run| run.is_of(&pieces)) {
            return run.joined.clone();
        }
        let mut joined = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
        pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
        let joined = joined.freeze();
        if kept.len() == KEPT {
            kept.pop_back();
        }
        kept.push_front(Run { pieces, joined: joined.clone() });
        joined
    }
}

impl Run {
    fn is_of(&self, pieces: &[Bytes]) -> bool {
        let same =
            |(one, other): (&Bytes, &Bytes)| one.as_ptr() == other.as_ptr() && one.len() == other.len();
        self.pieces.len() == pieces.len() && self.pieces.iter().zip(pieces).all(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_pieces_are_joined_once() {
        let runs = Runs::default();
        let pieces = [Bytes::from(vec![1; 10]), Bytes::from(vec![2; 10]), Bytes::from(vec![1; 10])];
        let of = |which: &[usize]| runs.joined(which.iter().map(|at| pieces[*at].clone()).collect());
        let first = of(&[0, 1]);
        assert_eq!(&first[..], [[1; 10], [2; 10]].concat());
        assert_eq!(first.as_ptr(), of(&[0, 1]).as_ptr());
        // Equal bytes of another event are other pieces.
        assert_ne!(first.as_ptr(), of(&[2, 1]).as_ptr());
        assert_eq!(of(&[0]).as_ptr(), pieces[0].as_ptr());
        for _ in 0..2 * KEPT {
            runs.joined(vec![Bytes::from(vec![3; 10]), pieces[0].clone()]);
        }
        assert_eq!(runs.0.lock().unwrap().len(), KEPT);
    }
}
