//! `/readyz` says whether work can be done, and if not, why; what can lose runs is told at the start.

use crate::redis_faults::scene::settings;
use crate::support::fleet::Fleet;
use crate::support::parts;
use crate::support::redis::Server;
use crate::support::until::until;

async fn get(admin: &str, path: &str) -> (u16, String) {
    let answer = parts::http().get(format!("http://{admin}{path}"));
    let answer = answer.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn is(admin: &str, status: u16, words: &str) {
    until(&format!("{status} with {words:?}"), async || {
        let (code, text) = get(admin, "/readyz").await;
        if code == status && text.contains(words) {
            Ok(())
        } else {
            Err(format!("{code} {text}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_why_redis_does_not_take_our_work() {
    let server = Server::start();
    let settings = settings(&server);
    let key = |rest: &str| format!("{}:{rest}", settings.namespace);
    let (results, probe) = (key("results"), key("probe"));
    let fleet = Fleet::start_on(settings.clone(), &["--simulate", "1"], &[]).await;
    is(&fleet.admin, 200, "ready").await;
    let spoiled: [(&[&str], &[&str], &str, &str); 6] = [
        (
            &["CONFIG", "SET", "maxmemory", "1"],
            &["CONFIG", "SET", "maxmemory", "0"],
            "its maxmemory is reached",
            "out_of_memory",
        ),
        (
            &["REPLICAOF", "127.0.0.1", "1"],
            &["REPLICAOF", "NO", "ONE"],
            "it is a replica",
            "read_only",
        ),
        (
            &["CONFIG", "SET", "min-replicas-to-write", "1"],
            &["CONFIG", "SET", "min-replicas-to-write", "0"],
            "fewer replicas than min-replicas-to-write",
            "too_few_replicas",
        ),
        (
            &["ACL", "SETUSER", "default", "-evalsha"],
            &["ACL", "SETUSER", "default", "+evalsha"],
            "does not let this user do that",
            "no_permission",
        ),
        (
            &["ACL", "SETUSER", "default", "-set"],
            &["ACL", "SETUSER", "default", "+set"],
            "does not let this user do that",
            "no_permission",
        ),
        (
            &["SET", &results, "somebody's"],
            &["DEL", &results],
            "results is a string",
            "wrong_type",
        ),
    ];
    for (spoil, mend, words, kind) in spoiled {
        server.order(spoil).await;
        is(&fleet.admin, 503, words).await;
        let (_, metrics) = get(&fleet.admin, "/metrics").await;
        let line = format!("cofferdam_redis_errors_total{{kind=\"{kind}\"}} ");
        let counted = metrics.lines().find_map(|text| text.strip_prefix(&line));
        assert_ne!(counted.unwrap(), "0", "{kind}");
        server.order(mend).await;
        is(&fleet.admin, 200, "ready").await;
    }
    server.order(&["DEL", &probe]).await;
    fleet.finish().await;
}

/// Two nodes each of which says that the other has our keys: nobody can work, and a PING is answered.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_that_no_node_of_the_cluster_has_our_keys() {
    let (one, other) = (Server::start_clustered(), Server::start_clustered());
    let mut settings = settings(&one);
    settings.namespace = format!("{{{}}}", settings.namespace);
    for (node, epoch) in [(&one, "1"), (&other, "2")] {
        node.order(&["CLUSTER", "SET-CONFIG-EPOCH", epoch]).await;
    }
    one.order(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    let (port, bus) = (other.port().to_string(), other.cluster_port());
    one.order(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])
        .await;
    for node in [&one, &other] {
        until("the nodes to know each other", async || {
            let info: String = node.ask(&["CLUSTER", "INFO"]).await.unwrap();
            let is_well =
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2");
            if is_well { Ok(()) } else { Err(info) }
        })
        .await;
    }
    let fleet = Fleet::start_on(settings.clone(), &["--simulate", "1"], &[]).await;
    is(&fleet.admin, 200, "ready").await;
    let slot: u16 = one
        .ask(&["CLUSTER", "KEYSLOT", &settings.namespace])
        .await
        .unwrap();
    let slot = slot.to_string();
    let id = async |node: &Server| -> String { node.ask(&["CLUSTER", "MYID"]).await.unwrap() };
    let (own, others) = (id(&one).await, id(&other).await);
    // The first gives the slot away, and the second does not take it.
    one.order(&["CLUSTER", "DELSLOTS", &slot]).await;
    one.order(&["CLUSTER", "SETSLOT", &slot, "NODE", &others])
        .await;
    is(&fleet.admin, 503, "another node of the redis cluster").await;
    let (_, metrics) = get(&fleet.admin, "/metrics").await;
    let line = "cofferdam_redis_errors_total{kind=\"moved\"} ";
    let counted = metrics.lines().find_map(|text| text.strip_prefix(line));
    assert_ne!(counted.unwrap(), "0");
    one.order(&["CLUSTER", "SETSLOT", &slot, "NODE", &own])
        .await;
    is(&fleet.admin, 200, "ready").await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_lose_runs_is_told_once_at_the_start() {
    let server = Server::start_as(&["--appendonly", "no", "--maxmemory-policy", "allkeys-lru"]);
    // Nine tenths of the memory that it may have.
    server
        .order(&["SETRANGE", "ballast", "20000000", "x"])
        .await;
    let memory: String = server.ask(&["INFO", "memory"]).await.unwrap();
    let used = memory
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    let most = used.unwrap().trim().parse::<u64>().unwrap() / 9 * 10;
    server
        .order(&["CONFIG", "SET", "maxmemory", &most.to_string()])
        .await;
    let fleet = Fleet::start_on(settings(&server), &["--simulate", "1"], &[]).await;
    is(&fleet.admin, 200, "ready").await;
    let said = fleet.serve.said();
    for words in [
        "maxmemory-policy is not noeviction",
        "redis keeps no append-only file",
        "the memory of redis is nearly full",
    ] {
        assert_eq!(said.matches(words).count(), 1, "{words}: {said}");
    }
    fleet.finish().await;
}
