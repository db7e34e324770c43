//! The victim: a tenant with short runs, one after the other.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::scene::Scene;

/// How long a run may take before it counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// A run that is as short as runs are.
const SCRIPT: &str = "curl -sS -o /dev/null -H \"Authorization: Bearer $SANDBOX_RUN_TOKEN\" \
    -d 1 $SANDBOX_RESULT_URL";

/// How long runs took, from XADD to result.
#[derive(Debug)]
pub(crate) struct Times {
    /// In ascending order.
    pub(crate) times: Vec<Duration>,
    /// Runs that did not complete.
    pub(crate) lost: usize,
}

impl Times {
    pub(crate) fn p50(&self) -> Duration {
        self.quantile(50)
    }

    pub(crate) fn p99(&self) -> Duration {
        self.quantile(99)
    }

    fn quantile(&self, percent: usize) -> Duration {
        let rank = (self.times.len() * percent).div_ceil(100).max(1);
        self.times[rank - 1]
    }
}

/// Times `runs` runs of the victim.
pub(crate) async fn time(scene: &mut Scene, phase: &str, runs: usize) -> Times {
    let mut times = Vec::with_capacity(runs);
    let mut lost = 0;
    let (mut longest, mut slowest) = (Duration::ZERO, String::new());
    for n in 0..runs {
        let id = format!("victim-{phase}-{n}");
        let began = Instant::now();
        scene.submit(&id, "victim", SCRIPT, &Value::Null).await;
        let outcome = scene.wait(&id, LOST_AFTER).await;
        let took = began.elapsed();
        times.push(took);
        if took > longest {
            (longest, slowest) = (took, id.clone());
        }
        if outcome.as_deref() != Ok("completed") {
            println!("{id}: {outcome:?}");
            lost += 1;
        }
    }
    println!("{}: {}", slowest, scene.moments(&slowest).await);
    times.sort_unstable();
    Times { times, lost }
}
