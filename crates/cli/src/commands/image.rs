//! `ondol image ...`

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use futures::StreamExt;
use http::Method;
use http_body_util::BodyExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::io::AsyncRead;
use wire::Body;

use crate::admin::{Admin, with_query};
use crate::arguments::{Image, Output};
use crate::output;

/// Bytes of an archive that are sent at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Does what the verb says.
pub async fn image(admin: &Admin, verb: &Image) -> anyhow::Result<()> {
    match verb {
        Image::Pull { image, credentials } => pull(admin, image, credentials.as_deref()).await,
        Image::Import { file, name } => import(admin, file, name.as_deref()).await,
        Image::List { output } => list(admin, *output).await,
        Image::Tag { image, name } => {
            let named = admin.post("/images/tag", &json!({"image": image, "name": name})).await?;
            output::line(format_args!("{image} is now also {}", word(&named, "name")));
            Ok(())
        }
        Image::Save { images, output } => save(admin, images, output).await,
        Image::Remove { images } => {
            for image in images {
                let named = admin.post("/images/remove", &json!({"image": image})).await?;
                output::line(format_args!("removed {}{}", word(&named, "name"), freed(&named)));
            }
            Ok(())
        }
        Image::Inspect { image } => {
            let found = admin.get(&with_query("/images/inspect", &[("image", image)])).await?;
            output::line(serde_json::to_string_pretty(&found)?);
            Ok(())
        }
    }
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

async fn pull(admin: &Admin, image: &str, credentials: Option<&str>) -> anyhow::Result<()> {
    let style = "{msg} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec}";
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
    bar.set_message(image.to_owned());
    let mut progress = Progress::default();
    let mut pulled = Value::Null;
    let request = json!({"image": image, "credentials": credentials});
    let result = admin
        .follow("/images/pull", &request, |event| {
            if let Some(named) = event.get("named") {
                pulled = named.clone();
            } else if let Some(retry) = event.get("retrying").and_then(Value::as_str) {
                bar.println(format!("trying again: {retry}"));
            } else {
                progress.take(event);
                bar.set_length(progress.total());
                bar.set_position(progress.done());
            }
        })
        .await;
    // The whole bar stays to be read, also of a pull that was over before it was drawn; none is left where nothing came.
    match result.is_ok() && progress.total() > 0 {
        true => bar.finish(),
        false => bar.finish_and_clear(),
    }
    result?;
    output::line(stored(&pulled));
    Ok(())
}

/// A line about an image that has come in.
fn stored(named: &Value) -> String {
    format!("{} {} ({})", word(named, "name"), word(named, "manifest"), size(named))
}

/// Bytes of all layers.
#[derive(Default)]
struct Progress(BTreeMap<String, (u64, u64)>);

impl Progress {
    fn take(&mut self, event: &Value) {
        let number = |key: &str| event.get(key).and_then(Value::as_u64).unwrap_or_default();
        let layer = word(event, "layer");
        if !layer.is_empty() {
            self.0.insert(layer.to_owned(), (number("done"), number("total")));
        }
    }

    fn done(&self) -> u64 {
        self.0.values().map(|(done, _)| done).sum()
    }

    fn total(&self) -> u64 {
        self.0.values().map(|(_, total)| total).sum()
    }
}

fn size(named: &Value) -> String {
    bytes_text(named.get("sizeBytes").and_then(Value::as_u64).unwrap_or_default())
}

fn bytes_text(bytes: u64) -> String {
    if bytes >= 10 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) }
}

/// ` (12 KiB freed)`, or nothing if other names need the content.
fn freed(removed: &Value) -> String {
    let bytes = removed.pointer("/freed/blobBytes").and_then(Value::as_u64).unwrap_or_default();
    if bytes == 0 { String::new() } else { format!(" ({} freed)", bytes_text(bytes)) }
}

