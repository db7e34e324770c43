//! The next runs to boot.

use std::time::Duration;

use tracing::error;

use crate::clock::UnixMs;
use crate::run::budget;
use crate::run::day::Day;
use crate::run::id::Attempt;
use crate::run::share;
use crate::run::step::Event;
use crate::store::Store;
use crate::store::acts::{Claim, Claimed, FleetLimits, Request, Stop};
use crate::store::codec::Text;
use crate::store::error::Error;
use crate::store::requests::millis;
use crate::store::scripts;

impl Store {
    /// Takes at most `want` runs to boot, leased for `lease`. One round trip.
    ///
    /// # Errors
    /// [`Error`]; runs that were claimed unseen are booted by the sweep when their lease ends.
    pub async fn claim(
        &self,
        room: &FleetLimits,
        want: usize,
        now: UnixMs,
        lease: Duration,
    ) -> Result<Claim, Error> {
        let keys = &self.keys;
        let mut script = scripts::CLAIM.prepare_invoke();
        script
            .key(keys.tenants())
            .key(keys.due())
            .key(keys.delayed())
            .key(keys.apps())
            .key(keys.fleet_settings())
            .key(keys.parked())
            .key(keys.installation());
        let claimed = Event::Claimed { app: String::new() };
        script
            .arg(keys.namespace())
            .arg(now)
            .arg(budget::after(now, lease));
        script
            .arg(room.max_in_flight)
            .arg(want)
            .arg(&*scripts::moves_word(&claimed));
        script
            .arg(millis(budget::HASH_SLACK))
            .arg(room.boot_rate)
            .arg(room.boot_burst);
        let today = Day::of(now);
        script
            .arg(room.app_max_in_flight.unwrap_or(0))
            .arg(room.tenant_max_in_flight.unwrap_or(0))
            .arg(share::machines_per_free_slot(
                room.max_in_flight,
                room.tenant_max_in_flight,
            ));
        script.arg(today.to_string()).arg(today.end_ms());
        // Nonces are no secrets.
        script.arg(format!("{:016x}", fastrand::u64(..)));
        script.arg(&room.apps);
        let (why, wake, rows): (String, u64, Vec<[Text; 10]>) =
            self.door.script(&mut script).await?;
        let stop = match why.as_str() {
            "wanted" => Stop::Wanted,
            "empty" => Stop::Empty,
            "full" => Stop::Full,
            "held" => Stop::Held,
            "paused" => Stop::Paused,
            _ => {
                return Err(Error::Corrupt {
                    what: "the answer of claim".into(),
                    found: why,
                });
            }
        };
        let mut runs = Vec::with_capacity(rows.len());
        for row in rows {
            match claimed_of(row) {
                Ok(run) => runs.push(run),
                // Those beside it are claimed all the same; the sweep comes to it with its lease.
                Err(found) => error!(found, "a claimed run cannot be read; left to the sweep"),
            }
        }
        Ok(Claim {
            runs,
            stop,
            wake_at_ms: (wake > 0).then_some(wake),
        })
    }
}

/// Reads one row of the claim's answer; what was found when it cannot be read.
fn claimed_of(row: [Text; 10]) -> Result<Claimed, String> {
    let [
        id,
        tenant,
        attempt,
        app,
        deadline,
        refusals,
        since,
        nonce,
        request,
        bytes,
    ] = row.map(|Text(text)| text);
    let (Ok(run), Ok(number), Ok(deadline_ms)) = (id.parse(), attempt.parse(), deadline.parse())
    else {
        return Err(format!(
            "run {id:?}, attempt {attempt:?}, deadline {deadline:?}"
        ));
    };
    Ok(Claimed {
        attempt: Attempt(number),
        deadline_ms,
        id: run,
        tenant,
        app,
        refusals: refusals.parse().unwrap_or(0),
        refused_since_ms: since.parse().ok(),
        nonce: nonce.parse().ok(),
        request: match (request.is_empty(), bytes.parse()) {
            (true, Ok(bytes)) => Request::Large { bytes },
            _ => Request::Here(request),
        },
    })
}
