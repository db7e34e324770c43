//! A tar archive, gzipped or not, as the content of the working folder.
//!
//! It is the producer's own, and what it holds can only harm the machine that it is for; the `tar` crate
//! puts nothing outside of the folder all the same.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::GzDecoder;
use tar::Archive;

/// What a gzip file begins with (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Unpacks `archive` into `folder`.
pub(crate) fn unpack(archive: &Path, folder: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot unpack {}: {error}", archive.display());
    let mut file = File::open(archive).map_err(failed)?;
    let mut begin = [0; 2];
    let is_gzip = file.read_exact(&mut begin).is_ok() && begin == GZIP;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let reader = BufReader::new(file);
    if is_gzip {
        into(&mut Archive::new(GzDecoder::new(reader)), folder).map_err(failed)
    } else {
        into(&mut Archive::new(reader), folder).map_err(failed)
    }
}

fn into(archive: &mut Archive<impl Read>, folder: &Path) -> std::io::Result<()> {
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_preserve_ownerships(false);
    archive.unpack(folder)
}
