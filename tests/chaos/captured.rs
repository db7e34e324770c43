//! Plain commands in a storm: each writes output and makes a file. What their results say must be so,
//! and every byte that is kept must be counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use cofferdam::run::artifact::run_prefix;
use ring::digest;
use serde_json::{Value, json};

use crate::link::Link;

/// Writes to both outputs, and a file of `$COUNT` lines.
pub(crate) const COMMAND: &str =
    "mkdir -p out && seq 1 $COUNT > out/lines && echo $COUNT && echo aside >&2";
/// What that file is called.
const NAME: &str = "out/lines";
/// What the smallest artifact counts as (docs/artifacts.md).
const COUNTED_MIN_BYTES: u64 = 64 << 10;

/// Where artifacts are kept, below a storm's folder.
pub(crate) fn folder(storm: &Path) -> PathBuf {
    storm.join("artifacts")
}

/// Makes a request one of these, as the `n`th of its storm.
pub(crate) fn ask(request: &mut Value, n: usize) {
    request["capture"] = json!({"artifacts": ["out/**"]});
    request["env"]["COUNT"] = lines(n).to_string().into();
}

fn lines(n: usize) -> usize {
    1 + n * 997 % 40_000
}

/// What the `n`th makes.
fn file(n: usize) -> String {
    (1..=lines(n)).fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{line}");
        text
    })
}

fn sha256(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    let bytes = hash.as_ref().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// What came of them.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    /// Commands that ended by themselves.
    completed: usize,
    /// Keys of the files that their results name, with the run and what the file must be.
    artifacts: BTreeMap<String, (String, String)>,
    /// Objects that no result and no list names, but that are counted until they are swept up.
    left_over: usize,
    /// What is not as it should be.
    wrong: Vec<String>,
}

impl fmt::Display for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (completed, artifacts) = (self.completed, self.artifacts.len());
        let (left_over, wrong) = (self.left_over, self.wrong.len());
        write!(
            f,
            "captured={completed} artifacts={artifacts} left_over={left_over} wrong={wrong}"
        )
    }
}

impl Captured {
    /// Takes note of a result, and whether it tells what the command did.
    pub(crate) fn result(&mut self, run: &str, result: &Value) {
        let (payload, n) = (&result["payload"], result["metadata"]["n"].as_u64());
        let (Some(artifacts), Some(n)) = (payload["artifacts"].as_array(), n) else {
            return;
        };
        self.completed += 1;
        let n = usize::try_from(n).unwrap();
        let is_as_written = payload["exit_code"] == 0
            && payload["stdout"] == format!("{}\n", lines(n))
            && payload["stderr"] == "aside\n";
        let file = file(n);
        let wanted = sha256(file.as_bytes());
        match artifacts.as_slice() {
            [one]
                if is_as_written
                    && one["name"] == NAME
                    && one["bytes"] == file.len()
                    && one["sha256"] == *wanted =>
            {
                let key = one["key"].as_str().unwrap_or_default().to_owned();
                let whose = (run.to_owned(), wanted);
                if let Some(other) = self.artifacts.insert(key, whose) {
                    self.wrong
                        .push(format!("{run} and {} share a file", other.0));
                }
            }
            _ => self.wrong.push(format!("{run}: {payload}")),
        }
    }

    /// Compares what is in the folder with what Redis lists and counts. Answers what is wrong.
    pub(crate) async fn accounts(&mut self, link: &mut Link, storm: &Path) -> Vec<String> {
        let folder = folder(storm);
        let mut wrong = std::mem::take(&mut self.wrong);
        for (key, (run, wanted)) in &self.artifacts {
            match fs::read(folder.join(key)) {
                Ok(bytes) if sha256(&bytes) == *wanted => {}
                Ok(bytes) => wrong.push(format!("{run}: {key} has other {} bytes", bytes.len())),
                Err(error) => wrong.push(format!("{run}: {key}: {error}")),
            }
        }
        let mut of: BTreeMap<String, u64> = BTreeMap::new();
        let mut listed = BTreeSet::new();
        let mut on_their_way = BTreeSet::new();
        let members: Vec<String> = link
            .ask(&["ZRANGE", "{cofferdam}:artifact_runs", "0", "-1"])
            .await;
        for member in &members {
            let (run, nonce) = member.split_once(' ').unwrap();
            let key = format!("{{cofferdam}}:artifacts:{run}:{nonce}");
            let fields: BTreeMap<String, String> = link.ask(&["HGETALL", &key]).await;
            let left: i64 = link.ask(&["PTTL", &key]).await;
            let charged: u64 = fields["charged"].parse().unwrap();
            *of.entry(format!("of:{}", fields["tenant"])).or_default() += charged;
            *of.entry("all".to_owned()).or_default() += charged;
            let mut counted = 0;
            for (field, value) in &fields {
                let mut words = value.split(' ');
                if let Some(name) = field.strip_prefix("f:") {
                    let put = words.next().unwrap().to_owned();
                    counted += count(words.next().unwrap().parse().unwrap());
                    assert_eq!(name, NAME);
                    listed.insert(put);
                } else if let Some(put) = field.strip_prefix("p:") {
                    counted += count(words.next().unwrap().parse().unwrap());
                    on_their_way.insert(put.to_owned());
                }
            }
            let prefix = run_prefix(&run.parse().unwrap(), &nonce.parse().unwrap());
            let kept = files(&folder.join(prefix));
            let bytes: u64 = kept.values().map(|bytes| count(*bytes)).sum();
            if charged < counted || charged < bytes || left <= 0 {
                wrong.push(format!(
                    "{key}: {charged} bytes are charged, for {counted} listed and {bytes} kept, for {left} ms"
                ));
            }
        }
        let told: BTreeMap<String, u64> =
            link.ask(&["HGETALL", "{cofferdam}:artifact_bytes"]).await;
        if told != of {
            wrong.push(format!("counted {told:?}, charged {of:?}"));
        }
        let kept = files(&folder);
        let bytes: u64 = kept.values().map(|bytes| count(*bytes)).sum();
        let charged = of.get("all").copied().unwrap_or(0);
        if bytes > charged {
            wrong.push(format!("{bytes} bytes are kept, {charged} charged"));
        }
        let put = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        let puts: BTreeSet<String> = kept.keys().map(put).collect();
        let missing = listed.difference(&puts);
        wrong.extend(missing.map(|put| format!("{put} is listed and not kept")));
        let not_listed = self.artifacts.keys().map(|key| put(&PathBuf::from(key)));
        let not_listed = not_listed.filter(|put| !listed.contains(put));
        wrong.extend(not_listed.map(|put| format!("{put} is in a result and not listed")));
        self.left_over = puts.difference(&listed).count();
        self.wrong.clone_from(&wrong);
        wrong
    }
}

fn count(bytes: u64) -> u64 {
    bytes.max(COUNTED_MIN_BYTES)
}

/// All files below a folder, with their sizes.
fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() != ".lock" {
                found.insert(entry.path(), metadata.len());
            }
        }
    }
    found
}
