//! Files that the command made: found by globs below its working folder, and put one by one.
//!
//! Links are not followed, so nothing from outside the folder is taken for an artifact.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::child;
use crate::http::{Answer, Client};
use crate::job::Job;

/// Folders below folders, and entries in all, that are looked at.
const DEPTH_MAX: usize = 32;
const ENTRIES_MAX: usize = 100_000;
/// Files that are put; for one more the rest is named as left out.
const FILES_MAX: usize = 1_000;
/// Names of files that were left out.
const LEFT_OUT_MAX: usize = 20;
/// One file, at the most; less where the deadline is nearer.
const PUT_TIMEOUT: Duration = Duration::from_secs(600);
/// Kept for posting the result.
const RESULT_TIME: Duration = Duration::from_millis(400);
/// What stays as it is in the path of an address.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

/// Puts all artifacts. Answers what is known of each: what the endpoint says of it, or its name and an
/// `error`.
pub(crate) fn put(job: &Job) -> Vec<Value> {
    let Some(url) = job
        .artifact_url
        .as_deref()
        .filter(|_| !job.artifacts.is_empty())
    else {
        return Vec::new();
    };
    let Some(folder) = child::folder(Path::new("/workspace").is_dir()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut seen = 0;
    find(
        &folder,
        &mut PathBuf::new(),
        &job.artifacts,
        &mut found,
        &mut seen,
    );
    found.sort();
    let mut client = Client::new(&job.token);
    let mut told = Vec::new();
    let (mut bytes_left, mut left_out) = (job.artifact_bytes, 0_usize);
    for (index, (name, bytes)) in found.iter().enumerate() {
        let result = if index >= FILES_MAX {
            Err(format!("more than {FILES_MAX} files"))
        } else if *bytes > bytes_left {
            Err(format!(
                "{bytes} bytes are more than the artifacts' bound leaves ({bytes_left})"
            ))
        } else {
            put_one(job, &mut client, url, &folder, name, *bytes)
        };
        match result {
            Ok(value) => {
                bytes_left -= *bytes;
                told.push(value);
            }
            Err(_) if left_out >= LEFT_OUT_MAX => left_out += 1,
            Err(error) => {
                left_out += 1;
                told.push(json!({"name": name, "bytes": bytes, "error": error}));
            }
        }
    }
    if left_out > LEFT_OUT_MAX {
        let more = left_out - LEFT_OUT_MAX;
        told.push(json!({"name": null, "error": format!("{more} more files were left out")}));
    }
    told
}

/// Adds the files below `folder` that a glob names, by their paths from there.
fn find(
    folder: &Path,
    below: &mut PathBuf,
    globs: &[String],
    found: &mut Vec<(String, u64)>,
    seen: &mut usize,
) {
    if below.components().count() > DEPTH_MAX {
        return;
    }
    let Ok(entries) = fs::read_dir(folder.join(&*below)) else {
        return;
    };
    for entry in entries.flatten() {
        *seen += 1;
        if *seen > ENTRIES_MAX {
            return;
        }
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        below.push(entry.file_name());
        if kind.is_dir() {
            find(folder, below, globs, found, seen);
        } else if kind.is_file()
            && let Some(name) = below.to_str()
            && globs.iter().any(|glob| fast_glob::glob_match(glob, name))
        {
            let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
            found.push((name.to_owned(), bytes));
        }
        below.pop();
    }
}

fn put_one(
    job: &Job,
    client: &mut Client,
    url: &str,
    folder: &Path,
    name: &str,
    bytes: u64,
) -> Result<Value, String> {
    let timeout = job
        .time_to_tell()
        .saturating_sub(RESULT_TIME)
        .min(PUT_TIMEOUT);
    if timeout.is_zero() {
        return Err("no time was left".into());
    }
    let url = format!(
        "{}/{}",
        url.trim_end_matches('/'),
        utf8_percent_encode(name, PATH)
    );
    let open = || File::open(folder.join(name)).map_err(|error| error.to_string());
    let media = "application/octet-stream";
    let answer = client.stream("PUT", &url, media, &mut open()?, bytes, true, timeout)?;
    let Answer {
        status,
        location,
        body,
        ..
    } = answer;
    match (status, location) {
        (200..300, _) => told(&body),
        // The store takes it itself; then the endpoint is told that it is there.
        (307, Some(store)) => {
            let mut direct = Client::new("");
            let put = direct.stream("PUT", &store, media, &mut open()?, bytes, false, timeout)?;
            if !(200..300).contains(&put.status) {
                return Err(format!("the store refused it with status {}", put.status));
            }
            let stored = format!("{url}?stored={bytes}");
            let answer = client.send("POST", &stored, media, b"", timeout)?;
            if (200..300).contains(&answer.status) {
                told(&answer.body)
            } else {
                refused(answer.status, &answer.body)
            }
        }
        (status, _) => refused(status, &body),
    }
}

fn told(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body).map_err(|error| format!("the endpoint's answer: {error}"))
}

fn refused(status: u16, body: &[u8]) -> Result<Value, String> {
    let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
    Err(format!("it was refused with status {status}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_name_files_below_the_folder_and_links_are_not_followed() {
        let folder = std::env::temp_dir().join(format!("cofferdam-guest-{}", std::process::id()));
        fs::create_dir_all(folder.join("out/deep")).unwrap();
        fs::write(folder.join("out/a.txt"), "12").unwrap();
        fs::write(folder.join("out/deep/b.bin"), "").unwrap();
        fs::write(folder.join("c.txt"), "").unwrap();
        std::os::unix::fs::symlink("/etc", folder.join("out/etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.join("out/passwd")).unwrap();
        let names = |glob: &str| {
            let (mut found, mut seen) = (Vec::new(), 0);
            find(
                &folder,
                &mut PathBuf::new(),
                &[glob.to_owned()],
                &mut found,
                &mut seen,
            );
            found.sort();
            found.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names("out/**"), ["out/a.txt", "out/deep/b.bin"]);
        assert_eq!(names("*.txt"), ["c.txt"]);
        assert_eq!(names("**/*.txt"), ["c.txt", "out/a.txt"]);
        fs::remove_dir_all(folder).unwrap();
    }
}
