//! What the log does that other engines need not.

mod damage;
mod faults;
mod model;

use crate::conformance::suite;
use crate::testing::{disk, open};

mod conformance {
    use super::*;

    suite!(open(&disk()));
}
