//! What a guest may put, and what it is told.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::artifacts::{Scene, check_told, noise, peak_kib};
use crate::support::command::Daemon;
use crate::support::parts::{self, skipped};
use crate::support::until::until;

#[tokio::test]
async fn fifty_megabytes_come_back_with_their_digest_and_serve_does_not_grow_with_them() {
    let scene = Scene::new(&[]).await;
    check_told(&scene.put("small", "1").await, "small", b"1");
    let before = peak_kib(scene.fleet.serve.pid());
    let bytes = noise(50 << 20);
    let told = scene.put("out/big.bin", bytes.clone()).await;
    check_told(&told, "out/big.bin", &bytes);
    let grown = peak_kib(scene.fleet.serve.pid()).saturating_sub(before);
    println!("serve grew by {grown} KiB");
    assert!(grown < 8 << 10, "{grown} KiB");

    let file = scene.folder.path().join("fetched");
    let to = file.to_str().unwrap();
    let fetched = scene
        .fleet
        .tool(&["artifacts", "pr-17", "out/big.bin", "-o", to]);
    fetched.done();
    assert!(std::fs::read(&file).unwrap() == bytes);
}

#[tokio::test]
async fn what_was_put_is_listed_and_fetched_also_after_the_result() {
    let scene = Scene::new(&[]).await;
    let put = parts::http().put(scene.url("a%20b/r%C3%A9sum%C3%A9.html"));
    let put = put.bearer_auth(&scene.token).body("<p>");
    assert_eq!(put.send().await.unwrap().status(), 201);
    check_told(&scene.put("empty", "").await, "empty", b"");
    check_told(&scene.put("a", "12").await, "a", b"12");
    check_told(&scene.put("a/b", "34").await, "a/b", b"34");
    scene.post_result().await;
    scene.fleet.until_state("pr-17", "closed").await;
    assert_eq!(scene.names(), ["a", "a b/résumé.html", "a/b", "empty"]);
    let listed = scene.listed("pr-17");
    assert_eq!(listed[1]["media_type"], "text/html");
    let key = listed[0]["key"].as_str().unwrap();
    assert_eq!(std::fs::read(scene.folder.path().join(key)).unwrap(), b"12");

    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().to_str().unwrap();
    // `a` and `a/b` cannot both be files of one folder.
    let fetched = scene.fleet.tool(&["artifacts", "pr-17", "-o", to]);
    assert_eq!(fetched.status, 1, "{fetched:?}");
    let printed = scene.fleet.tool(&["artifacts", "pr-17", "a/b"]);
    assert_eq!(printed.done(), "34");
    let shown = scene.fleet.tool(&["artifacts", "pr-17"]).done();
    assert!(
        shown.contains("a b/résumé.html") && shown.contains("3 B"),
        "{shown}"
    );
    let unknown = scene.fleet.tool(&["artifacts", "pr-17", "nothing"]);
    assert!(
        unknown.status == 1 && unknown.stderr.contains("nothing"),
        "{unknown:?}"
    );
    assert_eq!(scene.fleet.tool(&["artifacts", "pr-18"]).status, 1);

    // What is known of the run goes before its artifacts do.
    scene.raw.delete("run:pr-17").await;
    assert_eq!(scene.names().len(), 4);
    // Somebody changed it.
    std::fs::write(scene.folder.path().join(key), "13").unwrap();
    let changed = scene.fleet.tool(&["artifacts", "pr-17", "a"]);
    assert!(
        changed.status == 1 && changed.stderr.contains("not what was put"),
        "{changed:?}"
    );
}

