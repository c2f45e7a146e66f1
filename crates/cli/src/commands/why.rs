//! `ondol why`

use anyhow::{anyhow, bail};
use api::value::Value;
use base::Clock;
use wire::Body;

use crate::admin::{Admin, with_query};
use crate::arguments::Why;
use crate::output;
use crate::why::{CLUSTER_WIDE, Subject, World, explain};

/// Explains an object.
pub async fn why(admin: &Admin, options: &Why, clock: &Clock) -> anyhow::Result<()> {
    let subject = Subject::parse(&options.what, &options.namespace).map_err(|error| anyhow!(error))?;
    let mut world = World::default();
    for (kind, group, version, resource) in subject.needs() {
        let namespace = if CLUSTER_WIDE.contains(&resource) { "" } else { options.namespace.as_str() };
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
    for line in explain(&subject, &world, clock.now()) {
        output::line(line);
    }
    Ok(())
}
