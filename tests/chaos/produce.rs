//! The producer: puts the plan's requests and orders on their streams.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use cofferdam::clock::Clock;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::captured;
use crate::link::Link;
use crate::plan::{Plan, Request, Shape, tenant_name};

/// Entries sent in one go.
const BATCH: usize = 20;

/// The tenant of requests without an id.
pub(crate) const NAMELESS: &str = "nameless";

/// What is known of the work, to all who take part.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Requests that were sent.
    pub(crate) sent: Cell<usize>,
    /// Runs whose results were read.
    pub(crate) ended: Cell<usize>,
    /// Ids of these runs.
    pub(crate) read: RefCell<HashSet<String>>,
    /// Runs that Redis forgot before they ended.
    pub(crate) forgotten: Cell<usize>,
    /// Whether the producer is to wait, and whether it does.
    pub(crate) hold: Cell<bool>,
    pub(crate) is_held: Cell<bool>,
    /// What Redis still has, when it forgot the rest.
    pub(crate) kept: RefCell<Option<Kept>>,
    /// Whether the producer has sent everything.
    pub(crate) all_sent: Cell<bool>,
    /// Whether all runs of the other installation have ended.
    pub(crate) neighbour_is_quiet: Cell<bool>,
    /// Whether everybody should stop.
    pub(crate) is_over: Cell<bool>,
    /// What Redis's `maxmemory` is to be, where that is still to be told.
    pub(crate) maxmemory: Cell<Option<&'static str>>,
    /// Orders for the control stream that are still to be sent.
    pub(crate) orders: RefCell<Vec<(String, String)>>,
}

/// What Redis has, by ids and marks.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) runs: HashSet<String>,
    pub(crate) garbage: HashSet<String>,
}

/// What the provider owes a result for, and what it does not.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Ids of runs that must end, each once.
    pub(crate) accepted: HashSet<String>,
    /// Marks of the entries that are no request.
    pub(crate) garbage: HashSet<String>,
    pub(crate) cancels: usize,
    pub(crate) repeats: usize,
}

impl Progress {
    /// Runs that have ended or are forgotten.
    pub(crate) fn over(&self) -> usize {
        self.ended.get() + self.forgotten.get()
    }

    /// Waits while the producer must, and takes note of what Redis forgot meanwhile.
    async fn wait_while_held(&self, sent: &mut Sent) {
        while self.hold.get() {
            self.is_held.set(true);
            sleep(Duration::from_millis(5)).await;
        }
        self.is_held.set(false);
        let Some(kept) = self.kept.take() else { return };
        let read = self.read.borrow();
        let gone = sent.accepted.difference(&kept.runs);
        let forgotten = gone.filter(|run| !read.contains(*run)).count();
        self.forgotten.set(self.forgotten.get() + forgotten);
        sent.accepted = kept.runs;
        sent.garbage.retain(|mark| kept.garbage.contains(mark));
    }
}

/// The id of a request that has one.
fn id(n: usize, request: &Request) -> String {
    format!("{}-{n}", tenant_name(request.tenant))
}

fn body(n: usize, request: &Request) -> String {
    let mut body = json!({
        "tenant": tenant_name(request.tenant),
        "priority": request.priority,
        "metadata": {"n": n},
        "cmd": ["sh", "-c", request.guest],
        "env": {"STORM": format!("of-{}", std::process::id())},
    });
    if request.guest == captured::COMMAND {
        captured::ask(&mut body, n);
    }
    match request.shape {
        Shape::Named => body["id"] = id(n, request).into(),
        Shape::Nameless => body["tenant"] = NAMELESS.into(),
        Shape::Unsound => {
            body["id"] = id(n, request).into();
            body["priority"] = 10.into();
        }
        Shape::Garbage(_) => return format!("garbage {n}"),
    }
    if request.input_bytes > 0 {
        body["input"] = "x".repeat(request.input_bytes).into();
    }
    if request.is_hostile {
        body["env"]["SIMULATED_GUEST"] = "hostile".into();
    }
    if let Some(delay) = request.delay_ms {
        body["not_before_ms"] = (Clock::system().now_ms() + delay).into();
    }
    if let Some(ttl) = request.queue_ttl_s {
        body["queue_ttl_s"] = ttl.into();
    }
    if let Some(timeout) = request.timeout_s {
        body["timeout_s"] = timeout.into();
    }
    body.to_string()
}