#[tokio::test]
async fn hostile_names_are_refused_by_name_and_reach_no_file() {
    let scene = Scene::new(&[]).await;
    for (name, word) in [
        ("", "bytes"),
        ("%2e%2e/%2e%2e/etc/passwd", ".."),
        ("a/%2E%2E/b", ".."),
        ("%2Fetc%2Fpasswd", "slash"),
        ("a//b", "empty part"),
        ("a/", "slash"),
        ("a%00b", "control"),
        ("a%0Ab", "control"),
        ("a%5Cb", "backslash"),
        ("%E2%80%AEgpj.exe", "control"),
        ("%FF", "UTF-8"),
        (&"a".repeat(513), "bytes"),
        (&"a".repeat(300), "bytes"),
    ] {
        // As it is: a client would take dots away.
        let head = format!(
            "PUT /artifacts/{name} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\
             content-length: 1\r\nconnection: close\r\n\r\n1",
            scene.token
        );
        let answer = raw_call(&scene.fleet.endpoint, &head).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{name}: {answer}");
        assert!(answer.contains(word), "{name}: {answer}");
    }
    assert_eq!(scene.files(), Vec::<std::path::PathBuf>::new());
    assert!(scene.names().is_empty());
}

async fn raw_call(endpoint: &str, text: &str) -> String {
    let mut stream = TcpStream::connect(endpoint).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(30), read)
        .await
        .unwrap()
        .unwrap();
    answer
}

#[tokio::test]
async fn a_token_that_opens_nothing_puts_nothing() {
    let scene = Scene::new(&[]).await;
    let (_, other) = scene.guest("pr-18", "default").await;
    for (what, token) in [
        ("none", String::new()),
        ("forged", format!("{}x", scene.token)),
        ("older", scene.token_of("pr-17", 0, 60).await),
        ("expired", scene.token_of("pr-17", 1, -1).await),
    ] {
        let (status, answer) = scene.put_by(&token, "a", "1").await;
        assert_eq!(status, 401, "{what}: {answer}");
    }
    // Each token puts into its own run.
    assert_eq!(scene.put_by(&other, "a", "other").await.0, 201);
    assert!(scene.names().is_empty());
    assert_eq!(scene.put("a", "1").await.0, 201);
    scene.post_result().await;
    assert_eq!(scene.put("b", "1").await.0, 401);
    assert_eq!(scene.put("a", "2").await.0, 401);
    assert_eq!(scene.listed("pr-17")[0]["bytes"], 1);
    assert_eq!(scene.files().len(), 2);
}

