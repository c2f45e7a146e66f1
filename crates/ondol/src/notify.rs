//! Tells the service manager that has started us how far we are, as sd_notify(3) lays down.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where the service manager listens, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Manager(Option<String>);

impl Manager {
    /// Of the socket that it has named in our environment.
    pub fn at(socket: Option<String>) -> Self {
        Self(socket.filter(|socket| !socket.is_empty()))
    }

    /// What we do at present: a line of `systemctl status`.
    pub fn status(&self, step: &str) {
        self.tell(&format!("STATUS={step}"));
    }

    /// All is ready: what was ordered behind us may begin.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// We were told to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, words: &str) {
        let Some(socket) = &self.0 else { return };
        let sent = address(socket)
            .and_then(|address| UnixDatagram::unbound()?.send_to_addr(words.as_bytes(), &address));
        if let Err(error) = sent {
            tracing::warn!(%error, socket, "the service manager could not be told");
        }
    }
}

/// A path, or behind `@` a name that no file has.
fn address(socket: &str) -> std::io::Result<SocketAddr> {
    match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(receiver: &UnixDatagram) -> String {
        let mut buffer = [0; 100];
        let count = receiver.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    #[test]
    fn a_manager_hears_what_we_do_by_a_path_or_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::at(Some(path.display().to_string()));
        manager.status("node a is Ready");
        manager.ready();
        assert_eq!([heard(&receiver), heard(&receiver)], ["STATUS=node a is Ready", "READY=1"]);

        let name = format!("ondol-{}", path.display());
        let receiver = UnixDatagram::bind_addr(&address(&format!("@{name}")).unwrap()).unwrap();
        Manager::at(Some(format!("@{name}"))).stopping();
        assert_eq!(heard(&receiver), "STOPPING=1");
    }

    #[test]
    fn without_a_manager_nobody_is_told() {
        for socket in [None, Some(String::new()), Some("/does/not/exist".to_owned())] {
            Manager::at(socket).ready();
        }
    }
}
