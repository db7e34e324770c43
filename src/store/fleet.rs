//! What all workers share: who sweeps, which apps must wait, what is in flight.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::run::day::Day;
use crate::run::id::{Attempt, Nonce, RunId};
use crate::run::phase::State;
use crate::run::wait::{Facts, Waiting};
use crate::store::Store;
use crate::store::acts::{BootToken, FleetLimits};
use crate::store::codec::Text;
use crate::store::error::Error;
use crate::store::keys::GROUP;
use crate::store::requests::millis;
use crate::store::scripts;

/// How long the limits that a worker announced count.
const ANNOUNCED: Duration = Duration::from_secs(30);

/// How long after its hold an app still counts as refused: the next boot shows whether it is.
const REFUSED_FRESH: Duration = Duration::from_secs(30);

/// How long a run must have been due for it to count as overdue: sweeps take up what is due every
/// second.
const OVERDUE_AFTER: Duration = Duration::from_secs(5);
/// Tenants whose queues a census reads, of those that may go and of those that are parked.
const TENANTS_READ: usize = 64;

/// How many of what there is at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Runs waiting for a machine.
    pub queued: u64,
    /// Runs that may have a machine.
    pub in_flight: u64,
    /// Requests that no worker has read.
    pub unread: u64,
    /// Runs that have been due for [`OVERDUE_AFTER`] and that nobody has taken up.
    pub overdue: u64,
    /// Tear-downs owed: runs that have ended and whose machine may still be there.
    pub owed: u64,
    /// When the first of the waiting runs was asked for, as far as [`TENANTS_READ`]
    /// tenants can tell.
    pub oldest_queued_ms: Option<UnixMs>,
    /// Orders that were not obeyed yet.
    pub orders: u64,
    /// Tenants with waiting runs that may go.
    pub tenants_waiting: u64,
    /// Tenants with waiting runs that may not go.
    pub tenants_held: u64,
    /// Results that Redis has.
    pub results: u64,
    /// Entries that were set aside as dead.
    pub dead: u64,
}

/// What became of a change of priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prioritised {
    /// The run has it.
    Done,
    /// The run does not wait any more.
    NotWaiting,
    /// There is no such run.
    Unknown,
}

/// Who sweeps, and whether there is anything to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    /// The caller sweeps.
    pub leads: bool,
    /// When the first open run is due; `None` when none is open.
    pub first_due_ms: Option<UnixMs>,
    /// Workers have read entries that they have not disposed of.
    pub has_pending: bool,
}

/// A run that may have a machine.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) id: RunId,
    pub(crate) attempt: Attempt,
    pub(crate) tenant: String,
    pub(crate) nonce: Option<Nonce>,
}

impl Flight {
    /// `who` is the attempt, the tenant and, unless an older version wrote it, the nonce, with
    /// spaces between. What is not ours is passed over.
    pub(crate) fn read(id: &str, who: &str) -> Option<Self> {
        let mut words = who.split(' ');
        let (attempt, tenant) = (words.next()?, words.next()?);
        Some(Self {
            id: id.parse().ok()?,
            attempt: Attempt(attempt.parse().ok()?),
            tenant: tenant.to_owned(),
            nonce: words.next().and_then(|nonce| nonce.parse().ok()),
        })
    }
}

