//! What is left of a storm, counted from the outside: in Redis, at the provider, on the host.

use std::collections::{BTreeMap, HashMap, HashSet};

use redis::streams::{StreamId, StreamPendingReply, StreamRangeReply};
use serde_json::Value;

use crate::args::Args;
use crate::captured::Captured;
use crate::consume;
use crate::fleet::APPS;
use crate::link::Link;
use crate::neighbour;
use crate::produce::{Kept, Sent};

/// Entries read in one go.
const PAGE: usize = 2000;
/// Ids that are told of each kind.
const TOLD: usize = 20;

/// What went wrong, and how the runs ended.
#[derive(Debug, Default)]
pub(crate) struct Count {
    /// Accepted, and without a result; or no request, and not set aside as one.
    pub(crate) lost: Vec<String>,
    /// With more than one result, or set aside more than once.
    pub(crate) doubled: Vec<String>,
    /// Machines and processes that are left.
    pub(crate) leaked: Vec<String>,
    /// What is still open in Redis.
    pub(crate) stuck: Vec<String>,
    /// Caps that were passed.
    pub(crate) over: Vec<String>,
    /// Results by outcome and reason.
    pub(crate) outcomes: BTreeMap<String, usize>,
    /// Runs whose deadline passed, by how far they had come.
    pub(crate) deadlines: BTreeMap<String, usize>,
    /// Ids of all runs with a result.
    pub(crate) ended: HashSet<String>,
}

