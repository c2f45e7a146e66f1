//! From the kernel's first instruction to `main`, and what a compiler expects a libc to have.

use alloc::vec::Vec;
use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicPtr, Ordering};

/// Where the environment's pointers begin.
static ENVIRONMENT: AtomicPtr<*const c_char> = AtomicPtr::new(core::ptr::null_mut());

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym begin,
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "bl {begin}",
    "brk 1",
    begin = sym begin,
);

/// `stack` is as the kernel leaves it: a count, that many arguments, null, the environment, null.
extern "C" fn begin(stack: *mut usize) -> ! {
    // SAFETY: the kernel lays the stack out so, and it lives as long as the process.
    let arguments = unsafe {
        let count = *stack;
        let first = stack.add(1).cast::<*const c_char>();
        ENVIRONMENT.store(first.add(count + 1), Ordering::Relaxed);
        (0..count).filter_map(|at| CStr::from_ptr(*first.add(at)).to_str().ok()).collect::<Vec<_>>()
    };
    super::exit(crate::main(arguments))
}

pub(super) fn environment() -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    let mut at = ENVIRONMENT.load(Ordering::Relaxed);
    // SAFETY: the list ends with null, and its strings with zero; both live as long as the process.
    unsafe {
        while !at.is_null() && !(*at).is_null() {
            if let Ok(text) = CStr::from_ptr(*at).to_str() {
                found.extend(text.split_once('='));
            }
            at = at.add(1);
        }
    }
    found
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    super::print(2, &alloc::format!("echo: a bug: {info}\n"));
    super::exit(101)
}

/// The compiler makes calls to these for copies and comparisons.
mod expected {
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller answers for both areas; the direction flag is clear by convention.
        unsafe {
            core::arch::asm!(
                "rep movsb",
                inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
                options(nostack, preserves_flags),
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        // SAFETY: the caller answers for both areas. Volatile, so that this is not turned into a call of itself.
        unsafe {
            for at in 0..count {
                to.add(at).write_volatile(from.add(at).read());
            }
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= count {
            // SAFETY: a copy forward reads each byte before it is overwritten.
            return unsafe { memcpy(to, from, count) };
        }
        for at in (0..count).rev() {
            // SAFETY: the caller answers for both areas; backward, each byte is read before it is overwritten.
            unsafe { to.add(at).write_volatile(from.add(at).read()) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller answers for the area; the direction flag is clear by convention.
        unsafe {
            core::arch::asm!(
                "rep stosb",
                inout("rcx") count => _, inout("rdi") to => _, in("al") value as u8,
                options(nostack, preserves_flags),
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        for at in 0..count {
            // SAFETY: the caller answers for the area.
            unsafe { to.add(at).write_volatile(value as u8) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
        for at in 0..count {
            // SAFETY: the caller answers for both areas.
            let (left, right) = unsafe { (left.add(at).read_volatile(), right.add(at).read_volatile()) };
            if left != right {
                return i32::from(left) - i32::from(right);
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
        // SAFETY: the same contract.
        unsafe { memcmp(left, right, count) }
    }

    /// The standard library's parts were compiled to unwind and name these two. Nothing here unwinds: a panic ends
    /// the process in its handler.
    #[unsafe(no_mangle)]
    extern "C" fn rust_eh_personality() {}

    #[unsafe(no_mangle)]
    extern "C" fn _Unwind_Resume() -> ! {
        crate::sys::exit(101)
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn strlen(text: *const u8) -> usize {
        let mut length = 0;
        // SAFETY: the caller answers for a zero byte at the end.
        while unsafe { text.add(length).read_volatile() } != 0 {
            length += 1;
        }
        length
    }
}
