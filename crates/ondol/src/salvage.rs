//! `ondol store ...`: looks at a store's folder, and saves what is whole of it, without a server.

use std::path::Path;

use anyhow::{Context as _, bail};
use base::Random;
use cli::arguments::Store;
use cli::output;
use store::log::{Inspection, Salvage};

/// Does what the verb says. `codec` is how the server encodes values.
pub fn run(verb: &Store, codec: u32) -> anyhow::Result<()> {
    match verb {
        Store::Inspect { folder } => {
            let inspection = store::log::inspect(&open(folder)?, codec)?;
            if inspection.files.is_empty() {
                bail!("{} holds no store; one lies at <data-dir>/store", folder.display());
            }
            output::text(text(&inspection));
            if !inspection.damage.is_empty() {
                bail!("{}; \"ondol store salvage\" saves what is left", inspection.summary());
            }
            Ok(())
        }
        Store::Salvage { folder, target, everything } => {
            std::fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
            let how = if *everything { Salvage::Everything } else { Salvage::Whole };
            let saved = store::log::salvage(&open(folder)?, &open(target)?, codec, &Random::system(), how)?;
            output::text(text(&saved));
            output::line(format_args!(
                "saved to {}; put it in the place of the old one and start again",
                target.display()
            ));
            Ok(())
        }
    }
}

fn open(folder: &Path) -> anyhow::Result<store::Folder> {
    if !folder.is_dir() {
        bail!("{} is no folder; a store lies at <data-dir>/store", folder.display());
    }
    store::Folder::at(folder).with_context(|| format!("cannot open {}", folder.display()))
}

fn text(inspection: &Inspection) -> String {
    let mut text = format!("revision {}, {} keys\n", inspection.revision, inspection.keys);
    for file in &inspection.files {
        let torn = match file.torn_bytes {
            0 => String::new(),
            bytes => format!(", {bytes} bytes of an unfinished write at its end"),
        };
        text.push_str(&format!(
            "{}: {} frames up to byte {} of {}, revision {}{torn}\n",
            file.path, file.frames, file.whole_bytes, file.size_bytes, file.revision
        ));
    }
    for damage in &inspection.damage {
        text.push_str(&format!("damaged: {damage}\n"));
    }
    text
}