/// Sends everything, never too far ahead of the results.
pub(crate) async fn produce(plan: Rc<Plan>, mut link: Link, progress: Rc<Progress>) -> Sent {
    let mut sent = Sent::default();
    // What is to be sent along with later requests.
    let mut later: BTreeMap<usize, Vec<(&str, &str, String)>> = BTreeMap::new();
    for first in (0..plan.requests.len()).step_by(BATCH) {
        while first > progress.over() + sent.garbage.len() + plan.ahead && !progress.is_over.get() {
            progress.wait_while_held(&mut sent).await;
            give_orders(&mut link, &progress).await;
            sleep(Duration::from_millis(20)).await;
        }
        progress.wait_while_held(&mut sent).await;
        let last = plan.requests.len().min(first + BATCH);
        let mut entries = Vec::new();
        for n in first..last {
            let request = &plan.requests[n];
            let text = body(n, request);
            if let Some(after) = request.again_after {
                let again = ("runs", "run", text.clone());
                later.entry(n + after).or_default().push(again);
            }
            if let (Some(after), Shape::Named) = (request.cancel_after, request.shape) {
                let cancel = ("control", "cancel", id(n, request));
                later.entry(n + after).or_default().push(cancel);
            }
            entries.push((Some(n), ("runs", "run", text)));
            let now = later.remove(&n).into_iter().flatten();
            entries.extend(now.map(|extra| (None, extra)));
        }
        send(&plan, &entries, &mut link, &mut sent).await;
        progress.sent.set(last);
        give_orders(&mut link, &progress).await;
    }
    let rest = later.into_values().flatten().map(|extra| (None, extra));
    send(&plan, &rest.collect::<Vec<_>>(), &mut link, &mut sent).await;
    progress.all_sent.set(true);
    while !progress.is_over.get() {
        progress.wait_while_held(&mut sent).await;
        give_orders(&mut link, &progress).await;
        sleep(Duration::from_millis(20)).await;
    }
    sent
}

type Entry = (Option<usize>, (&'static str, &'static str, String));

async fn send(plan: &Plan, entries: &[Entry], link: &mut Link, sent: &mut Sent) {
    if entries.is_empty() {
        return;
    }
    let mut pipe = redis::pipe();
    for (n, (stream, field, value)) in entries {
        let (stream, field, value) = match n.map(|n| plan.requests[n].shape) {
            Some(Shape::Garbage(way)) => garbage(way, value),
            _ => (*stream, field.as_bytes(), value.clone().into_bytes()),
        };
        let stream = format!("{{cofferdam}}:{stream}");
        pipe.cmd("XADD").arg(stream).arg("*").arg(field).arg(value);
    }
    let ids: Vec<String> = link.surely(&pipe).await;
    for ((n, (stream, _, value)), entry) in entries.iter().zip(ids) {
        let Some(n) = n else {
            match *stream {
                "control" => sent.cancels += 1,
                _ => sent.repeats += 1,
            }
            // A request without an id is another run each time, and one with an id is if Redis has
            // forgotten the first.
            if *stream == "runs"
                && let Ok(request) = serde_json::from_str::<Value>(value)
            {
                let id = request["id"].as_str().map(str::to_owned);
                sent.accepted.insert(id.unwrap_or(entry));
            }
            continue;
        };
        let request = &plan.requests[*n];
        match request.shape {
            Shape::Named | Shape::Unsound => sent.accepted.insert(id(*n, request)),
            Shape::Nameless => sent.accepted.insert(entry),
            Shape::Garbage(_) => sent.garbage.insert(value.clone()),
        };
    }
}

/// Where an entry that is no request goes, and what stands in it.
fn garbage(way: usize, mark: &str) -> (&'static str, &'static [u8], Vec<u8>) {
    let mark = mark.as_bytes();
    match way {
        0 => ("runs", b"run", mark.to_vec()),
        1 => ("runs", b"\xff", mark.to_vec()),
        2 => ("runs", b"run", [b"\xff", mark].concat()),
        _ => ("control", b"\xff", mark.to_vec()),
    }
}

async fn give_orders(link: &mut Link, progress: &Progress) {
    let orders: Vec<_> = progress.orders.borrow_mut().drain(..).collect();
    if orders.is_empty() {
        return;
    }
    let mut pipe = redis::pipe();
    for (word, value) in &orders {
        pipe.cmd("XADD")
            .arg("{cofferdam}:control")
            .arg("*")
            .arg(word)
            .arg(value);
    }
    link.surely::<Vec<String>>(&pipe).await;
}
