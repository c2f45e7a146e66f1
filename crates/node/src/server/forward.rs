//! port-forward: connections of a client, led to ports inside a pod.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use base::Tasks;
use rustix::thread::LinkNameSpaceType;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tracing::debug;
use wire::query::Pairs;
use wire::streams::{Forwarded, PortForward};

/// How long a pod may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The ports of the query, which some clients name there.
pub fn ports(query: &Pairs<'_>) -> Result<Vec<u16>, String> {
    let texts = query.all("port").chain(query.all("ports")).flat_map(|text| text.split(','));
    texts
        .map(|text| {
            let port = text.trim().parse::<u16>().ok().filter(|port| *port > 0);
            port.ok_or_else(|| format!("invalid port {text:?}; ports are numbers from 1 to 65535"))
        })
        .collect()
}

/// Serves all connections of one client. `netns` is the pod's network namespace as a path.
pub async fn serve(mut client: PortForward, netns: PathBuf, pod: String, tasks: Tasks) {
    while let Some(forwarded) = client.next().await {
        let (netns, pod) = (netns.clone(), pod.clone());
        tasks.spawn("forwarded connection", async move { connection(forwarded, netns, &pod).await });
    }
}

async fn connection(forwarded: Forwarded, netns: PathBuf, pod: &str) {
    let Forwarded { port, mut data, error } = forwarded;
    match dial(netns, port).await {
        Ok(mut stream) => {
            let _ = stream.set_nodelay(true);
            if let Err(why) = tokio::io::copy_bidirectional(&mut data, &mut stream).await {
                debug!(pod, port, error = %why, "a forwarded connection broke");
            }
        }
        Err(why) => {
            let message = format!(
                "error forwarding port {port} to pod {pod}: failed to connect to localhost:{port} inside the pod's \
                 network namespace: {why}"
            );
            error.fail(&message).await;
        }
    }
}

/// Connects to a port of the pod's own loopback, as upstream does. A short-lived thread enters the namespace,
/// because a thread that has changed its namespace is of no use to anyone else.
pub async fn dial(netns: PathBuf, port: u16) -> io::Result<TcpStream> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new().name("enter-netns".to_owned()).spawn(move || {
        let _ = sender.send(dial_inside(&netns, port));
    })?;
    let stream = receiver.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn dial_inside(netns: &std::path::Path, port: u16) -> io::Result<std::net::TcpStream> {
    let netns = File::open(netns)?;
    rustix::thread::move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    let connect = |address: SocketAddr| std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT);
    let first = connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    // What is told is the failure by IPv4, by which nearly every server listens.
    first.or_else(|error| connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).map_err(|_| error))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_loopback_of_the_namespace_is_reached_and_refusals_are_told() {
        let own = PathBuf::from("/proc/self/ns/net");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (dialed, accepted) = tokio::join!(dial(own.clone(), port), listener.accept());
        let (mut dialed, mut accepted) = (dialed.unwrap(), accepted.unwrap().0);
        dialed.write_all(b"x").await.unwrap();
        assert_eq!(accepted.read_u8().await.unwrap(), b'x');
        drop(listener);
        assert_eq!(dial(own, port).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn ports_of_the_query_are_numbers() {
        let of = |query| ports(&Pairs::parse(Some(query)).unwrap());
        assert_eq!(of("port=80&port=443,8080"), Ok(vec![80, 443, 8080]));
        assert_eq!(of(""), Ok(vec![]));
        assert!(of("port=0").is_err() && of("port=x").is_err());
    }
}
