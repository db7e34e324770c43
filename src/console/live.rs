//! Live pages: server-sent events. Whoever looks at the same page in the same role shares one reading of
//! it a second, so what Redis is asked does not grow with those who look.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use hyper::Response;
use hyper::StatusCode;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::config::ConsoleRole;
use crate::console::page::Page;
use crate::console::serve::Console;
use crate::http::reply;
use crate::shutdown::Shutdown;

/// Streams at once.
const STREAMS_MAX: usize = 1000;
/// Pages at once that are looked at, each in one role.
const TOPICS_MAX: usize = 64;
/// Pages that are read at the same time.
const READS_AT_ONCE: usize = 4;
/// Between two readings of a page.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long nothing is sent, so that who has gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Bytes of one event; what is longer is not kept live.
const EVENT_MAX_BYTES: usize = 512 * 1024;

/// What is looked at.
pub(super) struct Live {
    topics: Arc<Mutex<HashMap<String, watch::Sender<Bytes>>>>,
    streams: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    shutdown: Mutex<Option<Shutdown>>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            topics: Arc::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
            shutdown: Mutex::default(),
        }
    }
}

type Events = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// The body of an answer: whole, or events without an end.
pub(super) enum LiveBody {
    Whole(reply::Body),
    Events(Events),
}

impl From<reply::Body> for LiveBody {
    fn from(whole: reply::Body) -> Self {
        Self::Whole(whole)
    }
}

impl HttpBody for LiveBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(cx),
            Self::Events(events) => events
                .as_mut()
                .poll_next(cx)
                .map(|event| event.map(|event| Ok(Frame::data(event)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// One who looks.
struct Looking {
    events: watch::Receiver<Bytes>,
    ended: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Live {
    /// Streams end when this shutdown begins: it waits for open answers.
    pub(super) fn ends_with(&self, shutdown: Shutdown) {
        *self.shutdown.lock().unwrap_or_else(PoisonError::into_inner) = Some(shutdown);
    }

    /// The end of the process, while the console is served.
    pub(super) fn shutdown(&self) -> Option<Shutdown> {
        self.shutdown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A stream of what a page shows, whenever it changes.
    pub(super) fn subscribe(
        &self,
        console: &Arc<Console>,
        page: Page,
        topic: String,
        role: ConsoleRole,
    ) -> Response<LiveBody> {
        let Ok(permit) = self.streams.clone().try_acquire_owned() else {
            return full("as many look as may");
        };
        let Some(events) = self.topic(console, page, topic, role) else {
            return full("as many pages are looked at as may");
        };
        let Some(shutdown) = self.shutdown() else {
            return full("the console is not served");
        };
        let ended = shutdown.quiet().clone();
        let looking = Looking {
            events,
            ended,
            _permit: permit,
        };
        let events: Events = Box::pin(stream::unfold(looking, next));
        let mut response = Response::new(LiveBody::Events(events));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        // Proxies that collect answers would keep the events.
        headers.insert(
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        );
        response
    }

    fn topic(
        &self,
        console: &Arc<Console>,
        page: Page,
        topic: String,
        role: ConsoleRole,
    ) -> Option<watch::Receiver<Bytes>> {
        let name = format!("{role:?} {topic}");
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = topics.get(&name) {
            let mut receiver = sender.subscribe();
            receiver.mark_changed();
            return Some(receiver);
        }
        if topics.len() >= TOPICS_MAX {
            return None;
        }
        let shutdown = self.shutdown()?;
        let (sender, receiver) = watch::channel(Bytes::new());
        topics.insert(name.clone(), sender);
        let watched = Watched {
            console: console.clone(),
            topics: self.topics.clone(),
            reads: self.reads.clone(),
            ended: shutdown.quiet().clone(),
            name,
            page,
            topic,
            role,
        };
        shutdown.spawn(Box::pin(watched.keep()));
        Some(receiver)
    }
}

/// A page that somebody looks at.
struct Watched {
    console: Arc<Console>,
    topics: Arc<Mutex<HashMap<String, watch::Sender<Bytes>>>>,
    reads: Arc<Semaphore>,
    ended: CancellationToken,
    name: String,
    page: Page,
    topic: String,
    role: ConsoleRole,
}

impl Watched {
    /// Reads the page again and again, for as long as somebody looks.
    async fn keep(self) {
        let mut last = String::new();
        loop {
            let permit = self.reads.acquire().await;
            let rendered = self
                .console
                .rendered(&self.page, &self.topic, self.role, "")
                .await;
            drop(permit);
            let shown = rendered.live.into_string();
            {
                let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(sender) = topics.get(&self.name) else {
                    return;
                };
                // Under the lock, so that nobody begins to look in between.
                if sender.receiver_count() == 0 {
                    topics.remove(&self.name);
                    return;
                }
                let told = without_times(&shown);
                if told != last && shown.len() <= EVENT_MAX_BYTES {
                    sender.send_replace(event(&shown));
                    last = told;
                }
            }
            let pause = tokio::time::sleep(INTERVAL);
            if self.ended.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }
}

/// The next event, or a comment when there is none for long.
async fn next(mut looking: Looking) -> Option<(Bytes, Looking)> {
    const COMMENT: &[u8] = b": here\n\n";
    let ended = looking.ended.clone();
    let changed = async {
        loop {
            // What is there already is sent at once.
            if !looking.events.borrow().is_empty() && looking.events.has_changed().unwrap_or(false)
            {
                return Some(looking.events.borrow_and_update().clone());
            }
            match tokio::time::timeout(KEEP_ALIVE, looking.events.changed()).await {
                Ok(Ok(())) => {
                    let event = looking.events.borrow_and_update().clone();
                    if !event.is_empty() {
                        return Some(event);
                    }
                }
                Ok(Err(_)) => return None,
                Err(_) => return Some(Bytes::from_static(COMMENT)),
            }
        }
    };
    let event = ended.run_until_cancelled(changed).await??;
    Some((event, looking))
}

/// What a page tells, apart from how long ago something was: that moves on by itself, and the script
/// counts it.
fn without_times(shown: &str) -> String {
    let mut told = String::with_capacity(shown.len());
    let mut parts = shown.split("<time");
    told.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (_, rest) = part.split_once("</time>").unwrap_or_default();
        told.push_str(rest);
    }
    told
}

fn event(shown: &str) -> Bytes {
    let mut event = String::with_capacity(shown.len() + 16);
    for line in shown.split('\n') {
        event.push_str("data: ");
        event.push_str(line);
        event.push('\n');
    }
    event.push('\n');
    Bytes::from(event)
}

fn full(why: &str) -> Response<LiveBody> {
    let mut response = reply::text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n"));
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("10"));
    response.map(LiveBody::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_several_lines_comes_whole() {
        assert_eq!(event("a\nb"), "data: a\ndata: b\n\n");
        assert_eq!(event(""), "data: \n\n");
    }

    #[test]
    fn time_that_goes_on_is_no_news() {
        let at = |ago: &str| format!("<p>a <time datetime=\"1\">{ago}</time> b</p><time>x</time>");
        assert_eq!(without_times(&at("1 s ago")), without_times(&at("2 s ago")));
        assert_eq!(without_times(&at("")), "<p>a  b</p>");
    }
}
