//! Paths inside a sandbox, as text: nothing here looks at a file system.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path};

/// The longest path the system has.
const PATH_MAX_BYTES: usize = 4095;

/// The names in a link's target, `..` among them.
pub(super) fn names(target: &OsStr) -> impl DoubleEndedIterator<Item = OsString> + '_ {
    Path::new(target)
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
}

/// The names in the absolute path of a file.
pub(super) fn parts(path: &str) -> Result<Vec<OsString>, &'static str> {
    if !path.starts_with('/') {
        return Err("the path is not absolute");
    }
    if path.contains('\0') || path.len() > PATH_MAX_BYTES {
        return Err("the system cannot have such a path");
    }
    let names: Vec<_> = path
        .split('/')
        .filter(|name| !name.is_empty() && *name != ".")
        .collect();
    if names.is_empty() || path.ends_with('/') {
        return Err("the path names a folder");
    }
    if names.contains(&"..") {
        return Err("the path contains ..");
    }
    Ok(names.into_iter().map(OsString::from).collect())
}

/// Whether a path begins with these bytes.
pub(super) fn starts(path: &OsStr, with: &OsStr) -> bool {
    path.as_encoded_bytes().starts_with(with.as_encoded_bytes())
}

/// The path of an entry of a folder.
pub(super) fn join(folder: &OsStr, name: &OsStr) -> OsString {
    let mut path = folder.to_owned();
    if folder != "/" {
        path.push("/");
    }
    path.push(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_file_are_plain() {
        assert_eq!(parts("//a/./b").unwrap(), ["a", "b"]);
        for wrong in [
            "",
            "a",
            "/",
            "/a/",
            "/a/../b",
            "/a\0",
            &format!("/{}", "a".repeat(5000)),
        ] {
            assert!(parts(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_of_a_link_keep_the_way_up() {
        let names: Vec<_> = names(OsStr::new("../a/./b/../c")).collect();
        assert_eq!(names, ["..", "a", "b", "..", "c"]);
    }
}
