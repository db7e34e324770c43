//! Another installation in the same apps: a Redis and a worker of its own, in the same namespace,
//! with runs of the same ids. It must not feel the storm's own, nor they it.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use redis::streams::StreamRangeReply;
use serde_json::json;
use tokio::time::sleep;

use crate::link::Link;
use crate::plan::tenant_name;
use crate::produce::Progress;

/// Machines that it has at once.
pub(crate) const CAP: usize = 4;
/// Its runs end by their deadline, so long after their boot.
const TIMEOUT_S: u64 = 2;
/// One run for so many of the storm's own.
const EVERY: usize = 100;

/// Asks for runs as long as the storm goes on, and waits for their end. Answers what went wrong.
pub(crate) async fn live(mut link: Link, progress: Rc<Progress>) -> Vec<String> {
    let mut asked = 0;
    while !progress.all_sent.get() && !progress.is_over.get() {
        while asked * EVERY <= progress.ended.get() {
            let request = json!({"id": id(asked), "cmd": ["sleep", "60"], "timeout_s": TIMEOUT_S,
                "env": {"SIMULATED_GUEST": "hangs", "STORM": format!("of-{}", std::process::id())}});
            let request = request.to_string();
            let _: String = link
                .ask(&["XADD", "{cofferdam}:runs", "*", "run", &request])
                .await;
            asked += 1;
        }
        sleep(Duration::from_millis(50)).await;
    }
    while !progress.is_over.get() && !crate::count::is_quiet(&mut link).await {
        sleep(Duration::from_millis(200)).await;
    }
    progress.neighbour_is_quiet.set(true);
    let results: StreamRangeReply = link.ask(&["XRANGE", "{cofferdam}:results", "-", "+"]).await;
    let mut ends: HashMap<String, usize> = HashMap::new();
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for result in &results.ids {
        let run: String = result.get("run_id").unwrap();
        *outcomes.entry(result.get("outcome").unwrap()).or_default() += 1;
        *ends.entry(run).or_default() += 1;
    }
    println!("outcomes of the neighbour's: {outcomes:?}");
    let wrong = (0..asked).filter(|n| ends.get(&id(*n)) != Some(&1));
    let mut wrong: Vec<_> = wrong
        .map(|n| format!("the neighbour's {}: {:?} results", id(n), ends.get(&id(n))))
        .collect();
    if ends.len() > asked {
        wrong.push(format!(
            "the neighbour asked for {asked} runs and has {}",
            ends.len()
        ));
    }
    wrong
}

fn id(n: usize) -> String {
    format!("{}-{n}", tenant_name(0))
}
