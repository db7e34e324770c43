//! Decides how a sandbox's root is put together, without touching anything.
//!
//! The root of a sandbox is a small file system in memory that is read-only once it is set up. The
//! entries of the image's root are bound into it one by one, so that mount points can be made
//! beside them. A file that is to go into a folder of the image opens that folder up in the same
//! way: a folder in memory takes its place, and everything else in it is bound back. That costs a
//! mount per entry, so there is a bound.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use crate::bubblewrap::path::{join, starts};
use crate::bubblewrap::resolve::resolve;
use crate::bubblewrap::tree::{BINDS_MAX, Image, Kind, RootError, is_reserved, is_writable};

/// The most entries of a folder that is opened up for a file.
const ENTRIES_MAX: usize = 256;

/// One step of making the root. Paths are the guest's; binds come from the same path in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Folder(OsString),
    Bind(OsString),
    Link {
        target: OsString,
        path: OsString,
    },
    /// The guest's file with this index, new in a folder in memory.
    File {
        index: usize,
        path: OsString,
    },
    /// The guest's file with this index, over a file of the image.
    Over {
        index: usize,
        path: OsString,
    },
}

/// The steps: first for the image, then for the guest's files (after the writable folders are there).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) image: Vec<Step>,
    /// Whether `/var/tmp` can be made a writable folder.
    pub(super) var_tmp: bool,
    pub(super) files: Vec<Step>,
}

/// Plans the root of an image for files at these paths.
pub(super) fn layout(image: &Image<'_>, files: &[&str]) -> Result<Layout, RootError> {
    let mut plan = Layout::default();
    let mut open = BTreeSet::from([OsString::from("/")]);
    let mut taken = BTreeSet::new();
    for (index, path) in files.iter().enumerate() {
        let refuse = |why: String| RootError::File {
            path: (*path).to_owned(),
            why,
        };
        let target = resolve(image, path, &refuse)?;
        if !taken.insert(target.path.clone()) {
            return Err(refuse("two files have this path".into()));
        }
        plan.files.push(if target.replaces {
            Step::Over {
                index,
                path: target.path,
            }
        } else {
            Step::File {
                index,
                path: target.path,
            }
        });
        open.extend(target.opens);
    }
    refuse_nesting(&taken)?;
    plan.var_tmp = opens_var_tmp(image, &mut open)?;
    fill(image, OsStr::new("/"), &open, &mut plan.image)?;
    Ok(plan)
}

/// Whether a file system can be mounted at `/var/tmp`; opens `/var` up where it has no such folder.
fn opens_var_tmp(image: &Image<'_>, open: &mut BTreeSet<OsString>) -> Result<bool, RootError> {
    let var = OsStr::new("/var");
    match image.find(OsStr::new("/"), OsStr::new("var"))? {
        None => return Ok(true),
        Some(Kind::Folder { .. }) => {}
        // Through a link it would be mounted wherever that leads to.
        Some(_) => return Ok(false),
    }
    let tmp = image.find(var, OsStr::new("tmp"))?;
    if matches!(tmp, Some(Kind::Folder { .. })) {
        return Ok(true);
    }
    let few = image.entries(var)?.len() <= ENTRIES_MAX;
    if few {
        open.insert(var.to_owned());
    }
    Ok(few)
}

/// Writes the steps for all of a folder that stands in memory.
fn fill(
    image: &Image<'_>,
    folder: &OsStr,
    open: &BTreeSet<OsString>,
    steps: &mut Vec<Step>,
) -> Result<(), RootError> {
    let entries = image.entries(folder)?;
    if entries.len() > ENTRIES_MAX {
        return Err(RootError::File {
            path: folder.display().to_string(),
            why: format!(
                "no file can be added to a folder of {} entries",
                entries.len()
            ),
        });
    }
    for entry in entries.iter() {
        let path = join(folder, &entry.name);
        if is_writable(&path) || is_reserved(&path) {
            continue;
        }
        match &entry.kind {
            Kind::Folder { .. } if open.contains(&path) => {
                steps.push(Step::Folder(path.clone()));
                fill(image, &path, open, steps)?;
            }
            Kind::Folder { empty: true } => steps.push(Step::Folder(path)),
            Kind::Folder { empty: false } | Kind::File => steps.push(Step::Bind(path)),
            Kind::Link(target) => steps.push(Step::Link {
                target: target.clone(),
                path,
            }),
            Kind::Other => {}
        }
    }
    let binds = steps
        .iter()
        .filter(|step| matches!(step, Step::Bind(_)))
        .count();
    if binds > BINDS_MAX {
        Err(RootError::Large)
    } else {
        Ok(())
    }
}

