//! Reconciles each app's machines with the runs in flight.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, FuturesUnordered};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::warn;

use crate::clock::UnixMs;
use crate::machines::Service;
use crate::run::id::RunId;
use crate::stage::observe::{Observed, observe};
use crate::stage::owner::Ownership;
use crate::stage::reconcile::{self, Differences, Orphan};
use crate::sweeper::{CALLS_MAX, Sweeper};

/// Between two passes at the most while the fleet is at its limit: a machine that has stopped unseen
/// may count against it.
const FULL_INTERVAL: Duration = Duration::from_secs(5);
/// Between two passes over an app of the local server, which bears being asked often: while runs are
/// in flight, so that the end of a guest is known at once, and while none are.
const LOCAL_INTERVAL: Duration = Duration::from_millis(200);
const LOCAL_IDLE_INTERVAL: Duration = Duration::from_millis(500);
/// A pass over many machines takes longer; so many times as long passes until the next.
const LOCAL_REST: u32 = 20;
/// How much longer the interval is while no run is open.
const IDLE_FACTOR: u32 = 3;
/// How long an app is reconciled that no setting names and that has no run: longer than a boot in it
/// can take.
const IDLE_APP_MAX: Duration = Duration::from_secs(3600);

/// What passes over an app have found that a single pass does not prove.
#[derive(Default)]
struct Notes {
    /// Orphans, by their ids.
    orphans: HashMap<String, Note>,
    /// Attempts whose machines are missing, and since when.
    missing: HashMap<(RunId, u32), UnixMs>,
}

/// What is known of an orphan.
#[derive(Clone, Copy)]
enum Note {
    /// It has been an orphan since then.
    Since(UnixMs),
    /// It is not ours to delete. When to check again, if ever.
    Foreign(Option<UnixMs>),
}

impl Notes {
    /// How many orphans are ours, and how many machines are not.
    fn counts(&self) -> [i64; 2] {
        let foreign = |note: &&Note| matches!(note, Note::Foreign(_));
        let foreign = self.orphans.values().filter(foreign).count();
        [self.orphans.len() - foreign, foreign]
            .map(|count| i64::try_from(count).unwrap_or(i64::MAX))
    }
}

