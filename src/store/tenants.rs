//! What is set for tenants and for all at run time.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serialize;

use crate::clock::UnixMs;
use crate::run::day::Day;
use crate::run::id::{RunId, Tenant};
use crate::store::Store;
use crate::store::codec::Text;
use crate::store::error::Error;
use crate::store::requests::millis;
use crate::store::scripts;
use crate::store::usage::seconds;

/// Tenants listed at the most.
const LISTED_MAX: usize = 100_000;

/// Apps whose machines are read for the tenants that have them.
const APPS_READ: usize = 20;

/// Tenants read in one round trip.
const PAGE: usize = 500;
/// How long it is known which order was the last: far longer than one is on its way.
const ORDER_KEPT: Duration = Duration::from_secs(24 * 3600);

/// What was set for a tenant. `None` stands for what the workers' settings say, or for no limit
/// where they have none.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TenantSettings {
    /// Machines in flight at the most; 0 for no limit but the fleet's.
    pub max_in_flight: Option<u32>,
    /// Its weight in fair queueing; 1 when unset.
    pub weight: Option<f64>,
    /// Nothing of it boots.
    pub paused: bool,
    /// Runs waiting at the most; 0 for no limit but that of all.
    pub backlog_max: Option<u64>,
    /// Machine seconds on one UTC day.
    pub budget_s: Option<u64>,
    /// Bytes of results that are kept at the most; 0 for no limit but that of all.
    pub results_bytes: Option<u64>,
}

/// One thing to set for a tenant. `None` makes it as if it had never been set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Machines in flight at the most; 0 for no limit but the fleet's.
    MaxInFlight(Option<u32>),
    /// Its weight in fair queueing: with 3, three runs go for each one of a tenant with 1.
    Weight(Option<f64>),
    /// Whether nothing of it boots.
    Paused(bool),
    /// Runs waiting at the most; 0 for no limit but that of all.
    BacklogMax(Option<u64>),
    /// Machine seconds on one UTC day.
    Budget(Option<u64>),
    /// Bytes of results that are kept at the most; 0 for no limit but that of all.
    ResultsBytes(Option<u64>),
}

/// The smallest weight and the largest.
pub const WEIGHTS: RangeInclusive<f64> = 0.01..=100.0;

/// Reads what is to be set: `none` is no limit, `default` what the workers' settings say. `field` is its
/// name, `shown` what it is called in a fault.
///
/// # Errors
/// What is wrong, with the text.
pub fn change(field: &str, shown: &str, text: &str) -> Result<Change, String> {
    Ok(match field {
        "max_in_flight" => {
            let most = limit(shown, text, 1_000_000)?;
            // `limit` lets no larger number pass.
            Change::MaxInFlight(most.map(|most| u32::try_from(most).unwrap_or(u32::MAX)))
        }
        "weight" => Change::Weight(weight(shown, text)?),
        "backlog_max" => Change::BacklogMax(limit(shown, text, 1_000_000_000)?),
        "budget_s" => Change::Budget(match text {
            "none" | "default" => None,
            _ => Some(whole(shown, text, 1_000_000_000_000)?),
        }),
        "results_bytes" => Change::ResultsBytes(limit(shown, text, 1 << 50)?),
        _ => return Err(format!("{shown} cannot be set for a tenant")),
    })
}

/// `Some(0)` stands for no limit, `None` for the default of the workers' settings.
fn limit(shown: &str, text: &str, most: u64) -> Result<Option<u64>, String> {
    match text {
        "none" => Ok(Some(0)),
        "default" => Ok(None),
        _ => whole(shown, text, most).map(Some),
    }
}

fn whole(shown: &str, text: &str, most: u64) -> Result<u64, String> {
    let number = text.parse().ok().filter(|n| (1..=most).contains(n));
    number.ok_or_else(|| {
        format!(
            "{shown} {text:?} is neither a number from 1 to {most} nor a word that its help lists"
        )
    })
}

fn weight(shown: &str, text: &str) -> Result<Option<f64>, String> {
    if text == "default" {
        return Ok(None);
    }
    let weight = text.parse().ok().filter(|w| WEIGHTS.contains(w));
    weight.map(Some).ok_or_else(|| {
        let (least, most) = (WEIGHTS.start(), WEIGHTS.end());
        format!("{shown} {text:?} is neither from {least} to {most} nor `default`")
    })
}

impl Change {
    fn words(self) -> [String; 2] {
        fn text<T: ToString>(value: Option<T>) -> String {
            value.map(|value| value.to_string()).unwrap_or_default()
        }
        let (field, value) = match self {
            Self::MaxInFlight(most) => ("max_in_flight", text(most)),
            Self::Weight(weight) => {
                let within = weight.map(|w| w.clamp(*WEIGHTS.start(), *WEIGHTS.end()));
                ("weight", text(within))
            }
            Self::Paused(paused) => ("paused", text(paused.then_some(1))),
            Self::BacklogMax(most) => ("backlog_max", text(most)),
            Self::Budget(seconds) => ("budget_s", text(seconds)),
            Self::ResultsBytes(most) => ("results_bytes", text(most)),
        };
        [field.to_owned(), value]
    }
}

