//! The artifacts of a run: their list, and downloads.
//!
//! A guest made them: they are never shown as what they say they are. Each comes as an attachment of bytes
//! of no kind, at an address that is made of ids alone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use hyper::header::{
    CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
};
use hyper::{Method, Response, StatusCode};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::{Semaphore, mpsc};
use tracing::warn;

use crate::console::frame;
use crate::console::live::LiveBody;
use crate::console::page::{self, View};
use crate::console::serve::Console;
use crate::http::reply;
use crate::run::artifact::{Artifact, ArtifactKey, ArtifactName, PutId};
use crate::run::id::RunId;
use crate::store::codec::RunRecord;
use crate::store::{Error, Store};
use crate::telemetry::human;

/// Artifacts that are shown of a run.
const SHOWN: usize = 200;
/// Downloads at once. Each has two pieces of 128 KiB or so in memory.
const DOWNLOADS_MAX: usize = 8;
/// How long somebody may take for a piece.
const PATIENCE: Duration = Duration::from_secs(30);

/// Downloads that may begin.
pub(super) struct Downloads(Arc<Semaphore>);

impl Default for Downloads {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(DOWNLOADS_MAX)))
    }
}

/// Which artifact an address is of.
pub(super) struct Asked {
    run: RunId,
    put: PutId,
}

impl Asked {
    /// Of `/runs/<id>/artifacts/<put>`.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let (run, put) = path.strip_prefix("/runs/")?.split_once("/artifacts/")?;
        Some(Self {
            run: run.parse().ok()?,
            put: put.parse().ok()?,
        })
    }
}

/// The artifacts of a run, by name. One key.
pub(super) async fn of(store: &Store, run: &RunRecord) -> Result<Vec<Artifact>, Error> {
    match &run.nonce {
        Some(nonce) => store.artifacts(&run.id, nonce).await,
        None => Ok(Vec::new()),
    }
}

pub(super) fn list(run: &RunId, artifacts: &[Artifact], view: &View<'_>) -> Markup {
    let can_be_fetched = view.console.deps.artifacts.is_some();
    let bytes = artifacts.iter().map(|artifact| artifact.bytes).sum::<u64>();
    html! {
        @if !artifacts.is_empty() {
            h2 { "Artifacts" }
            div.scroll { table {
                caption {
                    (artifacts.len()) ", " (human::bytes(bytes))
                    @if artifacts.len() > SHOWN { ", of which " (SHOWN) " are shown" }
                }
                thead { tr {
                    th scope="col" { "Name" } th scope="col" { "Size" } th scope="col" { "Type, as its guest says" }
                    th scope="col" { "SHA-256" }
                } }
                tbody { @for artifact in artifacts.iter().take(SHOWN) { tr {
                    th scope="row" {
                        @let name = page::text(artifact.name.as_str());
                        @if can_be_fetched {
                            a href={"/runs/" (run.as_str()) "/artifacts/" (artifact.put.as_str())} download { (name) }
                        } @else { (name) }
                    }
                    td { (human::bytes(artifact.bytes)) }
                    td { (page::text(&artifact.media_type)) }
                    td { code { (page::text(&artifact.sha256)) } }
                } } }
            } }
            @if !can_be_fetched {
                p.faint { "This console does not know where they are kept: set COFFERDAM_ARTIFACTS. From a shell: "
                    code { "cofferdam artifacts " (run.as_str()) } }
            }
        }
    }
}

