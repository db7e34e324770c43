//! The members of a tar archive, read strictly.
//!
//! The `tar` crate reads the blocks; what the headers mean together is decided here, so that the
//! records in front of a member (long names, pax records) are bounded before they are read and
//! whatever two readers could understand differently is refused.

use std::io::Read;

use tar::{Entries, Entry};

use crate::error::{Error, Excess, Refusal};
use crate::limits::Limits;

/// One member of an archive: a header, and its contents to be read from `entry`.
pub(crate) struct Member<'a, R: Read> {
    /// The path as the archive spells it.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Length of the contents, in bytes.
    pub(crate) size: u64,
    /// Whether somebody may run it.
    pub(crate) executable: bool,
    /// When it was changed, in seconds since the Unix epoch.
    pub(crate) modified_s: u64,
    /// The contents; they may end before `size` when the archive was cut.
    pub(crate) entry: Entry<'a, R>,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Symlink(Vec<u8>),
    /// With the path of the file it is another name of.
    HardLink(Vec<u8>),
    Device,
    Pipe,
}

/// Reads the members of an archive one by one.
pub(crate) struct Members<'a, R: Read> {
    entries: Entries<'a, R>,
    limits: &'a Limits,
    /// What messages call the archive.
    what: &'a str,
}

/// Key and value of a pax record.
type Pair<'b> = (&'b [u8], &'b [u8]);

/// What the records in front of a member say about it.
#[derive(Default)]
struct Records {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    /// Set for a sparse file, with its name if that is told here.
    sparse: Option<Vec<u8>>,
}

impl<'a, R: Read> Members<'a, R> {
    pub(crate) fn new(entries: Entries<'a, R>, limits: &'a Limits, what: &'a str) -> Self {
        Self {
            entries: entries.raw(true),
            limits,
            what,
        }
    }

