//! The end of artifacts: with their results, or as what was left over.

use std::time::{Duration, SystemTime};

use cofferdam::stage::artifacts::{expire, remove_left_over};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::artifacts::{Scene, noise};
use crate::support::until::until;

const MOMENT: Duration = Duration::from_secs(1);

/// Makes a file or folder as old as what is left over.
fn age(path: &std::path::Path) {
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    std::fs::File::open(path)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
}

#[tokio::test]
async fn artifacts_go_when_their_result_has_gone_and_not_before() {
    let scene = Scene::new(&[]).await;
    assert_eq!(scene.put("a", "1").await.0, 201);
    assert_eq!(scene.put("b", noise(100_000)).await.0, 201);
    scene.post_result().await;
    scene.fleet.until_state("pr-17", "closed").await;
    let kept = scene.kept();
    let core = scene.core(MOMENT).await;

    // Their token has ended for longer than a result is kept, but a group has not read that.
    let nonce = scene.raw.nonce("pr-17").await.unwrap();
    let member = format!("pr-17 {nonce}");
    let ended = core.clock.now_ms() + 100;
    let score = ended.to_string();
    scene
        .raw
        .say::<i64>("ZADD", "artifact_runs", &[&score, &member])
        .await;
    scene.raw.make_group("results", "slow").await;
    until("the time to be over", async || match core.clock.now_ms() {
        now if now > ended + 1100 => Ok(()),
        now => Err(now.to_string()),
    })
    .await;
    let trim = async || {
        let now = core.clock.now_ms();
        core.store.trim_results(now, MOMENT, None).await.unwrap()
    };
    expire(&core, &kept).await.unwrap();
    assert_eq!(scene.files().len(), 2, "nobody has looked at the results");
    assert_eq!(trim().await.removed, 0);
    expire(&core, &kept).await.unwrap();
    assert_eq!(scene.files().len(), 2);

    // The result has gone.
    scene
        .raw
        .order(&["XTRIM", &core.store.keys().results(), "MAXLEN", "0"])
        .await;
    trim().await;
    expire(&core, &kept).await.unwrap();
    assert!(scene.files().is_empty());
    assert_eq!(core.metrics.artifacts_expired.get(), 2);
    assert!(!scene.raw.exists("artifact_runs").await);
    assert!(!scene.raw.exists("artifact_bytes").await);
    assert!(!scene.raw.exists(&format!("artifacts:pr-17:{nonce}")).await);
    assert!(scene.names().is_empty());
}

#[tokio::test]
async fn a_worker_sweeps_by_itself() {
    let scene = Scene::new(&[]).await;
    let old = scene
        .folder
        .path()
        .join(".incoming/01arz3ndektsv4rrffq69g5fav");
    std::fs::write(&old, "half").unwrap();
    age(&old);
    // Its passes are a minute apart.
    crate::support::until::until_within(Duration::from_secs(90), "the sweep", async || {
        if old.exists() {
            return Err("it is still there".to_owned());
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_no_run_has_is_removed_once_it_is_old() {
    let scene = Scene::new(&[]).await;
    assert_eq!(scene.put("a", "1").await.0, 201);
    let own = scene.files().remove(0);
    let core = scene.core(MOMENT).await;
    let installation = core.store.installation().await.unwrap().unwrap();
    let folder = |installation: &str| {
        let folder = scene.folder.path().join(installation);
        let folder = folder.join("pr-99/8899aabbccdd0001");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("01arz3ndektsv4rrffq69g5fav"), "left").unwrap();
        folder
    };
    let (ours, others) = (folder(&installation), folder("00000000000000ff"));
    let kept = scene.kept();
    remove_left_over(&core, &kept, None).await.unwrap();
    assert!(ours.exists(), "it may have come just now");
    age(&ours);
    age(&others);
    age(own.parent().unwrap());
    remove_left_over(&core, &kept, None).await.unwrap();
    assert!(!ours.exists());
    assert!(others.exists(), "another installation's");
    assert!(own.exists(), "a run has it");
    assert_eq!(core.metrics.artifacts_left_over.get(), 1);
}

#[tokio::test]
async fn serve_that_is_killed_in_the_middle_leaves_nothing_that_is_listed() {
    let scene = Scene::new(&[]).await;
    let mut stream = TcpStream::connect(&scene.fleet.endpoint).await.unwrap();
    let head = format!(
        "PUT /artifacts/half HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\
         content-length: 1000000\r\n\r\n",
        scene.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&noise(500_000)).await.unwrap();
    until("some of it to be written", async || {
        let written: u64 = scene
            .files()
            .iter()
            .map(|file| file.metadata().unwrap().len())
            .sum();
        if written > 100_000 {
            Ok(())
        } else {
            Err(format!("{written} bytes"))
        }
    })
    .await;
    scene.fleet.serve.signal(Signal::KILL);
    let left = scene.files().remove(0);
    assert!(scene.names().is_empty());
    let core = scene.core(MOMENT).await;
    let kept = scene.kept();
    remove_left_over(&core, &kept, None).await.unwrap();
    assert!(left.exists(), "another serve could still be writing it");
    age(&left);
    remove_left_over(&core, &kept, None).await.unwrap();
    assert!(scene.files().is_empty());
    assert_eq!(core.metrics.artifacts_left_over.get(), 1);
}
