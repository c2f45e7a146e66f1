//! The allocator: powers of two on free lists. The program has one thread, so there is nothing to lock.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::null_mut;

use super::call::{call, number};

/// The smallest block: a pointer and a bit.
const MIN_SHIFT: usize = 4;
/// Blocks above 32 KiB come from the kernel and go back there.
const CLASSES: usize = 12;
/// Taken from the kernel at a time for small blocks; pages cost only once they are touched.
const CHUNK_BYTES: usize = 256 << 10;
const PAGE_BYTES: usize = 4096;

struct Allocator(UnsafeCell<State>);

struct State {
    free: [*mut Free; CLASSES],
    next: usize,
    end: usize,
}

struct Free {
    next: *mut Free,
}

// SAFETY: the program never starts a second thread.
unsafe impl Sync for Allocator {}

#[global_allocator]
static ALLOCATOR: Allocator =
    Allocator(UnsafeCell::new(State { free: [null_mut(); CLASSES], next: 0, end: 0 }));

fn class(layout: Layout) -> usize {
    let size = layout.size().max(layout.align()).max(1 << MIN_SHIFT).next_power_of_two();
    size.trailing_zeros() as usize - MIN_SHIFT
}

fn map(bytes: usize) -> Option<usize> {
    const READ_WRITE: usize = 3;
    const PRIVATE_ANONYMOUS: usize = 0x22;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
    unsafe { call(number::MMAP, [0, bytes, READ_WRITE, PRIVATE_ANONYMOUS, usize::MAX, 0]) }.ok()
}

// SAFETY: blocks are disjoint, large enough, and aligned to their size (small) or to a page (large).
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let class = class(layout);
        if class >= CLASSES {
            return map(layout.size().next_multiple_of(PAGE_BYTES)).map_or(null_mut(), |at| at as *mut u8);
        }
        // SAFETY: one thread, and nothing below calls the allocator.
        let state = unsafe { &mut *self.0.get() };
        let head = state.free[class];
        if !head.is_null() {
            // SAFETY: what is on the list is free and holds a `Free`.
            state.free[class] = unsafe { (*head).next };
            return head.cast();
        }
        let size = 1 << (class + MIN_SHIFT);
        let mut at = state.next.next_multiple_of(size);
        if at + size > state.end {
            let Some(chunk) = map(CHUNK_BYTES) else { return null_mut() };
            at = chunk.next_multiple_of(size);
            state.end = chunk + CHUNK_BYTES;
        }
        state.next = at + size;
        at as *mut u8
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let class = class(layout);
        if class >= CLASSES {
            let bytes = layout.size().next_multiple_of(PAGE_BYTES);
            // SAFETY: this mapping was made for this block alone.
            let _ = unsafe { call(number::MUNMAP, [block as usize, bytes, 0, 0, 0, 0]) };
            return;
        }
        // SAFETY: one thread; the block is free now and large enough for a `Free`.
        unsafe {
            let state = &mut *self.0.get();
            block.cast::<Free>().write(Free { next: state.free[class] });
            state.free[class] = block.cast();
        }
    }
}

pub(super) fn eat(bytes: usize) -> bool {
    let Some(start) = map(bytes.next_multiple_of(PAGE_BYTES).max(PAGE_BYTES)) else { return false };
    for at in (start..start + bytes).step_by(PAGE_BYTES) {
        // SAFETY: the page is in the mapping that was just made.
        unsafe { (at as *mut u8).write_volatile(1) };
    }
    true
}
