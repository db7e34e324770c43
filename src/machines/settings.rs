//! Where the API is and with which token: read once, checked before anything is sent.

use std::fmt;
use std::time::Duration;

use reqwest::header::HeaderValue;
use url::{Host, Url};

use super::call::Observer;
use super::error::Error;

/// How the client reaches the API.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Where the API is, with or without `/v1` at its end.
    pub base: Url,
    /// The token.
    pub token: Token,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long any call may take, from connecting to the last byte of its answer. A wait may take
    /// this long in addition to the time it asks for.
    pub timeout: Duration,
    /// Is told of every call that has ended.
    pub observer: Observer,
}

impl ClientSettings {
    /// The usual bounds. A create takes 1 to 3 s on the real service, so 30 s is far beyond a slow
    /// answer; a connection within the private network takes milliseconds.
    #[must_use]
    pub fn new(base: Url, token: Token) -> Self {
        Self {
            base,
            token,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            observer: Observer::default(),
        }
    }
}

/// An API token. `Debug` prints nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    scheme: &'static str,
    secret: String,
}

const FLY_V1: &str = "FlyV1";
const BEARER: &str = "Bearer";

impl Token {
    /// A token as its owner has it: bare, or with its scheme (`FlyV1 fm2_…`, `Bearer …`), with or
    /// without the blank after that, and with blanks and line ends around it or its parts.
    pub fn new(token: impl Into<String>) -> Self {
        let token = token.into();
        let (scheme, bare) = taken_apart(&token);
        let parts: Vec<&str> = bare.split(',').map(str::trim).collect();
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let scheme = match scheme {
            Some(scheme) => scheme,
            None if parts.iter().any(|part| is_macaroon(part)) => FLY_V1,
            None => BEARER,
        };
        let secret = parts.join(",");
        Self { scheme, secret }
    }

    /// The value of the `Authorization` header. A macaroon goes under the scheme `FlyV1`, as
    /// Fly's own client sends it; anything else is a bearer token.
    pub(super) fn header(&self) -> Result<HeaderValue, Error> {
        let whole = format!("{} {}", self.scheme, self.secret);
        if self.secret().is_empty() {
            return Err(Error::Settings("the token is empty".to_owned()));
        }
        let mut value = HeaderValue::from_str(&whole).map_err(|_| {
            Error::Settings("the token has characters that no token has".to_owned())
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The token without its scheme: what must never be shown.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The scheme, if there is one, and what follows it. Without a blank a scheme is one only before a
/// macaroon: a bearer token may begin with any letters.
fn taken_apart(token: &str) -> (Option<&'static str>, &str) {
    let token = token.trim();
    for scheme in [FLY_V1, BEARER] {
        let Some((head, rest)) = token.split_at_checked(scheme.len()) else {
            continue;
        };
        let ends = rest.is_empty() || rest.starts_with(char::is_whitespace);
        if head.eq_ignore_ascii_case(scheme) && (ends || is_macaroon(rest)) {
            return (Some(scheme), rest);
        }
    }
    (None, token)
}

fn is_macaroon(token: &str) -> bool {
    ["fm1r_", "fm1a_", "fm2_", "m2."]
        .iter()
        .any(|prefix| token.starts_with(prefix))
}

/// The base with `/v1` at its end and nothing after.
pub(super) fn versioned(base: &Url) -> Result<Url, Error> {
    let refuse = |why: &str| {
        Err(Error::Settings(format!(
            "the address {why}: {}",
            shown(base)
        )))
    };
    if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
        return refuse("must begin with http:// or https:// and name a host");
    }
    if !base.username().is_empty() || base.password().is_some() {
        return refuse("must not hold a user or password");
    }
    if base.query().is_some() || base.fragment().is_some() {
        return refuse("must not have a query or fragment");
    }
    let path = base.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path);
    let mut versioned = base.clone();
    versioned.set_path(&format!("{path}/v1"));
    Ok(versioned)
}

/// An address without what may be secret in it.
fn shown(url: &Url) -> String {
    format!(
        "{}://{}{}",
        url.scheme(),
        url.host_str().unwrap_or(""),
        url.path()
    )
}

/// Where logs are read: the public API when `base` is one of the real service's two addresses,
/// which do not have them; else the server that `base` names.
pub(super) fn logs_base(base: &Url) -> Url {
    let real = match base.host() {
        Some(Host::Domain(host)) => matches!(host, "api.machines.dev" | "_api.internal"),
        _ => false,
    };
    let mut url = if real {
        Url::parse("https://api.fly.io").expect("a constant address")
    } else {
        base.clone()
    };
    url.set_path("/api/v1");
    url
}

/// A connection pool for `url`.
///
/// https is verified against the system's certificates (`SSL_CERT_FILE` is honoured) with ring as
/// the only provider of cryptography. Plain http needs no certificates, so a host without any can
/// still use a local server. Proxies named in the environment are not used: the API is either on
/// this host, in a private network, or reached directly. Redirects are not followed: the token
/// goes to the configured server only. Nothing is repeated, save a request that found its pooled
/// connection closed before a byte of it was written.
pub(super) fn pool(url: &Url, connect_timeout: Duration) -> Result<reqwest::Client, Error> {
    // Fails when it is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(connect_timeout)
        // As the API was tried; what else uses reqwest brings HTTP/2 along.
        .http1_only()
        // Shorter than servers keep idle connections, so that few requests meet a closing one.
        .pool_idle_timeout(Duration::from_secs(10));
    if url.scheme() == "http" {
        builder = builder.tls_backend_preconfigured(no_tls()?);
    }
    builder.build().map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        Error::Settings(cause.unwrap_or_else(|| error.to_string()))
    })
}

