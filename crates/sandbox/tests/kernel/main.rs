//! Sandboxes on the real kernel, as root. The same tests run on cgroup version 1 and 2.

mod attacks;
mod harness;
mod isolation;
mod lifecycle;
mod outlive;
mod starts;
mod streams;
