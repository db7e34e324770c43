//! Sentinel: three of them watch a primary with two replicas, and one of these takes over when the
//! primary is killed.

use std::time::Duration;

use tokio::time::Instant;

use crate::redis_deployments::{DELAY, Env, RUNS, borrowed, redis, tool};
use crate::redis_faults::scene::Scene;
use crate::support::redis::Server;
use crate::support::until::until;

/// Who we are to Redis, and to the sentinels.
const USER: &[&str] = &["--user", "us", "on", ">hush", "~*", "&*", "+@all"];
/// How long until runs go on after the primary was killed: the sentinels take four seconds to agree that
/// it is down (a busy computer may well let one pass), and a few to put another in its place.
const FOLLOWED: Duration = Duration::from_secs(25);

struct Watched {
    servers: Vec<Server>,
    sentinels: Vec<Server>,
}

impl Watched {
    async fn start() -> Self {
        let primary = Server::start_as(USER);
        let port = primary.port().to_string();
        let replica = || {
            let mut options = vec!["--replicaof", "127.0.0.1", port.as_str()];
            options.extend(USER);
            Server::start_as(&options)
        };
        let servers = vec![replica(), replica(), primary];
        for replica in &servers[..2] {
            until("the replicas to follow", async || {
                let info: String = replica.ask(&["INFO", "replication"]).await.unwrap();
                if info.contains("master_link_status:up") {
                    Ok(())
                } else {
                    Err(info)
                }
            })
            .await;
        }
        let settings = format!(
            "sentinel monitor mine 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds mine 4000\n\
             sentinel failover-timeout mine 4000\n\
             user watcher on >quiet allchannels allkeys +@all\n"
        );
        let sentinels: Vec<Server> = (0..3).map(|_| Server::start_sentinel(&settings)).collect();
        for sentinel in &sentinels {
            until("the sentinels to know each other", async || {
                let quorum: String = sentinel
                    .ask(&["SENTINEL", "CKQUORUM", "mine"])
                    .await
                    .unwrap_or_else(|error| error.to_string());
                let known: Vec<redis::Value> = sentinel
                    .ask(&["SENTINEL", "REPLICAS", "mine"])
                    .await
                    .unwrap_or_default();
                let others: Vec<redis::Value> = sentinel
                    .ask(&["SENTINEL", "SENTINELS", "mine"])
                    .await
                    .unwrap_or_default();
                if quorum.starts_with("OK 3") && known.len() == 2 && others.len() == 2 {
                    Ok(())
                } else {
                    Err(format!("{quorum}, {} replicas", known.len()))
                }
            })
            .await;
        }
        Self { servers, sentinels }
    }

    fn settings(&self, password: &str) -> Env {
        let ports = self
            .sentinels
            .iter()
            .map(|sentinel| format!("127.0.0.1:{}", sentinel.port()));
        let ports: Vec<String> = ports.collect();
        let url = format!(
            "redis+sentinel://us:hush@{}/mine?db=1&sentinel_user=watcher&sentinel_password={password}",
            ports.join(",")
        );
        vec![("REDIS_URL", url)]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_is_followed_to_the_one_that_sentinel_names() {
    let mut watched = Watched::start().await;
    let env = watched.settings("quiet");
    let mut scene = Scene::start_with(redis(&env), &borrowed(&env), DELAY).await;
    scene.submit_by_store(RUNS).await;
    let before = scene.has_results(RUNS / 10).await;
    let killed = Instant::now();
    watched.servers.last_mut().unwrap().stop();
    scene.has_results(before + RUNS / 10).await;
    let took = killed.elapsed();
    assert!(took < FOLLOWED, "{took:?}");
    // It comes back as a replica, and nobody follows it.
    watched.servers.last_mut().unwrap().resume();
    scene.settles().await;
    scene.end().await;

    let listed = tool(&["results", "--json"], &scene_env(&env, "unused"));
    assert_eq!(listed.status, 0, "{listed:?}");
    let refused = tool(&["runs"], &watched.settings("wrong"));
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("the sentinel 127.0.0.1:"),
        "{refused:?}"
    );
    assert!(!refused.stderr.contains("hush"), "{refused:?}");
    let mut other = env.clone();
    other[0].1 = other[0].1.replace("/mine?", "/other?");
    let refused = tool(&["runs"], &other);
    assert!(
        refused
            .stderr
            .contains("watches no primary of the name \"other\""),
        "{refused:?}"
    );
}

fn scene_env(env: &Env, namespace: &str) -> Env {
    let mut env = env.clone();
    env.push(("COFFERDAM_NAMESPACE", namespace.to_owned()));
    env
}
