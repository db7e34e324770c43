//! A connection to the endpoint.
//!
//! There is no TLS: with it (rustls, ring and the usual roots) this program was 2.35 MB, measured with
//! rustls 0.23, and it is sent along with each machine.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::dns;

/// How long one address may take to be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The parts of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query, beginning with `/`.
    pub(crate) path: String,
}

impl Target {
    /// Reads `http://host[:port]/path`.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let refuse = || format!("not an http:// address: {url}");
        let rest = url.strip_prefix("http://").ok_or_else(refuse)?;
        let split = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        let inside = authority.rfind(']').map_or(0, |end| end + 1);
        let (host, port) = match authority
            .get(inside..)
            .and_then(|tail| tail.split_once(':'))
        {
            Some((before, port)) => {
                let host = authority.get(..inside + before.len()).unwrap_or_default();
                (host, port.parse().map_err(|_| refuse())?)
            }
            None => (authority, 80),
        };
        if host.is_empty() {
            return Err(refuse());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            path: if path.is_empty() {
                "/".into()
            } else {
                path.to_owned()
            },
        })
    }

    /// Whether a connection to `other` serves this too.
    pub(crate) fn is_same_server(&self, other: &Self) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }
}

/// Connects to the first address that answers.
pub(crate) fn connect(target: &Target, timeout: Duration) -> Result<TcpStream, String> {
    let mut why = String::new();
    for address in dns::resolve(&target.host)? {
        let address = SocketAddr::new(address, target.port);
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT.min(timeout)) {
            Ok(stream) => {
                // Small posts are not held back for more.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => why = format!("{address}: {error}"),
        }
    }
    Err(why)
}

/// Bounds each read and write from now on.
pub(crate) fn set_timeout(stream: &TcpStream, timeout: Duration) {
    let timeout = Some(timeout.max(Duration::from_millis(1)));
    let _ = stream
        .set_read_timeout(timeout)
        .and_then(|()| stream.set_write_timeout(timeout));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (url, host, port, path) in [
            (
                "http://a.internal:8080/x/results",
                "a.internal",
                8080,
                "/x/results",
            ),
            ("http://a.flycast", "a.flycast", 80, "/"),
            ("http://[fdaa::3]:80/r?q=1", "[fdaa::3]", 80, "/r?q=1"),
            ("http://[::1]/", "[::1]", 80, "/"),
        ] {
            let target = Target::parse(url).unwrap();
            let found = (target.host.as_str(), target.port, target.path.as_str());
            assert_eq!(found, (host, port, path), "{url}");
        }
        for url in ["https://a/", "a", "http://", "http://a:b/"] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }
}
