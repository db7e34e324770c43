//! A Machines API that answers at once, plays the guests, and counts and times what it sees.
//!
//! A guest posts its result with the token of its run over a connection of its own, as guests do:
//! after a delay, or, held back, when so many others have come after it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::times::Times;
use crate::wire::{Body, answer, body_of, connect, exchange, now_ns, serve, spawn};

/// Machines on one page of a listing, as the client asks for.
const PAGE: usize = 500;
const PAYLOAD: &[u8] = br#"{"score":17,"passed":true,"notes":"nothing of note","files":["src/lib.rs","src/main.rs"],"took_ms":1234}"#;

/// When guests post.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guests {
    /// So long after their machine was made.
    After(Duration),
    /// When so many more machines were made.
    Held(usize),
}

#[derive(Default)]
pub(crate) struct Calls {
    pub(crate) create: AtomicUsize,
    pub(crate) get: AtomicUsize,
    pub(crate) list: AtomicUsize,
    pub(crate) wait: AtomicUsize,
    pub(crate) delete: AtomicUsize,
    pub(crate) post: AtomicUsize,
    pub(crate) failed: AtomicUsize,
}

impl Calls {
    /// What a run costs, in the order in which it is told.
    pub(crate) fn made(&self) -> [&AtomicUsize; 6] {
        [
            &self.create,
            &self.get,
            &self.list,
            &self.wait,
            &self.delete,
            &self.post,
        ]
    }
}

pub(crate) struct StandIn {
    pub(crate) address: String,
    pub(crate) calls: Calls,
    /// Rings at every delete.
    pub(crate) gone: Notify,
    guests: Mutex<Guests>,
    held: Mutex<VecDeque<Guest>>,
    /// Names by number.
    machines: Mutex<BTreeMap<u64, String>>,
    next: AtomicU64,
    times: Mutex<Arc<Times>>,
}

struct Guest {
    run: String,
    token: String,
    url: String,
}

#[derive(Deserialize)]
struct Create<'a> {
    name: &'a str,
    #[serde(borrow)]
    config: &'a RawValue,
}

#[derive(Deserialize)]
struct Config {
    env: Env,
}

#[derive(Deserialize)]
struct Env {
    #[serde(rename = "SANDBOX_RUN_ID")]
    run: String,
    #[serde(rename = "SANDBOX_RUN_TOKEN")]
    token: String,
    #[serde(rename = "SANDBOX_RESULT_URL")]
    url: String,
}