/// The fields of [`TenantSettings`] as Redis has them.
const FIELDS: [&str; 6] = [
    "max_in_flight",
    "weight",
    "paused",
    "backlog_max",
    "budget_s",
    "results_bytes",
];

fn settings(set: [Option<Text>; 6]) -> TenantSettings {
    let [most, weight, paused, backlog, budget, results] =
        set.map(|value| value.map(|Text(text)| text));
    TenantSettings {
        max_in_flight: most.and_then(|text| text.parse().ok()),
        weight: weight.and_then(|text| text.parse().ok()),
        paused: paused.is_some(),
        backlog_max: backlog.and_then(|text| text.parse().ok()),
        budget_s: budget.and_then(|text| text.parse().ok()),
        results_bytes: results.and_then(|text| text.parse().ok()),
    }
}

/// A tenant as it is now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TenantView {
    /// Its name.
    pub tenant: String,
    /// What was set for it.
    pub settings: TenantSettings,
    /// Its runs that wait for a machine.
    pub waiting: u64,
    /// Those of them that may not start before a time.
    pub delayed: u64,
    /// Its runs that may have a machine.
    pub in_flight: u64,
    /// Machine seconds that it used today, of machines that are gone.
    pub used_today_s: f64,
}

/// A walk over every open run of a tenant: the delayed, then those in its queue, then those in
/// flight, which is the way that runs go.
#[derive(Clone, Debug)]
pub struct Walk {
    tenant: Tenant,
    place: usize,
    cursor: u64,
}

impl Walk {
    /// A walk that begins.
    #[must_use]
    pub fn new(tenant: &Tenant) -> Self {
        Self {
            tenant: tenant.clone(),
            place: 0,
            cursor: 0,
        }
    }
}

