//! Calls that the server makes in a guest's name: with its token, to the configured endpoint.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use crate::stage::spec::RUN_TOKEN;

/// Bytes of an answer that are looked at: its first line.
const ANSWER_BYTES: usize = 256;

/// Where a guest posts something.
#[derive(Clone, Debug)]
pub(crate) struct GuestCall {
    endpoint: Arc<str>,
    path: String,
    token: String,
}

impl GuestCall {
    /// To the path of the address that `variable` of the guest's environment holds, at `endpoint`.
    /// `None` when it has none.
    pub(crate) fn new(
        endpoint: &Arc<str>,
        env: &BTreeMap<String, String>,
        variable: &str,
    ) -> Option<Self> {
        Some(Self {
            endpoint: Arc::clone(endpoint),
            path: Url::parse(env.get(variable)?).ok()?.path().to_owned(),
            token: env.get(RUN_TOKEN).cloned().unwrap_or_default(),
        })
    }

    /// Posts `body` on a connection of its own and gives the answer's status.
    ///
    /// # Errors
    /// When the endpoint cannot be reached, or does not speak HTTP.
    pub(crate) async fn post(&self, query: &str, media: &str, body: &[u8]) -> io::Result<u16> {
        let Self {
            endpoint,
            path,
            token,
        } = self;
        let head = format!(
            "POST {path}{query} HTTP/1.1\r\nHost: {endpoint}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: {media}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(&**endpoint).await?;
        stream.write_all(&[head.as_bytes(), body].concat()).await?;
        let mut answer = Vec::with_capacity(ANSWER_BYTES);
        while answer.len() < ANSWER_BYTES && !answer.contains(&b'\n') {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        let first = String::from_utf8_lossy(&answer);
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        status.ok_or_else(|| io::Error::other("the answer is not HTTP"))
    }
}