impl Count {
    /// Whether nothing went wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.faults().iter().all(|(_, found)| found.is_empty())
    }

    /// What went wrong, by kind.
    pub(crate) fn faults(&self) -> [(&'static str, &Vec<String>); 5] {
        [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("leaked", &self.leaked),
            ("stuck", &self.stuck),
            ("over a cap", &self.over),
        ]
    }

    /// `0 lost, 0 doubled, …`.
    pub(crate) fn line(&self) -> String {
        let parts = self
            .faults()
            .map(|(what, found)| format!("{} {what}", found.len()));
        parts.join(", ")
    }

    /// The same with the ids.
    pub(crate) fn evidence(&self) -> String {
        let mut text = String::new();
        for (what, found) in self.faults() {
            let told: Vec<_> = found.iter().take(TOLD).collect();
            if !told.is_empty() {
                text += &format!("{what} ({}): {told:#?}\n", found.len());
            }
        }
        text
    }

    /// Reads every result and everything that was set aside.
    pub(crate) async fn results(&mut self, link: &mut Link, sent: &Sent, captured: &mut Captured) {
        let mut entries: HashMap<String, usize> = HashMap::new();
        for entry in all(link, "{cofferdam}:results").await {
            let run: String = entry.get("run_id").unwrap();
            let result: String = entry.get("result").unwrap();
            let result: Value = serde_json::from_str(&result).unwrap();
            captured.result(&run, &result);
            let outcome = result["outcome"].as_str().unwrap_or("?");
            let how = match result["reason"]["code"].as_str() {
                Some(code) if code != outcome => format!("{outcome}:{code}"),
                _ => outcome.to_owned(),
            };
            if how == "timed_out:deadline" {
                *self.deadlines.entry(progress(&result)).or_default() += 1;
            }
            *self.outcomes.entry(how).or_default() += 1;
            *entries.entry(run).or_default() += 1;
        }
        let missing = |run: &&String| !entries.contains_key(*run);
        self.lost
            .extend(sent.accepted.iter().filter(missing).cloned());
        let twice = entries.iter().filter(|(_, count)| **count > 1);
        self.doubled.extend(twice.map(|(run, _)| run.clone()));
        self.ended = entries.into_keys().collect();
        self.set_aside(link, sent).await;
    }

    async fn set_aside(&mut self, link: &mut Link, sent: &Sent) {
        let mut garbage: HashSet<String> = HashSet::new();
        let mut sources: HashSet<String> = HashSet::new();
        for fields in bytes_of_all(link, "{cofferdam}:dead").await {
            let mut source = String::new();
            for (name, value) in fields {
                let value = value.strip_prefix(b"\xff").unwrap_or(&value);
                let value = String::from_utf8_lossy(value).into_owned();
                match name.as_slice() {
                    b"source_id" => source += &value,
                    b"source_stream" => source += &format!(" on {value}"),
                    b"reason" => {}
                    _ => drop(garbage.insert(value)),
                }
            }
            if !sources.insert(source.clone()) {
                self.doubled.push(format!("dead: {source}"));
            }
        }
        let missing = sent.garbage.difference(&garbage);
        self.lost
            .extend(missing.map(|text| format!("dead: {text}")));
    }

    /// Looks for what is still open.
    pub(crate) async fn open(&mut self, link: &mut Link) {
        for stream in ["{cofferdam}:runs", "{cofferdam}:control"] {
            let length: usize = link.ask(&["XLEN", stream]).await;
            self.unless_zero(&format!("{stream}: entries"), length);
            let pending: StreamPendingReply = link.ask(&["XPENDING", stream, "cofferdam"]).await;
            self.unless_zero(&format!("{stream}: pending"), pending.count());
        }
        let group = consume::GROUP;
        let pending: StreamPendingReply =
            link.ask(&["XPENDING", "{cofferdam}:results", group]).await;
        self.unless_zero("{cofferdam}:results: pending", pending.count());
        for key in ["due", "tenants", "parked", "delayed"] {
            let key = format!("{{cofferdam}}:{key}");
            let members: Vec<String> = link.ask(&["ZRANGE", &key, "0", "-1"]).await;
            self.stuck
                .extend(members.iter().map(|member| format!("{key}: {member}")));
        }
        for app in APPS.split(',') {
            let key = format!("{{cofferdam}}:inflight:{app}");
            let runs: Vec<String> = link.ask(&["HKEYS", &key]).await;
            self.stuck
                .extend(runs.iter().map(|run| format!("{key}: {run}")));
        }
        self.runs(link).await;
    }

    /// Every run must be closed, and forgotten some day.
    async fn runs(&mut self, link: &mut Link) {
        let ids: Vec<String> = self.ended.iter().cloned().collect();
        for page in ids.chunks(PAGE) {
            let mut pipe = redis::pipe();
            for id in page {
                let key = format!("{{cofferdam}}:run:{id}");
                pipe.cmd("HGET").arg(&key).arg("state");
                pipe.cmd("PTTL").arg(&key);
            }
            let answers: Vec<redis::Value> = link.surely(&pipe).await;
            for (id, answer) in page.iter().zip(answers.chunks(2)) {
                let state: Option<String> = redis::from_redis_value(answer[0].clone()).unwrap();
                let left: i64 = redis::from_redis_value(answer[1].clone()).unwrap();
                if state.as_deref() != Some("closed") || left <= 0 {
                    let state = state.unwrap_or_default();
                    self.stuck
                        .push(format!("{id}: {state:?}, forgotten in {left} ms"));
                }
            }
        }
    }

    fn unless_zero(&mut self, what: &str, found: usize) {
        if found > 0 {
            self.stuck.push(format!("{what}: {found}"));
        }
    }

    /// Compares the most machines that there were at once with what was allowed.
    pub(crate) fn caps(&mut self, args: &Args, most: usize, most_of_tenant: usize, forgot: usize) {
        // What Redis forgot takes no place, and has its machines until their deadlines.
        let at_once = 1 + forgot;
        let cap = args.cap * at_once + neighbour::CAP;
        if most > cap {
            self.over
                .push(format!("{most} machines where {cap} may be"));
        }
        // The other installation's runs look like the first tenant's.
        let cap = args.tenant_cap * at_once + neighbour::CAP;
        if most_of_tenant > cap {
            self.over.push(format!(
                "{most_of_tenant} machines of a tenant where {cap} may be"
            ));
        }
    }
}

