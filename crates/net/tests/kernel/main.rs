//! Real packets through the real kernel, in network namespaces that end with each test.

mod firewalls;
mod links;
mod listeners;
mod listing;
mod packets;
mod sequences;
mod space;
mod sys;