impl Store {
    /// The next runs of a walk, or `None` at its end. A run may come twice; one that changes
    /// its place meanwhile may be missed. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn step(&self, walk: &mut Walk) -> Result<Option<Vec<RunId>>, Error> {
        let tenant = walk.tenant.as_str();
        let (command, key, width) = match walk.place {
            0 => ("ZSCAN", self.keys.delayed_of(tenant), 2),
            1 => ("ZSCAN", self.keys.queue(tenant), 2),
            2 => ("SSCAN", self.keys.busy(tenant), 1),
            _ => return Ok(None),
        };
        let mut scan = redis::cmd(command);
        scan.arg(key).arg(walk.cursor).arg("COUNT").arg(PAGE);
        let (next, page): (u64, Vec<Text>) = self.door.query(&scan).await?;
        walk.cursor = next;
        if next == 0 {
            walk.place += 1;
        }
        let ids = page.iter().step_by(width);
        Ok(Some(ids.filter_map(|id| id.0.parse().ok()).collect()))
    }

    /// Changes what is set for a tenant. One round trip. Safe to repeat.
    ///
    /// # Errors
    /// [`Error`]; it may have happened.
    pub async fn configure(&self, tenant: &Tenant, changes: &[Change]) -> Result<(), Error> {
        let tenant = tenant.as_str();
        let mut script = scripts::CONFIGURE.prepare_invoke();
        script
            .key(self.keys.settings(tenant))
            .key(self.keys.configured())
            .key(self.keys.wakeups());
        script.arg(self.keys.namespace()).arg(tenant);
        for change in changes {
            script.arg(&change.words());
        }
        self.door.script(&mut script).await
    }

    /// Nothing of a tenant boots any more, or it goes on; `None` for everything. What runs goes on
    /// either way, and nothing is lost. `order` is the id of the order that says so, `None` for
    /// now: one that is obeyed after a later one changes nothing. Answers whether it was the
    /// latest. One round trip. Safe to repeat.
    ///
    /// # Errors
    /// [`Error`]; it may have happened.
    pub async fn pause(
        &self,
        tenant: Option<&Tenant>,
        is_paused: bool,
        order: Option<&str>,
    ) -> Result<bool, Error> {
        let tenant = tenant.map(Tenant::as_str);
        let (settings, order_key) = match tenant {
            Some(tenant) => (self.keys.settings(tenant), self.keys.order(tenant)),
            None => (self.keys.fleet_settings(), self.keys.fleet_order()),
        };
        let mut script = scripts::PAUSE.prepare_invoke();
        script
            .key(settings)
            .key(order_key)
            .key(self.keys.configured())
            .key(self.keys.wakeups())
            .arg(self.keys.namespace())
            .arg(tenant.unwrap_or_default())
            .arg(if is_paused { "1" } else { "" })
            .arg(order.unwrap_or_default())
            .arg(millis(ORDER_KEPT));
        self.door.script(&mut script).await
    }

    /// Whether everything is paused. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn is_paused(&self) -> Result<bool, Error> {
        let mut command = redis::cmd("HEXISTS");
        command.arg(self.keys.fleet_settings()).arg("paused");
        self.door.query(&command).await
    }

    /// A tenant as it is now, known or not. One round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn tenant(&self, tenant: &Tenant, now: UnixMs) -> Result<TenantView, Error> {
        let mut views = self.tenant_views(vec![tenant.to_string()], now).await?;
        views.pop().ok_or_else(|| Error::Corrupt {
            what: "the answer for a tenant".into(),
            found: "nothing".into(),
        })
    }

    /// Tenants that have settings, waiting runs, or runs in flight, by name. Some round trips, and
    /// one for each five hundred tenants and each thousand runs in flight.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn tenants(&self, now: UnixMs) -> Result<Vec<TenantView>, Error> {
        let (keys, last) = (&self.keys, LISTED_MAX - 1);
        let mut pipe = redis::pipe();
        pipe.smembers(keys.configured());
        for zset in [keys.tenants(), keys.parked(), keys.delayed()] {
            pipe.cmd("ZRANGE").arg(zset).arg(0).arg(last);
        }
        let lists: Vec<Vec<Text>> = self.door.pipe(&pipe).await?;
        let lists = lists.into_iter().flatten();
        let mut names: BTreeSet<String> = lists.map(|Text(name)| name).collect();
        for app in self.apps().await? {
            self.each_flight(&app, |run| names.extend([run.tenant]))
                .await?;
        }
        let names: Vec<String> = names.into_iter().take(LISTED_MAX).collect();
        let mut views = Vec::with_capacity(names.len());
        for page in names.chunks(PAGE) {
            views.extend(self.tenant_views(page.to_vec(), now).await?);
        }
        Ok(views)
    }

    /// Tenants that have settings, waiting runs, or runs in flight, by name: at most `most`, and whether
    /// those are all. What is read does not grow with how many there are. Some round trips.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn some_tenants(
        &self,
        most: usize,
        now: UnixMs,
    ) -> Result<(Vec<TenantView>, bool), Error> {
        let keys = &self.keys;
        let mut names: BTreeSet<String> = BTreeSet::new();
        let mut is_all = true;
        let mut pipe = redis::pipe();
        for zset in [keys.tenants(), keys.parked(), keys.delayed()] {
            pipe.cmd("ZRANGE").arg(zset).arg(0).arg(most);
        }
        for list in self.door.pipe::<Vec<Vec<Text>>>(&pipe).await? {
            is_all &= list.len() <= most;
            names.extend(list.into_iter().map(|Text(name)| name));
        }
        let mut scan = redis::cmd("SSCAN");
        scan.arg(keys.configured()).arg(0).arg("COUNT").arg(most);
        let (next, configured): (u64, Vec<Text>) = self.door.query(&scan).await?;
        is_all &= next == 0;
        names.extend(configured.into_iter().map(|Text(name)| name));
        for app in self.apps().await?.into_iter().take(APPS_READ) {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(keys.inflight(&app)).arg(0).arg("COUNT").arg(most);
            let (next, page): (u64, Vec<(Text, Text)>) = self.door.query(&scan).await?;
            is_all &= next == 0;
            let tenants = page.iter().filter_map(|(_, who)| who.0.split(' ').nth(1));
            names.extend(tenants.map(str::to_owned));
        }
        is_all &= names.len() <= most;
        let names: Vec<String> = names.into_iter().take(most).collect();
        let mut views = Vec::with_capacity(names.len());
        for page in names.chunks(PAGE) {
            views.extend(self.tenant_views(page.to_vec(), now).await?);
        }
        Ok((views, is_all))
    }

    async fn tenant_views(
        &self,
        names: Vec<String>,
        now: UnixMs,
    ) -> Result<Vec<TenantView>, Error> {
        let (keys, today) = (&self.keys, Day::of(now));
        let mut pipe = redis::pipe();
        for name in &names {
            pipe.cmd("HMGET").arg(keys.settings(name)).arg(&FIELDS);
            pipe.zcard(keys.queue(name)).zcard(keys.delayed_of(name));
            pipe.scard(keys.busy(name))
                .hget(keys.usage(today, name), "ms");
        }
        type Row = ([Option<Text>; 6], u64, u64, u64, Option<Text>);
        let rows: Vec<redis::Value> = self.door.pipe(&pipe).await?;
        let mut views = Vec::with_capacity(names.len());
        for (name, row) in names.into_iter().zip(rows.chunks(5)) {
            let row: Row = redis::from_redis_value(redis::Value::Array(row.to_vec()))
                .map_err(redis::RedisError::from)?;
            let (set, queued, delayed, in_flight, used_ms) = row;
            views.push(TenantView {
                tenant: name,
                settings: settings(set),
                waiting: queued.saturating_add(delayed),
                delayed,
                in_flight,
                used_today_s: seconds(used_ms.and_then(|ms| ms.0.parse().ok()).unwrap_or(0)),
            });
        }
        Ok(views)
    }
}
