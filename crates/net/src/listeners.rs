//! Where programs of this machine listen, as the kernel tells (linux/sock_diag.h, inet_diag.h).
//!
//! The kernel tells when a socket ends ([`Endings`]), and tells nobody when one begins to listen: who must not take a
//! port away looks ([`Listeners::read`]) before taking it. Everything is about the network namespace of the calling
//! thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;

use crate::address::Protocol;
use crate::netlink::message::{Attributes, Header, NLM_F_DUMP};
use crate::netlink::{NetlinkError, Socket, Subsystem};
use crate::rules::Frontend;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Bits of a socket's state: TCP and SCTP listen; a UDP socket that takes from anybody is "closed".
const LISTENS: u32 = 1 << 10;
const UNCONNECTED: u32 = 1 << 7;
/// `inet_diag_req_v2`, and the fixed part of `inet_diag_msg`.
const REQUEST_BYTES: usize = 56;
const FIXED_BYTES: usize = 72;
const INET_DIAG_SKV6ONLY: u16 = 11;
/// The groups in which sockets' ends are told: TCP and UDP of both families.
const DESTROYED: u32 = 0b1111;
/// How much one read of notices takes.
const NOTICE_BYTES: usize = 8192;

/// One socket that takes what anybody sends to its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its address; the unspecified one for all of the machine.
    pub address: IpAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
    /// A socket of IPv6 that takes nothing of IPv4.
    only_ipv6: bool,
    inode: u32,
}

/// All that listen.
#[derive(Clone, Debug, Default)]
pub struct Listeners(Vec<Listener>);

impl Listeners {
    /// Asks the kernel for those of `protocols`.
    pub fn read(protocols: &BTreeSet<Protocol>) -> Result<Self, NetlinkError> {
        let mut socket = Socket::open(Subsystem::Sockets)?;
        let mut found = Vec::new();
        for protocol in protocols {
            for family in [AF_INET, AF_INET6] {
                let mut batch = socket.batch();
                let request = request(family, *protocol);
                batch.message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &request, |_| ());
                match socket.query(&batch, &format!("list who listens on ports of {protocol}")) {
                    // A kernel that does not speak it has nobody who listens on it.
                    Err(error) if *protocol == Protocol::Sctp && error.is(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                    Ok(answers) => {
                        found.extend(answers.iter().filter_map(|(_, payload)| parse(payload, *protocol)));
                    }
                }
            }
        }
        Ok(Self(found))
    }

    /// Who takes what is sent to `frontend`, if it is an address of this machine.
    pub fn at(&self, frontend: &Frontend) -> Option<&Listener> {
        self.0.iter().find(|listener| {
            listener.covers(frontend) && (!listener.is_everywhere() || is_local(frontend.address))
        })
    }
}

impl Listener {
    /// The name of the program that has the socket, if it can be found out: a process may have ended, or be hidden.
    pub fn program(&self) -> Option<String> {
        let wanted = format!("socket:[{}]", self.inode);
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        let numbered = processes.filter(|entry| {
            entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        });
        let has = |folder: &std::path::Path| {
            let files = std::fs::read_dir(folder.join("fd")).into_iter().flatten().flatten();
            files
                .filter_map(|file| std::fs::read_link(file.path()).ok())
                .any(|link| link.as_os_str().as_encoded_bytes() == wanted.as_bytes())
        };
        let process = numbered.map(|entry| entry.path()).find(|folder| has(folder))?;
        let name = std::fs::read(process.join("comm")).ok()?;
        // Programs choose their names, and this one is shown on terminals.
        let name = String::from_utf8_lossy(&name);
        let name: String = name.trim().chars().filter(|letter| !letter.is_control()).collect();
        (!name.is_empty()).then_some(name)
    }

    fn covers(&self, frontend: &Frontend) -> bool {
        if self.protocol != frontend.protocol || self.port != frontend.port {
            return false;
        }
        match (self.address, frontend.address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => own.is_unspecified() || own == other,
            (IpAddr::V6(own), IpAddr::V6(other)) => own.is_unspecified() || own == other,
            (IpAddr::V6(own), IpAddr::V4(other)) => {
                let mapped = own.to_ipv4_mapped();
                let takes = mapped.is_some_and(|mapped| mapped.is_unspecified() || mapped == other);
                !self.only_ipv6 && (own.is_unspecified() || takes)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        }
    }

    fn is_everywhere(&self) -> bool {
        self.address.is_unspecified() || self.address == IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped())
    }
}

/// Whether the address is one of this machine's: the kernel lets only such be bound.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

fn request(family: u8, protocol: Protocol) -> [u8; REQUEST_BYTES] {
    let mut request = [0; REQUEST_BYTES];
    request[0] = family;
    request[1] = protocol.number();
    let states = if protocol == Protocol::Udp { UNCONNECTED } else { LISTENS };
    request[4..8].copy_from_slice(&states.to_ne_bytes());
    request
}

