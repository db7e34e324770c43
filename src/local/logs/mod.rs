//! What machines write to standard output and standard error: bounded for each machine, kept for
//! a bounded number of destroyed ones, read in the shape of the real service's logs.

mod ring;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;

use crate::clock::UnixMs;
use crate::local::logs::ring::{Line, Ring};
use crate::local::refusal::Refusal;
use crate::local::stamp;
use crate::machines::wire::{LogAttributes, LogEntry, LogMeta, LogPage, Rest};

pub(crate) use self::ring::Stream;

/// Lines in one page, as on the real service.
const PAGE_LINES: usize = 100;

/// The logs of all machines.
#[derive(Debug)]
pub(crate) struct Logs {
    shelf: Mutex<Shelf>,
    sequence: Arc<AtomicU64>,
    /// Destroyed machines whose logs are kept.
    max_retired: usize,
}

#[derive(Debug, Default)]
struct Shelf {
    logs: HashMap<String, Log>,
    by_app: HashMap<String, BTreeSet<String>>,
    retired: VecDeque<String>,
}

/// The log of one machine. Clones write to one log.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    app: Arc<str>,
    region: Arc<str>,
    ring: Arc<Mutex<Ring>>,
    sequence: Arc<AtomicU64>,
}

impl Log {
    /// Takes in what the machine wrote.
    pub(crate) fn write(&self, stream: Stream, bytes: &[u8], now: UnixMs) {
        locked(&self.ring).write(stream, bytes, now, || next(&self.sequence));
    }

    /// Ends the lines that were begun.
    pub(crate) fn close(&self, now: UnixMs) {
        locked(&self.ring).close(now, || next(&self.sequence));
    }
}

impl Logs {
    /// No logs yet; of destroyed machines the last `max_retired` will be kept.
    pub(crate) fn new(max_retired: usize) -> Self {
        Self {
            shelf: Mutex::default(),
            sequence: Arc::default(),
            max_retired,
        }
    }

    /// The log of a machine, begun or continued.
    pub(crate) fn open(&self, app: &str, id: &str, region: &str) -> Log {
        let mut shelf = locked(&self.shelf);
        if let Some(log) = shelf.logs.get(id) {
            return log.clone();
        }
        let log = Log {
            app: app.into(),
            region: region.into(),
            ring: Arc::default(),
            sequence: Arc::clone(&self.sequence),
        };
        shelf.logs.insert(id.to_owned(), log.clone());
        let of_app = shelf.by_app.entry(app.to_owned()).or_default();
        of_app.insert(id.to_owned());
        log
    }

    /// The machine is destroyed: its log is kept as long as there is room among the retired.
    pub(crate) fn retire(&self, id: &str) {
        let mut shelf = locked(&self.shelf);
        if !shelf.logs.contains_key(id) || shelf.retired.iter().any(|other| other == id) {
            return;
        }
        shelf.retired.push_back(id.to_owned());
        while shelf.retired.len() > self.max_retired {
            let Some(oldest) = shelf.retired.pop_front() else {
                return;
            };
            shelf.drop_log(&oldest);
        }
    }

    /// A page of an app's lines, oldest first.
    ///
    /// # Errors
    /// 400 for a token that is none of ours.
    pub(crate) fn page(
        &self,
        app: &str,
        instance: Option<&str>,
        next_token: Option<&str>,
    ) -> Result<LogPage, Refusal> {
        let after = match next_token.map(str::parse::<u64>) {
            None => 0,
            Some(Ok(after)) => after,
            Some(Err(_)) => return Err(Refusal::invalid("invalid next_token")),
        };
        let mut lines = Vec::new();
        for (id, log) in self.of(app, instance) {
            let found = locked(&log.ring).after(after, PAGE_LINES);
            lines.extend(
                found
                    .into_iter()
                    .map(|line| (line, id.clone(), log.clone())),
            );
        }
        lines.sort_by_key(|(line, ..)| line.sequence);
        lines.truncate(PAGE_LINES);
        let last = lines.last().map_or(after, |(line, ..)| line.sequence);
        let data = lines
            .iter()
            .map(|(line, id, log)| entry(line, id, log))
            .collect();
        Ok(LogPage {
            data,
            meta: LogMeta {
                next_token: Some(last.to_string()),
            },
        })
    }

