//! One pod: what it is to be ([`machine`]), what is known of it ([`live`]), the loop that brings both together
//! ([`worker`]) and the steps that it takes.

pub mod container;
pub mod deadline;
pub mod disk;
mod earlier;
pub mod environment;
mod health;
mod images;
mod last_words;
pub mod live;
pub mod machine;
pub mod network_files;
pub mod quality;
pub mod sources;
mod start;
pub mod status;
mod stop;
mod storage;
pub mod worker;
