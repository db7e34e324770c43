//! What stands around every page: head, navigation, security headers.

use bytes::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use maud::{DOCTYPE, Markup, html};

use crate::clock::UnixMs;
use crate::config::ConsoleRole;
use crate::console::access::Session;
use crate::http::reply::{self, Body};

/// No script, style or picture but our own files, no frame, no form that leads elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const PAGES: [(&str, &str); 8] = [
    ("/", "Overview"),
    ("/runs", "Runs"),
    ("/tenants", "Tenants"),
    ("/workers", "Workers"),
    ("/machines", "Machines"),
    ("/dead", "Dead letters"),
    ("/doctor", "Doctor"),
    ("/audit", "Audit"),
];

/// A page's own parts.
pub(super) struct Parts<'a> {
    pub(super) title: &'a str,
    /// The entry of the navigation that it belongs to.
    pub(super) path: &'a str,
    /// What is asked for to keep it live.
    pub(super) topic: Option<&'a str>,
    /// What is replaced while one looks.
    pub(super) live: Markup,
    /// What is not: forms in which somebody writes.
    pub(super) still: Markup,
    /// What the act that led here came to.
    pub(super) said: Option<&'a str>,
    /// When it was made.
    pub(super) now: UnixMs,
}

/// A whole page.
pub(super) fn page(session: &Session, parts: Parts<'_>) -> Response<Body> {
    let csrf = session.csrf.as_deref().unwrap_or_default();
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            (head(parts.title, Some((csrf, parts.now))))
            body {
                a.skip href="#main" { "To the content" }
                header {
                    strong { "cofferdam" }
                    nav aria-label="Pages" {
                        ul {
                            @for (path, name) in PAGES {
                                li {
                                    a href=(path) aria-current=[(path == parts.path).then_some("page")] {
                                        (name)
                                    }
                                }
                            }
                        }
                    }
                    form method="post" action="/logout" {
                        input type="hidden" name="csrf" value=(csrf);
                        span.faint { (role_word(session.role)) " " }
                        button { "Log out" }
                    }
                }
                main #main {
                    h1 { (parts.title) }
                    @if let Some(said) = parts.said {
                        p.said role="status" { (said) }
                    }
                    @match parts.topic {
                        Some(topic) => {
                            p.status #state role="status" { "as of when the page was loaded" }
                            div #live data-topic=(topic) { (parts.live) }
                        }
                        None => { (parts.live) }
                    }
                    (parts.still)
                }
            }
        }
    };
    secured(reply_html(StatusCode::OK, markup))
}

/// The page on which one logs in.
pub(super) fn login(status: StatusCode, said: Option<&str>) -> Response<Body> {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            (head("Log in", None))
            body {
                main #main {
                    h1 { "cofferdam: log in" }
                    @if let Some(said) = said { p.away role="alert" { (said) } }
                    form.row method="post" action="/login" {
                        label { "Key"
                            input type="password" name="key" required autocomplete="current-password" size="44" autofocus;
                        }
                        button.strong { "Log in" }
                    }
                    p.faint { "The keys are those of COFFERDAM_CONSOLE_KEYS." }
                }
            }
        }
    };
    secured(reply_html(status, markup))
}

/// A page that says why there is none.
pub(super) fn problem(status: StatusCode, what: &str) -> Response<Body> {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            (head("Not here", None))
            body {
                main #main {
                    h1 { (status.canonical_reason().unwrap_or("Not here")) }
                    p { (what) }
                    p { a href="/" { "To the overview" } }
                }
            }
        }
    };
    secured(reply_html(status, markup))
}

/// On to another page.
pub(super) fn redirect(to: &str) -> Response<Body> {
    let mut response = secured(reply::empty(StatusCode::SEE_OTHER));
    // What leads elsewhere than to our own pages has been sorted out before.
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(LOCATION, to);
    response
}

fn head(title: &str, session: Option<(&str, UnixMs)>) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            @if let Some((csrf, now)) = session { meta name="csrf" content=(csrf) data-now=(now); }
            title { (title) " · cofferdam" }
            link rel="icon" href="/icon.svg" type="image/svg+xml";
            link rel="stylesheet" href="/style.css";
            @if session.is_some() { script src="/live.js" defer {} }
        }
    }
}

fn role_word(role: ConsoleRole) -> &'static str {
    match role {
        ConsoleRole::Viewer => "viewer",
        ConsoleRole::Operator => "operator",
    }
}

fn reply_html(status: StatusCode, markup: Markup) -> Response<Body> {
    let bytes = Bytes::from(markup.into_string());
    reply::with_type(status, "text/html; charset=utf-8", bytes)
}

/// With the headers that every answer has.
pub(super) fn secured<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "same-origin"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (HeaderName::from_static("x-frame-options"), "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}