async fn import(admin: &Admin, from: &Path, name: Option<&str>) -> anyhow::Result<()> {
    let name = name.map(|name| ("name", name));
    let response = if from.is_dir() {
        // The server reads a folder itself, under its whole name, for it was not started here.
        let folder = std::path::absolute(from)?;
        let folder = folder.to_str().context("the folder's name is no UTF-8; give it another")?;
        let asked: Vec<(&str, &str)> = [("directory", folder)].into_iter().chain(name).collect();
        admin.send(Method::POST, &with_query("/images/import", &asked), Body::Empty).await?
    } else {
        let asked: Vec<(&str, &str)> = name.into_iter().collect();
        admin.send(Method::POST, &with_query("/images/import", &asked), archive(from).await?).await?
    };
    let bytes = wire::body::read(response.into_body(), 16 << 20).await?;
    let named: Vec<Value> = serde_json::from_slice(&bytes)?;
    named.iter().for_each(|named| output::line(stored(named)));
    if named.is_empty() {
        output::line("the archive names no image; give one with --name");
    }
    Ok(())
}

/// An archive as it is read.
async fn archive(file: &Path) -> anyhow::Result<Body> {
    let reader: Box<dyn AsyncRead + Send + Unpin> = if file == Path::new("-") {
        Box::new(tokio::io::stdin())
    } else {
        Box::new(
            tokio::fs::File::open(file).await.with_context(|| format!("cannot open {}", file.display()))?,
        )
    };
    let chunks = futures::stream::unfold(reader, |mut reader| async move {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK_BYTES);
        match tokio::io::AsyncReadExt::read_buf(&mut reader, &mut chunk).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(chunk.freeze()), reader)),
            Err(error) => Some((Err(error.into()), reader)),
        }
    });
    Ok(Body::stream(chunks))
}

async fn list(admin: &Admin, output: Option<Output>) -> anyhow::Result<()> {
    let images = admin.get("/images").await?;
    if output == Some(Output::Json) {
        output::line(serde_json::to_string_pretty(&images)?);
        return Ok(());
    }
    output::text(table(images.as_array().map(Vec::as_slice).unwrap_or_default()));
    Ok(())
}

fn table(images: &[Value]) -> String {
    let rows: Vec<[String; 4]> = images
        .iter()
        .map(|image| {
            let id: String = word(image, "imageId").trim_start_matches("sha256:").chars().take(12).collect();
            [word(image, "name").to_owned(), id, size(image), word(image, "origin").to_owned()]
        })
        .collect();
    let head = ["NAME", "ID", "SIZE", "ORIGIN"].map(str::to_owned);
    let width = |column: usize| {
        std::iter::once(&head).chain(&rows).map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths = [width(0), width(1), width(2)];
    std::iter::once(&head)
        .chain(&rows)
        .map(|[name, id, size, origin]| {
            format!(
                "{name:<a$}  {id:<b$}  {size:<c$}  {origin}\n",
                a = widths[0],
                b = widths[1],
                c = widths[2]
            )
        })
        .collect()
}

async fn save(admin: &Admin, images: &[String], into: &Path) -> anyhow::Result<()> {
    let pairs: Vec<(&str, &str)> = images.iter().map(|image| ("image", image.as_str())).collect();
    let response = admin.send(Method::GET, &with_query("/images/save", &pairs), Body::Empty).await?;
    let mut body = response.into_body().into_data_stream();
    let mut file = match into == Path::new("-") {
        true => None,
        false => Some(File::create(into).with_context(|| format!("cannot write {}", into.display()))?),
    };
    while let Some(chunk) = body.next().await {
        let chunk: Bytes = chunk.map_err(|error| anyhow!(error))?;
        match &mut file {
            Some(file) => {
                let written = file.write_all(&chunk);
                written.with_context(|| format!("cannot write {}", into.display()))?;
            }
            None => output::bytes(&chunk),
        }
        if !output::is_open() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_wide_as_it_must_be() {
        let images =
            [json!({"name": "ondol.local/echo:v1", "imageId": "sha256:0123456789abcdef", "sizeBytes": 20480,
            "origin": "built"})];
        assert_eq!(
            table(&images),
            "NAME                 ID            SIZE    ORIGIN\nondol.local/echo:v1  0123456789ab  20 KiB  built\n"
        );
    }
}
