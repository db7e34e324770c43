//! Artifacts: `PUT /artifacts/<name>`, and `POST` of what a guest has sent to the store itself.
//!
//! The run's state and the bounds are checked before a byte is read. What comes through us goes on piece by
//! piece, so that memory does not grow with it; the pieces of all are bounded, and those of each tenant.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing::{error as log_error, warn};

use crate::artifacts::{self as door, Kept};
use crate::endpoint::calls::Kind;
use crate::endpoint::{Endpoint, denied, encoded, error, is_plain, unavailable};
use crate::http::rate::MinimumRate;
use crate::http::reply::{self, Body};
use crate::milestone::milestone;
use crate::run::artifact::{Artifact, ArtifactKey, ArtifactName, PutId};
use crate::stage::artifacts::{self, Arrival, Artifacts, Begun, Bound, Unkept, Way};
use crate::token::Grant;

/// What artifacts are below.
pub(super) const PATH: &str = "/artifacts/";
/// How long one artifact may take.
pub(super) const PUT_TIMEOUT: Duration = Duration::from_secs(1800);
/// How slowly it may come.
const SENDER: MinimumRate = MinimumRate::new(Duration::from_secs(10), 64 << 10);
/// The same of one that goes on to a bucket, of which few fit into the memory.
const RELAYED: MinimumRate = MinimumRate::new(Duration::from_secs(10), 1 << 20);

/// What a guest is told of an artifact, and what its result tells of it.
#[derive(Serialize)]
struct ArtifactJson<'a> {
    name: &'a ArtifactName,
    bytes: u64,
    sha256: &'a str,
    media_type: &'a str,
    key: String,
}

/// What a request says beside its path and body.
struct Asked {
    name: ArtifactName,
    media: Option<String>,
    /// In the query: what was sent to the store.
    sent: Option<(PutId, Kept)>,
    way: Way,
}

/// Answers a call below [`PATH`]. It ends by itself when its guest is gone, so that it gives back what it
/// holds.
pub(super) async fn answer(endpoint: &Arc<Endpoint>, request: Request<Incoming>) -> Response<Body> {
    let (tell, told) = oneshot::channel();
    let endpoint = endpoint.clone();
    let shutdown = endpoint.shutdown.clone();
    shutdown.spawn(async move {
        let _ = tell.send(endpoint.artifact(request).await);
    });
    told.await.unwrap_or_else(|_| unavailable())
}

impl Endpoint {
    async fn artifact(&self, request: Request<Incoming>) -> Response<Body> {
        if !matches!(*request.method(), Method::PUT | Method::POST) {
            return reply::method_not_allowed("PUT, POST");
        }
        let Some(grant) = self.grant(&request) else {
            return denied();
        };
        let Some(artifacts) = &self.deps.artifacts else {
            return error(
                StatusCode::NOT_IMPLEMENTED,
                "artifacts are not kept here: COFFERDAM_ARTIFACTS is not set",
            );
        };
        if !is_plain(&request) {
            return encoded();
        }
        let asked = match asked(&request) {
            Ok(asked) => asked,
            Err(why) => return error(StatusCode::BAD_REQUEST, &why),
        };
        // The run's own limit comes first: calls that wait for it take no memory from other runs.
        let Some(_call) = self.calls.begin(&grant.run, Kind::Artifact).await else {
            return unavailable();
        };
        let done = match *request.method() {
            Method::PUT => self.put(artifacts, &grant, asked, request).await,
            _ => self.sent(artifacts, &grant, asked).await,
        };
        done.unwrap_or_else(|why| self.unkept(artifacts, &grant, why))
    }

