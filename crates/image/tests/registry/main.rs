//! Images on their way from registries and archives that other people's programs made, and from a registry of our
//! own that misbehaves on request.

mod debian;
mod fake;
mod faults;
mod formats;
mod tree;

use std::path::Path;
use std::time::Duration;

use base::{Clock, Random, Tasks};
use image::pull::{Options, Puller};
use image::{Reference, Store};

fn store(root: &Path) -> Store {
    Store::open(root, Clock::system(), Random::system()).unwrap()
}

/// A puller that wastes no time between attempts.
fn puller(store: &Store) -> Puller {
    let options = Options { retry_initial: Duration::from_millis(1), ..Options::default() };
    Puller::new(store.clone(), options, Tasks::new()).unwrap()
}

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}