impl Console {
    /// Sends an artifact, or says why not.
    pub(super) async fn download(&self, asked: &Asked, method: &Method) -> Response<LiveBody> {
        let not = |status, why: &str| frame::problem(status, why).map(LiveBody::from);
        let Some(kept) = self.deps.artifacts.clone() else {
            let why = "This console does not know where artifacts are kept: COFFERDAM_ARTIFACTS is not set.";
            return not(StatusCode::NOT_FOUND, why);
        };
        let found = match self.found(asked).await {
            Ok(found) => found,
            Err(error) => {
                let why = format!("Redis does not answer: {}.", page::text(&error.to_string()));
                return not(StatusCode::SERVICE_UNAVAILABLE, &why);
            }
        };
        let Some((key, artifact)) = found else {
            return not(
                StatusCode::NOT_FOUND,
                "There is no such artifact (any more).",
            );
        };
        let (Ok(permit), Some(shutdown)) = (
            self.downloads.0.clone().try_acquire_owned(),
            self.live.shutdown(),
        ) else {
            let why = "As many artifacts are fetched here as may. Try again in a moment.";
            return not(StatusCode::SERVICE_UNAVAILABLE, why);
        };
        if method == Method::HEAD {
            return headers(LiveBody::from(reply::Body::default()), &artifact);
        }
        let (to, mut pieces) = mpsc::channel::<Bytes>(1);
        let sent = artifact.clone();
        shutdown.spawn(async move {
            if let Err(error) = kept.send(&key, &sent, to, PATIENCE).await {
                warn!(run_id = key.run.as_str(), %error, "an artifact was not sent whole");
            }
            drop(permit);
        });
        // The first piece tells whether it is there at all.
        let first = pieces.recv().await;
        if first.is_none() && artifact.bytes > 0 {
            let why = "It is not where artifacts are kept, or that does not answer; the console's log says which.";
            return not(StatusCode::BAD_GATEWAY, why);
        }
        let rest = stream::unfold((first, pieces), |(first, mut pieces)| async move {
            let piece = match first {
                Some(piece) => piece,
                None => pieces.recv().await?,
            };
            Some((piece, (None, pieces)))
        });
        headers(LiveBody::Events(Box::pin(rest)), &artifact)
    }

    async fn found(&self, asked: &Asked) -> Result<Option<(ArtifactKey, Artifact)>, Error> {
        let store = &self.deps.store;
        let Some(run) = store.record(&asked.run).await? else {
            return Ok(None);
        };
        let mut artifacts = of(store, &run).await?.into_iter();
        let artifact = artifacts.find(|artifact| artifact.put == asked.put);
        Ok(artifact.zip(run.nonce).map(|(artifact, nonce)| {
            let key = ArtifactKey {
                run: run.id,
                nonce,
                put: asked.put.clone(),
            };
            (key, artifact)
        }))
    }
}

/// An attachment of bytes of no kind: no browser shows or runs it.
fn headers(body: LiveBody, artifact: &Artifact) -> Response<LiveBody> {
    let mut response = frame::secured(Response::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, artifact.bytes.into());
    headers.insert(CONTENT_DISPOSITION, attachment(&artifact.name));
    for (name, value) in [
        (CONTENT_TYPE, "application/octet-stream"),
        (CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The file's own name, without its folders.
fn attachment(name: &ArtifactName) -> HeaderValue {
    let file = name.as_str().rsplit('/').next().unwrap_or_default();
    let encoded = utf8_percent_encode(file, NON_ALPHANUMERIC);
    let value = format!("attachment; filename=\"artifact\"; filename*=UTF-8''{encoded}");
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_header() {
        let name = |text: &str| attachment(&text.parse().unwrap());
        assert_eq!(
            name("out/a\"; filename=\"b.html"),
            "attachment; filename=\"artifact\"; filename*=UTF-8''a%22%3B%20filename%3D%22b%2Ehtml"
        );
        assert_eq!(
            name("ä.txt"),
            "attachment; filename=\"artifact\"; filename*=UTF-8''%C3%A4%2Etxt"
        );
    }

    #[test]
    fn addresses_are_of_ids_alone() {
        let put = PutId::from_bits(7);
        assert!(Asked::parse(&format!("/runs/pr-17/artifacts/{put}")).is_some());
        for other in [
            "/runs/pr-17",
            "/runs/pr-17/artifacts/../../x",
            "/runs/a b/artifacts/00000000000000000000000007",
            "/runs//artifacts/00000000000000000000000007",
        ] {
            assert!(Asked::parse(other).is_none(), "{other}");
        }
    }
}