    async fn put(
        &self,
        artifacts: &Artifacts,
        grant: &Grant,
        asked: Asked,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Unkept> {
        let Some(bytes) = length(&request) else {
            return Ok(error(
                StatusCode::LENGTH_REQUIRED,
                "an artifact is put with its Content-Length",
            ));
        };
        let most = artifacts.bounds.max_bytes;
        if bytes > most {
            let message = format!("an artifact has at most {most} bytes");
            return Ok(error(StatusCode::PAYLOAD_TOO_LARGE, &message));
        }
        let core = &self.deps.core;
        let passes_us = asked.way == Way::ThroughUs || !artifacts.store.has_addresses();
        let needed = if passes_us {
            artifacts.store.memory_bytes(bytes)
        } else {
            0
        };
        let reserved = artifacts::reserve(core, artifacts, grant, asked.name, bytes).await?;
        let Some(_memory) = self.pieces.take(&reserved.tenant, needed).await else {
            reserved.give_up(core).await;
            return Ok(unavailable());
        };
        let mut arrival = match reserved.open(core, artifacts, asked.way).await? {
            Begun::Here(arrival) => arrival,
            Begun::Elsewhere(url, put) => return Ok(elsewhere(url.as_str(), &put)),
        };
        let rate = if artifacts.store.has_addresses() {
            RELAYED
        } else {
            SENDER
        };
        match receive(&mut arrival, request.into_body(), bytes, rate).await {
            Ok(()) => {}
            Err(why) => {
                arrival.give_up(core).await;
                return match why {
                    Unreceived::Store(error) => Err(Unkept::Store(error)),
                    Unreceived::Broken => {
                        Ok(error(StatusCode::BAD_REQUEST, "the artifact ended early"))
                    }
                    Unreceived::TooSlow => Ok(error(
                        StatusCode::REQUEST_TIMEOUT,
                        "the artifact came too slowly",
                    )),
                };
            }
        }
        milestone!("endpoint::artifact_read");
        let media = asked.media.as_deref();
        let (artifact, key) = arrival.finish(core, artifacts, media).await?;
        Ok(kept(artifacts, &artifact, &key))
    }

    async fn sent(
        &self,
        artifacts: &Artifacts,
        grant: &Grant,
        asked: Asked,
    ) -> Result<Response<Body>, Unkept> {
        let Some((put, what)) = asked.sent else {
            return Ok(error(
                StatusCode::BAD_REQUEST,
                "stored, put and sha256 are to be in the query",
            ));
        };
        let (core, named) = (&self.deps.core, (asked.name, put));
        let media = asked.media.as_deref();
        let (artifact, key) = artifacts::sent(core, artifacts, grant, named, what, media).await?;
        Ok(kept(artifacts, &artifact, &key))
    }

    fn unkept(&self, artifacts: &Artifacts, grant: &Grant, why: Unkept) -> Response<Body> {
        let run_id = grant.run.as_str();
        match why {
            Unkept::Denied => denied(),
            Unkept::Over(bound) => over(artifacts, bound),
            Unkept::NotSent => error(
                StatusCode::CONFLICT,
                "by this put nothing of this name and length was sent to the store",
            ),
            Unkept::Store(why @ door::Error::Full(_)) => {
                log_error!(run_id, error = %why, "an artifact cannot be kept");
                let message = "no room is left where artifacts are kept";
                error(StatusCode::INSUFFICIENT_STORAGE, message)
            }
            Unkept::Store(why @ (door::Error::Refused(_) | door::Error::Missing)) => {
                log_error!(run_id, error = %why, "an artifact cannot be kept");
                let message = "where artifacts are kept refuses: an operator must act";
                error(StatusCode::BAD_GATEWAY, message)
            }
            Unkept::Store(why) => {
                warn!(run_id, error = %why, "an artifact cannot be kept now");
                unavailable()
            }
            Unkept::Failed(why) => self.failed(grant, &why),
        }
    }
}

/// Why not all bytes came.
enum Unreceived {
    Store(door::Error),
    Broken,
    TooSlow,
}

async fn receive(
    arrival: &mut Arrival,
    mut body: Incoming,
    bytes: u64,
    mut rate: MinimumRate,
) -> Result<(), Unreceived> {
    let until = Instant::now() + PUT_TIMEOUT;
    let mut total = 0_u64;
    loop {
        let since = Instant::now();
        let wait = rate.max_wait().min(until.saturating_duration_since(since));
        let data = match timeout(wait, body.frame()).await {
            Err(_) => return Err(Unreceived::TooSlow),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(Unreceived::Broken),
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        };
        rate.waited(since.elapsed());
        rate.transferred(data.len());
        total = total.saturating_add(data.len() as u64);
        arrival.push(&data).await.map_err(Unreceived::Store)?;
    }
    // A connection that ends early can look like the end of a body.
    if total == bytes {
        Ok(())
    } else {
        Err(Unreceived::Broken)
    }
}

/// How long the body is, if it says so; one that is not there is empty.
fn length(request: &Request<Incoming>) -> Option<u64> {
    request.body().size_hint().exact()
}

fn asked(request: &Request<Incoming>) -> Result<Asked, String> {
    let below = request.uri().path().strip_prefix(PATH).unwrap_or_default();
    let name = percent_decode_str(below)
        .decode_utf8()
        .map_err(|_| "an artifact's name is UTF-8".to_owned())?;
    let name = name
        .parse()
        .map_err(|error| format!("{error}: {:?}", name.chars().take(100).collect::<String>()))?;
    let media = request.headers().get(CONTENT_TYPE);
    let mut asked = Asked {
        name,
        media: media
            .and_then(|media| media.to_str().ok())
            .map(str::to_owned),
        sent: None,
        way: Way::Usual,
    };
    let (mut bytes, mut put, mut sha256) = (None, None, None);
    let query = request.uri().query().unwrap_or_default();
    for (word, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*word {
            "relay" => asked.way = Way::ThroughUs,
            "stored" => {
                let parsed = value.parse::<u64>();
                bytes = Some(parsed.map_err(|_| "stored is a number of bytes".to_owned())?);
            }
            "put" => {
                put = Some(value.parse().map_err(|error| format!("put {error}"))?);
            }
            "sha256" => {
                let is_digest = value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit());
                if !is_digest {
                    return Err("sha256 is 64 hexadecimal digits".to_owned());
                }
                sha256 = Some(value.to_ascii_lowercase());
            }
            _ => return Err("the query has stored, put and sha256, or relay".to_owned()),
        }
    }
    if let (Some(bytes), Some(put), Some(sha256)) = (bytes, put, sha256) {
        asked.sent = Some((put, Kept { bytes, sha256 }));
    }
    Ok(asked)
}