fn refuse_nesting(paths: &BTreeSet<OsString>) -> Result<(), RootError> {
    for path in paths {
        let below = join(path, OsStr::new(""));
        let inside = paths.iter().find(|other| starts(other, &below));
        if let Some(inside) = inside {
            return Err(RootError::File {
                path: inside.display().to_string(),
                why: format!("{} is to be a file too", path.display()),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;

    use super::*;
    use crate::bubblewrap::tree::Entry;

    /// A small image: folders by path, `name/` for a folder, `name/…` for one that is not empty,
    /// `name>target` for a link, `name!` for a device.
    fn image() -> BTreeMap<&'static str, Vec<&'static str>> {
        BTreeMap::from([
            (
                "/",
                vec![
                    "bin>usr/bin",
                    "dev/…",
                    "etc/…",
                    "mnt/",
                    "proc/",
                    "tmp/…",
                    "usr/…",
                    "d>etc",
                ],
            ),
            (
                "/etc",
                vec![
                    "passwd",
                    "app/…",
                    "run>/workspace/run",
                    "disk!",
                    "up>../../usr/lib/x",
                ],
            ),
            ("/etc/app", vec!["a.conf", "loop>loop"]),
            ("/usr", vec!["bin/…", "lib/…"]),
            ("/usr/bin", vec!["sh", "python"]),
            ("/usr/lib", vec!["x/…"]),
            ("/usr/lib/x", vec!["y"]),
        ])
    }

    fn entry(text: &str) -> Entry {
        let (name, kind) = if let Some(name) = text.strip_suffix("/…") {
            (name, Kind::Folder { empty: false })
        } else if let Some(name) = text.strip_suffix('/') {
            (name, Kind::Folder { empty: true })
        } else if let Some(name) = text.strip_suffix('!') {
            (name, Kind::Other)
        } else if let Some((name, target)) = text.split_once('>') {
            (name, Kind::Link(target.into()))
        } else {
            (text, Kind::File)
        };
        Entry {
            name: name.into(),
            kind,
        }
    }

    fn plan(files: &[&str]) -> Result<Layout, RootError> {
        let image = image();
        let list = |folder: &OsStr| -> io::Result<Vec<Entry>> {
            let entries = image
                .get(folder.to_str().unwrap())
                .ok_or(io::ErrorKind::NotFound)?;
            Ok(entries.iter().map(|text| entry(text)).collect())
        };
        layout(&Image::new(&list), files)
    }

    fn show(steps: &[Step]) -> Vec<String> {
        let show = |step: &Step| match step {
            Step::Folder(path) => format!("folder {}", path.display()),
            Step::Bind(path) => format!("bind {}", path.display()),
            Step::Link { target, path } => {
                format!("link {} {}", path.display(), target.display())
            }
            Step::File { index, path } => format!("file {index} {}", path.display()),
            Step::Over { index, path } => format!("over {index} {}", path.display()),
        };
        steps.iter().map(show).collect()
    }

    #[track_caller]
    fn check_files(files: &[&str], expected: &[&str]) {
        assert_eq!(show(&plan(files).unwrap().files), expected);
    }

    #[track_caller]
    fn check_refused(files: &[&str], expected: &str) {
        let refused = plan(files).unwrap_err().to_string();
        assert!(
            refused.contains(expected),
            "{refused:?} does not say {expected:?}"
        );
    }

    #[test]
    fn without_files_each_entry_of_the_root_is_bound() {
        let expected = [
            "link /bin usr/bin",
            "bind /etc",
            "folder /mnt",
            "bind /usr",
            "link /d etc",
        ];
        assert_eq!(show(&plan(&[]).unwrap().image), expected);
    }

    #[test]
    fn a_new_file_opens_up_just_the_folders_on_its_way() {
        let plan = plan(&["/usr/lib/x/deep/er/file"]).unwrap();
        let expected = [
            "link /bin usr/bin",
            "bind /etc",
            "folder /mnt",
            "folder /usr",
            "bind /usr/bin",
            "folder /usr/lib",
            "folder /usr/lib/x",
            "bind /usr/lib/x/y",
            "link /d etc",
        ];
        assert_eq!(show(&plan.image), expected);
        assert_eq!(show(&plan.files), ["file 0 /usr/lib/x/deep/er/file"]);
    }

    #[test]
    fn devices_of_the_image_are_left_out() {
        assert!(!show(&plan(&["/etc/new"]).unwrap().image).contains(&"bind /etc/disk".into()));
    }

    #[test]
    fn a_file_of_the_image_is_covered_without_opening_anything() {
        let plan = plan(&["/etc/passwd"]).unwrap();
        assert_eq!(show(&plan.files), ["over 0 /etc/passwd"]);
        assert!(show(&plan.image).contains(&"bind /etc".into()));
    }

    #[test]
    fn links_on_the_way_are_followed_inside_the_image() {
        check_files(&["/bin/python"], &["over 0 /usr/bin/python"]);
        check_files(&["/bin/tool"], &["file 0 /usr/bin/tool"]);
        check_files(&["/etc/run/pid"], &["file 0 /workspace/run/pid"]);
        // More `..` than there are folders ends at the root, as everywhere.
        check_files(&["/etc/up/z"], &["file 0 /usr/lib/x/z"]);
        check_files(&["/d/up/y"], &["over 0 /usr/lib/x/y"]);
    }

    #[test]
    fn files_in_writable_and_new_folders_need_nothing_of_the_image() {
        check_files(
            &["/workspace/a/b", "/tmp//c", "/new/d", "/e"],
            &[
                "file 0 /workspace/a/b",
                "file 1 /tmp/c",
                "file 2 /new/d",
                "file 3 /e",
            ],
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        check_refused(&["relative"], "file relative: the path is not absolute");
        check_refused(&["/"], "names a folder");
        check_refused(&["/etc/"], "names a folder");
        check_refused(&["/workspace"], "has a folder there");
        check_refused(&["/etc/app"], "has a folder there");
        check_refused(&["/d"], "has a folder there");
        check_refused(&["/tmp/../etc/x"], "contains ..");
        check_refused(&["/a\0b"], "cannot have such a path");
        check_refused(&["/proc/self/x"], "/proc is the sandbox's own");
        check_refused(&["/dev/null"], "/dev is the sandbox's own");
        check_refused(&["/.init"], "/.init is the sandbox's own");
        check_refused(&["/etc/passwd/x"], "/etc/passwd is not a folder");
        check_refused(&["/etc/disk"], "/etc/disk is not a folder");
        check_refused(&["/etc/app/loop"], "too many links");
        check_refused(&["/tmp/a", "/d/../tmp/a"], "contains ..");
        check_refused(&["/etc/run", "/workspace/run"], "two files have this path");
        check_refused(&["/tmp/a", "/tmp/a/b"], "/tmp/a is to be a file too");
    }

    #[test]
    fn a_folder_with_too_many_entries_is_not_opened() {
        let list = |folder: &OsStr| -> io::Result<Vec<Entry>> {
            Ok(match folder.to_str() {
                Some("/") => vec![entry("many/…")],
                _ => (0..=ENTRIES_MAX).map(|n| entry(&format!("f{n}"))).collect(),
            })
        };
        let image = Image::new(&list);
        assert!(layout(&image, &["/other/file", "/many/f1"]).is_ok());
        let refused = layout(&image, &["/many/new"]).unwrap_err().to_string();
        assert!(
            refused.contains("/many") && refused.contains("257 entries"),
            "{refused}"
        );
    }
}
