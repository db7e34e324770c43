//! The server: who asks, for what, and what they are answered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, HeaderValue, SET_COOKIE, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use maud::{Markup, PreEscaped, html};
use tokio::net::TcpListener;
use tokio::time::timeout;
use url::form_urlencoded;

use crate::clock::UnixMs;
use crate::config::ConsoleRole;
use crate::console::Deps;
use crate::console::access::{Access, COOKIE_NAME, Denied, SESSION, Session};
use crate::console::acts;
use crate::console::artifacts::{Asked, Downloads};
use crate::console::doctor::Findings;
use crate::console::frame::{self, Parts};
use crate::console::live::{Live, LiveBody};
use crate::console::page::{self, Page, Rendered, View};
use crate::http::host;
use crate::http::reply;
use crate::http::serve::{Limits, serve_or_sever as accept};
use crate::shutdown::Shutdown;
use crate::telemetry::human;

/// Connections at once: those of event streams, and some for pages.
const CONNECTIONS: usize = 1200;
/// How long a page may be made.
const PAGE_TIMEOUT: Duration = Duration::from_secs(8);
/// Bytes of a form at the most: an edited request.
const FORM_MAX_BYTES: usize = 1 << 20;
/// Pages whose last picture is kept.
const PICTURES_MAX: usize = 64;
/// Bytes of a picture that is kept.
const PICTURE_MAX_BYTES: usize = 256 * 1024;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("live.js");
const ICON: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#0b5cad"/><path d="M4 12V5l4-2 4 2v7" fill="none" stroke="#fff" stroke-width="2"/></svg>"##;

/// The console, ready to serve.
pub struct Console {
    pub(super) deps: Deps,
    access: Access,
    pub(super) live: Live,
    pub(super) findings: Findings,
    pub(super) downloads: Downloads,
    seen: Mutex<Seen>,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console")
            .field("deps", &self.deps)
            .finish_non_exhaustive()
    }
}

/// What was seen while Redis answered.
#[derive(Default)]
struct Seen {
    /// Since when it does not, and what it said.
    away: Option<(UnixMs, String)>,
    /// The last picture of some pages, the newest last.
    pictures: VecDeque<(String, UnixMs, String)>,
}

impl Console {
    /// A console with these parts.
    #[must_use]
    pub fn new(deps: Deps) -> Arc<Self> {
        Arc::new(Self {
            access: Access::new(&deps.keys),
            deps,
            live: Live::default(),
            findings: Findings::default(),
            downloads: Downloads::default(),
            seen: Mutex::default(),
        })
    }

    /// The path of a link that logs in once.
    #[must_use]
    pub fn one_time_path(&self) -> String {
        format!("/login/{}", self.access.make_link(self.deps.clock.now_ms()))
    }

