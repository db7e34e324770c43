//! Resolves where in a sandbox a file goes, following the links of the image on the way.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::bubblewrap::path::{join, names, parts};
use crate::bubblewrap::tree::{Image, Kind, RootError, is_reserved, is_writable};

/// The most symbolic links on the way to one file.
const LINKS_MAX: usize = 40;

/// Where a file goes, after all links on the way.
pub(super) struct Target {
    pub(super) path: OsString,
    /// It takes the place of a file of the image.
    pub(super) replaces: bool,
    /// The folders of the image that have to be opened up for it.
    pub(super) opens: Vec<OsString>,
}

/// Walks the path in the image.
pub(super) fn resolve(
    image: &Image<'_>,
    path: &str,
    refuse: &dyn Fn(String) -> RootError,
) -> Result<Target, RootError> {
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
        if is_reserved(&here) {
            return Err(refuse(format!("{} is the sandbox's own", here.display())));
        }
        if is_writable(&here) {
            return fresh(here, left, Vec::new(), refuse);
        }
        match image.find(at, &name)? {
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
                return Ok(Target {
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
    Err(refuse("the sandbox has a folder there".into()))
}

/// The target of a file when from `here` on its path is not in the image.
fn fresh(
    here: OsString,
    left: Vec<OsString>,
    opens: Vec<OsString>,
    refuse: &dyn Fn(String) -> RootError,
) -> Result<Target, RootError> {
    if is_writable(&here) && left.is_empty() {
        return Err(refuse("the sandbox has a folder there".into()));
    }
    if left.iter().any(|name| name == "..") {
        return Err(refuse(format!("{} does not exist", here.display())));
    }
    let path = left.iter().rev().fold(here, |path, name| join(&path, name));
    Ok(Target {
        path,
        replaces: false,
        opens,
    })
}
