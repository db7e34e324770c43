//! Surveys: each app's machines beside the runs in flight.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, FuturesUnordered};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::warn;

use crate::clock::UnixMs;
use crate::run::id::RunId;
use crate::stage::observe::{Looked, observe};
use crate::stage::owner::Whose;
use crate::stage::sweep::{self, Orphan};
use crate::sweeper::{LOOKS_MAX, Sweeper};

/// Between two surveys at the most while runs wait for a place in the fleet: a machine that has ended
/// unseen may have it.
const FULL_SURVEY: Duration = Duration::from_secs(5);
/// How long an app that no setting names, and no run is in, is surveyed in vain: longer than a boot
/// in it can be under way.
const IDLE_APP_MAX: Duration = Duration::from_secs(3600);

/// What the surveys of an app saw that one look does not prove, and since when.
#[derive(Default)]
struct Notes {
    /// Machines that no run had, by their ids.
    orphans: HashMap<String, Note>,
    /// Attempts whose machines were not shown.
    unseen: HashMap<(RunId, u32), UnixMs>,
}

/// What is known of a machine that no run had.
#[derive(Clone, Copy)]
enum Note {
    /// Since when no run had it.
    Since(UnixMs),
    /// It is not ours to remove. When to look at it again, if ever.
    Foreign(Option<UnixMs>),
}

impl Notes {
    /// How many machines no run had, and how many are not ours.
    fn counts(&self) -> [i64; 2] {
        let foreign = |note: &&Note| matches!(note, Note::Foreign(_));
        let foreign = self.orphans.values().filter(foreign).count();
        [self.orphans.len() - foreign, foreign]
            .map(|count| i64::try_from(count).unwrap_or(i64::MAX))
    }
}

