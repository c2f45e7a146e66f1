//! The hand that moves packets: links, rule sets, loopback node ports and names.
//!
//! Plain data comes in and the kernel is changed through netlink; no `ip`, `nft` or `iptables` is called. This
//! crate knows no Kubernetes: a [`rules::Ruleset`] and a [`dns::Zone`] are all that it hears of Services. It
//! decides nothing on its own: what is wanted is compared with what is there, and the difference is applied.
//! Everything in the kernel belongs to an [`instance::Instance`], so several of them live side by side.
//!
//! Calls that change the kernel block for a few milliseconds at most and act on the network namespace of the
//! calling thread.

pub mod address;
pub mod dns;
pub mod instance;
pub mod ipam;
pub mod link;
pub mod listeners;
pub mod loopback;
pub mod rules;
pub mod sysctl;

mod netlink;
mod sys;