    /// Renders a page for a role. When Redis does not answer, it says since when, and shows what was
    /// seen last.
    pub(super) async fn rendered(
        &self,
        page: &Page,
        topic: &str,
        role: ConsoleRole,
        csrf: &str,
    ) -> Rendered {
        let now = self.deps.clock.now_ms();
        let view = View {
            console: self,
            role,
            now,
            csrf,
        };
        let answer = match timeout(PAGE_TIMEOUT, Box::pin(page.render(&view))).await {
            Ok(Ok(rendered)) => Ok(rendered),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("it did not answer in time".to_owned()),
        };
        // What a viewer may see, an operator may; not the other way round. Forms stay out of pictures.
        let name = format!("{role:?} {topic}");
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(rendered) => {
                seen.away = None;
                seen.keep(name, now, &rendered.live);
                rendered
            }
            Err(error) => {
                let (since, _) = seen.away.get_or_insert_with(|| (now, error.clone()));
                let since = *since;
                let last = seen.pictures.iter().find(|(known, ..)| *known == name);
                let live = away(since, &error, last, now);
                Rendered::new("Redis is away", live)
            }
        }
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: &str,
    ) -> Response<LiveBody> {
        if !self.deps.hosts.allow(&request) {
            return reply::text(StatusCode::FORBIDDEN, host::REFUSED).map(LiveBody::from);
        }
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        let is_read = matches!(method, Method::GET | Method::HEAD);
        match (path.as_str(), is_read) {
            ("/healthz", true) => return reply::text(StatusCode::OK, "ok\n").map(LiveBody::from),
            ("/style.css", true) => return file("text/css; charset=utf-8", STYLE),
            ("/live.js", true) => return file("text/javascript; charset=utf-8", SCRIPT),
            ("/icon.svg", true) => return file("image/svg+xml", ICON),
            ("/login", true) => return frame::login(StatusCode::OK, None).map(LiveBody::from),
            ("/login", false) => return self.log_in(request).await.map(LiveBody::from),
            _ => {}
        }
        if let (Some(link), true) = (path.strip_prefix("/login/"), method == Method::GET) {
            let cookie = self
                .access
                .follow_link(link, self.deps.clock.now_ms())
                .await;
            return welcome(
                cookie,
                "this link has been used, or is too old",
                is_encrypted(&request),
            )
            .map(LiveBody::from);
        }
        let session = match self
            .access
            .session(&request, self.deps.clock.now_ms())
            .await
        {
            Ok(session) => session,
            Err(denied) => return refuse(denied, &request).map(LiveBody::from),
        };
        if let Some(asked) = Asked::parse(&path).filter(|_| is_read) {
            return self.download(&asked, &method).await;
        }
        match (is_read, path.as_str()) {
            (true, "/live") => self.stream(&request, &session),
            (true, _) => self.page(&request, &session).await.map(LiveBody::from),
            (false, "/logout") if method == Method::POST => {
                self.log_out(request, &session).await.map(LiveBody::from)
            }
            (false, _) if method == Method::POST && path.starts_with("/acts/") => {
                self.act(request, &session, peer).await.map(LiveBody::from)
            }
            _ => reply::method_not_allowed("GET, HEAD, POST").map(LiveBody::from),
        }
    }

    async fn page(&self, request: &Request<Incoming>, session: &Session) -> Response<reply::Body> {
        let (path, query) = (
            decoded(request.uri().path()),
            request.uri().query().unwrap_or_default(),
        );
        let page = match Page::parse(&path, query) {
            Ok(Some(page)) => page,
            Ok(None) => return frame::problem(StatusCode::NOT_FOUND, "There is no such page."),
            Err(why) => {
                return frame::problem(StatusCode::BAD_REQUEST, &format!("Not understood: {why}."));
            }
        };
        if let Page::Runs(runs) = &page
            && let Some(id) = &runs.id
        {
            return frame::redirect(&page::path("runs", id.as_str()));
        }
        let said = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "said");
        let said = said.map(|(_, said)| page::text(&said));
        let topic = page::topic(&path, query);
        let csrf = session.csrf.as_deref().unwrap_or_default();
        let rendered = self.rendered(&page, &topic, session.role, csrf).await;
        frame::page(
            session,
            Parts {
                title: &rendered.title,
                path: page.nav(),
                topic: page.is_live().then_some(&topic),
                live: rendered.live,
                still: rendered.still,
                said: said.as_deref(),
                now: self.deps.clock.now_ms(),
            },
        )
    }

    fn stream(
        self: &Arc<Self>,
        request: &Request<Incoming>,
        session: &Session,
    ) -> Response<LiveBody> {
        let query = request.uri().query().unwrap_or_default();
        let topic = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "topic");
        let topic = topic
            .map(|(_, topic)| topic.into_owned())
            .unwrap_or_default();
        let (path, query) = topic.split_once('?').unwrap_or((&topic, ""));
        let path = decoded(path);
        match Page::parse(&path, query) {
            Ok(Some(page)) if page.is_live() => {
                let topic = page::topic(&path, query);
                frame::secured(self.live.subscribe(self, page, topic, session.role))
            }
            _ => {
                frame::problem(StatusCode::NOT_FOUND, "Nothing is live there.").map(LiveBody::from)
            }
        }
    }

    async fn log_in(&self, request: Request<Incoming>) -> Response<reply::Body> {
        let is_encrypted = is_encrypted(&request);
        let form = match form(request, 4096).await {
            Ok(form) => form,
            Err(refused) => return refused,
        };
        let key = form
            .iter()
            .find(|(name, _)| name == "key")
            .map_or("", |(_, key)| key.trim());
        let cookie = self.access.log_in(key, self.deps.clock.now_ms()).await;
        welcome(cookie, "that is none of the keys", is_encrypted)
    }

    async fn log_out(
        &self,
        request: Request<Incoming>,
        session: &Session,
    ) -> Response<reply::Body> {
        let form = match form(request, 4096).await {
            Ok(form) => form,
            Err(refused) => return refused,
        };
        if !session.is_own_form(csrf_of(&form)) {
            return not_ours();
        }
        let mut response = frame::redirect("/login");
        let gone = format!("{COOKIE_NAME}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0");
        let gone = HeaderValue::from_str(&gone).expect("letters and digits");
        response.headers_mut().insert(SET_COOKIE, gone);
        response
    }

    async fn act(
        &self,
        request: Request<Incoming>,
        session: &Session,
        peer: &str,
    ) -> Response<reply::Body> {
        let act = request.uri().path().trim_start_matches("/acts/").to_owned();
        let is_script = request.headers().contains_key(AUTHORIZATION);
        let form = match form(request, FORM_MAX_BYTES).await {
            Ok(form) => form,
            Err(refused) => return refused,
        };
        if !session.is_own_form(csrf_of(&form)) {
            return not_ours();
        }
        if session.role != ConsoleRole::Operator {
            return frame::problem(StatusCode::FORBIDDEN, "A viewer changes nothing.");
        }
        let who = format!("{} at {peer}", session.fingerprint);
        let done = acts::act(self, &act, &form, &who).await;
        if is_script {
            let status = match done.is_done {
                true => StatusCode::OK,
                false => StatusCode::CONFLICT,
            };
            return frame::secured(reply::text(
                status,
                &format!("{}\n", page::text(&done.said)),
            ));
        }
        let to = page::query(&done.back, &[("said", &page::text(&done.said))]);
        frame::redirect(&to)
    }
}