impl Store {
    /// Becomes or stays the one that sweeps, for `lease`, and looks whether there is anything to do. One
    /// round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn lead(&self, who: &str, lease: Duration) -> Result<Led, Error> {
        let mut script = scripts::LEAD.prepare_invoke();
        script.key(self.keys.sweeper()).key(self.keys.due());
        script.key(self.keys.runs()).key(self.keys.control());
        script.arg(who).arg(millis(lease)).arg(GROUP);
        let (leads, first, has_pending): (bool, Text, bool) = self.door.script(&mut script).await?;
        let is_open = !first.0.is_empty();
        // What is no number was not written by us: it counts as due.
        let first = first.0.parse::<f64>().unwrap_or(0.0).max(0.0);
        Ok(Led {
            leads,
            first_due_ms: is_open.then_some(first as UnixMs),
            has_pending,
        })
    }

    /// Nobody boots in `app` before `until`. `refused` is what the provider said when somebody must
    /// act before it takes our calls again. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn hold(
        &self,
        app: &str,
        until: UnixMs,
        refused: Option<&str>,
        now: UnixMs,
    ) -> Result<(), Error> {
        let key = self.keys.bucket(app);
        let for_ms = until.saturating_sub(now).saturating_add(60_000).to_string();
        let until = until.to_string();
        let lives: &[&str] = &["PEXPIRE", &for_ms];
        match refused {
            Some(words) => {
                let holds = ["HSET", "hold_until_ms", &until, "refused", words];
                self.write_small(key, &[&holds, lives]).await
            }
            None => {
                let holds = ["HSET", "hold_until_ms", &until];
                self.write_small(key, &[&holds, &["HDEL", "refused"], lives])
                    .await
            }
        }
    }

    /// A token for another create call in `app` of a boot that is under way, if there is one within
    /// `timeout`. The claim took that of a boot's first call. One round trip, or none where no rate is
    /// set.
    ///
    /// # Errors
    /// [`Error`]; a token may have been taken.
    pub async fn take_boot_token(
        &self,
        app: &str,
        rate: f64,
        burst: u32,
        timeout: Duration,
        now: UnixMs,
    ) -> Result<BootToken, Error> {
        if rate <= 0.0 {
            return Ok(BootToken::Taken(now));
        }
        let mut script = scripts::TAKE_TOKEN.prepare_invoke();
        script.key(self.keys.bucket(app));
        script.arg(self.keys.namespace()).arg(app).arg(now);
        script.arg(rate).arg(burst).arg(millis(timeout));
        let (is_taken, at): (bool, UnixMs) = self.door.script(&mut script).await?;
        Ok(if is_taken {
            BootToken::Taken(at)
        } else {
            BootToken::NotBefore(at)
        })
    }

    /// Gives each run that may have a machine in `app` to `each`, with its attempt and nonce; one may
    /// be given twice. As many round trips as there are thousands of them.
    ///
    /// # Errors
    /// [`Error`]; by then some may have been given.
    pub async fn each_in_flight(
        &self,
        app: &str,
        mut each: impl FnMut(RunId, Attempt, Option<Nonce>),
    ) -> Result<(), Error> {
        self.each_flight(app, |run| each(run.id, run.attempt, run.nonce))
            .await
    }

    pub(crate) async fn each_flight(
        &self,
        app: &str,
        mut each: impl FnMut(Flight),
    ) -> Result<(), Error> {
        let mut cursor = 0;
        loop {
            (cursor, _) = self.some_flights(app, cursor, &mut each).await?;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// Gives about a thousand of them from `cursor` on. Answers where to go on, 0 for the end, and how
    /// many were read.
    pub(crate) async fn some_flights(
        &self,
        app: &str,
        cursor: u64,
        each: &mut impl FnMut(Flight),
    ) -> Result<(u64, usize), Error> {
        let mut command = redis::cmd("HSCAN");
        command.arg(self.keys.inflight(app)).arg(cursor);
        command.arg("COUNT").arg(1000);
        let (next, page): (u64, Vec<(Text, Text)>) = self.door.query(&command).await?;
        let flights = page
            .iter()
            .filter_map(|(id, who)| Flight::read(&id.0, &who.0));
        flights.for_each(each);
        Ok((next, page.len()))
    }

    /// Boots may go on at once in every app that was to wait because the provider said so.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn lift_holds(&self) -> Result<(), Error> {
        let mut pipe = redis::pipe();
        for app in self.apps().await? {
            let key = self.keys.bucket(&app);
            pipe.hdel(&key, &["hold_until_ms", "refused"]).ignore();
        }
        pipe.rpush(self.keys.wakeups(), "").ignore();
        self.door.pipe(&pipe).await
    }

    /// The apps in which the provider refuses us since moments ago, each with what it said.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn refused_apps(&self, now: UnixMs) -> Result<Vec<(String, String)>, Error> {
        let apps = self.apps().await?;
        let mut pipe = redis::pipe();
        for app in &apps {
            pipe.cmd("HMGET")
                .arg(self.keys.bucket(app))
                .arg(&["hold_until_ms", "refused"]);
        }
        let told: Vec<(Option<UnixMs>, Option<String>)> = self.door.pipe(&pipe).await?;
        let recent = now.saturating_sub(millis(REFUSED_FRESH));
        let told = apps.into_iter().zip(told);
        Ok(told
            .filter_map(|(app, (until, words))| {
                until.filter(|until| *until >= recent)?;
                Some((app, words?))
            })
            .collect())
    }

    /// The id of this installation; `None` before its first claim. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn installation(&self) -> Result<Option<String>, Error> {
        let mut command = redis::cmd("GET");
        command.arg(self.keys.installation());
        let id: Option<Text> = self.door.query(&command).await?;
        Ok(id.map(|Text(id)| id))
    }

    /// Every app that ever had a machine in flight. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn apps(&self) -> Result<Vec<String>, Error> {
        let mut command = redis::cmd("SMEMBERS");
        command.arg(self.keys.apps());
        let apps: Vec<Text> = self.door.query(&command).await?;
        Ok(apps.into_iter().map(|Text(app)| app).collect())
    }

    /// An app that no run is in is no longer one that had machines. Answers whether it was one.
    /// One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn forget_app(&self, app: &str) -> Result<bool, Error> {
        let mut script = scripts::FORGET_APP.prepare_invoke();
        script.key(self.keys.apps()).key(self.keys.inflight(app));
        self.door.script(script.arg(app)).await
    }

    /// Tells of a worker's limits, for half a minute: so that others can say why a run waits, and
    /// that a worker is there. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn announce(&self, room: &FleetLimits, refused_max: Duration) -> Result<(), Error> {
        let key = self.keys.fleet();
        let limit = |most: Option<u32>| most.unwrap_or(0).to_string();
        let told = [
            "HSET",
            "apps",
            &room.apps.join(","),
            "max_in_flight",
            &room.max_in_flight.to_string(),
            "app_max_in_flight",
            &limit(room.app_max_in_flight),
            "tenant_max_in_flight",
            &room
                .tenant_max_in_flight
                .map_or_else(String::new, |most| most.to_string()),
            "boot_rate",
            &room.boot_rate.to_string(),
            "refused_max_ms",
            &millis(refused_max).to_string(),
        ];
        let lives = ["PEXPIRE", &millis(ANNOUNCED).to_string()];
        self.write_small(key, &[&told, &lives]).await
    }

    /// Why a run waits; `None` when it does not, or is not known. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn why_waiting(&self, id: &RunId, now: UnixMs) -> Result<Option<Waiting>, Error> {
        let keys = &self.keys;
        let mut script = scripts::WHY.prepare_invoke();
        script
            .key(keys.run(id))
            .key(keys.tenants())
            .key(keys.parked())
            .key(keys.fleet_settings())
            .key(keys.fleet());
        script.arg(keys.namespace()).arg(id.as_str());
        script.arg(Day::of(now).to_string());
        let Some(json) = self.door.script::<Option<String>>(&mut script).await? else {
            return Ok(None);
        };
        let facts: Facts = serde_json::from_str(&json).map_err(|error| Error::Corrupt {
            what: format!("the answer of why for run {id}, {error}"),
            found: json,
        })?;
        Ok(facts.explain(now))
    }

    /// A waiting run gets another priority, 0 first and 9 last. One round trip. Safe to repeat.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn prioritise(&self, id: &RunId, priority: u8) -> Result<Prioritised, Error> {
        let mut script = scripts::PRIORITISE.prepare_invoke();
        script.key(self.keys.run(id));
        script.arg(self.keys.namespace()).arg(id.as_str());
        script.arg(priority).arg(scripts::states(&[State::Queued]));
        Ok(
            match self.door.script::<String>(&mut script).await?.as_str() {
                "done" => Prioritised::Done,
                "refused" => Prioritised::NotWaiting,
                _ => Prioritised::Unknown,
            },
        )
    }

    /// Counts what there is. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn census(&self, now: UnixMs) -> Result<Census, Error> {
        let keys = &self.keys;
        let mut script = scripts::CENSUS.prepare_invoke();
        for key in [
            keys.tenants(),
            keys.parked(),
            keys.due(),
            keys.owed(),
            keys.runs(),
            keys.control(),
            keys.results(),
            keys.dead(),
            keys.apps(),
        ] {
            script.key(key);
        }
        script.arg(keys.namespace()).arg(TENANTS_READ);
        script.arg(now.saturating_sub(millis(OVERDUE_AFTER)));
        type Counts = (
            u64,
            u64,
            u64,
            u64,
            u64,
            u64,
            u64,
            u64,
            u64,
            u64,
            Option<UnixMs>,
        );
        let counts: Counts = self.door.script(&mut script).await?;
        let (open, overdue, owed, unread, orders, results, dead, waiting, held, in_flight, oldest) =
            counts;
        Ok(Census {
            queued: open.saturating_sub(in_flight),
            in_flight,
            unread,
            overdue,
            owed,
            oldest_queued_ms: oldest,
            orders,
            tenants_waiting: waiting,
            tenants_held: held,
            results,
            dead,
        })
    }
}
