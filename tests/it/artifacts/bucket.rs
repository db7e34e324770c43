//! Artifacts in a bucket of a real S3 server: guests send them there themselves.

use std::time::{Duration, SystemTime};

use cofferdam::artifacts::ArtifactStore;
use cofferdam::config::{ArtifactPlace, Bucket, Secret};
use cofferdam::run::digest::sha256;
use cofferdam::stage::artifacts::{expire, remove_left_over};
use reqwest::header::LOCATION;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::artifacts::s3::{BUCKET, S3};
use crate::artifacts::{Scene, check_told, noise, peak_kib};
use crate::support::parts;
use crate::support::until::until;

/// A client that shows where it is sent.
fn http() -> reqwest::Client {
    let _ = parts::http();
    let stays = reqwest::redirect::Policy::none();
    reqwest::Client::builder().redirect(stays).build().unwrap()
}

/// Asks to put; answers the address and the put's id.
async fn ask(scene: &Scene, name: &str, bytes: &[u8]) -> (String, String) {
    let put = http().put(scene.url(name)).bearer_auth(&scene.token);
    let answer = put.body(bytes.to_vec()).send().await.unwrap();
    assert_eq!(answer.status(), 307);
    let address = answer.headers()[LOCATION].to_str().unwrap().to_owned();
    let body: Value = answer.json().await.unwrap();
    (address, body["put"].as_str().unwrap().to_owned())
}

async fn send(address: &str, bytes: &[u8]) -> u16 {
    let put = http().put(address).body(bytes.to_vec());
    put.send().await.unwrap().status().as_u16()
}

