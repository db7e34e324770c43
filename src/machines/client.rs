//! The calls of the API that a run needs, one method each.
//!
//! Every method sends once (a listing once for each page) and returns within
//! [`ClientSettings::timeout`], or, for a wait, that much after the time it asks for. Whether a failure
//! is to be tried again is decided in [`retry`](super::retry), not here.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use serde::de::DeserializeOwned;
use url::Url;

use crate::clock::UnixMs;

use super::call::Call;
use super::error::{Error, Redaction};
use super::settings::{self, ClientSettings, Token};
use super::transport::{Answer, Outgoing, Transport};
use super::wire::{
    App, CreateMachine, CurrentToken, LogPage, Machine, MachineBrief, MachineState, StopRequest,
    WaitAnswer,
};

/// Bytes of an answer about one thing at the most.
const ONE_BYTES: usize = 1024 * 1024;

/// Bytes of one page of a listing or of logs at the most.
pub(super) const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// The longest the service lets a wait ask for.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// A client of one Machines API; clones share its connections.
#[derive(Clone, Debug)]
pub struct Client(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    /// Ends in `/v1`.
    base: Url,
    logs_base: Url,
    pub(super) transport: Transport,
    /// Connections for logs, made when first used: they may need certificates that the calls on
    /// machines do not.
    logs_http: OnceLock<reqwest::Client>,
    token: Token,
    connect_timeout: Duration,
    timeout: Duration,
}

/// What to wait for.
#[derive(Clone, Debug)]
pub struct Wait<'a> {
    /// Any of these ends the wait.
    pub states: &'a [MachineState],
    /// The machine's version (its instance id): needed to wait for `stopped`, and any other
    /// version of the machine is then not meant.
    pub version: Option<&'a str>,
    /// How long to wait, in whole seconds from 1 to 60; brought into that range.
    pub timeout: Duration,
}

impl Client {
    /// A client. Connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::Settings`] when the address or the token cannot be used, or when the address is
    /// https and this system has no certificates to check it against.
    pub fn new(settings: ClientSettings) -> Result<Self, Error> {
        let base = settings::versioned(&settings.base)?;
        let transport = Transport {
            http: settings::pool(&base, settings.connect_timeout)?,
            authorization: settings.token.header()?,
            observer: settings.observer,
            cookies: Arc::default(),
        };
        Ok(Self(Arc::new(Inner {
            logs_base: settings::logs_base(&base),
            base,
            transport,
            logs_http: OnceLock::new(),
            token: settings.token,
            connect_timeout: settings.connect_timeout,
            timeout: settings.timeout,
        })))
    }

    /// Where the API is, ending in `/v1`.
    #[must_use]
    pub fn base(&self) -> &Url {
        &self.0.base
    }

    /// Creates a machine. Not safe to repeat by itself: when the failure's
    /// [`certainty`](Error::certainty) is unknown, look for the name first.
    ///
    /// # Errors
    /// Any. Values of the machine's environment and files are kept out of the error.
    pub async fn create(&self, app: &str, machine: &CreateMachine) -> Result<MachineBrief, Error> {
        let mut call = self.call(Call::Create, Method::POST, &["apps", app, "machines"])?;
        let secrets = secrets_of(machine).chain([self.0.token.secret()]);
        call.redaction = Redaction::new(secrets);
        call.body = Some(json(machine));
        self.0.transport.send(call, parse_brief).await
    }

    /// Reads one machine. Right after a create it may not be found yet; a destroyed one may be
    /// found for a time.
    ///
    /// # Errors
    /// Any; 404 when there is no such machine.
    pub async fn get(&self, app: &str, id: &str) -> Result<Machine, Error> {
        let call = self.call(Call::Get, Method::GET, &["apps", app, "machines", id])?;
        self.0.transport.send(call, parse_machine).await
    }

