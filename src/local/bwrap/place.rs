//! Finds where in a machine a file goes, following the links of the image on the way.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use crate::local::bwrap::layout::{Entry, Fault, Kind, is_kept, is_writable};
use crate::local::bwrap::path::{join, names, parts};

/// The most symbolic links on the way to one file.
const LINKS_MAX: usize = 40;

/// Where a file goes, after all links on the way.
pub(super) struct Place {
    pub(super) path: OsString,
    /// It takes the place of a file of the image.
    pub(super) replaces: bool,
    /// The folders of the image that have to be opened up for it.
    pub(super) opens: Vec<OsString>,
}

/// An image, by the entries of its folders.
pub(super) struct Image<'a> {
    pub(super) list: &'a dyn Fn(&OsStr) -> io::Result<Vec<Entry>>,
}

impl Image<'_> {
    /// Walks the path in the image.
    pub(super) fn place(
        &self,
        path: &str,
        refuse: &dyn Fn(String) -> Fault,
    ) -> Result<Place, Fault> {
        let mut left = parts(path).map_err(|why| refuse(why.into()))?;
        left.reverse();
        // The folders from the root to where the walk stands; never empty.
        let mut folders = vec![OsString::from("/")];
        let mut links = 0;
        while let Some(name) = left.pop() {
            let at = folders
                .last()
                .map_or_else(|| OsStr::new("/"), OsString::as_os_str);
            if name == ".." {
                folders.truncate(1.max(folders.len() - 1));
                continue;
            }
            let here = join(at, &name);
            if is_kept(&here) {
                return Err(refuse(format!("{} is the machine's own", here.display())));
            }
            if is_writable(&here) {
                return fresh(here, left, Vec::new(), refuse);
            }
            match self.find(at, &name)? {
                None => return fresh(here, left, folders, refuse),
                Some(Kind::Folder { .. }) => folders.push(here),
                Some(Kind::Link(target)) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(refuse("too many links on the way".into()));
                    }
                    if Path::new(&target).is_absolute() {
                        folders.truncate(1);
                    }
                    left.extend(names(&target).rev());
                }
                Some(Kind::File) if left.is_empty() => {
                    return Ok(Place {
                        path: here,
                        replaces: true,
                        opens: Vec::new(),
                    });
                }
                Some(Kind::File | Kind::Other) => {
                    return Err(refuse(format!("{} is not a folder", here.display())));
                }
            }
        }
        Err(refuse("the machine has a folder there".into()))
    }

    fn find(&self, folder: &OsStr, name: &OsStr) -> Result<Option<Kind>, Fault> {
        let entries = self.entries(folder)?;
        Ok(entries
            .into_iter()
            .find(|entry| entry.name == name)
            .map(|entry| entry.kind))
    }

    pub(super) fn entries(&self, folder: &OsStr) -> Result<Vec<Entry>, Fault> {
        (self.list)(folder).map_err(|source| Fault::Read {
            folder: folder.display().to_string(),
            source,
        })
    }
}

/// The place of a file when from `here` on its path is not in the image.
fn fresh(
    here: OsString,
    left: Vec<OsString>,
    opens: Vec<OsString>,
    refuse: &dyn Fn(String) -> Fault,
) -> Result<Place, Fault> {
    if is_writable(&here) && left.is_empty() {
        return Err(refuse("the machine has a folder there".into()));
    }
    if left.iter().any(|name| name == "..") {
        return Err(refuse(format!("{} does not exist", here.display())));
    }
    let path = left.iter().rev().fold(here, |path, name| join(&path, name));
    Ok(Place {
        path,
        replaces: false,
        opens,
    })
}