fn elsewhere(url: &str, put: &PutId) -> Response<Body> {
    let mut response = reply::json(
        StatusCode::TEMPORARY_REDIRECT,
        &json!({"put": put.as_str()}),
    );
    match HeaderValue::from_str(url) {
        Ok(url) => {
            response.headers_mut().insert(LOCATION, url);
            response
        }
        Err(_) => unavailable(),
    }
}

fn kept(artifacts: &Artifacts, artifact: &Artifact, key: &ArtifactKey) -> Response<Body> {
    let told = ArtifactJson {
        name: &artifact.name,
        bytes: artifact.bytes,
        sha256: &artifact.sha256,
        media_type: &artifact.media_type,
        key: artifacts.store.shown_key(key),
    };
    reply::json(StatusCode::CREATED, &told)
}

fn over(artifacts: &Artifacts, bound: Bound) -> Response<Body> {
    let bounds = &artifacts.bounds;
    let message = match bound {
        Bound::Run => format!("a run has at most {} artifacts", bounds.run_max),
        Bound::RunBytes => {
            let most = bounds.run_bytes;
            format!("the artifacts of a run have at most {most} bytes together")
        }
        Bound::TenantBytes => "as many bytes of this tenant's artifacts are kept as may".to_owned(),
        Bound::AllBytes => "as many bytes of artifacts are kept as may".to_owned(),
    };
    error(
        StatusCode::PAYLOAD_TOO_LARGE,
        &format!("artifact_budget: {message}"),
    )
}
