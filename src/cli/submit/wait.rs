//! Waiting for results: they are read as they come, and looked up for runs that had ended before.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use crate::cli::human;
use crate::cli::progress::Line;
use crate::cli::say::{Say, Tone};
use crate::cli::view;
use crate::clock::Clock;
use crate::run::id::RunId;
use crate::store::inspect::{Published, Results};
use crate::store::{Error, Store};

/// Between two looks at a run that is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// How long one read of the results stream waits.
const BLOCK: Duration = Duration::from_secs(1);

/// After this long without a worker taking the request, that is said.
const UNREAD: Duration = Duration::from_secs(5);

/// How long Redis may be away before waiting ends.
const AWAY: Duration = Duration::from_secs(60);

/// Waits until the run has a result, showing its phases meanwhile.
pub(super) async fn for_one(
    store: &Store,
    id: &RunId,
    bound: Option<Duration>,
    say: &mut Say,
) -> anyhow::Result<Published> {
    let line = Line::new();
    let begun = Instant::now();
    let clock = Clock::system();
    let mut patience = Patience::default();
    let mut was_told = false;
    loop {
        let Some(view) = patience.of(store.view(id).await)? else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        if let Some(at) = view.as_ref().and_then(|view| view.settled_at_ms) {
            match patience.of(store.find_result(id, at).await)? {
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
        match &view {
            Some(view) => line.show(&view::phases(view, clock.now_ms())),
            None => line.show(&[("sent", begun.elapsed())]),
        }
        if view.is_none() && !was_told && begun.elapsed() >= UNREAD {
            was_told = true;
            let text = "no worker has taken the request yet; is one running?";
            let text = say.paint_note(Tone::Notice, text);
            line.beside(|| say.note(&text))?;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Gathers the results of many runs.
#[derive(Debug)]
pub(super) struct Gathering {
    store: Store,
    results: Results,
    /// Runs without a result so far, and how often each was submitted.
    open: HashMap<RunId, usize>,
    patience: Patience,
}

impl Gathering {
    /// Begins at the end of the results stream; to be called before the requests are sent.
    pub(super) async fn begin(store: &Store) -> Result<Self, Error> {
        let place = store.end_of_results().await?;
        Ok(Self {
            results: store.results_after(place),
            store: store.clone(),
            open: HashMap::new(),
            patience: Patience::default(),
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
        let Some(read) = self.patience.of(read)? else {
            tokio::time::sleep(LOOK).await;
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

    /// Results that were published before this began: of runs that were known already.
    async fn looked_up(&mut self) -> Result<Vec<Published>, Error> {
        let ids: Vec<RunId> = self.open.keys().take(LOOKED_UP).cloned().collect();
        let mut found = Vec::new();
        let Some(views) = self.patience.of(self.store.views(&ids).await)? else {
            return Ok(found);
        };
        for view in views.into_iter().flatten() {
            let Some(at) = view.settled_at_ms else {
                continue;
            };
            match self.store.find_result(&view.id, at).await? {
                Some(result) => found.push(result),
                None => continue,
            }
            self.open.remove(&view.id);
        }
        Ok(found)
    }
}

/// Runs that are looked up in one go.
const LOOKED_UP: usize = 500;

/// Bears with Redis being away for a while.
#[derive(Debug, Default)]
struct Patience {
    away_since: Option<Instant>,
}

impl Patience {
    /// The answer; `None` when there is none now and one may come yet.
    fn of<T>(&mut self, answer: Result<T, Error>) -> Result<Option<T>, Error> {
        match answer {
            Ok(answer) => {
                self.away_since = None;
                Ok(Some(answer))
            }
            Err(error @ Error::Unavailable(_)) => {
                let since = *self.away_since.get_or_insert_with(Instant::now);
                if since.elapsed() < AWAY {
                    Ok(None)
                } else {
                    Err(error)
                }
            }
            Err(error) => Err(error),
        }
    }
}
