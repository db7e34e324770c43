//! A Redis that comes back slowly, or at another place behind the same address.

use std::time::Duration;

use cofferdam::config::Secret;

use crate::redis_faults::scene::{Scene, settings};
use crate::support::command::{cofferdam, ended};
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

/// All keys lie in the slot of the namespace, so the node that has it is as good as a single Redis.
/// Nobody follows to it from another: that one is refused, and it is said why.
#[tokio::test(flavor = "multi_thread")]
async fn the_node_of_a_cluster_that_has_the_slot_serves_and_another_is_told_apart() {
    let nodes = [Server::start_clustered(), Server::start_clustered()];
    let of = |server: &Server| cofferdam::config::Redis {
        namespace: "{cofferdam}".to_owned(),
        ..settings(server)
    };
    let raws = [
        Raw::new(&of(&nodes[0])).await,
        Raw::new(&of(&nodes[1])).await,
    ];
    raws[0]
        .order(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"])
        .await;
    raws[1]
        .order(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"])
        .await;
    let url = nodes[1].tcp_url();
    let port = url.rsplit(':').next().unwrap();
    let bus = nodes[1].cluster_port();
    let meet = ["CLUSTER", "MEET", "127.0.0.1", port, bus.as_str()];
    raws[0].order(&meet).await;
    until("the nodes to know each other", async || {
        for raw in &raws {
            let info: String = raw.answer(&["CLUSTER", "INFO"]).await;
            if !info.contains("cluster_state:ok") || !info.contains("cluster_known_nodes:2") {
                return Err(info);
            }
        }
        Ok(())
    })
    .await;
    let slot: u16 = raws[0].answer(&["CLUSTER", "KEYSLOT", "{cofferdam}"]).await;
    let [owner, other] = if slot < 8192 {
        [&nodes[0], &nodes[1]]
    } else {
        [&nodes[1], &nodes[0]]
    };

    let mut scene = Scene::start(of(owner), &owner.tcp_url(), DELAY).await;
    scene.submit_many(RUNS).await;
    scene.settles().await;
    scene.end().await;

    let mut command = cofferdam(["submit", "--image", "host", "--", "true"]);
    command.env("REDIS_URL", other.tcp_url());
    command.env("COFFERDAM_NAMESPACE", "{cofferdam}");
    let refused = ended(command);
    assert_eq!(refused.status, 1, "{refused:?}");
    let said = refused.stderr;
    assert!(said.contains("another node of the redis cluster"), "{said}");
}
