//! A Redis that comes back slowly, or at another place behind the same address.

use std::time::Duration;

use cofferdam::config::Secret;

use crate::redis_faults::scene::{Scene, settings};
use crate::support::raw::Raw;
use crate::support::redis::Server;
use crate::support::relay::Relay;
use crate::support::until::until;

const RUNS: usize = 30;
const DELAY: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_loads_its_data_is_waited_for() {
    let mut server = Server::start();
    let mut scene = Scene::start(settings(&server), &server.tcp_url(), DELAY).await;
    let raw = scene.fleet.raw().await;
    // What takes it a second or two to load.
    raw.order(&[
        "EVAL",
        "for i = 1, 1500000 do redis.call('SET', 'ballast:' .. i, i) end",
        "0",
    ])
    .await;
    scene.submit_many(RUNS).await;
    tokio::time::sleep(DELAY).await;
    server.stop();
    let loading = server.resume_loading();
    assert!(loading, "it was not seen loading");
    scene.settles().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_takes_over_behind_the_same_address_is_followed() {
    let (old, new) = (Server::start(), Server::start());
    let first = settings(&old);
    let second = cofferdam::config::Redis {
        url: Secret::new(new.tcp_url().parse().unwrap()),
        namespace: first.namespace.clone(),
        ..cofferdam::config::Redis::nearby()
    };
    let (at_old, at_new) = (Raw::new(&first).await, Raw::new(&second).await);
    let port = |server: &Server| server.tcp_url().rsplit(':').next().unwrap().to_owned();
    at_new.order(&["REPLICAOF", "127.0.0.1", &port(&old)]).await;
    until("the replica to follow", async || {
        let replication = at_new.info("replication").await;
        if replication.contains("master_link_status:up") {
            Ok(())
        } else {
            Err(replication)
        }
    })
    .await;
    let relay = Relay::start().await;
    relay.lead_to(Some(format!("127.0.0.1:{}", port(&old))));
    let url = format!("redis://{}", relay.address);
    let mut scene = Scene::start(first, &url, DELAY).await;
    scene.submit_many(RUNS).await;
    tokio::time::sleep(DELAY).await;

    at_old.order(&["FAILOVER"]).await;
    until("the replica to have taken over", async || {
        let replication = at_new.info("replication").await;
        if replication.contains("role:master") {
            Ok(())
        } else {
            Err(replication)
        }
    })
    .await;
    // Connections to the old one stay; it refuses what is written.
    relay.lead_to(Some(format!("127.0.0.1:{}", port(&new))));
    scene.settles_on(&second).await;
    scene.end().await;
}
