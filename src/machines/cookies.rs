//! Cookies of the API. Reads come from a store that may be behind; a service that gives out cookies
//! means to know by them whose write a read must see, and Fly's own client keeps and sends them all.
//!
//! One jar is for one address. A cookie goes to the paths that RFC 6265 says: without a path of its
//! own to those beside the one that set it, which are those of one app.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue, SET_COOKIE};
use tokio::time::Instant;

/// Cookies kept at the most; the oldest go first.
const COOKIES_MAX: usize = 64;
/// Bytes of one cookie's name and value at the most; a longer one is not kept.
const COOKIE_BYTES: usize = 4096;
/// Bytes of all that are sent with one call at the most; what would be beyond is left out.
const HEADER_BYTES: usize = 8192;
/// How long one is kept at the most, whatever it says.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The cookies of one address. `Debug` prints none.
#[derive(Default)]
pub(super) struct Cookies(Mutex<Vec<Cookie>>);

/// One cookie, as it is known by path and name.
struct Cookie {
    path: String,
    name: String,
    value: String,
    until: Instant,
}

impl Cookies {
    /// Takes what an answer to a call of `path` sets.
    pub(super) fn take(&self, path: &str, headers: &HeaderMap) {
        for text in headers.get_all(SET_COOKIE) {
            let Some(cookie) = text.to_str().ok().and_then(|text| read(path, text)) else {
                continue;
            };
            let mut kept = self.kept();
            kept.retain(|old| (&old.path, &old.name) != (&cookie.path, &cookie.name));
            if cookie.until > Instant::now() {
                if kept.len() >= COOKIES_MAX {
                    kept.remove(0);
                }
                kept.push(cookie);
            }
        }
    }

    /// What is sent with a call of `path`, if anything.
    pub(super) fn header(&self, path: &str) -> Option<HeaderValue> {
        let now = Instant::now();
        let mut kept = self.kept();
        kept.retain(|cookie| cookie.until > now);
        let mut sent = String::new();
        for cookie in kept.iter().filter(|cookie| covers(&cookie.path, path)) {
            let Cookie { name, value, .. } = cookie;
            if sent.len() + name.len() + value.len() + 3 > HEADER_BYTES {
                continue;
            }
            let between = if sent.is_empty() { "" } else { "; " };
            sent.extend([between, name, "=", value]);
        }
        let mut header = HeaderValue::from_str(&sent)
            .ok()
            .filter(|h| !h.is_empty())?;
        header.set_sensitive(true);
        Some(header)
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Cookie>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookies(…)")
    }
}

/// Reads a `Set-Cookie`. One that is over by now is told by its time.
fn read(path: &str, text: &str) -> Option<Cookie> {
    let (pair, attributes) = text.split_once(';').unwrap_or((text, ""));
    let (name, value) = pair.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() || name.len() + value.len() > COOKIE_BYTES {
        return None;
    }
    let mut cookie = Cookie {
        path: beside(path).to_owned(),
        name: name.to_owned(),
        value: value.to_owned(),
        until: Instant::now() + AGE_MAX,
    };
    let mut has_age = false;
    for attribute in attributes.split(';') {
        let (word, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        let (word, value) = (word.trim().to_ascii_lowercase(), value.trim());
        let age = match word.as_str() {
            "path" if value.starts_with('/') && value.len() <= COOKIE_BYTES => {
                value.clone_into(&mut cookie.path);
                None
            }
            "max-age" => {
                has_age = true;
                value
                    .parse::<i64>()
                    .ok()
                    .map(|s| Duration::from_secs(s.try_into().unwrap_or(0)))
            }
            // The service's clock and ours may differ; a date that is long past is a removal.
            "expires" if !has_age => httpdate::parse_http_date(value)
                .ok()
                .filter(|date| *date <= std::time::UNIX_EPOCH + AGE_MAX)
                .map(|_| Duration::ZERO),
            _ => None,
        };
        if let Some(age) = age {
            cookie.until = Instant::now() + age.min(AGE_MAX);
        }
    }
    Some(cookie)
}

/// The path of a cookie that names none.
fn beside(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(end) => &path[..end],
    }
}

/// Whether a cookie of a path goes to another.
fn covers(cookie: &str, path: &str) -> bool {
    path.strip_prefix(cookie)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || cookie.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINES: &str = "/v1/apps/a/machines";

    fn set(cookies: &Cookies, path: &str, text: &str) {
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, HeaderValue::from_str(text).unwrap());
        cookies.take(path, &headers);
    }

    fn sent(cookies: &Cookies, path: &str) -> String {
        let header = cookies.header(path);
        header.map_or_else(String::new, |header| header.to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn a_cookie_goes_to_the_app_that_set_it_or_to_the_path_that_it_names() {
        let cookies = Cookies::default();
        set(&cookies, MACHINES, "seen=1; HttpOnly; Secure");
        set(&cookies, MACHINES, "all=2; Path=/");
        assert_eq!(sent(&cookies, "/v1/apps/a/machines/m1"), "seen=1; all=2");
        assert_eq!(sent(&cookies, "/v1/apps/ab/machines"), "all=2");
        set(&cookies, MACHINES, "seen=3");
        assert_eq!(sent(&cookies, MACHINES), "all=2; seen=3");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cookie_ends_when_it_says_and_can_be_removed() {
        let cookies = Cookies::default();
        set(&cookies, MACHINES, "short=1; Max-Age=5");
        set(
            &cookies,
            MACHINES,
            "long=2; expires=Fri, 01 Jan 2100 00:00:00 GMT",
        );
        assert_eq!(sent(&cookies, MACHINES), "short=1; long=2");
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(sent(&cookies, MACHINES), "long=2");
        set(
            &cookies,
            MACHINES,
            "long=; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        );
        assert_eq!(sent(&cookies, MACHINES), "");
        for text in ["x=1; max-age=0", "x=1; max-age=-9", "=1", "nothing", ""] {
            set(&cookies, MACHINES, text);
            assert_eq!(sent(&cookies, MACHINES), "", "{text}");
        }
    }

    #[tokio::test]
    async fn what_is_kept_and_sent_has_a_bound() {
        let cookies = Cookies::default();
        set(
            &cookies,
            MACHINES,
            &format!("big={}", "x".repeat(COOKIE_BYTES)),
        );
        assert_eq!(sent(&cookies, MACHINES), "");
        for n in 0..2 * COOKIES_MAX {
            set(&cookies, MACHINES, &format!("n{n}={}", "x".repeat(1000)));
        }
        assert_eq!(cookies.kept().len(), COOKIES_MAX);
        let sent = sent(&cookies, MACHINES);
        assert!(sent.len() <= HEADER_BYTES && sent.len() > HEADER_BYTES / 2);
        assert_eq!(format!("{cookies:?}"), "Cookies(…)");
    }
}
