//! Files that the command made: found by globs below its working folder, and put one by one.
//!
//! Links are not followed, so nothing from outside the folder is taken for an artifact.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

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
/// How often one file is tried while the endpoint or the store is busy, and the pause between two tries.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
/// How long the store may take to be reached; then the bytes go through the endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
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
    let url = format!(
        "{}/{}",
        url.trim_end_matches('/'),
        utf8_percent_encode(name, PATH)
    );
    let mut put = Put {
        job,
        client,
        url,
        file: folder.join(name),
        bytes,
        is_relayed: false,
    };
    let mut tries = 1;
    loop {
        match put.once() {
            Ok(value) => return Ok(value),
            Err(Failed::Final(why)) => return Err(why),
            Err(Failed::Now(why, _)) if tries >= TRIES => return Err(why),
            Err(Failed::Now(why, wait)) => {
                if wait >= time_left(job) {
                    return Err(why);
                }
                thread::sleep(wait);
                tries += 1;
            }
            // The guest does not reach the store: its bytes go through the endpoint.
            Err(Failed::Unreached) => put.is_relayed = true,
        }
    }
}

fn time_left(job: &Job) -> Duration {
    job.time_to_tell().saturating_sub(RESULT_TIME)
}

/// One file on its way.
struct Put<'a> {
    job: &'a Job,
    client: &'a mut Client,
    url: String,
    file: PathBuf,
    bytes: u64,
    /// Whether it goes through the endpoint in any case.
    is_relayed: bool,
}

/// Why a file was not put.
enum Failed {
    /// For good.
    Final(String),
    /// It may be put after this time.
    Now(String, Duration),
    /// The store to which it is to go itself cannot be reached from here.
    Unreached,
}

const MEDIA: &str = "application/octet-stream";

impl Put<'_> {
    fn once(&mut self) -> Result<Value, Failed> {
        let timeout = self.timeout()?;
        let query = if self.is_relayed { "?relay" } else { "" };
        let url = format!("{}{query}", self.url);
        let mut file = self.open()?;
        let answer = self
            .client
            .stream("PUT", &url, MEDIA, &mut file, self.bytes, true, timeout);
        let answer = answer.map_err(|why| Failed::Now(why, PAUSE))?;
        match (answer.status, &answer.location) {
            // The store takes it itself; then the endpoint is told that it is there.
            (307, Some(store)) if !self.is_relayed => self.elsewhere(store, &answer.body),
            _ => told(answer),
        }
    }

    fn elsewhere(&mut self, store: &str, body: &[u8]) -> Result<Value, Failed> {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let put = answer
            .get("put")
            .and_then(Value::as_str)
            .ok_or_else(|| Failed::Final("the endpoint named no put".into()))?;
        let mut file = Hashing {
            file: self.open()?,
            hashed: Sha256::new(),
        };
        let mut direct = Client::new("");
        if direct.connect(store, CONNECT_TIMEOUT).is_err() {
            return Err(Failed::Unreached);
        }
        let timeout = self.timeout()?;
        let sent = direct.stream("PUT", store, MEDIA, &mut file, self.bytes, false, timeout);
        let sent = sent.map_err(|why| Failed::Now(format!("the store: {why}"), PAUSE))?;
        match sent.status {
            200..300 => {}
            408 | 429 | 500.. => {
                let why = format!("the store answered with status {}", sent.status);
                return Err(Failed::Now(why, sent.retry_after.unwrap_or(PAUSE)));
            }
            status => {
                let why = format!("the store refused it with status {status}");
                return Err(Failed::Final(why));
            }
        }
        let digest: String = file
            .hashed
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let stored = format!(
            "{}?stored={}&put={put}&sha256={digest}",
            self.url, self.bytes
        );
        let timeout = self.timeout()?;
        let answer = self.client.send("POST", &stored, MEDIA, b"", timeout);
        told(answer.map_err(|why| Failed::Now(why, PAUSE))?)
    }

    fn open(&self) -> Result<File, Failed> {
        File::open(&self.file).map_err(|error| Failed::Final(error.to_string()))
    }

    fn timeout(&self) -> Result<Duration, Failed> {
        let timeout = time_left(self.job).min(PUT_TIMEOUT);
        if timeout.is_zero() {
            return Err(Failed::Final("no time was left".into()));
        }
        Ok(timeout)
    }
}

/// A file whose bytes are hashed as they are read.
struct Hashing {
    file: File,
    hashed: Sha256,
}

impl Read for Hashing {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(piece)?;
        self.hashed.update(piece.get(..read).unwrap_or_default());
        Ok(read)
    }
}

fn told(answer: Answer) -> Result<Value, Failed> {
    let text = || -> String {
        let body = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
        let error = body.get("error").and_then(Value::as_str);
        let raw = String::from_utf8_lossy(&answer.body);
        error.unwrap_or(&raw).chars().take(200).collect()
    };
    match answer.status {
        200..300 => serde_json::from_slice(&answer.body)
            .map_err(|error| Failed::Final(format!("the endpoint's answer: {error}"))),
        408 | 429 | 503 => {
            let why = format!("it was refused with status {}: {}", answer.status, text());
            Err(Failed::Now(why, answer.retry_after.unwrap_or(PAUSE)))
        }
        status => Err(Failed::Final(format!(
            "it was refused with status {status}: {}",
            text()
        ))),
    }
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
