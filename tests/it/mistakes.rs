//! Settings that are sound one by one and do not go together, and keys that are not ours.

use std::time::Duration;

use cofferdam::shutdown::Shutdown;
use cofferdam::token::fleet::{Holder, Use};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::command::{Daemon, cofferdam, ended};
use crate::support::fleet::{Fleet, KEYS};
use crate::support::parts;
use crate::support::raw::Raw;
use crate::support::redis;
use crate::support::until::{until, until_within};

/// Another secret under the same id.
const OTHER_KEYS: &str = "k1:AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Longer than the processes take to hear of each other.
const HEARD: Duration = Duration::from_secs(60);

async fn readiness(address: &str) -> (u16, String) {
    let url = format!("http://{address}/readyz");
    let answer = parts::http().get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn until_ready(address: &str, status: u16, words: &str) {
    until_within(
        HEARD,
        &format!("{address} to be {status}"),
        async || match readiness(address).await {
            (seen, said) if seen == status && said.contains(words) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
}

async fn until_said(process: &Daemon, words: &str) {
    until_within(HEARD, words, async || match process.said() {
        said if said.contains(words) => Ok(()),
        said => Err(said),
    })
    .await;
}

#[tokio::test]
async fn worker_and_serve_with_other_secrets_under_one_id_say_so() {
    let fleet = Fleet::start(&["--simulate", "20"], &[]).await;
    let (worker, admin) = fleet
        .worker_with(&[("COFFERDAM_SIGNING_KEYS", OTHER_KEYS)])
        .await;
    until_ready(&admin, 503, "signs with key k1").await;
    until_ready(&fleet.endpoint, 503, "").await;
    for process in [&worker, &fleet.serve] {
        until_said(process, "set the same COFFERDAM_SIGNING_KEYS").await;
        let said = process.said();
        assert!(
            said.contains(r#""level":"ERROR""#) && said.contains(r#""kid":"k1""#),
            "{said}"
        );
        for secret in [KEYS, OTHER_KEYS] {
            assert!(!said.contains(&secret[3..]), "{said}");
        }
    }
    let doctor = fleet.tool(&["doctor"]);
    assert_eq!(doctor.status, 1, "{}", doctor.stdout);
    let told = "has another one under that id";
    assert!(doctor.stdout.contains(told), "{}", doctor.stdout);

    worker.finish().await;
    let (worker, admin) = fleet.worker().await;
    until_ready(&admin, 200, "").await;
    until_ready(&fleet.endpoint, 200, "").await;
    fleet.tool(&["doctor"]).done();
    worker.finish().await;
    fleet.finish().await;
}

#[tokio::test]
async fn a_key_of_another_type_is_named_by_readiness() {
    let fleet = Fleet::start(&["--simulate", "20"], &[]).await;
    let (worker, admin) = fleet.worker().await;
    until_ready(&admin, 200, "").await;
    let raw = fleet.raw().await;
    raw.delete("results").await;
    raw.say::<i64>("RPUSH", "results", &["a list"]).await;
    until_ready(&admin, 503, ":results is a list").await;
    until_ready(&fleet.endpoint, 503, "").await;
    raw.delete("results").await;
    until_ready(&admin, 200, "").await;
    worker.finish().await;
    fleet.finish().await;
}

#[tokio::test]
async fn a_misspelt_setting_is_told_with_what_was_meant() {
    let slip = [("COFFERDAM_MAX_INFLIGHT", "7")];
    let fleet = Fleet::start(&["--simulate", "20"], &slip).await;
    for process in [&fleet.serve, &fleet.machines] {
        let said = process.said();
        assert!(said.contains("COFFERDAM_MAX_INFLIGHT"), "{said}");
        assert!(said.contains("COFFERDAM_MAX_IN_FLIGHT"), "{said}");
    }
    let doctor = fleet.tool(&["doctor"]).stdout;
    assert!(
        doctor.contains("is COFFERDAM_MAX_IN_FLIGHT meant?"),
        "{doctor}"
    );
    fleet.finish().await;
}

/// A proxy that takes a first part of each path away, as ingresses do.
async fn stripping(to: String, base: &'static str, shutdown: &Shutdown) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let spawner = shutdown.clone();
    shutdown.spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let mut to = TcpStream::connect(&to).await.unwrap();
            spawner.spawn(async move {
                let mut head = vec![0; 1 << 14];
                let read = from.read(&mut head).await.unwrap();
                let head = String::from_utf8(head[..read].to_vec()).unwrap();
                // What does not stand below it is not passed on.
                let Some((method, rest)) = head.split_once(base) else {
                    return;
                };
                let head = format!("{method}{rest}");
                to.write_all(head.as_bytes()).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_guest_url_with_a_path_leads_through_a_proxy_that_takes_it_away() {
    let first = Fleet::start(&["--simulate", "20"], &[]).await;
    let shutdown = Shutdown::new();
    let proxy = stripping(first.endpoint.clone(), "/some/base", &shutdown).await;
    // A second provider, whose guests reach the first endpoint through the proxy.
    let settings = [("COFFERDAM_MACHINES_ENDPOINT", proxy.as_str())];
    let provider = first.machines_with(&["--simulate", "20"], &settings).await;
    let settings = [
        ("FLY_API_URL", provider.1.as_str()),
        ("COFFERDAM_GUEST_URL", "http://127.0.0.1:8080/some/base/"),
    ];
    let (worker, _) = first.worker_with(&settings).await;
    let raw = first.raw().await;
    let request = json!({"id": "below", "cmd": ["true"]}).to_string();
    raw.add("runs", &[("run", &request)]).await;
    until("the result", async || match first.show("below") {
        Ok(shown) if shown["outcome"] == "completed" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    worker.finish().await;
    provider.0.finish().await;
    shutdown.abort().cancel();
    first.finish().await;
}

#[tokio::test]
async fn what_processes_told_of_their_keys_is_bounded_and_ends() {
    let settings = redis::settings();
    let store = parts::core(&settings, parts::runs()).await.store;
    let raw = Raw::new(&settings).await;
    let holder = |n: u64| {
        let name = format!("worker-{n}");
        Holder::new(name, Use::Signs, parts::ring().fingerprints())
    };
    let now = 1_800_000_000_000;
    for n in 0..300 {
        let heard = store.tell_keys(&holder(n), now).await.unwrap();
        assert!(heard.holders.contains(&holder(n)), "{n}");
    }
    let kept: usize = raw.say("HLEN", "keyrings", &[]).await;
    assert_eq!(kept, 256);
    assert_eq!(store.keyrings(now + 59_999).await.unwrap().len(), 256);
    assert_eq!(store.keyrings(now + 60_000).await.unwrap(), []);
    // The next that tells takes away what has ended, and what is not ours.
    raw.say::<i64>("HSET", "keyrings", &["somebody", "what"])
        .await;
    let heard = store.tell_keys(&holder(300), now + 60_000).await.unwrap();
    assert_eq!(heard.holders, [holder(300)]);
    store
        .withdraw_keys(&holder(300), now + 60_000)
        .await
        .unwrap();
    assert!(!raw.exists("keyrings").await);
}

#[tokio::test]
async fn a_timeout_that_was_lowered_is_shown() {
    let settings = [("COFFERDAM_RUN_TIMEOUT_S", "60")];
    let fleet = Fleet::start(&["--simulate", "20"], &settings).await;
    let (worker, _) = fleet.worker().await;
    for (id, asked) in [("long", "7200"), ("short", "7")] {
        let submit = [
            "submit",
            "--wait",
            "--id",
            id,
            "--timeout",
            asked,
            "--",
            "true",
        ];
        fleet.tool(&submit).done();
    }
    let shown = fleet.tool(&["show", "long"]).done();
    let told = "1 min 0 s, and not 2 h 0 min: more than COFFERDAM_RUN_TIMEOUT_S allows";
    assert!(shown.contains(told), "{shown}");
    let json = fleet.show("long").unwrap();
    assert_eq!(json["timeout_ms"], 60_000);
    assert_eq!(json["timeout_asked_ms"], 7_200_000);
    assert!(!fleet.tool(&["show", "short"]).done().contains("and not"));
    assert_eq!(fleet.show("short").unwrap().get("timeout_asked_ms"), None);
    // What goes wrong is told in words, and not as the program's own values.
    let lost = json!({"id": "wrong", "what": 1}).to_string();
    fleet.raw().await.add("runs", &[("run", &lost)]).await;
    until_said(&worker, "invalid_request: ").await;
    assert!(!worker.said().contains("Without {"), "{}", worker.said());
    worker.finish().await;
    fleet.finish().await;
}

#[tokio::test]
async fn doctor_tells_how_soon_redis_writes_to_its_disk() {
    let server = redis::Server::start();
    let raw = Raw::new(&server.settings()).await;
    for (policy, verdict) in [("always", "ok"), ("everysec", "ok"), ("no", "warn")] {
        raw.order(&["CONFIG", "SET", "appendfsync", policy]).await;
        let mut doctor = cofferdam(["doctor", "--json"]);
        doctor.env("REDIS_URL", server.url());
        let told: Vec<serde_json::Value> = ended(doctor)
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let found = told.iter().find(|finding| finding["what"] == "redis fsync");
        let found = found.unwrap();
        assert_eq!(found["verdict"], verdict, "{found}");
        let words = format!("appendfsync {policy}");
        assert!(found["found"].as_str().unwrap().contains(&words), "{found}");
    }
}
