//! `images`: what local machines start from.

use std::io;
use std::path::Path;

use cofferdam_images::{Image, Limits, Store};

use crate::cli::args::Images;
use crate::cli::human;
use crate::cli::output::{Cell, Output, Tone};
use crate::cli::status::Status;
use crate::config;

/// Characters of a digest that tell images apart: `sha256:` and twelve digits.
const DIGEST_SHOWN: usize = 19;

/// Runs the command; blocks for as long as unpacking takes.
pub(super) fn run(
    args: &Images,
    settings: &config::Images,
    out: &mut Output,
) -> anyhow::Result<Status> {
    let limits = Limits {
        ratio: settings.max_ratio,
        ..Limits::default()
    };
    let store = Store::open_with(&settings.state_dir, limits)?.unpacked_by("/proc/self/exe".into());
    match args {
        Images::Import { name, source } => import(&store, name, source, out)?,
        Images::List { format } => list(&store.list()?, format.json, out)?,
        Images::Remove { name } => {
            let removed = store.remove(name)?;
            let rest = if removed.deleted {
                ""
            } else {
                "; its files stay while they are in use"
            };
            out.line(&format!("removed {}{rest}", removed.name))?;
        }
    }
    Ok(Status::Done)
}

fn import(store: &Store, name: &str, source: &Path, out: &mut Output) -> anyhow::Result<()> {
    let imported = if source == Path::new("-") {
        store.import_archive(name, io::stdin())?
    } else {
        store.import(name, source)?
    };
    let size = human::bytes(imported.bytes);
    let how = if imported.already_unpacked {
        ", unpacked before"
    } else {
        ""
    };
    let line = format!("imported {} ({size}{how})", imported.name);
    out.line(&line)?;
    let digest = out.paint(Tone::Faint, &imported.digest);
    Ok(out.line(&digest)?)
}

fn list(images: &[Image], as_json: bool, out: &mut Output) -> anyhow::Result<()> {
    if as_json {
        for image in images {
            out.json(image)?;
        }
        return Ok(());
    }
    if images.is_empty() {
        out.note("no images; `host`, this computer's own /usr, is always there")?;
        return Ok(());
    }
    let rows: Vec<_> = images.iter().map(row).collect();
    Ok(out.table(&["IMAGE", "SIZE", "LAYERS", "IN USE", "DIGEST"], &rows)?)
}

fn row(image: &Image) -> Vec<Cell> {
    let digest: String = image.digest.chars().take(DIGEST_SHOWN).collect();
    vec![
        Cell::plain(&image.name),
        Cell::plain(human::bytes(image.bytes)),
        Cell::plain(image.layers.to_string()),
        Cell::plain(if image.in_use { "yes" } else { "no" }),
        Cell::new(Tone::Faint, digest),
    ]
}
