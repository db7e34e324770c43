//! Checks the address that guests are told.

use std::net::IpAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use url::{Host, Url};

use crate::cli::doctor::Finding;
use crate::cli::target;
use crate::config::Doctor;

const WHAT: &str = "guest url";

/// What a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn check(doctor: &Doctor) -> Finding {
    let Some(url) = &doctor.guest_url else {
        if target::running(&doctor.tool).is_some() {
            return Finding::ok(WHAT, "kept by the running `up`");
        }
        let remedy = "worker needs it: the base URL of `serve` as machines reach it";
        return Finding::warn(WHAT, "COFFERDAM_GUEST_URL is not set", remedy);
    };
    if is_in_the_open(url) {
        return Finding::warn(
            WHAT,
            format!("{url}: tokens and results would travel unencrypted"),
            "use https, or an address within the private network (.internal, .flycast)",
        );
    }
    if is_loopback(url) {
        return Finding::ok(
            WHAT,
            format!("{url}: right for the local Machines server alone"),
        );
    }
    match connected(url).await {
        Ok(()) => Finding::ok(WHAT, format!("{url} takes connections")),
        Err(why) => Finding::warn(
            WHAT,
            format!("{url}: {why}"),
            "it need not be reachable from here, but it must be from the machines",
        ),
    }
}

async fn connected(url: &Url) -> Result<(), String> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(80);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "no connection within {} s",
            CONNECT_TIMEOUT.as_secs()
        )),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Plain HTTP to an address that is not within a private network.
fn is_in_the_open(url: &Url) -> bool {
    if url.scheme() != "http" {
        return false;
    }
    match url.host() {
        // A name without a dot is a neighbour's, as in a compose file.
        Some(Host::Domain(name)) => {
            let is_private = [".internal", ".flycast", ".local"];
            name.contains('.') && !is_private.iter().any(|end| name.ends_with(end))
        }
        Some(Host::Ipv4(ip)) => !is_private(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => !is_private(IpAddr::V6(ip)),
        None => false,
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_private_networks() {
        for (url, is_open) in [
            ("https://results.example.com", false),
            ("http://results.example.com", true),
            ("http://cofferdam.internal:8080", false),
            ("http://cofferdam.flycast", false),
            ("http://serve:8080", false),
            ("http://10.0.0.1", false),
            ("http://8.8.8.8", true),
            ("http://[fdaa::3]:8080", false),
            ("http://[2001:4860::8888]", true),
        ] {
            assert_eq!(is_in_the_open(&Url::parse(url).unwrap()), is_open, "{url}");
        }
    }
}