/// Reads an `inet_diag_msg`.
fn parse(payload: &[u8], protocol: Protocol) -> Option<Listener> {
    let (fixed, attributes) = payload.split_at_checked(FIXED_BYTES)?;
    let port = u16::from_be_bytes(*fixed.get(4..)?.first_chunk()?);
    let address = match fixed[0] {
        AF_INET => IpAddr::V4(Ipv4Addr::from(*fixed.get(8..)?.first_chunk::<4>()?)),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(*fixed.get(8..)?.first_chunk::<16>()?)),
        _ => return None,
    };
    let inode = u32::from_ne_bytes(*fixed.get(FIXED_BYTES - 4..)?.first_chunk()?);
    let only_ipv6 = Attributes::new(attributes).get(INET_DIAG_SKV6ONLY).and_then(<[u8]>::first) == Some(&1);
    (port != 0).then_some(Listener { address, protocol, port, only_ipv6, inode })
}

/// Hears of sockets that end. The kernel makes a notice of every socket of the machine for it, so it is kept only while
/// somebody waits for a port.
pub struct Endings(AsyncFd<OwnedFd>);

impl Endings {
    /// Hears from now on. Call it inside a runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |action| move |source: io::Error| NetlinkError::Socket { action, source };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = AddressFamily::NETLINK;
        let fd = rustix::net::socket_with(family, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))
            .map_err(|errno| failed("opening")(errno.into()))?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, DESTROYED))
            .map_err(|errno| failed("joining the groups of sockets' ends")(errno.into()))?;
        Ok(Self(crate::sys::watch(fd).map_err(failed("watching"))?))
    }

    /// Returns when a socket that listened on one of `ports` has ended, or may have: notices can be lost.
    pub async fn of(&mut self, ports: &BTreeSet<u16>) {
        let mut buffer = [0; NOTICE_BYTES];
        loop {
            let Ok(mut ready) = self.0.readable().await else { return };
            let received = ready.try_io(|fd| {
                let (bytes, _) = rustix::net::recv(fd, &mut buffer[..], RecvFlags::DONTWAIT)?;
                Ok(bytes)
            });
            match received {
                Ok(Ok(bytes)) if !concerns(&buffer[..bytes], ports) => {}
                // One that concerns us, or the queue was too small.
                Ok(_) => return,
                Err(_would_block) => {}
            }
        }
    }
}

fn concerns(mut notices: &[u8], ports: &BTreeSet<u16>) -> bool {
    while let Some((_, payload, rest)) = Header::split(notices) {
        // A connection names its other end; what listened had none.
        if let Some([high, low, 0, 0]) = payload.get(4..8)
            && ports.contains(&u16::from_be_bytes([*high, *low]))
        {
            return true;
        }
        notices = rest;
    }
    false
}

/// The programs at `frontends` that are taken, by name; `None` for one whose name cannot be found out.
pub fn taken<'a>(
    frontends: impl IntoIterator<Item = &'a Frontend>,
) -> Result<BTreeMap<Frontend, Option<String>>, NetlinkError> {
    let frontends: Vec<&Frontend> = frontends.into_iter().collect();
    let listeners = Listeners::read(&frontends.iter().map(|frontend| frontend.protocol).collect())?;
    let taken = frontends.into_iter().filter_map(|frontend| Some((*frontend, listeners.at(frontend)?)));
    Ok(taken.map(|(frontend, listener)| (frontend, listener.program())).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listener(address: &str, only_ipv6: bool) -> Listener {
        let address = address.parse().expect("an address");
        Listener { address, protocol: Protocol::Tcp, port: 80, only_ipv6, inode: 1 }
    }

    fn at(address: &str) -> Frontend {
        Frontend { address: address.parse().expect("an address"), protocol: Protocol::Tcp, port: 80 }
    }

    #[test]
    fn a_socket_takes_its_own_address_or_all_of_the_machine() {
        let here = Listeners(vec![listener("127.0.0.1", false)]);
        assert!(here.at(&at("127.0.0.1")).is_some() && here.at(&at("127.0.0.2")).is_none());
        for (everywhere, only_ipv6, takes) in [
            ("0.0.0.0", false, true),
            ("::", false, true),
            ("::", true, false),
            ("::ffff:0.0.0.0", false, true),
        ] {
            let listeners = Listeners(vec![listener(everywhere, only_ipv6)]);
            assert_eq!(listeners.at(&at("127.0.0.1")).is_some(), takes, "{everywhere} {only_ipv6}");
            // What is sent to another machine's address is not this machine's.
            assert!(listeners.at(&at("192.0.2.77")).is_none());
        }
        let other = Frontend { port: 81, ..at("127.0.0.1") };
        assert!(here.at(&other).is_none());
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&bytes, Protocol::Tcp);
            let _ = concerns(&bytes, &BTreeSet::from([80]));
        }
    }
}
