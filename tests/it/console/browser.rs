//! The console in a real browser: headless Chromium, driven by its own protocol over a pipe. Without
//! Chromium these are skipped, aloud. When one fails, what the browser showed is kept as a picture.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::scene::{OPERATOR, Scene};
use crate::support::parts::skipped;

/// How long the browser may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one tab.
struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    session: String,
    next: u64,
    folder: tempfile::TempDir,
    name: &'static str,
}

fn program() -> Option<&'static str> {
    let known = ["chromium", "chromium-browser", "google-chrome"];
    known.into_iter().find(|name| {
        Command::new(name)
            .arg("--version")
            .output()
            .is_ok_and(|ran| ran.status.success())
    })
}

impl Browser {
    fn start(name: &'static str) -> Option<Self> {
        let Some(program) = program() else {
            skipped("no Chromium is installed: apt install chromium");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let (to, from) = (folder.path().join("to"), folder.path().join("from"));
        for pipe in [&to, &from] {
            assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
        }
        // It reads its orders from descriptor 3 and answers on 4.
        let line = "exec \"$0\" \"$@\" 3<>\"$TO\" 4<>\"$FROM\"";
        let child = Command::new("sh")
            .args([
                "-c",
                line,
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--remote-debugging-pipe",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--window-size=1200,900",
                "about:blank",
            ])
            .arg(format!(
                "--user-data-dir={}",
                folder.path().join("profile").display()
            ))
            .env("TO", &to)
            .env("FROM", &from)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Read and write, so that opening waits for nobody.
        let both = |path: &Path| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .unwrap()
        };
        let (to, mut answers) = (both(&to), both(&from));
        let (sender, from) = channel();
        std::thread::spawn(move || {
            let (mut whole, mut piece) = (Vec::new(), [0; 65536]);
            while let Ok(count @ 1..) = answers.read(&mut piece) {
                whole.extend_from_slice(&piece[..count]);
                while let Some(end) = whole.iter().position(|byte| *byte == 0) {
                    let message: Vec<u8> = whole.drain(..=end).collect();
                    let message = serde_json::from_slice(&message[..end]).unwrap();
                    if sender.send(message).is_err() {
                        return;
                    }
                }
            }
        });
        let mut browser = Self {
            child,
            to,
            from,
            session: String::new(),
            next: 0,
            folder,
            name,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached = browser.call(
            "Target.attachToTarget",
            json!({"targetId": target["targetId"], "flatten": true}),
        );
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        browser.call("Page.enable", json!({}));
        Some(browser)
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let answer = self.from.recv_timeout(left);
            let answer = answer.unwrap_or_else(|_| panic!("{method} was not answered"));
            if answer["id"] == json!(self.next) {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// What a piece of script comes to.
    fn eval(&mut self, script: &str) -> Value {
        let params = json!({"expression": script, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", params);
        assert!(answer["exceptionDetails"].is_null(), "{script}: {answer}");
        answer["result"]["value"].clone()
    }

    fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url}));
        let path = url
            .split_once("//")
            .and_then(|(_, rest)| rest.split_once('/'))
            .map_or("", |(_, path)| path);
        let path = path.split('?').next().unwrap();
        self.until(&format!(
            "document.readyState === 'complete' && location.pathname.endsWith('{path}')"
        ));
    }

    /// Waits for a condition on the page; else keeps a picture of it.
    fn until(&mut self, condition: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            // A page that is just left has no context; it is looked at again.
            let params = json!({"expression": condition, "returnByValue": true});
            let answer = self.call("Runtime.evaluate", params);
            if answer["result"]["value"] == json!(true) {
                return;
            }
            if Instant::now() > until {
                let kept = self.keep_picture();
                let text = self.eval("document.body.innerText");
                panic!(
                    "never came true: {condition}; see {}; the page says: {text}",
                    kept.display()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Clicks the first button with these words.
    fn click(&mut self, words: &str) {
        let find = format!(
            "[...document.querySelectorAll('button,a')].find((it) => it.textContent.trim() === '{words}')"
        );
        // In one go: the page may be drawn anew between a look and a click.
        self.until(&format!(
            "(() => {{ const it = {find}; if (it) it.click(); return it !== undefined; }})()"
        ));
    }

    fn keep_picture(&mut self) -> PathBuf {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(shot["data"].as_str().unwrap())
            .unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("{}.png", self.name));
        std::fs::write(&file, bytes).unwrap();
        file
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.folder.path();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_does_a_days_work_in_a_browser() {
    let Some(mut browser) = Browser::start("a_days_work") else {
        return;
    };
    let scene = Scene::start().await;
    let raw = scene.fleet.raw().await;
    let hangs = json!({"SIMULATED_GUEST": "hangs"});
    let markup =
        "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";
    raw.add("runs", &[("run", &json!({"id": markup}).to_string())])
        .await;
    let base = format!("http://{}", scene.address);
    browser.open(&format!("{base}/login"));
    browser.eval(&format!(
        "document.querySelector('input[name=key]').value = '{OPERATOR}'"
    ));
    browser.click("Log in");
    browser.until("document.querySelector('h1').textContent === 'Overview'");
    browser.until("document.getElementById('state').textContent === 'live'");

    // A run goes through its states while one looks, without loading the page again.
    browser.open(&format!("{base}/runs/followed"));
    browser.eval("window.sameDocument = true");
    scene
        .submit(&json!({"id": "followed", "cmd": ["true"], "env": hangs}))
        .await;
    browser.until("document.getElementById('live').innerText.includes('running')");
    browser.click("Cancel");
    browser.until("document.body.innerText.includes('followed is cancelled')");
    browser.until("document.getElementById('live').innerText.includes('cancelled')");

    // A failure is run again.
    let exits = json!({"SIMULATED_GUEST": "exits"});
    scene
        .submit(&json!({"id": "failed", "cmd": ["true"], "env": exits}))
        .await;
    browser.open(&format!("{base}/runs/failed"));
    browser.until("document.getElementById('live').innerText.includes('exited_without_result')");
    browser.click("Run again, as a new id");
    browser.until(
        "location.pathname.includes('failed_again_') || location.pathname.includes('%5Fagain%5F')",
    );

    browser.open(&format!("{base}/tenants/acme"));
    browser.click("Pause");
    browser.until("document.body.innerText.includes('acme is paused')");
    // The page is read anew once a second.
    browser.until(
        "[...document.querySelectorAll('button')].some((it) => it.textContent.trim() === 'Resume')",
    );
    browser.click("Resume");
    browser.until("document.body.innerText.includes('acme is resumed')");

    // What is hostile is text, and no script of it ran.
    browser.open(&format!("{base}/dead"));
    browser.until("document.body.innerText.includes('onerror')");
    browser.eval("document.querySelector('input[name=entry]').click()");
    browser.click("Put those that are chosen back");
    browser.until("document.body.innerText.includes('is back as')");
    assert_ne!(browser.eval("document.title"), json!("owned"));
    assert_eq!(
        browser.eval("document.querySelectorAll('img').length"),
        json!(0)
    );

    // A phone, in the dark: nothing is wider than the screen.
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true}),
    );
    browser.call(
        "Emulation.setEmulatedMedia",
        json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]}),
    );
    for path in ["/", "/runs", "/workers", "/dead", "/tenants"] {
        browser.open(&format!("{base}{path}"));
        let wide = browser
            .eval("document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert_eq!(
            wide,
            json!(0),
            "{path}: see {}",
            browser.keep_picture().display()
        );
        let dark = browser.eval("getComputedStyle(document.body).backgroundColor");
        assert_eq!(dark, json!("rgb(18, 20, 23)"), "{path}");
    }
    // The keyboard reaches what there is, and shows where it is.
    browser.open(&format!("{base}/"));
    for _ in 0..3 {
        for kind in ["keyDown", "keyUp"] {
            browser.call(
                "Input.dispatchKeyEvent",
                json!({"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}),
            );
        }
    }
    let outline = browser.eval("document.activeElement.tagName + ' ' + getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(outline, json!("A solid"));
    drop(browser);
    scene.end().await;
}
