//! The loop: watch → plan → apply.
//!
//! A [`mirror::Mirror`] keeps one collection at hand, sharing the server's objects when both are in one process. A
//! [`world::World`] is all mirrors that a set of controllers reads. A [`plan::Controller`] says which keys a change
//! touches and, purely, what is to be done for a key; the [`runner`] executes plans, waits until the mirrors have
//! seen its own writes, and backs off after failures. The [`recorder::Recorder`] tells users by Events.
//!
//! What is deliberately absent: messages between controllers, caches of expectations inside them, polling. A key
//! says only *what* to look at; everything else is read from the mirrors when its turn comes.

pub mod mirror;
pub mod plan;
pub mod queue;
pub mod recorder;
pub mod runner;
pub mod world;
