//! Output as it comes, posted by one thread in the order in which it was read.
//!
//! What comes in while a post is on its way goes with the next one. Nothing here delays the command or
//! its result: output that the endpoint is too slow for, or refuses, is counted and left out.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::Client;
use crate::job::Job;
use crate::output::Stream;

/// Bytes of one post.
const POST_BYTES: usize = 64 << 10;
/// Bytes that wait to be posted; more are left out.
const WAITING_BYTES: usize = 1 << 20;
/// Between one post and the next, unless one is full already.
const PAUSE: Duration = Duration::from_millis(20);
/// One post.
const POST_TIMEOUT: Duration = Duration::from_secs(5);
/// After a post that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Stream, Vec<u8>)>,
    bytes: usize,
    /// Left out since the last post.
    dropped: u64,
    /// Nothing more comes.
    is_closed: bool,
    /// Everything that could be was posted, or posting is refused for good.
    is_done: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// Where the readers put what they read.
#[derive(Clone, Debug)]
pub(crate) struct Sender(Arc<Shared>);

/// The thread that posts.
#[derive(Debug)]
pub(crate) struct Live(Arc<Shared>);

impl Live {
    /// Starts posting, if there is where to.
    pub(crate) fn start(job: &Job) -> Self {
        let shared = Arc::new(Shared::default());
        match &job.log_url {
            None => shared.lock().is_done = true,
            Some(url) => {
                let (url, token) = (url.clone(), job.token.clone());
                let shared = Arc::clone(&shared);
                thread::spawn(move || post_all(&shared, &url, &token));
            }
        }
        Self(shared)
    }

    /// For a reader.
    pub(crate) fn sender(&self) -> Sender {
        Sender(Arc::clone(&self.0))
    }

    /// Waits until all is posted, no longer than `most`.
    pub(crate) fn finish(&self, most: Duration) {
        let until = Instant::now() + most;
        let mut queue = self.0.lock();
        queue.is_closed = true;
        self.0.changed.notify_all();
        while !queue.is_done {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Sender {
    /// Takes what was read, if there is room for it.
    pub(crate) fn send(&self, stream: Stream, bytes: &[u8]) {
        let mut queue = self.0.lock();
        if queue.is_done {
            return;
        }
        if queue.bytes + bytes.len() > WAITING_BYTES {
            let dropped = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            queue.dropped = queue.dropped.saturating_add(dropped);
            return;
        }
        queue.bytes += bytes.len();
        match queue.waiting.back_mut() {
            Some((last, text)) if *last == stream && text.len() + bytes.len() <= POST_BYTES => {
                text.extend_from_slice(bytes);
            }
            _ => queue.waiting.push_back((stream, bytes.to_vec())),
        }
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next post's stream, text and what was left out before it; `None` at the end.
    fn next(&self) -> Option<(Stream, Vec<u8>, u64)> {
        let mut queue = self.lock();
        loop {
            if let Some((stream, text)) = queue.waiting.pop_front() {
                queue.bytes -= text.len();
                let dropped = std::mem::take(&mut queue.dropped);
                return Some((stream, text, dropped));
            }
            if queue.is_closed {
                return None;
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self) {
        let mut queue = self.lock();
        queue.is_done = true;
        queue.waiting.clear();
        queue.bytes = 0;
        self.changed.notify_all();
    }

    /// Waits for more to post with the next, unless there is enough or the end comes.
    fn pause(&self) {
        self.wait(PAUSE, |queue| queue.is_closed || queue.bytes >= POST_BYTES);
    }

    /// Waits after a post that was not taken, unless the end comes.
    fn back_off(&self) {
        self.wait(FAILED_PAUSE, |queue| queue.is_closed);
    }

    fn wait(&self, length: Duration, is_over: impl Fn(&Queue) -> bool) {
        let until = Instant::now() + length;
        let mut queue = self.lock();
        while !is_over(&queue) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Posts why there will be no result, once, for whoever reads the run's log.
pub(crate) fn tell_failure(why: &str) {
    let variable = |name| std::env::var(name).ok();
    let (Some(url), Some(token)) = (variable("SANDBOX_LOG_URL"), variable("SANDBOX_RUN_TOKEN"))
    else {
        return;
    };
    let text = format!("cofferdam-guest: {why}\n");
    let url = format!("{url}?stream=stderr");
    let _ = Client::new(&token).send("POST", &url, "text/plain", text.as_bytes(), POST_TIMEOUT);
}

fn post_all(shared: &Shared, url: &str, token: &str) {
    let mut client = Client::new(token);
    while let Some((stream, text, dropped)) = shared.next() {
        let url = format!("{url}?stream={}&dropped={dropped}", stream.as_str());
        match client.send("POST", &url, "text/plain", &text, POST_TIMEOUT) {
            Ok(answer) if answer.status < 300 => shared.pause(),
            // Too much, or too busy: what comes next may be taken.
            Ok(answer) if matches!(answer.status, 413 | 429 | 500..) => shared.back_off(),
            // The token is spent, or the endpoint has no such path.
            Ok(_) => break,
            Err(_) => shared.back_off(),
        }
    }
    shared.done();
}