impl Sweeper {
    /// Reconciles every app at an interval, concurrently, so that one that does not answer delays no
    /// other. There is one pass over an app at a time. A pass that is under way when the shutdown
    /// begins is dropped.
    pub(super) async fn reconcile_apps(self: Arc<Self>, every: Duration) {
        // The notes of each app; `None` while a pass is under way.
        let mut noted: HashMap<String, Option<Notes>> = HashMap::new();
        let mut unowned: HashMap<String, [i64; 2]> = HashMap::new();
        let mut under_way = FuturesUnordered::new();
        let interval = every.min(FULL_INTERVAL);
        let mut last = None;
        let mut ticks = interval_at(Instant::now() + interval.mul_f64(fastrand::f64()), interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.shutdown.quiet().cancelled() => return,
                Some((app, notes, again_after)) = under_way.next() => {
                    let notes: Notes = notes;
                    let leads = self.leads.load(Ordering::SeqCst);
                    if leads {
                        unowned.insert(String::clone(&app), notes.counts());
                    }
                    match again_after {
                        Some(pause) if leads => under_way.push(self.reconcile(app, notes, pause)),
                        _ => drop(noted.insert(app, Some(notes))),
                    }
                }
                now = ticks.tick() => {
                    let leads = self.leads.load(Ordering::SeqCst);
                    let is_full = self.tasks.is_fleet_full.load(Ordering::SeqCst);
                    // While no run is open there can only be what others left.
                    let is_idle = self.tasks.activity.is_idle();
                    let every = if is_idle { every * IDLE_FACTOR } else { every };
                    // A tick may come a little early.
                    let pause = every.saturating_sub(interval / 2);
                    let is_time = last.is_none_or(|last: Instant| now >= last + pause);
                    if leads && (is_time || is_full) {
                        last = Some(now);
                        for app in self.apps().await {
                            let notes = noted.entry(app.clone()).or_insert_with(|| Some(Notes::default()));
                            if let Some(notes) = notes.take() {
                                under_way.push(self.reconcile(app, notes, Duration::ZERO));
                            }
                        }
                    } else if !leads {
                        // Another worker leads, and counts them.
                        unowned.clear();
                    }
                }
            }
            let metrics = &self.deps().core.metrics;
            let gauges = [&metrics.orphan_machines, &metrics.foreign_machines];
            for (which, gauge) in gauges.into_iter().enumerate() {
                gauge.set(unowned.values().map(|counts| counts[which]).sum());
            }
        }
    }

    /// Every app that has or ever had a machine.
    async fn apps(&self) -> HashSet<String> {
        let deps = self.deps();
        match deps.core.store.apps().await {
            Ok(known) => *self.known_apps.lock().await = known.into_iter().collect(),
            Err(error) => {
                warn!(%error, "the list of apps could not be read; the next pass tries again");
            }
        }
        let known = self.known_apps.lock().await.clone();
        known.into_iter().chain(deps.apps.iter().cloned()).collect()
    }

    /// One pass over an app, after a pause. Says after which pause the next one is to come, if that is
    /// sooner than the others.
    async fn reconcile(
        &self,
        app: String,
        mut noted: Notes,
        pause: Duration,
    ) -> (String, Notes, Option<Duration>) {
        let deps = self.deps();
        tokio::time::sleep(pause).await;
        let began = Instant::now();
        let found = match reconcile::reconcile(deps, &app).await {
            Ok(found) => found,
            Err(error) => {
                warn!(app, %error, "an app could not be reconciled");
                let is_dropped = self.drop_if_idle(&app).await;
                let notes = if is_dropped { Notes::default() } else { noted };
                return (app, notes, None);
            }
        };
        let mut again_after = again_after(&found, began.elapsed());
        if found.in_flight == 0 && self.tasks.activity.is_idle() {
            // Each pass costs Redis a command or two, too.
            again_after = None;
        }
        if found.orphans.is_empty() {
            if self.drop_if_idle(&app).await {
                again_after = None;
            }
        } else {
            self.idle.lock().await.remove(&app);
        }
        let before = std::mem::take(&mut noted.missing);
        let reads = stream::iter(found.to_inspect).map(async |view| {
            let attempt = (view.id.clone(), view.attempt);
            let since = before.get(&attempt).copied();
            let now = deps.core.clock.now_ms();
            match observe(deps, &view, since).await {
                Ok(Observed::Done) => None,
                Ok(Observed::Missing) => Some((attempt, since.unwrap_or(now))),
                Err(error) => {
                    warn!(run_id = view.id.as_str(), %error, "a machine could not be read");
                    since.map(|since| (attempt, since))
                }
            }
        });
        let reads = reads.buffer_unordered(CALLS_MAX);
        noted.missing = reads.filter_map(std::future::ready).collect().await;
        let before = std::mem::take(&mut noted.orphans);
        let orphans = stream::iter(found.orphans).map(async |orphan| {
            let note = self.orphan(&orphan, before.get(&orphan.id).copied()).await;
            (orphan.id, note)
        });
        let orphans = orphans.buffer_unordered(CALLS_MAX);
        noted.orphans = orphans.collect().await;
        (app, noted, again_after)
    }

    /// Notes an orphan, or deletes one that is ours and was noted long enough ago.
    async fn orphan(&self, orphan: &Orphan, noted: Option<Note>) -> Note {
        let deps = self.deps();
        let now = deps.core.clock.now_ms();
        let note = noted.unwrap_or(Note::Since(now));
        let is_due = match note {
            Note::Since(since) => reconcile::is_orphan_due(since, now, deps.core.runs.lease),
            Note::Foreign(again_at) => again_at.is_some_and(|at| at <= now),
        };
        if !is_due {
            return note;
        }
        match reconcile::delete_orphan(deps, orphan).await {
            Ok(Ownership::Foreign { again_at_ms }) => {
                if let Note::Since(_) = note {
                    let (app, machine_id, name) = (&orphan.app, &orphan.id, &orphan.name);
                    warn!(
                        app,
                        machine_id, name, "not deleted: named like ours, and not provably ours"
                    );
                }
                Note::Foreign(again_at_ms)
            }
            Ok(Ownership::InFlight | Ownership::Orphan) => note,
            Err(error) => {
                warn!(machine_id = orphan.id, %error, "an orphan could not be deleted");
                note
            }
        }
    }

    /// Drops an app that no setting of this worker names, once it has had no machines and runs for
    /// long, or could not be reconciled for as long. A boot in it adds it again. Says whether it was
    /// dropped.
    async fn drop_if_idle(&self, app: &str) -> bool {
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
        let is_dropped = match deps.core.store.forget_app(app).await {
            Ok(is_dropped) => is_dropped,
            Err(error) => {
                warn!(app, %error, "an app could not be dropped from those that are reconciled");
                false
            }
        };
        if is_dropped {
            warn!(
                app,
                "an app that no setting names and that has no run is reconciled no more"
            );
        }
        is_dropped
    }
}

/// When the next pass over an app is to come, if the service bears that.
fn again_after(found: &Differences, took: Duration) -> Option<Duration> {
    let least = match (found.service, found.in_flight) {
        (Service::Remote, _) => return None,
        (Service::Local, 0) => LOCAL_IDLE_INTERVAL,
        (Service::Local, _) => LOCAL_INTERVAL,
    };
    Some(least.max(took.saturating_mul(LOCAL_REST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_service_that_bears_it_is_asked_often_and_then_for_a_twentieth_of_the_time() {
        let found = |service, in_flight| Differences {
            service,
            in_flight,
            ..Differences::default()
        };
        let ms = Duration::from_millis;
        assert_eq!(again_after(&found(Service::Remote, 9), ms(1)), None);
        for (in_flight, took, expected) in [(0, 1, 500), (9, 1, 200), (9, 50, 1000)] {
            let found = found(Service::Local, in_flight);
            assert_eq!(again_after(&found, ms(took)), Some(ms(expected)));
        }
    }
}
