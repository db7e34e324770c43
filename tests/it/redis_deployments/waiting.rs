//! Replicas that must have what decides a run's fate.

use crate::redis_faults::scene::settings;
use crate::support::fleet::Fleet;
use crate::support::redis::Server;
use crate::support::until::until;

/// Nothing counts as done before the replica has it, and all of it is done once when it comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_the_replica_that_must_have_it_and_ends_once() {
    let primary = Server::start();
    let env = [("COFFERDAM_REDIS_WAIT", "1:100")];
    let settings = settings(&primary);
    let fleet = Fleet::start_on(settings.clone(), &["--simulate", "1"], &env).await;
    let (worker, _) = fleet.worker().await;
    let submitted = fleet.tool(&["submit", "--id", "one", "--", "true"]);
    assert_eq!(submitted.status, 0, "{submitted:?}");
    until("the worker to say what is missing", async || {
        let said = worker.said();
        if said.contains("0 of 1 replicas have confirmed in time") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
    let port = primary.port().to_string();
    let _replica = Server::start_as(&["--replicaof", "127.0.0.1", &port]);
    primary
        .order(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"])
        .await;
    fleet.until_state("one", "closed").await;
    let results = fleet.tool(&["results", "--json"]).json();
    assert_eq!(results.len(), 1, "{results:?}");
    worker.finish().await;
    fleet.finish().await;
}