impl StandIn {
    pub(crate) async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Arc::new(Self {
            address: listener.local_addr().unwrap().to_string(),
            calls: Calls::default(),
            gone: Notify::new(),
            guests: Mutex::new(Guests::After(Duration::ZERO)),
            held: Mutex::default(),
            machines: Mutex::default(),
            next: AtomicU64::new(1),
            times: Mutex::new(Arc::new(Times::new(0))),
        });
        let api = this.clone();
        spawn(serve(listener, move |request| api.clone().call(request)));
        this
    }

    /// Begins a new measurement: guests post as told, and moments are noted in `times`.
    pub(crate) fn begin(&self, guests: Guests, times: Arc<Times>) {
        *self.guests.lock().unwrap() = guests;
        *self.times.lock().unwrap() = times;
        self.held.lock().unwrap().clear();
        self.machines.lock().unwrap().clear();
        for count in self.calls.made().into_iter().chain([&self.calls.failed]) {
            count.store(0, Ordering::SeqCst);
        }
    }

    pub(crate) fn deleted(&self) -> usize {
        self.calls.delete.load(Ordering::SeqCst)
    }

    pub(crate) fn created(&self) -> usize {
        self.calls.create.load(Ordering::SeqCst)
    }

    /// Holds fewer guests back: the others post.
    pub(crate) fn hold(self: &Arc<Self>, most: usize) {
        *self.guests.lock().unwrap() = Guests::Held(most);
        let mut held = self.held.lock().unwrap();
        while held.len() > most
            && let Some(first) = held.pop_front()
        {
            spawn(self.clone().post(first));
        }
    }

    async fn call(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let count = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::SeqCst);
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let id = parts.get(4).map(|id| u64::from_str_radix(id, 16).unwrap());
        match (request.method(), id, parts.get(5)) {
            (&Method::POST, None, _) => {
                count(&self.calls.create);
                let came = now_ns();
                let body = body_of(request).await;
                self.create(came, &body)
            }
            (&Method::GET, None, _) => {
                count(&self.calls.list);
                self.list(request.uri().query().unwrap_or_default())
            }
            (&Method::GET, Some(id), None) => {
                count(&self.calls.get);
                self.get(id)
            }
            (&Method::GET, Some(_), Some(_)) => {
                count(&self.calls.wait);
                answer(200, r#"{"ok":true}"#)
            }
            (&Method::DELETE, Some(id), _) => {
                self.machines.lock().unwrap().remove(&id);
                self.times().freed();
                count(&self.calls.delete);
                self.gone.notify_one();
                answer(200, r#"{"ok":true}"#)
            }
            _ => answer(404, r#"{"error":"not found"}"#),
        }
    }

    fn times(&self) -> Arc<Times> {
        self.times.lock().unwrap().clone()
    }

    fn create(self: &Arc<Self>, came: u64, body: &Bytes) -> Response<Body> {
        let asked: Create<'_> = serde_json::from_slice(body).unwrap();
        let config: Config = serde_json::from_str(asked.config.get()).unwrap();
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        self.times().created(&config.env.run, came);
        let said = machine(id, asked.name, "created", asked.config.get());
        self.machines
            .lock()
            .unwrap()
            .insert(id, asked.name.to_owned());
        self.admit(Guest {
            run: config.env.run,
            token: config.env.token,
            url: config.env.url,
        });
        answer(200, said)
    }

    fn admit(self: &Arc<Self>, guest: Guest) {
        let guests = *self.guests.lock().unwrap();
        let this = self.clone();
        match guests {
            Guests::After(delay) => spawn(async move {
                tokio::time::sleep(delay).await;
                this.post(guest).await;
            }),
            Guests::Held(most) => {
                let mut held = self.held.lock().unwrap();
                held.push_back(guest);
                if held.len() > most
                    && let Some(first) = held.pop_front()
                {
                    spawn(this.post(first));
                }
            }
        }
    }

    async fn post(self: Arc<Self>, guest: Guest) {
        let rest = guest.url.strip_prefix("http://").unwrap();
        let (address, path) = rest.split_once('/').unwrap();
        let mut connection = connect(address).await;
        let request = Request::post(format!("/{path}"))
            .header("host", address)
            .header("authorization", format!("Bearer {}", guest.token))
            .header("content-type", "application/json")
            .body(Body::new(Bytes::from_static(PAYLOAD)))
            .unwrap();
        let began = now_ns();
        let (status, _) = exchange(&mut connection, request).await;
        self.calls.post.fetch_add(1, Ordering::SeqCst);
        if status.as_u16() == 201 {
            self.times().answered(&guest.run, began, now_ns());
        } else {
            self.calls.failed.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn get(&self, id: u64) -> Response<Body> {
        match self.machines.lock().unwrap().get(&id) {
            None => answer(404, r#"{"error":"machine not found"}"#),
            // A guest that has posted takes a moment to end.
            Some(name) => answer(200, machine(id, name, "started", "{}")),
        }
    }

    fn list(&self, query: &str) -> Response<Body> {
        let cursor = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("cursor="));
        let after: u64 = cursor.map_or(0, |at| at.parse().unwrap());
        let machines = self.machines.lock().unwrap();
        let page = machines.range(after + 1..).take(PAGE);
        let words: Vec<String> = page
            .clone()
            .map(|(id, name)| summary(*id, name, "started"))
            .collect();
        let mut response = answer(200, format!("[{}]", words.join(",")));
        if words.len() == PAGE
            && let Some((last, _)) = page.last()
        {
            let cursor = last.to_string().parse().unwrap();
            response.headers_mut().insert("fly-next-cursor", cursor);
        }
        response
    }
}

/// A machine as the service tells of it, with the events of a start.
fn machine(id: u64, name: &str, state: &str, config: &str) -> String {
    let events = match state {
        "created" => {
            r#"{"id":"01J0","type":"launch","status":"created","source":"user","timestamp":1700000000000}"#
        }
        _ => {
            r#"{"id":"01J1","type":"start","status":"started","source":"flyd","timestamp":1700000000100},{"id":"01J0","type":"launch","status":"created","source":"user","timestamp":1700000000000}"#
        }
    };
    let rest = summary(id, name, state);
    let rest = rest.strip_suffix('}').unwrap();
    format!(r#"{rest},"config":{config},"events":[{events}]}}"#)
}

fn summary(id: u64, name: &str, state: &str) -> String {
    format!(
        r#"{{"id":"{id:014x}","name":"{name}","state":"{state}","region":"ams","instance_id":"01J{id:023x}","private_ip":"fdaa:0:1:a7b:1::2","created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z","image_ref":{{"registry":"registry-1.docker.io","repository":"library/busybox","tag":"latest"}}}}"#
    )
}
