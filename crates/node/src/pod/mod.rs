//! One pod: what it is to be ([`machine`]), what is known of it ([`live`]), the loop that brings both together
//! ([`worker`]) and the steps that it takes.

mod adoption;
mod after_start;
pub mod container;
pub mod deadline;
pub mod desired;
pub mod disk;
mod earlier;
pub mod environment;
mod health;
mod images;
mod isolation;
mod last_words;
mod layout;
pub mod live;
pub mod machine;
pub mod network_files;
pub mod quality;
mod records;
pub mod sources;
mod start;
pub mod status;
mod stop;
mod storage;
mod tell;
pub mod worker;