impl Sweeper {
    /// Surveys every app at each beat, side by side: one that does not answer keeps nobody waiting
    /// but itself, and is asked once at a time. What is under way when the end begins is dropped,
    /// as by a death.
    pub(super) async fn surveys(self: Arc<Self>, every: Duration) {
        // What was noted of each app; nothing while it is being surveyed.
        let mut noted: HashMap<String, Option<Notes>> = HashMap::new();
        let mut unowned: HashMap<String, [i64; 2]> = HashMap::new();
        let mut under_way = FuturesUnordered::new();
        let beat = every.min(FULL_SURVEY);
        let mut next = Instant::now() + every.mul_f64(fastrand::f64());
        let mut ticks = interval_at(Instant::now() + beat.mul_f64(fastrand::f64()), beat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.quiet.quiet().cancelled() => return,
                Some((app, notes)) = under_way.next() => {
                    let notes: Notes = notes;
                    if self.leads.load(Ordering::SeqCst) {
                        unowned.insert(String::clone(&app), notes.counts());
                    }
                    noted.insert(app, Some(notes));
                }
                now = ticks.tick() => {
                    let leads = self.leads.load(Ordering::SeqCst);
                    let is_full = self.crew.is_full.load(Ordering::SeqCst);
                    if leads && (now >= next || is_full) {
                        // A beat may come a little early.
                        next = now + every.saturating_sub(beat / 2);
                        for app in self.apps().await {
                            let notes = noted.entry(app.clone()).or_insert_with(|| Some(Notes::default()));
                            if let Some(notes) = notes.take() {
                                under_way.push(self.survey(app, notes));
                            }
                        }
                    } else if !leads {
                        // Another worker sees them now, and counts them.
                        unowned.clear();
                    }
                }
            }
            let metrics = &self.deps().core.metrics;
            let gauges = [&metrics.machines_without_run, &metrics.machines_foreign];
            for (which, gauge) in gauges.into_iter().enumerate() {
                gauge.set(unowned.values().map(|counts| counts[which]).sum());
            }
        }
    }

    /// Every app that has or ever had a machine.
    async fn apps(&self) -> HashSet<String> {
        let deps = self.deps();
        let known = deps.core.store.apps().await.unwrap_or_else(|error| {
            warn!(%error, "a survey failed; the next one tries again");
            Vec::new()
        });
        known.into_iter().chain(deps.apps.iter().cloned()).collect()
    }

    /// One pass over an app.
    async fn survey(&self, app: String, mut noted: Notes) -> (String, Notes) {
        let deps = self.deps();
        let survey = match sweep::survey(deps, &app).await {
            Ok(survey) => survey,
            Err(error) => {
                warn!(app, %error, "an app could not be surveyed");
                let left = self.leave(&app).await;
                return (app, if left { Notes::default() } else { noted });
            }
        };
        if survey.orphans.is_empty() {
            self.leave(&app).await;
        } else {
            self.idle.lock().await.remove(&app);
        }
        let before = std::mem::take(&mut noted.unseen);
        let looks = stream::iter(survey.doubtful).map(async |view| {
            let attempt = (view.id.clone(), view.attempt);
            let since = before.get(&attempt).copied();
            let now = deps.core.clock.now_ms();
            match observe(deps, &view, since).await {
                Ok(Looked::Done) => None,
                Ok(Looked::Unseen) => Some((attempt, since.unwrap_or(now))),
                Err(error) => {
                    warn!(run_id = view.id.as_str(), %error, "a machine could not be looked at");
                    since.map(|since| (attempt, since))
                }
            }
        });
        let looks = looks.buffer_unordered(LOOKS_MAX);
        noted.unseen = looks.filter_map(std::future::ready).collect().await;
        let before = std::mem::take(&mut noted.orphans);
        let orphans = stream::iter(survey.orphans).map(async |orphan| {
            let note = self.orphan(&orphan, before.get(&orphan.id).copied()).await;
            (orphan.id, note)
        });
        let orphans = orphans.buffer_unordered(LOOKS_MAX);
        noted.orphans = orphans.collect().await;
        (app, noted)
    }

    /// Notes an orphan, or removes one that is ours and has been noted for long enough.
    async fn orphan(&self, orphan: &Orphan, noted: Option<Note>) -> Note {
        let deps = self.deps();
        let now = deps.core.clock.now_ms();
        let note = noted.unwrap_or(Note::Since(now));
        let is_due = match note {
            Note::Since(since) => sweep::is_ripe(since, now, deps.core.runs.lease),
            Note::Foreign(again_at) => again_at.is_some_and(|at| at <= now),
        };
        if !is_due {
            return note;
        }
        match sweep::remove_orphan(deps, orphan).await {
            Ok(Whose::Foreign { again_at_ms }) => {
                if let Note::Since(_) = note {
                    let (app, machine_id, name) = (&orphan.app, &orphan.id, &orphan.name);
                    warn!(
                        app,
                        machine_id, name, "left alone: named like ours and not ours"
                    );
                }
                Note::Foreign(again_at_ms)
            }
            Ok(Whose::InFlight | Whose::Nobodys) => note,
            Err(error) => {
                warn!(machine_id = orphan.id, %error, "an orphan could not be removed");
                note
            }
        }
    }

    /// Leaves an app that is not among this worker's, once it has been without machines and runs
    /// for long, or could not be surveyed for as long: whoever boots in it again lists it again. Says whether it was left.
    async fn leave(&self, app: &str) -> bool {
        let deps = self.deps();
        if deps.apps.iter().any(|own| own == app) {
            return false;
        }
        let mut idle = self.idle.lock().await;
        let since = *idle.entry(app.to_owned()).or_insert_with(Instant::now);
        if since.elapsed() < IDLE_APP_MAX {
            return false;
        }
        idle.remove(app);
        drop(idle);
        let left = match deps.core.store.forget_app(app).await {
            Ok(left) => left,
            Err(error) => {
                warn!(app, %error, "an app stays among those that are surveyed");
                false
            }
        };
        if left {
            warn!(
                app,
                "an app that no setting names and no run is in is surveyed no more"
            );
        }
        left
    }
}
