//! Real packets through the real kernel, in network namespaces that end with each test.

mod links;
mod listeners;
mod listing;
mod packets;
mod sequences;
mod space;
mod sys;
