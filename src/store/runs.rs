//! The acts in a run's life after it was claimed, one script and one round trip each.

use std::time::Duration;

use serde_json::value::RawValue;
use tracing::warn;

use crate::clock::UnixMs;
use crate::run::budget;
use crate::run::id::{Attempt, RunId};
use crate::run::outcome::{Ending, ReasonCode};
use crate::run::phase::{MachineRef, State};
use crate::run::request::{Guest, QUEUE_TTL_MAX, Readable};
use crate::run::step::Event;
use crate::store::Store;
use crate::store::acts::{BootId, Overdue, Requeue, Settlement, Transition, Work};
use crate::store::codec::{FIELDS, RunRecord, Text, json, record, result_parts};
use crate::store::error::Error;
use crate::store::requests::millis;
use crate::store::scripts::{self, states};

/// Slices of the results' retention in which kept bytes are counted, and the shortest.
const KEPT_SLICES: u32 = 16;
const KEPT_SLICE_MIN: Duration = Duration::from_secs(1);

/// The length of a slice of time in which kept bytes are counted.
pub(crate) fn slice(kept_for: Duration) -> Duration {
    (kept_for / KEPT_SLICES).max(KEPT_SLICE_MIN)
}

impl Store {
    /// The machine of a boot is known. One round trip. Safe to repeat.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn advance(
        &self,
        id: &RunId,
        boot: BootId<'_>,
        machine: &MachineRef,
        now: UnixMs,
    ) -> Result<Transition, Error> {
        let event = Event::Created {
            attempt: boot.attempt,
            machine: machine.clone(),
        };
        let mut script = scripts::ADVANCE.prepare_invoke();
        script
            .key(self.keys.run(id))
            .key(self.keys.due())
            .key(self.keys.wakeups());
        script
            .arg(id.as_str())
            .arg(&BootId::words(Some(boot)))
            .arg(&*scripts::moves_word(&event))
            .arg(now);
        script
            .arg(&machine.id)
            .arg(machine.instance_id.as_deref().unwrap_or_default());
        script.arg(machine.region.as_deref().unwrap_or_default());
        Transition::read("advance", &self.door.script::<String>(&mut script).await?)
    }

    /// `boot` of a run failed or was deferred: the run waits for another, with another number,
    /// until `ready_at` if that is given. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn requeue(
        &self,
        run: &RunRecord,
        boot: BootId<'_>,
        why: Requeue,
        ready_at: Option<UnixMs>,
        now: UnixMs,
    ) -> Result<Transition, Error> {
        let attempt = boot.attempt;
        let event = match why {
            Requeue::Refused | Requeue::Held => Event::Deferred { attempt },
            Requeue::Failed => Event::Failed { attempt },
        };
        let until = run
            .queue_until_ms
            .unwrap_or_else(|| budget::after(now, QUEUE_TTL_MAX));
        let expires = budget::after(until.max(now), budget::HASH_SLACK);
        let mut script = scripts::REQUEUE.prepare_invoke();
        script
            .key(self.keys.run(&run.id))
            .key(self.keys.due())
            .key(self.keys.request(&run.id));
        script
            .arg(self.keys.namespace())
            .arg(run.id.as_str())
            .arg(&BootId::words(Some(boot)));
        script
            .arg(&*scripts::moves_word(&event))
            .arg(ready_at.unwrap_or(0));
        script.arg(until).arg(expires).arg(now).arg(why.as_str());
        script.arg(&self.meter(now)).arg(Guest::default().word());
        Transition::read("requeue", &self.door.script::<String>(&mut script).await?)
    }

    /// The run ends: in one step its token is spent, its result is published and its tear-down is
    /// owed. `boot` is the one the end was seen at, `None` for whichever it is. By the digest of
    /// a post an identical repeat is known. One round trip. Safe to repeat.
    ///
    /// # Errors
    /// [`Error`]; it may have happened.
    pub async fn settle(
        &self,
        id: &RunId,
        boot: Option<BootId<'_>>,
        end: &Settlement<'_>,
        now: UnixMs,
    ) -> Result<Transition, Error> {
        let attempt = boot.map(|boot| boot.attempt);
        let (event, reason) = match (end.ending, attempt) {
            (Ending::Completed { .. }, attempt) => (
                Event::Posted {
                    attempt: attempt.unwrap_or_default(),
                },
                String::new(),
            ),
            (Ending::Without { reason, .. }, attempt) => (
                Event::Ended {
                    reason: reason.code,
                    attempt,
                },
                json(reason),
            ),
        };
        self.conclude(id, boot, &event, reason, end, now).await
    }

    /// The run ends since the provider refused `boot` for good, and nothing was
    /// made: no tear-down is owed. One round trip. Safe to repeat.
    ///
    /// # Errors
    /// [`Error`]; it may have happened.
    pub async fn refuse(
        &self,
        id: &RunId,
        boot: BootId<'_>,
        end: &Settlement<'_>,
        now: UnixMs,
    ) -> Result<Transition, Error> {
        let Ending::Without { reason, .. } = end.ending else {
            return Ok(Transition::Refused);
        };
        let event = Event::Refused {
            attempt: boot.attempt,
            reason: reason.code,
        };
        let reason = json(reason);
        self.conclude(id, Some(boot), &event, reason, end, now)
            .await
    }

    async fn conclude(
        &self,
        id: &RunId,
        boot: Option<BootId<'_>>,
        event: &Event,
        reason: String,
        end: &Settlement<'_>,
        now: UnixMs,
    ) -> Result<Transition, Error> {
        let keys = &self.keys;
        let mut script = scripts::SETTLE.prepare_invoke();
        script
            .key(keys.run(id))
            .key(keys.due())
            .key(keys.wakeups())
            .key(keys.results())
            .key(keys.request(id));
        script.arg(keys.namespace()).arg(id.as_str());
        script.arg(&BootId::words(boot));
        script.arg(&*scripts::moves_word(event)).arg(now);
        script.arg(budget::after(now, end.retention.max(budget::HASH_SLACK)));
        script
            .arg(budget::after(now, end.lease))
            .arg(end.ending.outcome().as_str());
        script
            .arg(reason)
            .arg(end.post.map_or("", |post| post.digest));
        script.arg(&self.meter(now));
        script.arg(&result_parts(id, end.ending));
        if let Some(post) = end.post {
            let budget = post.budget;
            script.arg(budget.bytes).arg(budget.tenant_bytes);
            script.arg(millis(slice(budget.retention)));
            script.arg(millis(2 * budget.retention));
            let over = Ending::without(
                ReasonCode::ResultBudget,
                "as many bytes of results are kept as may; this one was dropped",
            );
            let [head, ..] = result_parts(id, &over);
            script.arg(over.outcome().as_str());
            if let Ending::Without { reason, .. } = &over {
                script.arg(json(reason));
            }
            script.arg(head);
            script.arg(post.begun_ms.map_or_else(String::new, |at| at.to_string()));
            script.arg(u8::from(post.keeps_request));
        }
        Transition::read("settle", &self.door.decide::<String>(&mut script).await?)
    }

    /// No machine of the run is left. Says too whether some run waits for the slot that is free
    /// now. One round trip. Safe to repeat.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn close(
        &self,
        id: &RunId,
        boot: BootId<'_>,
        now: UnixMs,
        retention: Duration,
    ) -> Result<(Transition, bool), Error> {
        let mut script = scripts::CLOSE.prepare_invoke();
        script
            .key(self.keys.run(id))
            .key(self.keys.due())
            .key(self.keys.tenants())
            .key(self.keys.parked());
        script
            .arg(self.keys.namespace())
            .arg(id.as_str())
            .arg(&BootId::words(Some(boot)));
        script.arg(&*scripts::moves_word(&Event::Gone)).arg(now);
        script.arg(budget::after(now, retention));
        script.arg(&self.meter(now)).arg(Guest::default().word());
        let (word, waiting): (String, bool) = self.door.script(&mut script).await?;
        Ok((Transition::read("close", &word)?, waiting))
    }

    /// Holds runs for another `lease`. Answers those that the caller holds no longer. One round
    /// trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn renew(
        &self,
        held: &[(RunId, Attempt, Work)],
        now: UnixMs,
        lease: Duration,
    ) -> Result<Vec<String>, Error> {
        let mut script = scripts::RENEW.prepare_invoke();
        script.key(self.keys.due());
        script
            .arg(self.keys.namespace())
            .arg(budget::after(now, lease))
            .arg(states(&[State::Booting, State::Settled]));
        for (id, attempt, work) in held {
            script.arg(id.as_str()).arg(attempt.0).arg(work.as_str());
        }
        self.door.script(&mut script).await
    }

    /// A sweep saw that the machines of these runs are being prepared, each of which is given up at
    /// its time; that is taken to go on until `until`. One round trip. Safe to repeat.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn note_preparing(
        &self,
        seen: &[(RunId, Attempt, UnixMs)],
        until: UnixMs,
    ) -> Result<(), Error> {
        let mut script = scripts::PREPARING.prepare_invoke();
        script.key(self.keys.due());
        script.arg(self.keys.namespace()).arg(until);
        script.arg(states(&[State::Running]));
        for (id, attempt, by) in seen {
            script.arg(id.as_str()).arg(attempt.0).arg(*by);
        }
        self.door.script::<u64>(&mut script).await.map(drop)
    }

    /// A run is not due before `at`. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn reschedule(&self, id: &RunId, at: UnixMs) -> Result<(), Error> {
        let words = ["ZADD", "XX", &at.to_string(), id.as_str()];
        self.write_small(self.keys.due(), &[&words]).await
    }

    /// At most `most` runs that are due, each leased to the caller. Two round
    /// trips when there are any, else one. A run whose hash is gone is among them: its end is owed
    /// ([`Store::end_lost`]).
    ///
    /// # Errors
    /// [`Error`]; runs that were leased unseen come again when the lease ends.
    pub async fn overdue(
        &self,
        now: UnixMs,
        lease: Duration,
        most: usize,
    ) -> Result<Overdue, Error> {
        let mut script = scripts::OVERDUE.prepare_invoke();
        script.key(self.keys.due());
        script
            .arg(self.keys.namespace())
            .arg(now)
            .arg(budget::after(now, lease))
            .arg(most);
        let (ids, lost): (Vec<Text>, Vec<Text>) = self.door.script(&mut script).await?;
        let parsed = |ids: Vec<Text>| -> Vec<RunId> {
            ids.iter().filter_map(|id| id.0.parse().ok()).collect()
        };
        let views = self.records(&parsed(ids)).await?;
        Ok(Overdue {
            runs: views.into_iter().flatten().collect(),
            lost: parsed(lost),
        })
    }

    /// A run that is due and whose hash is gone ends, with what is known of it: what its slots say, and `readable`, what its request does. Its machine, if
    /// it has one, has no run then, and is removed as such. One round trip. Safe to repeat.
    ///
    /// # Errors
    /// [`Error`]; it may have happened.
    pub async fn end_lost(
        &self,
        id: &RunId,
        readable: Option<&Readable>,
        end: &Settlement<'_>,
        now: UnixMs,
    ) -> Result<Transition, Error> {
        let keys = &self.keys;
        let mut script = scripts::END_LOST.prepare_invoke();
        script
            .key(keys.run(id))
            .key(keys.due())
            .key(keys.results())
            .key(keys.request(id));
        script.arg(keys.namespace()).arg(id.as_str());
        script.arg(readable.map_or("", |known| known.tenant.as_str()));
        let metadata = readable.and_then(|known| known.metadata.as_deref());
        script.arg(metadata.map_or("", RawValue::get)).arg(now);
        script.arg(budget::after(now, end.retention));
        script.arg(end.ending.outcome().as_str());
        script.arg(match end.ending {
            Ending::Without { reason, .. } => json(reason),
            Ending::Completed { .. } => String::new(),
        });
        script.arg(&self.meter(now));
        script.arg(&result_parts(id, end.ending));
        Transition::read("end_lost", &self.door.decide::<String>(&mut script).await?)
    }

    /// At most `most` runs that are due; nothing is leased. Only reads: for when
    /// Redis takes no writes. Two round trips.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn overdue_unleased(
        &self,
        now: UnixMs,
        most: usize,
    ) -> Result<Vec<RunRecord>, Error> {
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(self.keys.due()).arg("-inf").arg(now);
        command.arg("LIMIT").arg(0).arg(most);
        let ids: Vec<Text> = self.door.query(&command).await?;
        let ids: Vec<RunId> = ids.iter().filter_map(|id| id.0.parse().ok()).collect();
        Ok(self.records(&ids).await?.into_iter().flatten().collect())
    }

    /// Several runs, in the order of `ids`; `None` for those that are not known, or whose hash is
    /// not as we write it, which is logged. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn records(&self, ids: &[RunId]) -> Result<Vec<Option<RunRecord>>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.cmd("HMGET").arg(self.keys.run(id)).arg(&FIELDS);
        }
        let rows: Vec<Vec<Option<Text>>> = self.door.pipe(&pipe).await?;
        let views = ids.iter().zip(rows).map(|(id, row)| {
            record(id, row).unwrap_or_else(|error| {
                warn!(run_id = id.as_str(), %error, "a run cannot be read; left out");
                None
            })
        });
        Ok(views.collect())
    }

    /// One run, or `None` when it is not known. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn record(&self, id: &RunId) -> Result<Option<RunRecord>, Error> {
        let mut command = redis::cmd("HMGET");
        command.arg(self.keys.run(id)).arg(&FIELDS);
        record(id, self.door.query(&command).await?)
    }
}