    /// The next member; none after the last.
    pub(crate) fn next(&mut self) -> Result<Option<Member<'a, R>>, Error> {
        let mut records = Records::default();
        let mut any_record = false;
        while let Some(entry) = self.entries.next() {
            let mut entry = entry.map_err(|fault| Error::malformed(self.what, fault))?;
            match entry.header().entry_type().as_byte() {
                b'L' => set(&mut records.path, self.name_record(&mut entry)?, self.what)?,
                b'K' => set(&mut records.link, self.name_record(&mut entry)?, self.what)?,
                b'x' => self.read_pax(&mut entry, &mut records)?,
                b'g' => self.skip_global(&mut entry)?,
                _ => return self.member(entry, records).map(Some),
            }
            any_record = true;
        }
        if any_record {
            return Err(Error::malformed(
                self.what,
                "it ends after a header that describes a member",
            ));
        }
        Ok(None)
    }

    fn member(&self, entry: Entry<'a, R>, records: Records) -> Result<Member<'a, R>, Error> {
        let header = entry.header();
        let path = records.path.unwrap_or_else(|| entry.path_bytes().into());
        let refuse = |why| Error::refused(&path[..path.len().min(255)], why);
        let link = || {
            let target = records
                .link
                .clone()
                .or_else(|| entry.link_name_bytes().map(Vec::from));
            target.ok_or_else(|| refuse(Refusal::LinkTarget))
        };
        if let Some(name) = records.sparse {
            let name = if name.is_empty() { &path[..] } else { &name };
            let shown = &name[..name.len().min(255)];
            return Err(Error::refused(shown, Refusal::Sparse));
        }
        let kind = match header.entry_type().as_byte() {
            // Archives from before the type for folders mark them by a slash.
            b'\0' | b'0' if path.ends_with(b"/") => Kind::Folder,
            b'\0' | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink(link()?),
            b'2' => Kind::Symlink(link()?),
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Folder,
            b'6' => Kind::Pipe,
            b'S' => return Err(refuse(Refusal::Sparse)),
            _ => return Err(refuse(Refusal::UnknownKind)),
        };
        if records.size.is_some_and(|size| size != entry.size()) {
            let why = format!("{:?} has two lengths", String::from_utf8_lossy(&path));
            return Err(Error::malformed(self.what, why));
        }
        let mode = header
            .mode()
            .map_err(|fault| Error::malformed(self.what, fault))?;
        Ok(Member {
            kind,
            size: entry.size(),
            executable: mode & 0o111 != 0,
            modified_s: header.mtime().unwrap_or(0),
            path,
            entry,
        })
    }

    fn name_record(&self, entry: &mut Entry<'a, R>) -> Result<Vec<u8>, Error> {
        let mut name = self.record(entry)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn read_pax(&self, entry: &mut Entry<'a, R>, records: &mut Records) -> Result<(), Error> {
        let bytes = self.record(entry)?;
        for (key, value) in pax_records(&bytes, self.what)? {
            match key {
                b"path" => set(&mut records.path, value.to_vec(), self.what)?,
                b"linkpath" => set(&mut records.link, value.to_vec(), self.what)?,
                b"size" => {
                    let size = std::str::from_utf8(value)
                        .ok()
                        .and_then(|text| text.parse().ok())
                        .ok_or_else(|| Error::malformed(self.what, "a length is no number"))?;
                    set(&mut records.size, size, self.what)?;
                }
                b"GNU.sparse.name" => records.sparse = Some(value.to_vec()),
                _ if key.starts_with(b"GNU.sparse.") => {
                    records.sparse.get_or_insert_default();
                }
                // Times, owners and extended attributes are not kept.
                _ => {}
            }
        }
        Ok(())
    }

    /// Comments are let through; records that would rename every member are not.
    fn skip_global(&self, entry: &mut Entry<'a, R>) -> Result<(), Error> {
        let bytes = self.record(entry)?;
        for (key, _) in pax_records(&bytes, self.what)? {
            if matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.") {
                let why = "a global header sets paths or lengths";
                return Err(Error::malformed(self.what, why));
            }
        }
        Ok(())
    }

    /// The contents of a record, which is read into memory.
    fn record(&self, entry: &mut Entry<'a, R>) -> Result<Vec<u8>, Error> {
        let size = entry.size();
        if size > self.limits.header_bytes {
            return Err(Error::Limit {
                what: Excess::HeaderBytes,
                max: self.limits.header_bytes,
            });
        }
        let mut bytes = Vec::new();
        entry
            .read_to_end(&mut bytes)
            .map_err(|fault| Error::malformed(self.what, fault))?;
        if bytes.len() as u64 != size {
            return Err(Error::malformed(self.what, "it is cut short"));
        }
        Ok(bytes)
    }
}

/// Fills a slot that may be filled once, so that there is one answer to what a member is called.
fn set<T>(slot: &mut Option<T>, value: T, what: &str) -> Result<(), Error> {
    match slot.replace(value) {
        Some(_) => Err(Error::malformed(what, "a member is described twice")),
        None => Ok(()),
    }
}

/// Splits pax records: a length, a space, `key=value` and a line feed, the length counting it all.
/// Values may hold line feeds, which is why the length leads.
fn pax_records<'b>(mut bytes: &'b [u8], what: &str) -> Result<Vec<Pair<'b>>, Error> {
    let fault = || Error::malformed(what, "a pax record is not as it should be");
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes
            .iter()
            .take(20)
            .position(|byte| *byte == b' ')
            .ok_or_else(fault)?;
        let length: usize = std::str::from_utf8(&bytes[..space])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(fault)?;
        let record = bytes.get(space + 1..length).ok_or_else(fault)?;
        let record = record.strip_suffix(b"\n").ok_or_else(fault)?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(fault)?;
        records.push((&record[..equals], &record[equals + 1..]));
        bytes = &bytes[length..];
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_a_line_feed() {
        let records = pax_records(b"12 path=a/b\n12 raw=\n \xff\n\n", "it").unwrap();
        assert_eq!(
            records,
            [(&b"path"[..], &b"a/b"[..]), (b"raw", b"\n \xff\n")]
        );
    }

    #[test]
    fn a_record_whose_length_is_wrong_is_refused() {
        for bytes in [
            &b"99 path=a\n"[..],
            b"3 path=a\n",
            b"0 =\n",
            b"10 path=ab\n",
            b"x path=a\n",
            b"10 pathxaa\n",
        ] {
            assert!(pax_records(bytes, "it").is_err(), "{bytes:?}");
        }
    }
}
