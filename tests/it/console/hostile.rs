//! What a producer, a guest or a tenant wrote is text on every page.

use serde_json::json;

use super::scene::Scene;

const MARKUP: &str = "<script>alert(1)</script><img src=x onerror=alert(1)>";
const ESCAPE: &str = "\u{1b}[31m\u{1b}]0;title\u{7}\u{202e}";

#[tokio::test]
async fn what_others_wrote_is_shown_as_text() {
    let scene = Scene::start().await;
    let operator = scene.operator().await;
    let raw = scene.fleet.raw().await;
    let hostile = format!("{MARKUP}{ESCAPE}\"'&");
    // An id and a tenant have letters and digits alone: such requests are dead letters.
    raw.add("runs", &[("run", &json!({"id": MARKUP}).to_string())])
        .await;
    raw.add("runs", &[(hostile.as_str(), hostile.as_str())])
        .await;
    raw.add(
        "runs",
        &[("run", &json!({"id": "t", "tenant": hostile}).to_string())],
    )
    .await;
    scene
        .submit(&json!({"id": "image", "image": "x<script>alert(1)</script>", "cmd": [hostile], "metadata": {"a": hostile}, "input": hostile}))
        .await;
    scene
        .submit(&json!({"id": "fine", "cmd": [hostile], "metadata": {(hostile.as_str()): hostile}}))
        .await;
    operator
        .until_page("/runs/image", "scope=\"row\">closed<")
        .await;
    operator.until_page("/runs/fine", "completed").await;
    operator.until_page("/dead", "in all").await;
    // Redis is a place where others write too: a process, a hash, a result.
    let holder =
        json!({"name": hostile, "use": "both", "keys": [[hostile, hostile]], "version": hostile});
    let now = cofferdam::clock::Clock::system().now_ms();
    raw.say::<i64>("HSET", "keyrings", &["x", &format!("{now} {holder}")])
        .await;
    raw.say::<i64>(
        "HSET",
        "run:fine",
        &["region", &hostile, "app", &hostile, "machine_id", &hostile],
    )
    .await;
    raw.say::<i64>("SADD", "configured", &[&hostile]).await;
    raw.say::<i64>("SADD", "apps", &[&hostile]).await;
    let query = url::form_urlencoded::byte_serialize(hostile.as_bytes()).collect::<String>();
    let mut paths: Vec<String> = [
        "/",
        "/runs",
        "/runs/image",
        "/runs/fine",
        "/tenants",
        "/workers",
        "/machines",
        "/dead",
        "/doctor",
        "/audit",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.push(format!("/runs?image={query}"));
    paths.push(format!("/runs?said={query}"));
    let dead = operator.page("/dead").await;
    let letters = dead
        .split("href=\"/dead/")
        .skip(1)
        .map(|rest| format!("/dead/{}", rest.split('"').next().unwrap()));
    paths.extend(letters);
    assert!(paths.len() >= 14, "{paths:?}");
    for path in paths {
        let page = operator.page(&path).await;
        for wrong in ["<script>alert", "<img", "\u{1b}", "\u{7}", "\u{202e}"] {
            assert!(!page.contains(wrong), "{path}: {wrong:?} in {page}");
        }
    }
    let page = operator.page("/dead").await;
    assert!(page.contains("&lt;script&gt;"), "{page}");
    let page = operator.page("/workers").await;
    assert!(page.contains("&lt;img src=x"), "{page}");
    operator.act("cancel", &[("run", &hostile)]).await;
    let page = operator.page("/audit").await;
    assert!(
        page.contains("&lt;script&gt;") && !page.contains('\u{1b}'),
        "{page}"
    );
    scene.end().await;
}
