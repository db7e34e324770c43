//! What is known of runs in several places is made to agree with their hashes, which are the
//! truth: for when somebody changed keys by hand.

use std::collections::BTreeMap;

use crate::clock::UnixMs;
use crate::run::id::RunId;
use crate::run::phase::State;
use crate::store::Store;
use crate::store::codec::Text;
use crate::store::error::Error;
use crate::store::scripts::{self, states};

/// Runs read in one round trip.
const PAGE: usize = 200;

/// Parked tenants whose runs in flight one pass reads at the most.
const PARKED_MAX: usize = 10_000;

impl Store {
    /// Reads every run in flight, and some of all open runs, from where the last pass
    /// stopped (`from`, at first 0) and for about `most`. Answers how many things it mended, and
    /// where to go on. One round trip for each two hundred runs.
    ///
    /// # Errors
    /// [`Error`]; part of it may have been done, and it is safe to repeat.
    pub async fn mend(&self, from: u64, most: usize, now: UnixMs) -> Result<(u64, u64), Error> {
        let mut mended = 0;
        let mut tenants: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for app in self.apps().await? {
            self.each_flight(&app, |run| {
                let ids = tenants.entry(run.tenant).or_default();
                ids.push(run.id.as_str().to_owned());
            })
            .await?;
        }
        // A tenant at its cap may have nothing in flight but what should not be there.
        let mut parked = redis::cmd("ZRANGE");
        parked.arg(self.keys.parked()).arg(0).arg(PARKED_MAX - 1);
        for Text(tenant) in self.door.query::<Vec<Text>>(&parked).await? {
            tenants.entry(tenant).or_default();
        }
        for (tenant, mut ids) in tenants {
            ids.extend(self.scanned("SSCAN", &self.keys.busy(&tenant)).await?);
            ids.sort_unstable();
            ids.dedup();
            mended += self.mend_page(&tenant, &ids, now).await?;
        }
        let (mut cursor, mut looked) = (from, 0);
        loop {
            let mut scan = redis::cmd("ZSCAN");
            scan.arg(self.keys.due()).arg(cursor).arg("COUNT").arg(PAGE);
            let (next, page): (u64, Vec<(Text, f64)>) = self.door.query(&scan).await?;
            let ids: Vec<String> = page.into_iter().map(|(Text(id), _)| id).collect();
            looked += ids.len();
            mended += self.mend_page("", &ids, now).await?;
            cursor = next;
            if cursor == 0 || looked >= most {
                return Ok((mended, cursor));
            }
        }
    }

    async fn mend_page(&self, tenant: &str, ids: &[String], now: UnixMs) -> Result<u64, Error> {
        let mut mended = 0;
        for page in ids.chunks(PAGE) {
            let mut script = scripts::MEND.prepare_invoke();
            script.key(self.keys.due());
            script.arg(self.keys.namespace()).arg(now);
            script.arg(states(&[State::Booting, State::Running, State::Settled]));
            script.arg(states(&[State::Queued])).arg(tenant);
            // Only what can be a run's id makes a key.
            for id in page.iter().filter(|id| id.parse::<RunId>().is_ok()) {
                script.arg(id);
            }
            mended += self.door.script::<u64>(&mut script).await?;
        }
        Ok(mended)
    }

    async fn scanned(&self, command: &str, key: &str) -> Result<Vec<String>, Error> {
        let (mut all, mut cursor) = (Vec::new(), 0u64);
        loop {
            let mut scan = redis::cmd(command);
            scan.arg(key).arg(cursor).arg("COUNT").arg(1000);
            let (next, page): (u64, Vec<Text>) = self.door.query(&scan).await?;
            all.extend(page.into_iter().map(|Text(id)| id));
            cursor = next;
            if cursor == 0 {
                return Ok(all);
            }
        }
    }
}
