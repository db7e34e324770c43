//! What can be reached over the network, and the post of the report.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use crate::report::{Report, any};

/// Loopback: of the machine where it has a network of its own, else of the host.
const LOOPBACK: &str = "loopback";
/// Services of the provider and the operator.
const SERVICES: &str = "services";
/// Everything else.
const INTERNET: &str = "internet";

const CONNECT_TIMEOUT: Duration = Duration::from_millis(700);
const POST_TIMEOUT: Duration = Duration::from_secs(20);

/// Ports of what often runs on a host: shells, databases, engines, and cofferdam's own.
const PORTS: [u16; 18] = [
    22, 25, 53, 80, 111, 443, 2375, 2376, 3306, 4280, 5432, 6379, 8000, 9090, 9091, 9200, 11211,
    27017,
];

/// Ports beside the endpoint's that its host must not offer to guests.
const PRIVATE_PORTS: [u16; 5] = [22, 4280, 6379, 9090, 9091];

/// Where clouds tell machines about themselves, and give them credentials.
const METADATA: [&str; 6] = [
    "169.254.169.254:80",
    "169.254.170.2:80",
    "168.63.129.16:80",
    "100.100.100.200:80",
    "[fd00:ec2::254]:80",
    "metadata.google.internal:80",
];

const OUTSIDE: [&str; 3] = ["1.1.1.1:443", "[2606:4700:4700::1111]:443", "8.8.8.8:53"];

pub(crate) fn probe(report: &mut Report) {
    let endpoint = endpoint();
    let open: Vec<String> = PORTS
        .iter()
        .filter(|port| endpoint.as_ref().is_none_or(|known| known.port != **port))
        .map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), *port))
        .filter(|address| connect(address).is_ok())
        .map(|address| address.to_string())
        .collect();
    report.note(LOOPBACK, "loopback-ports", any(open, "none answers"));

    let names = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let abstract_names = names
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7));
    let abstract_names = abstract_names.filter(|name| name.starts_with('@'));
    report.note(
        LOOPBACK,
        "abstract-sockets",
        any(abstract_names.map(str::to_owned).collect(), "none"),
    );

    report.note(
        SERVICES,
        "metadata",
        any(reached(&METADATA), "none answers"),
    );
    report.note(
        SERVICES,
        "machines-api",
        any(reached(&["_api.internal:4280"]), "not reached"),
    );
    if let Some(endpoint) = &endpoint {
        let private: Vec<String> = PRIVATE_PORTS
            .iter()
            .filter(|port| **port != endpoint.port)
            .map(|port| format!("{}:{port}", endpoint.host))
            .collect();
        let private: Vec<&str> = private.iter().map(String::as_str).collect();
        report.note(
            SERVICES,
            "private-ports-of-the-endpoint",
            any(reached(&private), "none answers"),
        );
        report.note(SERVICES, "operators-paths", operators_paths(endpoint));
    }
    report.note(INTERNET, "internet", any(reached(&OUTSIDE), "not reached"));
    let resolved = ("example.com", 80).to_socket_addrs();
    report.note(
        INTERNET,
        "name-service",
        resolved
            .map(|_| "it answers".to_owned())
            .map_err(|error| error.to_string()),
    );
}

fn reached(names: &[&str]) -> Vec<String> {
    let reached = names.iter().filter(|name| {
        let addresses = name.to_socket_addrs().into_iter().flatten();
        addresses.take(2).any(|address| connect(&address).is_ok())
    });
    reached.map(|name| (*name).to_owned()).collect()
}

fn connect(address: &SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(address, CONNECT_TIMEOUT)
}

/// Where results go.
struct Endpoint {
    host: String,
    port: u16,
    path: String,
}

fn endpoint() -> Option<Endpoint> {
    let url = std::env::var("SANDBOX_RESULT_URL").ok()?;
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, 80),
    };
    Some(Endpoint {
        host: host.to_owned(),
        port,
        path: format!("/{path}"),
    })
}

/// Whether the endpoint shows guests what is for operators.
fn operators_paths(endpoint: &Endpoint) -> Result<String, String> {
    let mut found = Vec::new();
    for path in ["/metrics", "/_faults", "/v1/apps", "/v1/tokens/current"] {
        let status = call(endpoint, "GET", path, "").map_err(|error| error.to_string())?;
        if status != 404 {
            found.push(format!("{path}: {status}"));
        }
    }
    any(found, "404 for each")
}

/// Posts the report as the run's result; does nothing outside of a run.
pub(crate) fn post(json: &str) -> Result<(), String> {
    if std::env::var_os("SANDBOX_RESULT_URL").is_none() {
        return Ok(());
    }
    let endpoint = endpoint().ok_or("SANDBOX_RESULT_URL is no http:// address")?;
    match call(&endpoint, "POST", &endpoint.path, json) {
        Ok(200 | 201) => Ok(()),
        Ok(status) => Err(format!("status {status}")),
        Err(error) => Err(error.to_string()),
    }
}

fn call(endpoint: &Endpoint, method: &str, path: &str, body: &str) -> io::Result<u16> {
    let Endpoint { host, port, .. } = endpoint;
    let token = std::env::var("SANDBOX_RUN_TOKEN").unwrap_or_default();
    let mut stream = TcpStream::connect(format!("{host}:{port}"))?;
    stream.set_read_timeout(Some(POST_TIMEOUT))?;
    stream.set_write_timeout(Some(POST_TIMEOUT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {token}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    let status = answer
        .split_whitespace()
        .nth(1)
        .and_then(|text| text.parse().ok());
    status.ok_or_else(|| io::Error::other("no status in the answer"))
}