#[tokio::test]
async fn a_run_that_ends_while_an_artifact_comes_does_not_have_it() {
    let scene = Scene::new(&[]).await;
    let mut stream = TcpStream::connect(&scene.fleet.endpoint).await.unwrap();
    let head = format!(
        "PUT /artifacts/late HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\
         content-length: 4\r\nconnection: close\r\n\r\n12",
        scene.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    until("the file to be begun", async || match scene.files().len() {
        1 => Ok(()),
        n => Err(format!("{n} files")),
    })
    .await;
    scene.post_result().await;
    stream.write_all(b"34").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(scene.files().is_empty() && scene.names().is_empty());
    let kept: Option<String> = scene.raw.say("HGET", "artifact_bytes", &["all"]).await;
    assert_eq!(kept.as_deref(), Some("0"));
}

#[tokio::test]
async fn every_bound_is_told_and_room_comes_back() {
    let scene = Scene::new(&[
        ("COFFERDAM_ARTIFACT_MAX_BYTES", "100000"),
        ("COFFERDAM_RUN_ARTIFACTS", "4"),
        ("COFFERDAM_RUN_ARTIFACTS_BYTES", "150000"),
        ("COFFERDAM_TENANT_ARTIFACTS_BYTES", "500000"),
        ("COFFERDAM_ARTIFACTS_BYTES", "700000"),
    ])
    .await;
    let refused = async |token: &str, name: &str, bytes: usize, word: &str| {
        let (status, answer) = scene.put_by(token, name, noise(bytes)).await;
        assert_eq!(status, 413, "{name}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(word), "{answer}");
    };
    refused(&scene.token, "a", 100_001, "at most 100000 bytes").await;
    assert_eq!(scene.put("a", noise(100_000)).await.0, 201);
    refused(&scene.token, "b", 60_000, "150000 bytes together").await;
    // It takes the place of the first, whose room comes back.
    assert_eq!(scene.put("a", noise(50_000)).await.0, 201);
    assert_eq!(scene.put("b", noise(60_000)).await.0, 201);
    for name in ["c", "d"] {
        assert_eq!(scene.put(name, "1").await.0, 201);
    }
    refused(&scene.token, "e", 1, "at most 4 artifacts").await;
    assert_eq!(scene.put("d", "22").await.0, 201);
    assert_eq!(scene.names(), ["a", "b", "c", "d"]);
    assert_eq!(scene.files().len(), 4);

    // Each counts as 64 KiB at least: four of them are 262144, and seven are 458752.
    let (_, second) = scene.guest("pr-18", "default").await;
    for name in ["a", "b", "c"] {
        assert_eq!(scene.put_by(&second, name, "1").await.0, 201);
    }
    refused(&second, "d", 1, "this tenant's").await;
    let (_, third) = scene.guest("pr-19", "other").await;
    for name in ["a", "b", "c"] {
        assert_eq!(scene.put_by(&third, name, "1").await.0, 201);
    }
    refused(&third, "d", 60_000, "bytes of artifacts are kept").await;

    // What broke off is given back.
    for _ in 0..3 {
        let mut stream = TcpStream::connect(&scene.fleet.endpoint).await.unwrap();
        let head = format!(
            "PUT /artifacts/d HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\
             content-length: 90000\r\n\r\n12",
            scene.token
        );
        stream.write_all(head.as_bytes()).await.unwrap();
    }
    until("the room to come back", async || {
        let kept: Option<String> = scene.raw.say("HGET", "artifact_bytes", &["all"]).await;
        match (kept.as_deref(), scene.files().len()) {
            (Some("655360"), 10) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let ttl: i64 = {
        let nonce = scene.raw.nonce("pr-17").await.unwrap();
        scene
            .raw
            .say("PTTL", &format!("artifacts:pr-17:{nonce}"), &[])
            .await
    };
    assert!(ttl > 0);
}

#[tokio::test]
async fn two_puts_of_one_name_leave_one_of_them_whole() {
    let scene = Scene::new(&[]).await;
    let (one, other) = (noise(3_000_000), vec![7; 3_000_000]);
    for _ in 0..5 {
        let both = tokio::join!(scene.put("a", one.clone()), scene.put("a", other.clone()));
        check_told(&both.0, "a", &one);
        check_told(&both.1, "a", &other);
    }
    assert_eq!(scene.files().len(), 1);
    let listed = scene.listed("pr-17");
    let kept = std::fs::read(&scene.files()[0]).unwrap();
    assert!(kept == one || kept == other);
    assert_eq!(
        listed[0]["sha256"],
        cofferdam::run::digest::sha256(&kept).as_str()
    );
    let bytes: Option<String> = scene.raw.say("HGET", "artifact_bytes", &["all"]).await;
    assert_eq!(bytes.as_deref(), Some("3000000"));
}

#[tokio::test]
async fn where_no_artifacts_are_kept_a_put_is_told_so_and_guests_are_not_told_of_them() {
    let scene = Scene::of(tempfile::tempdir().unwrap(), &[]).await;
    let (status, answer) = scene.put("a", "1").await;
    assert_eq!(status, 501);
    assert!(
        answer["error"]
            .as_str()
            .unwrap()
            .contains("COFFERDAM_ARTIFACTS"),
        "{answer}"
    );
    let machines = scene.fleet.machines_named().await;
    assert!(!machines.to_string().contains("SANDBOX_ARTIFACT_URL"));
    let fetched = scene.fleet.tool(&["artifacts", "pr-17", "-o", "/tmp"]);
    assert!(
        fetched.status == 2 && fetched.stderr.contains("COFFERDAM_ARTIFACTS"),
        "{fetched:?}"
    );
}

#[tokio::test]
async fn calls_that_are_not_puts_are_told_what_is() {
    let scene = Scene::new(&[]).await;
    let call = |method: reqwest::Method, name: &str| {
        let call = parts::http().request(method, scene.url(name));
        call.bearer_auth(&scene.token)
    };
    let get = call(reqwest::Method::GET, "a").send().await.unwrap();
    assert_eq!(
        (get.status().as_u16(), get.headers()["allow"].as_bytes()),
        (405, &b"PUT, POST"[..])
    );
    let stream = futures_util::stream::iter([Ok::<_, std::io::Error>("1")]);
    let chunked = call(reqwest::Method::PUT, "a").body(reqwest::Body::wrap_stream(stream));
    assert_eq!(chunked.send().await.unwrap().status(), 411);
    let packed = call(reqwest::Method::PUT, "a").header("content-encoding", "gzip");
    assert_eq!(packed.body("1").send().await.unwrap().status(), 415);
    for (query, status) in [
        ("a?stored=1", 400),
        ("a?stored=x&put=01arz3ndektsv4rrffq69g5fav", 400),
        ("a?put=../../x", 400),
        ("a?what=1", 400),
    ] {
        let post = call(reqwest::Method::POST, query).send().await.unwrap();
        assert_eq!(post.status(), status, "{query}");
    }
    // Nothing was sent to any store: this one has no addresses to send to.
    let digest = "0".repeat(64);
    let query = format!("a?stored=1&put=01arz3ndektsv4rrffq69g5fav&sha256={digest}");
    let post = call(reqwest::Method::POST, &query).send().await.unwrap();
    assert_eq!(post.status(), 409);
}

#[tokio::test]
async fn a_store_that_is_away_or_full_is_told_and_the_run_has_its_result() {
    let scene = Scene::new(&[]).await;
    let incoming = scene.folder.path().join(".incoming");
    std::fs::remove_dir(&incoming).unwrap();
    std::fs::write(&incoming, "").unwrap();
    let (status, answer) = scene.put("a", "1").await;
    assert_eq!(status, 502, "{answer}");
    let kept: Option<String> = scene.raw.say("HGET", "artifact_bytes", &["all"]).await;
    assert_eq!(kept.as_deref(), Some("0"));
    scene.post_result().await;
    let result = scene.fleet.until_state("pr-17", "closed").await;
    assert_eq!(result["result"]["outcome"], "completed", "{result}");
}

#[tokio::test]
async fn a_disk_without_room_is_told_before_a_byte_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap().to_owned();
    let scene = Scene::new(&[]).await;
    // A disk of its own, that nobody else sees. What artifacts leave free is more than all of it.
    let on_small_disk = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs -o size=64m none \"$PLACE\" && exec \"$0\" \"$@\"",
    ];
    let can = std::process::Command::new("unshare")
        .args(["--mount", "mount", "-t", "tmpfs", "none", &place])
        .output();
    if !can.is_ok_and(|ended| ended.status.success()) {
        skipped("a disk of its own cannot be mounted here");
        return;
    }
    let url = format!("file://{place}");
    let mut env: Vec<(&str, &str)> = scene
        .fleet
        .env
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    env.extend([("COFFERDAM_ARTIFACTS", url.as_str()), ("PLACE", &place)]);
    let mut serve = Daemon::start_below(&on_small_disk, &["serve"], &env);
    let endpoint = serve.addresses(2).await.remove(0);
    let put = parts::http().put(format!("http://{endpoint}/artifacts/a"));
    let answer = put
        .bearer_auth(&scene.token)
        .body("1")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 507);
    let answer: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(
        answer,
        json!({"error": "no room is left where artifacts are kept"})
    );
    scene.post_result().await;
    scene.fleet.until_state("pr-17", "closed").await;
}
