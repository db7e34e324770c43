//! Waiting for results: new ones are read from the stream, earlier ones are looked up by run.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use crate::cli::human;
use crate::cli::live_log::LiveLog;
use crate::cli::output::{Output, Tone};
use crate::cli::progress::Line;
use crate::cli::timeout::OutageTimeout;
use crate::cli::view;
use crate::clock::Clock;
use crate::run::id::RunId;
use crate::store::inspect::{Published, Results};
use crate::store::{Error, Store};

/// Between two reads of a run that is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long one read of the results stream waits.
const BLOCK: Duration = Duration::from_secs(1);

/// After this long without a worker admitting the request, a note says so.
const UNREAD: Duration = Duration::from_secs(5);

/// Waits until the run has a result, showing its phases until its output comes, and then that.
pub(crate) async fn for_one(
    store: &Store,
    id: &RunId,
    bound: Option<Duration>,
    live: &mut LiveLog,
    out: &mut Output,
) -> anyhow::Result<Published> {
    let mut line = Some(Line::new());
    let begun = Instant::now();
    let clock = Clock::system();
    let mut outage = OutageTimeout::default();
    let mut was_noted = false;
    loop {
        let Some(view) = outage.allow(store.record(id).await).await? else {
            continue;
        };
        if let Some(view) = view.as_ref().filter(|view| view.outcome.is_some()) {
            match outage.allow(store.result_of(view).await).await? {
                Some(Some(found)) => return Ok(found),
                Some(None) => bail!("run {id} has ended, but its result has left its stream"),
                None => {}
            }
        }
        if bound.is_some_and(|bound| begun.elapsed() >= bound) {
            bail!(
                "run {id} has no result after {}; it goes on",
                human::duration(begun.elapsed())
            );
        }
        if let Some(line) = &line {
            match &view {
                Some(view) => line.show(&view::phases(view, clock.now_ms())),
                None => line.show(&[("sent", begun.elapsed())]),
            }
        }
        if view.is_none() && !was_noted && begun.elapsed() >= UNREAD {
            was_noted = true;
            let text = "no worker has taken the request yet; is one running?";
            let text = out.paint_note(Tone::Notice, text);
            match &line {
                Some(line) => line.beside(|| out.note(&text))?,
                None => out.note(&text)?,
            }
        }
        let until = Instant::now() + POLL_INTERVAL;
        while let Some(piece) = live.next(until).await {
            line = None;
            live.print(out, piece)?;
        }
    }
}

/// Collects the results of many runs.
#[derive(Debug)]
pub(super) struct Gathering {
    store: Store,
    results: Results,
    /// Runs without a result so far, and how often each was submitted.
    open: HashMap<RunId, usize>,
    outage: OutageTimeout,
}

impl Gathering {
    /// Begins at the end of the results stream; to be called before the requests are sent.
    pub(super) async fn begin(store: &Store) -> Result<Self, Error> {
        let position = store.end_of_results().await?;
        Ok(Self {
            results: store.results_after(position),
            store: store.clone(),
            open: HashMap::new(),
            outage: OutageTimeout::default(),
        })
    }

    /// Waits for this run too.
    pub(super) fn add(&mut self, id: RunId) {
        *self.open.entry(id).or_default() += 1;
    }

    /// How many results are still to come.
    pub(super) fn left(&self) -> usize {
        self.open.len()
    }

    /// The next results; none when a while has passed without any.
    pub(super) async fn next(&mut self) -> Result<Vec<Published>, Error> {
        let read = self.results.next(BLOCK).await;
        let Some(read) = self.outage.allow(read).await? else {
            return Ok(Vec::new());
        };
        let mut found: Vec<_> = read
            .into_iter()
            .filter(|result| self.close(result))
            .collect();
        if found.is_empty() {
            found = self.looked_up().await?;
        }
        Ok(found)
    }

    fn close(&mut self, result: &Published) -> bool {
        let id = result.run_id.parse::<RunId>();
        id.is_ok_and(|id| self.open.remove(&id).is_some())
    }

    /// Results that were published before this began, of runs that were known already.
    async fn looked_up(&mut self) -> Result<Vec<Published>, Error> {
        let ids: Vec<RunId> = self.open.keys().take(LOOKUP_MAX).cloned().collect();
        let mut found = Vec::new();
        let Some(views) = self.outage.allow(self.store.records(&ids).await).await? else {
            return Ok(found);
        };
        for view in views.into_iter().flatten() {
            if let Some(result) = self.store.result_of(&view).await? {
                self.open.remove(&view.id);
                found.push(result);
            }
        }
        Ok(found)
    }
}

/// Most runs that are looked up at once.
const LOOKUP_MAX: usize = 500;
