//! Which `Host` a request may name at a listener that is not for the public.
//!
//! A web page can point a name of its own at a private address (DNS rebinding), and the browser of
//! a visitor then sends the page's requests there. Such a request names the page's host.

use std::net::{IpAddr, Ipv6Addr};

use hyper::Request;
use hyper::header::HOST;

/// What such a request is answered.
pub const REFUSED: &str = "this host name is not allowed; see COFFERDAM_ALLOWED_HOSTS\n";

/// The hosts by which a listener may be addressed: any IP address, `localhost`, names that nobody
/// can register (those without a dot, `.localhost`, `.internal`), and those that are listed.
#[derive(Clone, Debug, Default)]
pub struct AllowedHosts(Vec<String>);

impl AllowedHosts {
    /// Allows these names besides.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Whether a request names an allowed host. One that names none comes from no browser.
    pub fn allow<B>(&self, request: &Request<B>) -> bool {
        let mut headers = request.headers().get_all(HOST).iter();
        let named = headers.all(|host| host.to_str().is_ok_and(|host| self.is_allowed(host)));
        let target = request.uri().authority();
        named && target.is_none_or(|authority| self.is_allowed(authority.as_str()))
    }

    fn is_allowed(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, port),
            _ => (host, ""),
        };
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return false;
        }
        if let Some(inner) = name.strip_prefix('[') {
            let ip = inner.strip_suffix(']');
            return ip.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        name.parse::<IpAddr>().is_ok()
            || !name.contains('.')
            || name.ends_with(".localhost")
            || name.ends_with(".internal")
            || self.0.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(host: &str, expected: bool) {
        let hosts = AllowedHosts::new(vec!["metrics.example.com".to_owned()]);
        let request = Request::builder().header(HOST, host).body(()).unwrap();
        assert_eq!(hosts.allow(&request), expected, "{host}");
    }

    #[test]
    fn a_name_that_somebody_can_register_is_refused() {
        for host in [
            "127.0.0.1:9090",
            "127.0.0.1",
            "[::1]:9090",
            "[fdaa::3]",
            "localhost:4280",
            "LOCALHOST",
            "a.localhost",
            "worker:9090",
            "cofferdam.internal:9090",
            "Metrics.Example.com.:443",
        ] {
            check(host, true);
        }
        for host in [
            "evil.example.com",
            "evil.example.com:9090",
            "127.0.0.1.nip.io:9090",
            "localhost.example.com",
            "internal.example.com",
            "example.com.metrics.example.com",
            "[evil.example.com]",
            "localhost:evil.example.com",
            "user@localhost.example.com",
        ] {
            check(host, false);
        }
    }

    #[test]
    fn every_host_that_a_request_names_counts() {
        let hosts = AllowedHosts::default();
        let none = Request::builder().body(()).unwrap();
        assert!(hosts.allow(&none));
        let two = Request::builder()
            .header(HOST, "localhost")
            .header(HOST, "evil.example.com");
        assert!(!hosts.allow(&two.body(()).unwrap()));
        let absolute = Request::builder()
            .uri("http://evil.example.com/metrics")
            .header(HOST, "localhost");
        assert!(!hosts.allow(&absolute.body(()).unwrap()));
    }
}