    fn of(&self, app: &str, instance: Option<&str>) -> Vec<(String, Log)> {
        let shelf = locked(&self.shelf);
        let pair = |id: &String| Some((id.clone(), shelf.logs.get(id)?.clone()));
        match instance {
            Some(id) => pair(&id.to_owned())
                .filter(|(_, log)| &*log.app == app)
                .into_iter()
                .collect(),
            None => {
                let of_app = shelf.by_app.get(app).into_iter().flatten();
                of_app.filter_map(pair).collect()
            }
        }
    }
}

impl Shelf {
    fn drop_log(&mut self, id: &str) {
        let Some(log) = self.logs.remove(id) else {
            return;
        };
        if let Some(of_app) = self.by_app.get_mut(&*log.app) {
            of_app.remove(id);
            if of_app.is_empty() {
                self.by_app.remove(&*log.app);
            }
        }
    }
}

fn entry(line: &Line, id: &str, log: &Log) -> LogEntry {
    let mut meta = Rest::default();
    let stream = line.stream.map(Stream::as_str);
    meta.0
        .insert("event".to_owned(), json!({ "provider": "app" }));
    meta.0.insert("stream".to_owned(), json!(stream));
    LogEntry {
        id: line.sequence.to_string(),
        kind: "log".to_owned(),
        attributes: LogAttributes {
            timestamp: stamp::millis(line.at_ms),
            message: line.text.clone(),
            level: if stream.is_some() { "info" } else { "warning" }.to_owned(),
            instance: id.to_owned(),
            region: log.region.to_string(),
            meta,
        },
    }
}

fn next(sequence: &AtomicU64) -> u64 {
    sequence.fetch_add(1, Ordering::Relaxed) + 1
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A half-written line after a panic is better than no log.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(logs: &Logs, app: &str, instance: Option<&str>) -> Vec<String> {
        let page = logs.page(app, instance, None).expect("no token");
        page.data
            .into_iter()
            .map(|e| e.attributes.message)
            .collect()
    }

    #[test]
    fn lines_of_an_app_come_in_the_order_of_writing() {
        let logs = Logs::new(10);
        let (one, two) = (logs.open("a", "m1", "local"), logs.open("a", "m2", "local"));
        logs.open("b", "m3", "local")
            .write(Stream::Stdout, b"other\n", 0);
        one.write(Stream::Stdout, b"1\n", 0);
        two.write(Stream::Stderr, b"2\n", 0);
        one.write(Stream::Stdout, b"3\n", 0);
        assert_eq!(messages(&logs, "a", None), ["1", "2", "3"]);
        assert_eq!(messages(&logs, "a", Some("m1")), ["1", "3"]);
        assert!(messages(&logs, "b", Some("m1")).is_empty());
        assert!(logs.page("a", None, Some("x")).is_err());
    }

    #[test]
    fn pages_go_on_after_their_token() {
        let logs = Logs::new(10);
        let log = logs.open("a", "m1", "local");
        for n in 0..250 {
            log.write(Stream::Stdout, format!("{n}\n").as_bytes(), 0);
        }
        let mut token = None;
        let mut lengths = Vec::new();
        for _ in 0..4 {
            let page = logs.page("a", None, token.as_deref()).expect("our token");
            lengths.push(page.data.len());
            token = page.meta.next_token;
        }
        assert_eq!(lengths, [100, 100, 50, 0]);
    }

    #[test]
    fn only_the_last_destroyed_machines_keep_their_logs() {
        let logs = Logs::new(2);
        for id in ["m1", "m2", "m3"] {
            let log = logs.open("a", id, "local");
            log.write(Stream::Stdout, b"x", 0);
            log.close(0);
            logs.retire(id);
            logs.retire(id);
        }
        assert!(messages(&logs, "a", Some("m1")).is_empty());
        assert_eq!(messages(&logs, "a", None).len(), 2);
        assert_eq!(locked(&logs.shelf).by_app.len(), 1);
    }
}