async fn tell(scene: &Scene, name: &str, put: &str, bytes: &[u8]) -> (u16, Value) {
    let query = format!("stored={}&put={put}&sha256={}", bytes.len(), sha256(bytes));
    let post = http().post(format!("{}?{query}", scene.url(name)));
    let answer = post.bearer_auth(&scene.token).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn scene(s3: &S3, more: &[(&'static str, &str)]) -> Scene {
    let mut settings = s3.settings();
    settings.extend(more);
    Scene::of(tempfile::tempdir().unwrap(), &settings).await
}

fn kept(s3: &S3) -> ArtifactStore {
    let settings = s3.settings().into_iter();
    let variables = settings.filter(|(name, _)| name.starts_with("AWS_"));
    let bucket = Bucket {
        name: BUCKET.to_owned(),
        prefix: "runs".to_owned(),
        variables: variables
            .map(|(name, value)| (name, Secret::new(value.to_owned())))
            .collect(),
    };
    ArtifactStore::open(&ArtifactPlace::Bucket(bucket)).unwrap()
}

#[tokio::test]
async fn fifty_megabytes_go_to_the_store_itself_and_come_back_with_their_digest() {
    let Some(s3) = S3::start().await else { return };
    let scene = scene(&s3, &[]).await;
    let bytes = noise(50 << 20);
    let (address, put) = ask(&scene, "out/big.bin", &bytes).await;
    assert!(address.starts_with(&s3.endpoint), "{address}");
    assert_eq!(send(&address, &bytes).await, 200);
    assert!(
        scene.names().is_empty(),
        "it counts once the endpoint is told"
    );
    let told = tell(&scene, "out/big.bin", &put, &bytes).await;
    check_told(&told, "out/big.bin", &bytes);
    let key = told.1["key"].as_str().unwrap();
    assert!(key.starts_with("runs/"), "{key}");
    assert_eq!(s3.objects().len(), 1, "{:?}", s3.objects());
    assert!(s3.objects()[0].ends_with(key), "{:?}", s3.objects());
    // It is told once.
    assert_eq!(tell(&scene, "out/big.bin", &put, &bytes).await.0, 409);

    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().to_str().unwrap();
    scene.fleet.tool(&["artifacts", "pr-17", "-o", to]).done();
    assert!(std::fs::read(folder.path().join("out/big.bin")).unwrap() == bytes);
    // What was sent later does not count, and is not what is kept.
    send(&address, &vec![0; bytes.len()]).await;
    let listed = scene.listed("pr-17");
    assert_eq!(listed[0]["sha256"], sha256(&bytes).as_str());
    scene.fleet.tool(&["artifacts", "pr-17", "-o", to]).done();
    assert!(std::fs::read(folder.path().join("out/big.bin")).unwrap() == bytes);
}

#[tokio::test]
async fn an_address_takes_exactly_what_was_asked_for() {
    let Some(s3) = S3::start().await else { return };
    let scene = scene(&s3, &[]).await;
    let (address, put) = ask(&scene, "a", b"1234").await;
    assert_eq!(send(&address, b"12345").await, 403);
    let forged = address.replace("SignedHeaders=content-length%3B", "SignedHeaders=");
    assert_eq!(send(&forged, b"1234").await, 403);
    assert_eq!(
        tell(&scene, "a", &put, b"1234").await.0,
        409,
        "nothing was sent"
    );
    assert_eq!(send(&address, b"1234").await, 200);
    assert_eq!(
        tell(&scene, "b", &put, b"1234").await.0,
        409,
        "another name"
    );
    assert_eq!(
        tell(&scene, "a", &put, b"12345").await.0,
        409,
        "another length"
    );
    check_told(&tell(&scene, "a", &put, b"1234").await, "a", b"1234");
    // A digest that is not theirs is found by whoever fetches it.
    let (address, put) = ask(&scene, "lie", b"1234").await;
    assert_eq!(send(&address, b"4321").await, 200);
    check_told(&tell(&scene, "lie", &put, b"1234").await, "lie", b"1234");
    let fetched = scene.fleet.tool(&["artifacts", "pr-17", "lie"]);
    assert!(
        fetched.status == 1 && fetched.stderr.contains("not what was put"),
        "{fetched:?}"
    );
    // After the result nothing is taken over.
    let (address, put) = ask(&scene, "late", b"1").await;
    assert_eq!(send(&address, b"1").await, 200);
    scene.post_result().await;
    assert_eq!(tell(&scene, "late", &put, b"1").await.0, 401);
    assert_eq!(scene.names(), ["a", "lie"]);
}

#[tokio::test]
async fn a_guest_that_does_not_reach_the_store_sends_through_the_endpoint() {
    let Some(s3) = S3::start().await else { return };
    let scene = scene(&s3, &[]).await;
    check_told(&scene.put("small?relay", "1").await, "small", b"1");
    let before = peak_kib(scene.fleet.serve.pid());
    let bytes = noise(50 << 20);
    check_told(&scene.put("big?relay", bytes.clone()).await, "big", &bytes);
    let grown = peak_kib(scene.fleet.serve.pid()).saturating_sub(before);
    println!("serve grew by {grown} KiB");
    assert!(grown < 36 << 10, "{grown} KiB");
    assert_eq!(scene.names(), ["big", "small"]);
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().to_str().unwrap();
    scene.fleet.tool(&["artifacts", "pr-17", "-o", to]).done();
    assert!(std::fs::read(folder.path().join("big")).unwrap() == bytes);
}

#[tokio::test]
async fn artifacts_in_a_bucket_end_too_and_what_is_left_over_is_removed() {
    let Some(s3) = S3::start().await else { return };
    let scene = scene(&s3, &[]).await;
    for name in ["a", "b"] {
        check_told(&scene.put(&format!("{name}?relay"), "1").await, name, b"1");
    }
    // One that its guest never told of.
    let (address, _) = ask(&scene, "c", b"123").await;
    assert_eq!(send(&address, b"123").await, 200);
    assert_eq!(s3.objects().len(), 3);
    let core = scene.core(Duration::from_secs(1)).await;
    let kept = kept(&s3);
    remove_left_over(&core, &kept, None).await.unwrap();
    assert_eq!(s3.objects().len(), 3);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for object in s3.objects() {
        std::fs::File::open(object)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
    }
    remove_left_over(&core, &kept, None).await.unwrap();
    assert_eq!(s3.objects().len(), 2, "a run has them");
    assert_eq!(core.metrics.artifacts_left_over.get(), 1);

    let nonce = scene.raw.nonce("pr-17").await.unwrap();
    let member = format!("pr-17 {nonce}");
    scene
        .raw
        .say::<i64>("ZADD", "artifact_runs", &["1000", &member])
        .await;
    core.store
        .trim_results(core.clock.now_ms(), Duration::from_secs(1), None)
        .await
        .unwrap();
    expire(&core, &kept).await.unwrap();
    assert!(s3.objects().is_empty(), "{:?}", s3.objects());
    assert_eq!(core.metrics.artifacts_expired.get(), 2);

    // Redis lost them.
    check_told(&scene.put("d?relay", "1").await, "d", b"1");
    scene.raw.delete("artifact_runs").await;
    for object in s3.objects() {
        std::fs::File::open(object)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
    }
    remove_left_over(&core, &kept, None).await.unwrap();
    assert!(s3.objects().is_empty());
}

#[tokio::test]
async fn a_bucket_that_is_away_or_refuses_is_told_and_the_run_has_its_result() {
    let Some(mut s3) = S3::start().await else {
        return;
    };
    let refused = scene(&s3, &[("AWS_SECRET_ACCESS_KEY", "another")]).await;
    let (status, answer) = refused.put("a?relay", "1").await;
    assert_eq!(status, 502, "{answer}");
    assert!(
        answer["error"].as_str().unwrap().contains("operator"),
        "{answer}"
    );
    let scene = scene(&s3, &[]).await;
    let (address, put) = ask(&scene, "a", b"1").await;
    assert_eq!(send(&address, b"1").await, 200);
    s3.stop();
    assert_eq!(tell(&scene, "a", &put, b"1").await.0, 503);
    assert_eq!(scene.put("b?relay", "1").await.0, 503);
    assert!(scene.names().is_empty());
    scene.post_result().await;
    let ended = scene.fleet.until_state("pr-17", "closed").await;
    assert_eq!(ended["result"]["outcome"], "completed", "{ended}");
}

/// Bytes of each put that is begun and does not go on.
const HELD_BYTES: u64 = 50 << 20;

#[tokio::test]
async fn uploads_of_one_tenant_through_the_endpoint_leave_room_for_another() {
    let Some(s3) = S3::start().await else { return };
    let scene = scene(&s3, &[]).await;
    let mut held = Vec::new();
    for n in 0..4 {
        let (_, token) = scene.guest(&format!("hostile-{n}"), "hostile").await;
        for name in ["a", "b"] {
            held.push(begin(&scene, name, &token, "").await);
        }
    }
    let wanted = held.len() as u64 * HELD_BYTES;
    until("the hostile puts", async || {
        let bytes: Option<u64> = scene
            .raw
            .say("HGET", "artifact_bytes", &["of:hostile"])
            .await;
        if bytes == Some(wanted) {
            Ok(())
        } else {
            Err(format!("{bytes:?}"))
        }
    })
    .await;
    let (_, token) = scene.guest("victim-1", "victim").await;
    let mut put = begin(&scene, "a", &token, "expect: 100-continue\r\n").await;
    // It is told to go on long before the hostile ones are too slow.
    let mut told = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(5), put.read_exact(&mut told)).await;
    read.expect("the victim waits").unwrap();
    assert_eq!(&told, b"HTTP/1.1 100");
}

/// Begins a put of [`HELD_BYTES`] through the endpoint.
async fn begin(scene: &Scene, name: &str, token: &str, more: &str) -> TcpStream {
    let mut put = TcpStream::connect(&scene.fleet.endpoint).await.unwrap();
    let head = format!(
        "PUT /artifacts/{name}?relay HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-length: {HELD_BYTES}\r\n{more}\r\n"
    );
    put.write_all(head.as_bytes()).await.unwrap();
    put
}
