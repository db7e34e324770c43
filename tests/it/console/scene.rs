//! A console beside a fleet, and a client that keeps its cookie.

use std::time::Duration;

use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::support::command::Daemon;
use crate::support::fleet::Fleet;
use crate::support::parts;
use crate::support::until::until;

pub(super) const OPERATOR: &str = "operator-key-0123456789abcdefghijkl";
pub(super) const VIEWER: &str = "viewer-key-0123456789abcdefghijklmn";

pub(super) struct Scene {
    pub(super) fleet: Fleet,
    pub(super) worker: Option<Daemon>,
    pub(super) console: Daemon,
    pub(super) address: String,
}

/// Somebody at the console.
pub(super) struct Client {
    http: reqwest::Client,
    pub(super) base: String,
    pub(super) cookie: Option<String>,
}

impl Scene {
    /// A fleet whose guests post at once, and its console.
    pub(super) async fn start() -> Self {
        Self::with(&[]).await
    }

    pub(super) async fn with(settings: &[(&'static str, &str)]) -> Self {
        let mut all = vec![("COFFERDAM_SWEEP_S", "1")];
        all.extend(settings);
        let fleet = Fleet::start(&["--simulate", "20"], &all).await;
        let (worker, _) = fleet.worker().await;
        let (console, address) = console_of(&fleet.env).await;
        Self {
            fleet,
            worker: Some(worker),
            console,
            address,
        }
    }

    pub(super) fn client(&self) -> Client {
        Client::new(&self.address)
    }

    pub(super) async fn operator(&self) -> Client {
        let mut client = self.client();
        client.log_in(OPERATOR).await;
        client
    }

    pub(super) async fn submit(&self, request: &Value) {
        let raw = self.fleet.raw().await;
        raw.add("runs", &[("run", &request.to_string())]).await;
    }

    pub(super) async fn end(self) {
        self.console.finish().await;
        if let Some(worker) = self.worker {
            worker.finish().await;
        }
        self.fleet.finish().await;
    }
}

/// A console with these settings, and where it is.
pub(super) async fn console_of(env: &[(&'static str, String)]) -> (Daemon, String) {
    let keys = format!("operator:{OPERATOR},viewer:{VIEWER}");
    let own = [
        ("COFFERDAM_CONSOLE_LISTEN", "127.0.0.1:0"),
        ("COFFERDAM_CONSOLE_KEYS", keys.as_str()),
    ];
    let all = env.iter().map(|(name, value)| (*name, value.as_str()));
    let all: Vec<_> = all.chain(own).collect();
    let mut console = Daemon::start(&["console"], &all);
    let address = console.addresses(1).await.remove(0);
    (console, address)
}

impl Client {
    pub(super) fn new(address: &str) -> Self {
        // Another test may have been faster.
        let _ = parts::http();
        let http = reqwest::Client::builder()
            .redirect(Policy::none())
            .no_proxy();
        Self {
            http: http.build().unwrap(),
            base: format!("http://{address}"),
            cookie: None,
        }
    }

    pub(super) async fn log_in(&mut self, key: &str) -> StatusCode {
        let answer = self.send("/login", &[("key", key)]).await;
        if let Some(cookie) = answer.headers().get(SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            self.cookie = Some(cookie.split(';').next().unwrap().to_owned());
        }
        answer.status()
    }

    pub(super) async fn get(&self, path: &str) -> Response {
        let mut call = self.http.get(format!("{}{path}", self.base));
        if let Some(cookie) = &self.cookie {
            call = call.header(COOKIE, cookie);
        }
        call.timeout(Duration::from_secs(30)).send().await.unwrap()
    }

    /// A page that is there.
    pub(super) async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.text().await.unwrap()
    }

    /// Posts a form as it is.
    pub(super) async fn send(&self, path: &str, form: &[(&str, &str)]) -> Response {
        let body: String = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        let mut call = self.http.post(format!("{}{path}", self.base));
        if let Some(cookie) = &self.cookie {
            call = call.header(COOKIE, cookie);
        }
        call = call.header("content-type", "application/x-www-form-urlencoded");
        call.body(body).send().await.unwrap()
    }

    /// The token that forms of this login send.
    pub(super) async fn csrf(&self) -> String {
        let page = self.page("/").await;
        let found = page.split("name=\"csrf\" value=\"").nth(1).unwrap();
        found.split('"').next().unwrap().to_owned()
    }

    /// Does something as the page's form does, and answers what the next page says of it.
    pub(super) async fn act(&self, act: &str, form: &[(&str, &str)]) -> String {
        let csrf = self.csrf().await;
        let mut form = form.to_vec();
        form.push(("csrf", &csrf));
        let answer = self.send(&format!("/acts/{act}"), &form).await;
        assert_eq!(answer.status(), 303, "{act}");
        let to = answer.headers().get(LOCATION).unwrap().to_str().unwrap();
        let page = self.page(to).await;
        let said = page.split("role=\"status\">").nth(1).unwrap();
        said.split("</p>").next().unwrap().to_owned()
    }

    /// Looks at a page until it has these words.
    pub(super) async fn until_page(&self, path: &str, words: &str) -> String {
        until(&format!("{path} to have {words:?}"), async || {
            let page = self.page(path).await;
            match page.contains(words) {
                true => Ok(page),
                false => Err(page),
            }
        })
        .await
    }
}