/// A TLS configuration without roots.
fn no_tls() -> Result<rustls::ClientConfig, Error> {
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Settings(error.to_string()))?;
    let nobody = rustls::RootCertStore::empty();
    Ok(config.with_root_certificates(nobody).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_header(token: &str, header: &str) {
        let value = Token::new(token).header().unwrap();
        assert_eq!(value.to_str().unwrap(), header);
        assert!(value.is_sensitive());
    }

    #[test]
    fn a_token_goes_out_under_its_scheme_once() {
        check_header("abc", "Bearer abc");
        check_header(" abc\n", "Bearer abc");
        check_header("Bearer abc", "Bearer abc");
        check_header("FlyV1 fm2_abc,fm2_def", "FlyV1 fm2_abc,fm2_def");
        check_header("fm2_abc", "FlyV1 fm2_abc");
        check_header("FlyV1fm2_abc", "FlyV1 fm2_abc");
        check_header("flyv1 fm2_abc", "FlyV1 fm2_abc");
        check_header("FlyV1\tfm2_abc", "FlyV1 fm2_abc");
        check_header("FlyV1m2.abc", "FlyV1 m2.abc");
        check_header("m2.abc", "FlyV1 m2.abc");
        check_header("\r\n fm2_abc,\n fm2_def ,\n", "FlyV1 fm2_abc,fm2_def");
        check_header("fo1_abc,fm2_def", "FlyV1 fo1_abc,fm2_def");
        check_header("FlyV1abc", "Bearer FlyV1abc");
        check_header("Bearerabc", "Bearer Bearerabc");
        check_header("fm1r_abc", "FlyV1 fm1r_abc");
    }

    #[test]
    fn a_token_that_cannot_be_one_is_refused_without_being_shown() {
        for token in [
            "",
            "  ",
            "FlyV1 ",
            "Bearer",
            "hidden\nhidden",
            "hidden\u{0}",
        ] {
            let error = Token::new(token).header().unwrap_err().to_string();
            assert!(!error.contains("hidden"), "{error}");
        }
        assert_eq!(format!("{:?}", Token::new("hidden")), "Token(…)");
    }

    #[track_caller]
    fn check_base(given: &str, versioned_as: &str, logs: &str) {
        let base = Url::parse(given).unwrap();
        assert_eq!(versioned(&base).unwrap().as_str(), versioned_as);
        assert_eq!(logs_base(&base).as_str(), logs);
    }

    #[test]
    fn the_base_may_be_written_in_every_usual_way() {
        let logs = "http://127.0.0.1:4280/api/v1";
        check_base("http://127.0.0.1:4280", "http://127.0.0.1:4280/v1", logs);
        check_base("http://127.0.0.1:4280/", "http://127.0.0.1:4280/v1", logs);
        check_base("http://127.0.0.1:4280/v1", "http://127.0.0.1:4280/v1", logs);
        check_base(
            "http://127.0.0.1:4280/v1//",
            "http://127.0.0.1:4280/v1",
            logs,
        );
        let fly = "https://api.fly.io/api/v1";
        check_base(
            "https://api.machines.dev",
            "https://api.machines.dev/v1",
            fly,
        );
        check_base(
            "http://_api.internal:4280/v1",
            "http://_api.internal:4280/v1",
            fly,
        );
        check_base("http://h/fly/v1", "http://h/fly/v1", "http://h/api/v1");
    }

    #[test]
    fn a_base_that_cannot_be_one_is_refused_without_its_password() {
        for base in [
            "unix:/run/a",
            "ftp://h",
            "http://me:hidden@h",
            "http://h/v1?a=hidden",
        ] {
            let error = versioned(&Url::parse(base).unwrap())
                .unwrap_err()
                .to_string();
            assert!(!error.contains("hidden"), "{error}");
        }
    }
}
