//! Sentinel: three of them watch a primary with two replicas, and one of these takes over when the
//! primary is killed.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::redis_deployments::{DELAY, Env, RUNS, borrowed, redis, tool};
use crate::redis_faults::scene::Scene;
use crate::support::certificates::{Authority, Certified};
use crate::support::redis::{Server, free_port};
use crate::support::until::until;

/// Who we are to Redis, and to the sentinels.
const USER: &[&str] = &["--user", "us", "on", ">hush", "~*", "&*", "+@all"];
/// How long until runs go on after the primary was killed: the sentinels take four seconds to agree that
/// it is down (a busy computer may well let one pass), and a few to put another in its place.
const FOLLOWED: Duration = Duration::from_secs(25);

struct Watched {
    servers: Vec<Server>,
    /// Where the sentinels are spoken to.
    ports: Vec<u16>,
    _sentinels: Vec<Server>,
}

/// What all of them show to each other and to us.
struct Tls {
    authority: Authority,
    certified: Certified,
}

impl Tls {
    fn new() -> Self {
        let authority = Authority::new();
        let certified = authority.signs("redis", &["127.0.0.1"]);
        Self {
            authority,
            certified,
        }
    }

    /// Each file, and the setting of Redis that names it.
    fn files(&self) -> [(&'static str, String); 3] {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        [
            ("tls-cert-file", text(&self.certified.certificate)),
            ("tls-key-file", text(&self.certified.key)),
            ("tls-ca-cert-file", text(&self.authority.file())),
        ]
    }

    fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        for (name, file) in self.files() {
            options.extend([format!("--{name}"), file]);
        }
        let port = free_port().to_string();
        let words = ["--tls-auth-clients", "no", "--tls-replication", "yes"];
        options.extend(words.map(str::to_owned));
        options.extend(["--tls-port".to_owned(), port]);
        options
    }

    /// Those of a sentinel.
    fn settings(&self, port: u16) -> String {
        let files = self.files().map(|(name, file)| format!("{name} {file}\n"));
        format!(
            "{}tls-auth-clients no\ntls-replication yes\ntls-port {port}\n",
            files.concat()
        )
    }
}

impl Watched {
    /// Three of each, which speak TLS with each other and with us if there is a certificate for them.
    async fn start(tls: Option<&Tls>) -> Self {
        let server = |more: &[&str]| {
            let mut options = more.to_vec();
            options.extend(USER);
            let files = tls.map(Tls::options).unwrap_or_default();
            options.extend(files.iter().map(String::as_str));
            Server::start_as(&options)
        };
        let primary = server(&[]);
        let port = match tls {
            None => primary.port().to_string(),
            Some(_) => primary.tls_port().to_owned(),
        };
        let replica = || server(&["--replicaof", "127.0.0.1", &port]);
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
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let sentinel = |port: &u16| {
            let files = tls.map(|tls| tls.settings(*port)).unwrap_or_default();
            Server::start_sentinel(&format!("{settings}{files}"))
        };
        let sentinels: Vec<Server> = ports.iter().map(sentinel).collect();
        let ports = match tls {
            None => sentinels.iter().map(Server::port).collect(),
            Some(_) => ports,
        };
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
        Self {
            servers,
            ports,
            _sentinels: sentinels,
        }
    }

    fn settings(&self, password: &str) -> Env {
        let ports = self.ports.iter().map(|port| format!("127.0.0.1:{port}"));
        let ports: Vec<String> = ports.collect();
        let url = format!(
            "redis+sentinel://us:hush@{}/mine?db=1&sentinel_user=watcher&sentinel_password={password}",
            ports.join(",")
        );
        vec![("REDIS_URL", url)]
    }
}

/// Runs go on at another server within seconds of the primary's end, and each ends once.
async fn is_followed(watched: &mut Watched, env: &Env) {
    let mut scene = Scene::start_with(redis(env), &borrowed(env), DELAY).await;
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
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_and_sentinels_behind_tls_are_followed() {
    let tls = Tls::new();
    let mut watched = Watched::start(Some(&tls)).await;
    let mut env = watched.settings("quiet");
    env[0].1 = env[0].1.replace("redis+sentinel://", "rediss+sentinel://");
    let authority = tls.authority.file().to_str().unwrap().to_owned();
    env.push(("COFFERDAM_REDIS_CA_FILE", authority));
    is_followed(&mut watched, &env).await;
    let refused = tool(&["runs"], &vec![env.remove(0)]);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("COFFERDAM_REDIS_CA_FILE"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_is_followed_to_the_one_that_sentinel_names() {
    let mut watched = Watched::start(None).await;
    let env = watched.settings("quiet");
    is_followed(&mut watched, &env).await;

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
