//! The images that the binary carries, so that a machine without a registry has something to run.
//!
//! They go the ordinary way: a layer, a manifest, a name. Both share the one layer; they differ in a variable of
//! their environment.

use crate::document::{ImageConfig, Platform};
use crate::error::Error;
use crate::layer::{Compression, Layer, Writer};
use crate::reference::Reference;
use crate::store::{Origin, Store};

/// The static program of the images; it is for containers and never runs on the host.
pub const ECHO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/echo"));
/// The repository of the images.
pub const REPOSITORY: &str = "ondol.local/echo";
/// The tags of the images, which are their versions.
pub const VERSIONS: [&str; 2] = ["v1", "v2"];

/// Puts the carried images into the store, if they are not there. A name that the user has since given to another
/// image stays as it is.
pub async fn install(store: &Store) -> Result<(), Error> {
    let mut writer = Writer::new(std::io::sink(), Compression::Gzip).map_err(writing)?;
    fill(&mut writer).map_err(writing)?;
    let (_, layer) = writer.finish().map_err(writing)?;
    for version in VERSIONS {
        let name: Reference = format!("{REPOSITORY}:{version}").parse()?;
        install_version(store, &name, version, &layer).await?;
    }
    Ok(())
}

async fn install_version(store: &Store, name: &Reference, version: &str, layer: &Layer) -> Result<(), Error> {
    let config = configuration(version);
    let expected = crate::builder::assemble(&config, std::slice::from_ref(layer));
    let known = store.find(name);
    let present = known.as_ref().is_some_and(|known| known.manifest == expected.digest);
    if known.is_some_and(|known| known.origin != Origin::Built) {
        return Ok(());
    }
    if present && store.is_complete(expected.digest).await? {
        return Ok(());
    }
    let mut lease = store.lease();
    lease.hold(layer.digest);
    let written = store.blocking(|store| store.write_layer(Compression::Gzip, fill)).await?;
    assert_eq!(&written, layer, "the same entries give the same layer");
    store.build(name, &config, &[written]).await.map(|_| ())
}

fn fill<W: std::io::Write>(writer: &mut Writer<W>) -> std::io::Result<()> {
    for folder in ["bin", "etc"] {
        writer.directory(folder, 0o755)?;
    }
    writer.directory("tmp", 0o1777)?;
    writer.file("bin/echo-server", 0o755, ECHO)?;
    for tool in ["bin/get", "bin/sleep"] {
        writer.hard_link(tool, "bin/echo-server")?;
    }
    Ok(())
}

fn configuration(version: &str) -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/bin/echo-server".to_owned()],
        env: vec!["PATH=/bin".to_owned(), format!("ECHO_VERSION={version}")],
        working_dir: "/".to_owned(),
        exposed_ports: vec!["8080/tcp".to_owned()],
        platform: Platform::here(),
        ..ImageConfig::default()
    }
}

fn writing(source: std::io::Error) -> Error {
    Error::Storage { action: "packing the carried images".to_owned(), source }
}

#[cfg(test)]
mod tests;
