//! The Machines client against small servers that answer well, badly, late or not at all.
//!
//! Here are the servers; [`calls`] has what the client sends and reads, [`failures`] what it makes
//! of everything that goes wrong.

#![expect(clippy::unwrap_used, reason = "a test may end at the first surprise")]

mod calls;
mod failures;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cofferdam::http::reply::{self, Body};
use cofferdam::http::serve::{Limits, serve};
use cofferdam::machines::{Client, ClientSettings, Token};
use cofferdam::shutdown::Shutdown;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderName};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const TOKEN: &str = "FlyV1 fm2_verysecret";

/// What a server was asked.
#[derive(Clone, Debug)]
struct Seen {
    method: String,
    uri: String,
    authorization: String,
    content_type: Option<String>,
    cookie: Option<String>,
    body: Bytes,
    peer: SocketAddr,
}

/// A server that answers with what a function makes of each request and its number, from 0.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    shutdown: Shutdown,
}

impl Server {
    async fn new<F>(answer: F) -> Self
    where
        F: Fn(usize, &Seen) -> Response<Body> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (seen, shutdown) = (Arc::new(Mutex::new(Vec::new())), Shutdown::new());
        let (answer, log) = (Arc::new(answer), Arc::clone(&seen));
        let handler = move |request: Request<hyper::body::Incoming>, peer| {
            let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
            async move {
                let header = |name: HeaderName| {
                    let value = request.headers().get(name)?;
                    Some(value.to_str().unwrap().to_owned())
                };
                let mut asked = Seen {
                    method: request.method().to_string(),
                    uri: request.uri().to_string(),
                    authorization: header(AUTHORIZATION).unwrap_or_default(),
                    content_type: header(CONTENT_TYPE),
                    cookie: header(COOKIE),
                    body: Bytes::new(),
                    peer,
                };
                asked.body = reply::read_body(request.into_body(), 1 << 20)
                    .await
                    .unwrap();
                let number = {
                    let mut log = log.lock().unwrap();
                    log.push(asked.clone());
                    log.len() - 1
                };
                answer(number, &asked)
            }
        };
        shutdown.spawn(serve(
            listener,
            Limits::default(),
            shutdown.clone(),
            handler,
        ));
        Self {
            url,
            seen,
            shutdown,
        }
    }

    fn client(&self) -> Client {
        client(&self.url)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    async fn end(self) {
        let ended = self.shutdown.finish(Duration::from_secs(20)).await;
        assert!(ended, "a connection was still open");
    }
}

/// A server below HTTP: takes one connection and does what `act` says with it.
async fn raw<A, F>(act: A) -> (String, JoinSet<()>)
where
    A: FnOnce(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        act(stream).await;
    });
    (url, tasks)
}

/// Reads a request's head, sends `answer`, then closes, or stays silent until the client leaves.
async fn answer_raw(mut stream: TcpStream, answer: &'static [u8], then: Then) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0);
    }
    stream.write_all(answer).await.unwrap();
    if then == Then::StaySilent {
        while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    Close,
    StaySilent,
}

fn settings(url: &str) -> ClientSettings {
    ClientSettings::new(url.parse().unwrap(), Token::new(TOKEN))
}

fn client(url: &str) -> Client {
    Client::new(settings(url)).unwrap()
}

fn impatient(url: &str) -> Client {
    Client::new(ClientSettings {
        timeout: Duration::from_millis(200),
        ..settings(url)
    })
    .unwrap()
}

fn machine(id: &str, name: &str, state: &str) -> Value {
    json!({ "id": id, "name": name, "state": state })
}

fn ok(body: &Value) -> Response<Body> {
    reply::json(StatusCode::OK, body)
}
