//! What tenants used: machine time by size, and runs by how they ended.

use std::collections::BTreeMap;

use serde::Serialize;

use tracing::warn;

use crate::run::day::Day;
use crate::run::id::Tenant;
use crate::store::Store;
use crate::store::codec::Text;
use crate::store::error::Error;

/// Days asked for at the most; what is older is not kept.
pub const DAYS_MAX: usize = 400;

/// Keys read in one step of a scan.
const SCAN_STEP: usize = 1000;

/// What a tenant used on a day.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Usage {
    /// Whose use.
    pub tenant: String,
    /// On which UTC day: that on which the machine was gone, or the run ended.
    pub day: Day,
    /// Seconds that machines were there, all sizes together.
    pub machine_s: f64,
    /// The same by size: `cpu_kind:cpus:memory_mb`.
    pub machine_s_by_size: BTreeMap<String, f64>,
    /// Runs by outcome.
    pub runs: BTreeMap<String, u64>,
}

impl Usage {
    fn read(tenant: &str, day: Day, fields: Vec<(Text, Text)>) -> Self {
        let mut usage = Self {
            tenant: tenant.to_owned(),
            day,
            machine_s: 0.0,
            machine_s_by_size: BTreeMap::new(),
            runs: BTreeMap::new(),
        };
        for (Text(field), Text(value)) in fields {
            let Ok(value) = value.parse::<u64>() else {
                warn!(tenant, %day, field, value, "a count cannot be read; left out");
                continue;
            };
            match field.split_once(':') {
                None if field == "ms" => usage.machine_s = seconds(value),
                Some(("ms", size)) => {
                    usage
                        .machine_s_by_size
                        .insert(size.to_owned(), seconds(value));
                }
                Some(("runs", outcome)) => {
                    usage.runs.insert(outcome.to_owned(), value);
                }
                _ => {}
            }
        }
        usage
    }
}

/// Milliseconds as seconds.
pub(crate) fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

impl Store {
    /// What one tenant used on each day from `since` to `until`, both included; days without any
    /// use are left out. One round trip. At most [`DAYS_MAX`] days, the first ones.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn usage(
        &self,
        tenant: &Tenant,
        since: Day,
        until: Day,
    ) -> Result<Vec<Usage>, Error> {
        let next = |day: &Day| (*day < until).then(|| day.next());
        let days: Vec<Day> = std::iter::successors((since <= until).then_some(since), next)
            .take(DAYS_MAX)
            .collect();
        let wanted: Vec<_> = days.iter().map(|day| (*day, tenant.as_str())).collect();
        self.usage_of(&wanted).await
    }

    /// What every tenant used on each day from `since` on, by tenant and day. Scans all keys, so
    /// this is for people and not for loops.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn usage_of_all(&self, since: Day, until: Day) -> Result<Vec<Usage>, Error> {
        let prefix = self.keys.usage_prefix();
        let (mut found, mut cursor) = (Vec::new(), 0u64);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*"));
            scan.arg("COUNT").arg(SCAN_STEP).arg("TYPE").arg("hash");
            let (next, page): (u64, Vec<Text>) = self.door.query(&scan).await?;
            found.extend(page.iter().filter_map(|key| {
                let (day, tenant) = key.0.strip_prefix(&prefix)?.split_once(':')?;
                let day: Day = day.parse().ok()?;
                (since <= day && day <= until).then(|| (tenant.to_owned(), day))
            }));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        // A scan may show a key twice.
        found.sort();
        found.dedup();
        let mut all = Vec::with_capacity(found.len());
        for page in found.chunks(SCAN_STEP) {
            let wanted: Vec<_> = page
                .iter()
                .map(|(tenant, day)| (*day, tenant.as_str()))
                .collect();
            all.extend(self.usage_of(&wanted).await?);
        }
        Ok(all)
    }

    async fn usage_of(&self, wanted: &[(Day, &str)]) -> Result<Vec<Usage>, Error> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for (day, tenant) in wanted {
            pipe.hgetall(self.keys.usage(*day, tenant));
        }
        let rows: Vec<Vec<(Text, Text)>> = self.door.pipe(&pipe).await?;
        let used = wanted.iter().zip(rows).filter(|(_, row)| !row.is_empty());
        Ok(used
            .map(|((day, tenant), row)| Usage::read(tenant, *day, row))
            .collect())
    }
}
