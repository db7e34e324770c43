//! Waiting for results: they are read as they come, and looked up for runs that had ended before.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use crate::cli::human;
use crate::cli::patience::Patience;
use crate::cli::progress::Line;
use crate::cli::say::{Say, Tone};
use crate::cli::view;
use crate::clock::Clock;
use crate::run::id::RunId;
use crate::store::inspect::{Published, Results};
use crate::store::{Error, Store};

/// Between two looks at a run that is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// How long one read of the results stream waits.
const BLOCK: Duration = Duration::from_secs(1);

/// After this long without a worker taking the request, that is said.
const UNREAD: Duration = Duration::from_secs(5);

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
        let Some(view) = patience.of(store.record(id).await).await? else {
            continue;
        };
        if let Some(view) = view.as_ref().filter(|view| view.outcome.is_some()) {
            match patience.of(store.result_of(view).await).await? {
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
        let Some(read) = self.patience.of(read).await? else {
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
        let Some(views) = self.patience.of(self.store.records(&ids).await).await? else {
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

/// Runs that are looked up in one go.
const LOOKED_UP: usize = 500;
