//! HTTP with nothing around it: connections that are kept and handed round, requests, servers.

use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

pub(crate) type Body = Full<Bytes>;

/// Connections to one address, each used by one request at a time.
pub(crate) struct Connections {
    address: String,
    idle: Mutex<Vec<SendRequest<Body>>>,
}

impl Connections {
    pub(crate) fn to(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            idle: Mutex::default(),
        }
    }

    /// Sends over a connection that is idle, else over a new one, and reads the whole answer.
    pub(crate) async fn send(&self, request: Request<Body>) -> (StatusCode, Bytes) {
        let kept = self.idle.lock().unwrap().pop();
        let mut connection = match kept {
            Some(connection) if connection.is_ready() => connection,
            _ => connect(&self.address).await,
        };
        let answer = exchange(&mut connection, request).await;
        self.idle.lock().unwrap().push(connection);
        answer
    }

    pub(crate) fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Body> {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.address)
            .header("content-type", "application/json")
            .body(Body::new(body))
            .unwrap()
    }
}

pub(crate) async fn connect(address: &str) -> SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (connection, driver) = handshake.await.unwrap();
    spawn(async move {
        let _ = driver.await;
    });
    connection
}

pub(crate) async fn exchange(
    connection: &mut SendRequest<Body>,
    request: Request<Body>,
) -> (StatusCode, Bytes) {
    let response = connection.send_request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    // The connection takes the next request only once it has seen the end of this one.
    connection.ready().await.ok();
    (status, body)
}

/// Serves `handler` on `listener` for ever.
pub(crate) async fn serve<H, F>(listener: TcpListener, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = stream.set_nodelay(true);
        let handler = handler.clone();
        spawn(async move {
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

pub(crate) async fn body_of(request: Request<Incoming>) -> Bytes {
    request.into_body().collect().await.unwrap().to_bytes()
}

pub(crate) fn answer(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Body::new(body.into()))
        .unwrap()
}

/// A task that nobody waits for: it ends with the program.
#[expect(clippy::disallowed_methods, reason = "a measurement has no shutdown")]
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

/// Nanoseconds since the first call.
pub(crate) fn now_ns() -> u64 {
    static BEGAN: std::sync::OnceLock<tokio::time::Instant> = std::sync::OnceLock::new();
    let began = BEGAN.get_or_init(tokio::time::Instant::now);
    // Zero means never.
    u64::try_from(began.elapsed().as_nanos()).unwrap() + 1
}
