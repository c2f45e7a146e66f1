//! Panics of a world. Where the shipping code catches one, it logs it and goes on, so that the world may converge all
//! the same; here each is remembered by the thread that the world runs on.

use std::cell::RefCell;
use std::panic;
use std::sync::Once;

thread_local! {
    static HEARD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// From now on panics of this thread are remembered; those before are forgotten.
pub fn listen() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            // A thread that ends has nobody left who would ask.
            let _ = HEARD.try_with(|heard| heard.borrow_mut().push(panic.to_string()));
            before(panic);
        }));
    });
    heard();
}

/// The panics of this thread since it was asked last.
pub fn heard() -> Vec<String> {
    HEARD.take()
}
