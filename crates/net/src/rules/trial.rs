//! Whether the kernel can do what our tables need, found out before anything is made: transactions that are tried to
//! their end and never committed, which is also how `nft --check` asks.

use thiserror::Error;

use super::compile::{Chain, Compiled};
use super::encode::{HOOK_POSTROUTING, HOOK_PREROUTING, Writer, unfinished};
use super::expression::{Field, REG, Rule};
use super::ruleset::Frame;
use crate::instance::Instance;
use crate::netlink::{NetlinkError, Socket, Subsystem};

/// Why our tables cannot be.
#[derive(Debug, Error)]
pub enum TrialError {
    /// There is no nf_tables to ask.
    #[error("the kernel has no nftables: load it (\"modprobe nf_tables\") or enable CONFIG_NF_TABLES")]
    Absent(#[source] NetlinkError),
    /// A part of it is not there.
    #[error(
        "the kernel's nftables cannot do {what}, which Services need: load it (\"modprobe {module}\") or enable {option}"
    )]
    Lacking {
        /// What it cannot do.
        what: &'static str,
        /// The module of it.
        module: &'static str,
        /// The kernel's option of it.
        option: &'static str,
        /// What the kernel said.
        #[source]
        source: NetlinkError,
    },
}

/// One thing that is tried, in a table of its own.
struct Part {
    what: &'static str,
    module: &'static str,
    option: &'static str,
    fill: fn(&mut Writer<'_>),
}

/// The first that fails is what lacks.
const PARTS: [Part; 5] = [
    Part {
        what: "connection tracking",
        module: "nft_ct",
        option: "CONFIG_NF_CONNTRACK and CONFIG_NFT_CT",
        fill: |writer| writer.trial_chain(None, &Rule::new().when_new()),
    },
    Part {
        what: "NAT (network address translation)",
        module: "nft_chain_nat",
        option: "CONFIG_NF_NAT and CONFIG_NFT_NAT",
        fill: |writer| writer.trial_chain(Some(("nat", HOOK_PREROUTING, -100)), &Rule::new()),
    },
    Part {
        what: "masquerading",
        module: "nft_masq",
        option: "CONFIG_NFT_MASQ",
        fill: |writer| writer.trial_chain(Some(("nat", HOOK_POSTROUTING, 100)), &Rule::new().masquerade()),
    },
    Part {
        what: "a choice by chance",
        module: "nft_numgen",
        option: "CONFIG_NFT_NUMGEN",
        fill: |writer| writer.trial_chain(None, &Rule::new().load(&[Field::Random(2)], REG)),
    },
    Part {
        what: "refusals",
        module: "nft_reject_ipv4",
        option: "CONFIG_NFT_REJECT",
        fill: |writer| writer.trial_chain(None, &Rule::new().reject()),
    },
];
/// Everything.
const WHOLE: &Part = &Part {
    what: "all that the node's tables consist of",
    module: "nft_nat",
    option: "the options that begin with CONFIG_NFT_",
    fill: whole,
};

/// A table as it is with Services.
fn whole(writer: &mut Writer<'_>) {
    let Ok(instance) = Instance::new("trial") else { return };
    writer.frame(&instance, &Frame::default());
    let chains = [Chain::Random(2), Chain::Sticky(2), Chain::Remember(60)].into_iter().collect();
    writer.load(&Compiled { chains, ..Compiled::default() });
}

/// Tries what our tables need in the thread's network namespace. Nothing of it is there at any time for a packet, or
/// afterwards.
pub fn trial() -> Result<(), TrialError> {
    let mut socket = Socket::open(Subsystem::Netfilter).map_err(TrialError::Absent)?;
    find(&mut socket, WHOLE, &PARTS)
}

/// Each transaction costs the kernel a while, so that the whole is tried first, and its parts only to find what lacks.
fn find(socket: &mut Socket, whole: &Part, parts: &[Part]) -> Result<(), TrialError> {
    if run(socket, whole).is_ok() {
        return Ok(());
    }
    let table = Part { what: "", module: "", option: "", fill: |writer| writer.trial_table() };
    run(socket, &table).map_err(TrialError::Absent)?;
    parts.iter().chain([whole]).try_for_each(|part| {
        run(socket, part).map_err(|source| {
            let Part { what, module, option, .. } = *part;
            TrialError::Lacking { what, module, option, source }
        })
    })
}

fn run(socket: &mut Socket, part: &Part) -> Result<(), NetlinkError> {
    // Not the name of an instance's table, for none begins so.
    let table = format!("trial-of-ondol-{}", std::process::id());
    let batch = unfinished(socket.batch(), |batch| (part.fill)(&mut Writer { batch, table: &table }));
    socket.execute(&batch, "try rules")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::dump;

    #[test]
    fn what_the_kernel_lacks_is_found_out_and_nothing_is_left_of_it() {
        let mut socket = Socket::open(Subsystem::Netfilter).expect("a socket");
        let part = |what, fill| Part { what, module: "nft_flying", option: "CONFIG_NFT_FLYING", fill };
        let flying = || {
            part("flying", |writer| {
                writer.trial_chain(Some(("nothing", HOOK_PREROUTING, 0)), &Rule::new());
            })
        };
        let walking = part("walking", |writer| writer.trial_chain(None, &Rule::new().reject()));
        let refused = find(&mut socket, &flying(), &[walking, flying()]).expect_err("no kernel can do this");
        let words = "the kernel's nftables cannot do flying, which Services need: load it (\"modprobe nft_flying\") or \
                     enable CONFIG_NFT_FLYING";
        assert_eq!(refused.to_string(), words);
        trial().expect("this kernel has all");
        let table = format!("trial-of-ondol-{}", std::process::id());
        assert!(dump::table(&mut socket, &table).expect("an answer").is_none());
    }
}
