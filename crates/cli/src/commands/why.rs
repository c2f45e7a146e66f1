//! `ondol why`

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{anyhow, bail};
use api::value::Value;
use base::Clock;
use tokio::net::TcpStream;
use wire::Body;

use crate::admin::{Admin, with_query};
use crate::arguments::Why;
use crate::output;
use crate::why::{Answer, CLUSTER_WIDE, Subject, World, doors, explain};

/// How long a try to connect to an endpoint may take; they are close, and all are tried at once.
const CONNECT: Duration = Duration::from_millis(500);

/// Explains an object. `namespace` is where it is if the user does not say; there must be one of that name.
pub async fn why(admin: &Admin, options: &Why, namespace: &str, clock: &Clock) -> anyhow::Result<()> {
    let namespace = options.namespace.as_deref().unwrap_or(namespace);
    let subject = Subject::parse(&options.what, options.name.as_deref(), namespace);
    let subject = subject.map_err(|error| anyhow!(error))?;
    let mut world = World::default();
    for (kind, group, version, resource) in subject.needs() {
        let namespace = if CLUSTER_WIDE.contains(&resource) { "" } else { namespace };
        let path = with_query(
            "/objects",
            &[("group", group), ("version", version), ("resource", resource), ("namespace", namespace)],
        );
        let response = admin.send(http::Method::GET, &path, Body::Empty).await?;
        let bytes = wire::body::read(response.into_body(), 512 << 20).await?;
        let Value::Array(items) = api::value::parse(&bytes)? else {
            bail!("the server gave no list of {resource}")
        };
        world.add(kind, items);
    }
    if subject.kind == "Service" {
        let tries = doors(&subject.namespace, &subject.name, &world).into_iter();
        let tries = tries.map(|door| async move { (door, knock(door, clock).await) });
        world.answers = futures::future::join_all(tries).await.into_iter().collect();
    }
    for line in explain(&subject, &world, clock.now()).map_err(|error| anyhow!(error))? {
        output::line(line);
    }
    Ok(())
}

/// Tries to connect, and lets go at once.
async fn knock(door: SocketAddr, clock: &Clock) -> Answer {
    match clock.timeout(CONNECT, TcpStream::connect(door)).await {
        Some(Ok(_)) => Answer::Taken,
        Some(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Answer::Refused,
        Some(Err(_)) | None => Answer::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_door_is_open_or_nobody_listens() {
        let clock = Clock::system();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let door = listener.local_addr().unwrap();
        assert_eq!(knock(door, &clock).await, Answer::Taken);
        drop(listener);
        assert_eq!(knock(door, &clock).await, Answer::Refused);
    }
}