    /// Waits until the machine is in one of the states.
    ///
    /// # Errors
    /// Any; 408 when no such state came in time, 404 when the machine is not there, which with
    /// `auto_destroy` is how a wait for `stopped` often ends.
    pub async fn wait(&self, app: &str, id: &str, wait: &Wait<'_>) -> Result<WaitAnswer, Error> {
        let mut call = self.call(
            Call::Wait,
            Method::GET,
            &["apps", app, "machines", id, "wait"],
        )?;
        let asked = wait.timeout.as_secs().clamp(1, MAX_WAIT.as_secs());
        call.timeout = Duration::from_secs(asked) + self.0.timeout;
        {
            let mut query = call.url.query_pairs_mut();
            for state in wait.states {
                query.append_pair("state", state.as_str());
            }
            if let Some(version) = wait.version {
                // The newer name and the one that the guides require for `stopped`.
                query
                    .append_pair("version", version)
                    .append_pair("instance_id", version);
            }
            query.append_pair("timeout", &asked.to_string());
        }
        self.0.transport.send(call, parse_wait).await
    }

    /// Starts a stopped machine.
    ///
    /// # Errors
    /// Any; 412 when it is not in a state to be started.
    pub async fn start(&self, app: &str, id: &str) -> Result<(), Error> {
        let call = self.call(
            Call::Start,
            Method::POST,
            &["apps", app, "machines", id, "start"],
        )?;
        self.0.transport.send(call, |_| Ok(())).await
    }

    /// Asks a machine to stop; returns before it has. Safe to repeat.
    ///
    /// # Errors
    /// Any; 404 when there is no such machine.
    pub async fn stop(&self, app: &str, id: &str, how: &StopRequest) -> Result<(), Error> {
        let path = ["apps", app, "machines", id, "stop"];
        let mut call = self.call(Call::Stop, Method::POST, &path)?;
        call.body = Some(json(how));
        self.0.transport.send(call, |_| Ok(())).await
    }

    /// Removes a machine, alive or not when `force` is [`Force::Yes`]. Safe to repeat.
    ///
    /// # Errors
    /// Any; 404 when it is gone already, 412 when it is alive and no force was used.
    pub async fn delete(&self, app: &str, id: &str, force: Force) -> Result<(), Error> {
        let path = ["apps", app, "machines", id];
        let mut call = self.call(Call::Delete, Method::DELETE, &path)?;
        if force == Force::Yes {
            call.url.query_pairs_mut().append_pair("force", "true");
        }
        self.0.transport.send(call, |_| Ok(())).await
    }

    /// Reads an app.
    ///
    /// # Errors
    /// Any; 404 when there is none of that name, 403 when it is someone else's.
    pub async fn app(&self, app: &str) -> Result<App, Error> {
        let call = self.call(Call::App, Method::GET, &["apps", app])?;
        self.0.transport.send(call, parse).await
    }

    /// What the token may do.
    ///
    /// # Errors
    /// Any; 401 when it may do nothing.
    pub async fn current_token(&self) -> Result<CurrentToken, Error> {
        let call = self.call(Call::Token, Method::GET, &["tokens", "current"])?;
        self.0.transport.send(call, parse).await
    }

    /// The service's clock, in whole seconds, as it stands in the answer to reading an app; `None`
    /// when the answer has no date.
    ///
    /// # Errors
    /// As [`Client::app`].
    pub async fn date(&self, app: &str) -> Result<Option<UnixMs>, Error> {
        let call = self.call(Call::App, Method::GET, &["apps", app])?;
        self.0
            .transport
            .send(call, |answer| Ok(answer.date()))
            .await
    }

