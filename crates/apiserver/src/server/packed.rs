//! Lists in gzip. An item is packed once for as long as its object lives, and lists are put together of packed items.
//!
//! The price is that items do not share what they have in common, so that such an answer is longer than one that
//! was packed as a whole; what it saves is nearly all of the work.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::interface::List;
use api::object::Object;
use bytes::Bytes;
use wire::compress::{LEVEL_FAST, Part, Parts};

use super::render;
use crate::kinds::Kind;

/// Bytes of packed items that are kept at most; what does not fit is packed anew for each list.
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How much is kept, of all objects of a gate.
#[derive(Clone, Default)]
pub struct Kept(Arc<AtomicUsize>);

/// A packed item beside its object.
struct Packed {
    part: Part,
    kept: Kept,
}

impl Drop for Packed {
    fn drop(&mut self) {
        self.kept.0.fetch_sub(self.part.bytes(), Ordering::Relaxed);
    }
}

/// A list of whole objects, packed.
pub fn list(kind: &Kind, list: &List, kept: &Kept) -> Bytes {
    let mut parts = Parts::with_capacity(list.items.iter().map(|item| item.body().len() / 2 + 32).sum());
    let mut head = Vec::with_capacity(256);
    render::list_head(kind, list, &mut head);
    parts.plain(&head);
    let mut start = Vec::with_capacity(64);
    for (index, item) in list.items.iter().enumerate() {
        if index > 0 {
            parts.plain(b",");
        }
        start.clear();
        item.write_item_start(&mut start);
        match item.beside::<Packed>() {
            Some(packed) => parts.part(&packed.part, [&start, item.item_rest()]),
            None => {
                let part = pack(item, kept);
                parts.part(&part, [&start, item.item_rest()]);
            }
        }
    }
    parts.finish(render::LIST_END)
}

/// Packs an item and keeps it if there is room.
fn pack(item: &Object, kept: &Kept) -> Part {
    let mut plain = Vec::new();
    item.write_json(false, &mut plain);
    let part = Part::new(&plain, LEVEL_FAST);
    let before = kept.0.fetch_add(part.bytes(), Ordering::Relaxed);
    // Dropped at once, it gives back what it took.
    let packed = Packed { part: part.clone(), kept: kept.clone() };
    if before + part.bytes() <= KEPT_BYTES_MAX {
        item.keep_beside(packed);
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::negotiate::Shape;
    use crate::table::Include;
    use api::json;
    use api::print::IncludeObject;
    use std::io::Read as _;

    #[test]
    fn a_packed_list_says_what_the_plain_one_says() {
        let kind = crate::kinds::find(&api::names::PODS).unwrap();
        let items = ["a", "b", "c"].map(|name| {
            let tree = json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": "x", "resourceVersion": "7"}, "spec": {"nodeName": "n"}});
            Arc::new(Object::from_tree(&tree).unwrap())
        });
        let given = List { revision: 9, items: items.into(), ..List::default() };
        let kept = Kept::default();
        for _ in 0..2 {
            let packed = list(kind, &given, &kept);
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
            let include = Include { object: IncludeObject::Metadata, now: jiff::Timestamp::UNIX_EPOCH };
            assert_eq!(plain, render::list(kind, &given, Shape::Whole, include));
        }
        assert!(kept.0.load(Ordering::Relaxed) > 0);
        drop(given);
        assert_eq!(kept.0.load(Ordering::Relaxed), 0);
    }
}
