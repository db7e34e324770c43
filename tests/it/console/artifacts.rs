//! A guest's files on the page of its run: listed, fetched, never rendered.

use cofferdam::clock::Clock;
use cofferdam::run::digest::sha256;
use cofferdam::run::id::Attempt;
use cofferdam::token::Grant;
use serde_json::json;

use super::scene::{OPERATOR, Scene, VIEWER, console_of};
use crate::support::fleet::ring;
use crate::support::parts;

const PAGE: &str = "<!doctype html><script>alert(document.cookie)</script>";

/// Puts a file as the run's guest does.
async fn put(scene: &Scene, run: &str, name: &str, kind: &str, body: Vec<u8>) {
    let grant = Grant {
        run: run.parse().unwrap(),
        attempt: Attempt(1),
        expires_s: Clock::system().now_ms() / 1000 + 60,
        nonce: scene.fleet.raw().await.nonce(run).await,
    };
    let url = format!("http://{}/artifacts/{name}", scene.fleet.endpoint);
    let put = parts::http().put(url).bearer_auth(ring().sign(&grant));
    let answer = put.header("content-type", kind).body(body).send().await;
    assert_eq!(answer.unwrap().status(), 201, "{name}");
}

/// The addresses of downloads on a page, in its order.
fn links(page: &str) -> Vec<String> {
    let links = page.split("href=\"/runs/").skip(1);
    let links = links.map(|rest| format!("/runs/{}", rest.split('"').next().unwrap()));
    links.filter(|link| link.contains("/artifacts/")).collect()
}

#[tokio::test]
async fn a_guests_files_are_listed_and_fetched_and_never_rendered() {
    let folder = tempfile::tempdir().unwrap();
    let place = format!("file://{}", folder.path().display());
    let scene = Scene::with(&[("COFFERDAM_ARTIFACTS", &place)]).await;
    let hangs = json!({"id": "maker", "cmd": ["true"], "env": {"SIMULATED_GUEST": "hangs"}});
    scene.submit(&hangs).await;
    scene.fleet.until_state("maker", "running").await;
    // The slash and quotes of markup, and what a header could end at.
    let hostile = "a%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E%3B%20filename=%22b.html";
    put(&scene, "maker", hostile, "text/html", PAGE.into()).await;
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    put(&scene, "maker", "large.bin", "text/html", large.clone()).await;
    put(&scene, "maker", "nothing", "text/html", Vec::new()).await;

    for key in [OPERATOR, VIEWER] {
        let mut client = scene.client();
        client.log_in(key).await;
        let page = client.page("/runs/maker").await;
        assert!(!page.contains("<script>alert"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
        assert!(page.contains(&sha256(PAGE.as_bytes())), "{page}");
        let links = links(&page);
        let mut fetched = Vec::new();
        for link in &links {
            let answer = client.get(link).await;
            assert_eq!(answer.status(), 200, "{link}");
            let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(header("content-type"), "application/octet-stream");
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(
                header("content-security-policy"),
                "sandbox; default-src 'none'"
            );
            let named = header("content-disposition");
            assert!(named.starts_with("attachment; filename=\"artifact\"; filename*=UTF-8''"));
            assert_eq!(named.matches('"').count(), 2, "{named}");
            fetched.push(answer.bytes().await.unwrap().to_vec());
        }
        assert_eq!(
            fetched,
            [PAGE.as_bytes().to_vec(), large.clone(), Vec::new()]
        );
    }

    let operator = scene.operator().await;
    let links = links(&operator.page("/runs/maker").await);
    // Not without a login, not of another run, and not what is not there.
    let nobody = scene.client();
    assert_eq!(nobody.get(&links[0]).await.status(), 303);
    let put = links[0].rsplit('/').next().unwrap();
    for other in [
        format!("/runs/other/artifacts/{put}"),
        "/runs/maker/artifacts/00000000000000000000000000".to_owned(),
    ] {
        assert_eq!(operator.get(&other).await.status(), 404, "{other}");
    }
    // One that was changed where it is kept ends before its end.
    let changed = changed(folder.path(), &large);
    std::fs::write(&changed, vec![7; large.len()]).unwrap();
    let answer = operator.get(&links[1]).await;
    assert!(answer.bytes().await.is_err());
    std::fs::remove_file(&changed).unwrap();
    assert_eq!(operator.get(&links[1]).await.status(), 502);

    // A console that does not know where they are kept lists them all the same.
    let mut env = scene.fleet.env.clone();
    env.retain(|(name, _)| *name != "COFFERDAM_ARTIFACTS");
    let (console, address) = console_of(&env).await;
    let mut client = super::scene::Client::new(&address);
    client.log_in(VIEWER).await;
    let page = client.page("/runs/maker").await;
    assert!(
        page.contains("large.bin") && page.contains("set COFFERDAM_ARTIFACTS"),
        "{page}"
    );
    assert_eq!(client.get(&links[0]).await.status(), 404);
    console.finish().await;
    scene.end().await;
}

/// The file below `folder` that has these bytes.
fn changed(folder: &std::path::Path, bytes: &[u8]) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read(&path).unwrap() == bytes {
                return path;
            }
        }
    }
    panic!("no file has these bytes");
}