    /// Reads one page of logs, of one machine or of the whole app, from where `next_token` of the
    /// page before points. The service keeps about a week, promises nothing, and shows lines late.
    ///
    /// # Errors
    /// Any.
    pub async fn logs(
        &self,
        app: &str,
        instance: Option<&str>,
        next_token: Option<&str>,
    ) -> Result<LogPage, Error> {
        let mut call = self.call(Call::Logs, Method::GET, &["apps", app, "logs"])?;
        call.url = join(&self.0.logs_base, &["apps", app, "logs"]);
        call.limit_bytes = PAGE_BYTES;
        let wanted = [("instance", instance), ("next_token", next_token)];
        for (name, value) in wanted {
            if let Some(value) = value {
                call.url.query_pairs_mut().append_pair(name, value);
            }
        }
        let transport = Transport {
            http: self.logs_http()?,
            // Another address.
            cookies: Arc::default(),
            ..self.0.transport.clone()
        };
        transport.send(call, parse).await
    }

    fn logs_http(&self) -> Result<reqwest::Client, Error> {
        let inner = &self.0;
        if inner.logs_base.scheme() == inner.base.scheme() {
            return Ok(inner.transport.http.clone());
        }
        if let Some(http) = inner.logs_http.get() {
            return Ok(http.clone());
        }
        let http = settings::pool(&inner.logs_base, inner.connect_timeout)?;
        Ok(inner.logs_http.get_or_init(|| http).clone())
    }

    /// A call under the usual bounds, refused when a part of its path could name something else.
    pub(super) fn call(
        &self,
        call: Call,
        method: Method,
        path: &[&str],
    ) -> Result<Outgoing, Error> {
        let outgoing = Outgoing {
            call,
            method,
            url: join(&self.0.base, path),
            body: None,
            timeout: self.0.timeout,
            limit_bytes: ONE_BYTES,
            redaction: Redaction::new([self.0.token.secret()]),
        };
        match path.iter().find(|segment| !is_plain(segment)) {
            None => Ok(outgoing),
            Some(segment) => Err(Error::Malformed {
                request: outgoing.request(),
                reason: format!("{segment:?} is no name of an app or machine"),
            }),
        }
    }
}

/// Whether a delete kills a machine that is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// It does.
    Yes,
    /// It is refused then.
    No,
}

/// Names of apps and machines are letters, digits and dashes. Anything else could change the path.
fn is_plain(segment: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=128).contains(&segment.len()) && segment.chars().all(plain)
}

fn join(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

/// What a machine is given that must not come back in an error.
fn secrets_of(machine: &CreateMachine) -> impl Iterator<Item = &str> {
    let config = &machine.config;
    let env = config.env.0.values().map(String::as_str);
    env.chain(
        config
            .files
            .iter()
            .filter_map(|file| file.raw_value.as_deref()),
    )
}

fn json(value: &impl serde::Serialize) -> Bytes {
    let bytes = serde_json::to_vec(value).expect("bodies have text for keys and no odd numbers");
    bytes.into()
}

pub(super) fn parse<T: DeserializeOwned>(answer: &Answer) -> Result<T, Error> {
    serde_json::from_slice(&answer.body).map_err(|error| answer.unreadable(&error.to_string()))
}

/// One machine in brief.
fn parse_brief(answer: &Answer) -> Result<MachineBrief, Error> {
    let machine: MachineBrief = parse(answer)?;
    check_id(answer, &machine.id)?;
    Ok(machine)
}

/// One machine.
fn parse_machine(answer: &Answer) -> Result<Machine, Error> {
    let machine: Machine = parse(answer)?;
    check_id(answer, &machine.id)?;
    Ok(machine)
}

/// Whoever has a machine's id must be able to ask for it.
fn check_id(answer: &Answer, id: &str) -> Result<(), Error> {
    if is_plain(id) {
        return Ok(());
    }
    Err(answer.unreadable(&format!("{id:?} is no machine's id")))
}

/// The answer of a wait. That it came is what counts, so a body may be missing.
fn parse_wait(answer: &Answer) -> Result<WaitAnswer, Error> {
    if answer.body.trim_ascii().is_empty() {
        return Ok(WaitAnswer {
            ok: true,
            ..WaitAnswer::default()
        });
    }
    parse(answer)
}
