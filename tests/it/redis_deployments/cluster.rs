//! Redis Cluster: three primaries, each with a replica. All keys of a namespace in braces lie in one
//! slot, and the processes find its owner from a node that is another.

use std::time::Duration;

use tokio::time::Instant;

use crate::redis_deployments::{DELAY, Env, RUNS, borrowed, redis, tool};
use crate::redis_faults::scene::Scene;
use crate::support::redis::{Server, namespace};
use crate::support::until::until;

/// How long until runs go on after their node was killed: the others take some five seconds to agree
/// that it has failed, and the replica a few more.
const FOLLOWED: Duration = Duration::from_secs(30);
/// Keys that are moved at once, and the pause after each time.
const BATCH: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Six nodes; the first three are primaries, and the other three their replicas, in this order.
struct Cluster {
    nodes: Vec<Server>,
    namespace: String,
    slot: u16,
    /// The primary that has our keys at the beginning.
    owner: usize,
}

impl Cluster {
    async fn start() -> Self {
        let nodes: Vec<Server> = (0..6).map(|_| Server::start_clustered()).collect();
        for (index, range) in [(0, 5460), (5461, 10922), (10923, 16383)]
            .iter()
            .enumerate()
        {
            let (from, to) = (range.0.to_string(), range.1.to_string());
            let node = &nodes[index];
            node.order(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()])
                .await;
            node.order(&["CLUSTER", "ADDSLOTSRANGE", &from, &to]).await;
        }
        for node in &nodes[1..] {
            let (port, bus) = (node.port().to_string(), node.cluster_port());
            nodes[0]
                .order(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])
                .await;
        }
        let knows_all = async |node: &Server| {
            until("the nodes to know each other", async || {
                let info: String = node.ask(&["CLUSTER", "INFO"]).await.unwrap();
                let is_well =
                    info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:6");
                if is_well { Ok(()) } else { Err(info) }
            })
            .await;
        };
        for node in &nodes {
            knows_all(node).await;
        }
        for index in 0..3 {
            let id: String = nodes[index].ask(&["CLUSTER", "MYID"]).await.unwrap();
            nodes[index + 3].order(&["CLUSTER", "REPLICATE", &id]).await;
        }
        for node in &nodes[3..] {
            until("the replicas to follow", async || {
                let info: String = node.ask(&["INFO", "replication"]).await.unwrap();
                if info.contains("master_link_status:up") {
                    Ok(())
                } else {
                    Err(info)
                }
            })
            .await;
        }
        // Every node has heard who has which slots.
        for node in &nodes {
            until("six nodes in the slots", async || {
                let slots: Vec<Vec<redis::Value>> = node.ask(&["CLUSTER", "SLOTS"]).await.unwrap();
                let is_whole = slots.len() == 3 && slots.iter().all(|range| range.len() == 4);
                if is_whole {
                    Ok(())
                } else {
                    Err(format!("{slots:?}"))
                }
            })
            .await;
        }
        let namespace = format!("{{{}}}", namespace());
        let slot: u16 = nodes[0]
            .ask(&["CLUSTER", "KEYSLOT", &namespace])
            .await
            .unwrap();
        let owner = match slot {
            0..=5460 => 0,
            5461..=10922 => 1,
            _ => 2,
        };
        Self {
            nodes,
            namespace,
            slot,
            owner,
        }
    }

    /// The settings, by a primary that does not have our keys.
    fn settings(&self) -> Env {
        vec![
            ("REDIS_URL", self.nodes[(self.owner + 1) % 3].tcp_url()),
            ("COFFERDAM_NAMESPACE", self.namespace.clone()),
        ]
    }

    /// Moves our slot to another primary, some keys at a time, as `redis-cli --cluster reshard` does.
    async fn move_slot(&self, from: usize, to: usize) -> usize {
        let slot = self.slot.to_string();
        let id = async |index: usize| -> String {
            self.nodes[index].ask(&["CLUSTER", "MYID"]).await.unwrap()
        };
        let (from_id, to_id) = (id(from).await, id(to).await);
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        target
            .order(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id])
            .await;
        source
            .order(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id])
            .await;
        let port = target.port().to_string();
        let (batch, mut moved) = (BATCH.to_string(), 0);
        loop {
            let keys: Vec<String> = source
                .ask(&["CLUSTER", "GETKEYSINSLOT", &slot, &batch])
                .await
                .unwrap();
            if keys.is_empty() {
                break;
            }
            moved += keys.len();
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            source.order(&words).await;
            tokio::time::sleep(PAUSE).await;
        }
        for node in [target, source] {
            node.order(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id])
                .await;
        }
        moved
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_is_followed_to_its_replica() {
    let mut cluster = Cluster::start().await;
    let env = cluster.settings();
    let mut scene = Scene::start_with(redis(&env), &borrowed(&env), DELAY).await;
    scene.submit_by_store(RUNS).await;
    let before = scene.has_results(RUNS / 10).await;
    let killed = Instant::now();
    let owner = cluster.owner;
    cluster.nodes[owner].stop();
    scene.has_results(before + RUNS / 10).await;
    let took = killed.elapsed();
    assert!(took < FOLLOWED, "{took:?}");
    cluster.nodes[owner].resume();
    scene.settles().await;
    scene.end().await;
    let listed = tool(&["results", "--json"], &env);
    assert!(!listed.json().is_empty());
}

/// No script is done by half: one that comes while some keys are here and some there is refused as a
/// whole, and sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_under_the_runs_loses_and_doubles_nothing() {
    let cluster = Cluster::start().await;
    let env = cluster.settings();
    let mut scene = Scene::start_with(redis(&env), &borrowed(&env), DELAY).await;
    scene.submit_by_store(RUNS).await;
    scene.has_results(RUNS / 10).await;
    let (from, to) = (cluster.owner, (cluster.owner + 1) % 3);
    let moved = cluster.move_slot(from, to).await;
    assert!(moved > RUNS / 2, "{moved}");
    // And back again, while the rest of the runs end.
    cluster.move_slot(to, from).await;
    scene.settles().await;
    let said = scene.worker.said();
    assert!(!said.contains("non local key"), "{said}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_refuses_a_namespace_without_braces_at_the_start() {
    let cluster = Cluster::start().await;
    let mut env = cluster.settings();
    env[1].1 = "plain".to_owned();
    env.extend([
        (
            "COFFERDAM_SIGNING_KEYS",
            crate::support::fleet::KEYS.to_owned(),
        ),
        ("COFFERDAM_LISTEN", "127.0.0.1:0".to_owned()),
        ("COFFERDAM_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
    ]);
    for command in ["serve", "runs", "doctor"] {
        let refused = tool(&[command], &env);
        assert_eq!(refused.status, 1, "{refused:?}");
        let said = refused.stdout + &refused.stderr;
        assert!(said.contains("COFFERDAM_NAMESPACE to {plain}"), "{said}");
    }
}
