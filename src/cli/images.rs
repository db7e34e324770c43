//! `images`: what local machines start from.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::args::Images;
use crate::cli::human;
use crate::cli::say::{Cell, Say, Tone};
use crate::cli::status::Status;
use crate::local::images::{Image, Store};

/// Bytes of an archive on standard input at the most.
const ARCHIVE_MAX_BYTES: u64 = 64 * 1024 * 1024 * 1024;

/// Characters of a digest that tell images apart: `sha256:` and twelve digits.
const DIGEST_SHOWN: usize = 19;

/// Runs the command; blocks for as long as unpacking takes.
pub(super) fn run(args: &Images, state_dir: &Path, say: &mut Say) -> anyhow::Result<Status> {
    let store = Store::open(state_dir)?;
    match args {
        Images::Import { name, source } => import(&store, name, source, state_dir, say)?,
        Images::List { format } => list(&store.list()?, format.json, say)?,
        Images::Remove { name } => {
            let removed = store.remove(name)?;
            let rest = if removed.deleted {
                ""
            } else {
                "; its files stay while they are in use"
            };
            say.line(&format!("removed {}{rest}", removed.name))?;
        }
    }
    Ok(Status::Done)
}

fn import(
    store: &Store,
    name: &str,
    source: &Path,
    state_dir: &Path,
    say: &mut Say,
) -> anyhow::Result<()> {
    let imported = if source == Path::new("-") {
        let archive = stdin_to_file(state_dir).context("read the archive from standard input")?;
        store.import(name, &archive.path())?
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
    say.line(&line)?;
    let digest = say.paint(Tone::Faint, &imported.digest);
    Ok(say.line(&digest)?)
}

/// What comes on standard input, in a file that has no name any more. It lies in the state folder,
/// where there is room for what is unpacked from it.
fn stdin_to_file(state_dir: &Path) -> io::Result<Unnamed> {
    let path = state_dir.join(format!("stdin-{}.tar", std::process::id()));
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    let copied = io::copy(
        &mut io::stdin().lock().take(ARCHIVE_MAX_BYTES + 1),
        &mut file,
    )?;
    if copied > ARCHIVE_MAX_BYTES {
        let size = human::bytes(ARCHIVE_MAX_BYTES);
        return Err(io::Error::other(format!("it is larger than {size}")));
    }
    file.flush()?;
    Ok(Unnamed(file))
}

/// A file that can be opened by a path as long as this process holds it.
#[derive(Debug)]
struct Unnamed(File);

impl Unnamed {
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

fn list(images: &[Image], as_json: bool, say: &mut Say) -> anyhow::Result<()> {
    if as_json {
        for image in images {
            say.json(image)?;
        }
        return Ok(());
    }
    if images.is_empty() {
        say.note("no images; `host`, this computer's own /usr, is always there")?;
        return Ok(());
    }
    let rows: Vec<_> = images.iter().map(row).collect();
    Ok(say.table(&["IMAGE", "SIZE", "LAYERS", "IN USE", "DIGEST"], &rows)?)
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