impl Seen {
    fn keep(&mut self, name: String, now: UnixMs, live: &Markup) {
        self.pictures.retain(|(known, ..)| *known != name);
        if live.0.len() > PICTURE_MAX_BYTES {
            return;
        }
        if self.pictures.len() >= PICTURES_MAX {
            self.pictures.pop_front();
        }
        self.pictures.push_back((name, now, live.0.clone()));
    }
}

/// Serves the console on `listener` until `shutdown` begins.
pub async fn serve(listener: TcpListener, console: Arc<Console>, shutdown: Shutdown) {
    let limits = Limits {
        connections: CONNECTIONS,
        is_shared: false,
        ..Limits::default()
    };
    console.live.ends_with(shutdown.clone());
    accept(listener, limits, shutdown, move |request, peer| {
        let console = console.clone();
        async move { Ok(Box::pin(console.answer(request, &peer.ip().to_string())).await) }
    })
    .await;
}

/// That Redis does not answer, and what was seen before.
fn away(
    since: UnixMs,
    error: &str,
    last: Option<&(String, UnixMs, String)>,
    now: UnixMs,
) -> Markup {
    html! {
        div.away role="alert" {
            p { strong { "Redis has not answered since " (page::utc(since)) } " (" (human::ago(since, now)) "): " (page::text(error)) }
            @match last {
                Some((_, at, _)) => p { "What follows was seen at " (page::utc(*at)) ", " (human::ago(*at, now)) "." },
                None => p { "This page has not been seen before." },
            }
        }
        @if let Some((_, _, picture)) = last { (PreEscaped(picture)) }
    }
}

fn decoded(path: &str) -> String {
    percent_encoding::percent_decode_str(path)
        .decode_utf8_lossy()
        .into_owned()
}

type Form = Vec<(String, String)>;

fn csrf_of(form: &Form) -> Option<&str> {
    let mut fields = form.iter();
    fields
        .find(|(name, _)| name == "csrf")
        .map(|(_, value)| value.as_str())
}

async fn form(
    request: Request<Incoming>,
    most_bytes: usize,
) -> Result<Form, Response<reply::Body>> {
    match reply::read_body(request.into_body(), most_bytes).await {
        Ok(body) => Ok(form_urlencoded::parse(&body).into_owned().collect()),
        Err(error) => Err(frame::problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            &error.to_string(),
        )),
    }
}

fn not_ours() -> Response<reply::Body> {
    frame::problem(
        StatusCode::FORBIDDEN,
        "The form was not sent from a page of this login. Load the page again.",
    )
}

/// Whether a proxy in front speaks TLS.
fn is_encrypted(request: &Request<Incoming>) -> bool {
    let proto = request.headers().get("x-forwarded-proto");
    proto.is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

fn welcome(
    cookie: Result<String, Denied>,
    why_not: &str,
    is_encrypted: bool,
) -> Response<reply::Body> {
    let Ok(value) = cookie else {
        return frame::login(StatusCode::UNAUTHORIZED, Some(why_not));
    };
    let secure = if is_encrypted { "; Secure" } else { "" };
    let lasts = SESSION.as_secs();
    let cookie = format!(
        "{COOKIE_NAME}={value}; HttpOnly; SameSite=Strict; Path=/; Max-Age={lasts}{secure}"
    );
    let mut response = frame::redirect("/");
    let cookie = HeaderValue::from_str(&cookie).expect("letters and digits");
    response.headers_mut().insert(SET_COOKIE, cookie);
    response
}

/// 401: the page to log in for a browser, words for a script.
fn refuse(denied: Denied, request: &Request<Incoming>) -> Response<reply::Body> {
    if denied == Denied::Absent {
        return match request.method() {
            &Method::GET if request.uri().path() != "/live" => frame::redirect("/login"),
            _ => frame::login(StatusCode::UNAUTHORIZED, Some("log in first")),
        };
    }
    let mut response = frame::secured(reply::text(
        StatusCode::UNAUTHORIZED,
        "that is none of the keys\n",
    ));
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn file(kind: &'static str, text: &'static str) -> Response<LiveBody> {
    let mut response = reply::with_type(StatusCode::OK, kind, Bytes::from_static(text.as_bytes()));
    let kept = HeaderValue::from_static("no-cache");
    response.headers_mut().insert(CACHE_CONTROL, kept);
    frame::secured(response).map(LiveBody::from)
}