/// How far a run had come.
fn progress(result: &Value) -> String {
    let state = match &result["running_at_ms"] {
        Value::Null => "booting",
        _ => "running",
    };
    format!("{state} in attempt {}", result["attempts"])
}

/// Whether nothing is left to be done, at a glance.
pub(crate) async fn is_quiet(link: &mut Link) -> bool {
    let runs: usize = link.ask(&["XLEN", "{cofferdam}:runs"]).await;
    let control: usize = link.ask(&["XLEN", "{cofferdam}:control"]).await;
    let due: usize = link.ask(&["ZCARD", "{cofferdam}:due"]).await;
    runs + control + due == 0
}

/// Which runs Redis has: unread, under way and ended. What is not there yet when it is looked for
/// comes later in this order.
pub(crate) async fn kept(link: &mut Link) -> Kept {
    let mut kept = Kept::default();
    for stream in [
        "{cofferdam}:runs",
        "{cofferdam}:control",
        "{cofferdam}:dead",
    ] {
        for (entry, fields) in entries(link, stream).await {
            for (name, value) in fields {
                let value = value.strip_prefix(b"\xff").unwrap_or(&value);
                let text = String::from_utf8_lossy(value).into_owned();
                match serde_json::from_str::<Value>(&text) {
                    Ok(request) if name == b"run" && stream == "{cofferdam}:runs" => {
                        let id = request["id"].as_str().map(str::to_owned);
                        kept.runs.insert(id.unwrap_or_else(|| entry.clone()));
                    }
                    _ => drop(kept.garbage.insert(text)),
                }
            }
        }
    }
    let mut cursor = "0".to_owned();
    loop {
        let words = [
            "SCAN",
            &cursor,
            "MATCH",
            "{cofferdam}:run:*",
            "COUNT",
            "1000",
        ];
        let (next, keys): (String, Vec<String>) = link.ask(&words).await;
        let ids = keys
            .iter()
            .filter_map(|key| key.strip_prefix("{cofferdam}:run:"));
        kept.runs.extend(ids.map(str::to_owned));
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    for entry in all(link, "{cofferdam}:results").await {
        kept.runs.insert(entry.get("run_id").unwrap());
    }
    kept
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The fields of every entry, which need not be text.
async fn bytes_of_all(link: &mut Link, stream: &str) -> Vec<Fields> {
    let entries = entries(link, stream).await;
    entries.into_iter().map(|(_, fields)| fields).collect()
}

/// Every entry, with its id.
async fn entries(link: &mut Link, stream: &str) -> Vec<(String, Fields)> {
    let mut found: Vec<(String, Fields)> = Vec::new();
    loop {
        let from = found
            .last()
            .map_or_else(|| "-".to_owned(), |(last, _)| format!("({last}"));
        let count = PAGE.to_string();
        let page: Vec<(String, Vec<Vec<u8>>)> = link
            .ask(&["XRANGE", stream, &from, "+", "COUNT", &count])
            .await;
        if page.is_empty() {
            return found;
        }
        found.extend(page.into_iter().map(|(id, words)| {
            let pairs = words
                .chunks(2)
                .map(|pair| (pair[0].clone(), pair[1].clone()));
            (id, pairs.collect())
        }));
    }
}

async fn all(link: &mut Link, stream: &str) -> Vec<StreamId> {
    let mut found: Vec<StreamId> = Vec::new();
    loop {
        let from = found
            .last()
            .map_or_else(|| "-".to_owned(), |last| format!("({}", last.id));
        let count = PAGE.to_string();
        let page: StreamRangeReply = link
            .ask(&["XRANGE", stream, &from, "+", "COUNT", &count])
            .await;
        if page.ids.is_empty() {
            return found;
        }
        found.extend(page.ids);
    }
}
