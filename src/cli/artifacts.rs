//! `artifacts`: the files that a run's guest put, listed and fetched.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;

use crate::artifacts::ArtifactStore;
use crate::cli::args::Artifacts;
use crate::cli::human;
use crate::cli::output::{Cell, Output, Tone};
use crate::cli::show;
use crate::cli::status::{Status, WrongUse};
use crate::cli::target;
use crate::config::{ArtifactPlace, ArtifactsTool};
use crate::run::artifact::{Artifact, ArtifactKey};
use crate::run::id::{Nonce, RunId};
use crate::store::Store;

/// Digits of a digest on its line.
const DIGEST_SHOWN: usize = 12;

/// One artifact as JSON.
#[derive(Serialize)]
struct ArtifactJson<'a> {
    name: &'a str,
    bytes: u64,
    sha256: &'a str,
    media_type: &'a str,
    key: String,
}

pub(super) async fn run(
    args: &Artifacts,
    settings: &ArtifactsTool,
    out: &mut Output,
) -> anyhow::Result<Status> {
    let id = show::run_id(&args.run)?;
    let store = target::store(&settings.tool).await?;
    let found = Found::of(&store, &id).await?;
    let place = match &settings.place {
        Some(place) => Some(place.clone()),
        None => target::artifacts_of_up(&settings.tool)?,
    };
    match (&args.name, &args.output) {
        (None, None) => list(&found, place.as_ref(), args.format.json, out)?,
        (None, Some(folder)) => {
            let kept = opened(place.as_ref())?;
            for artifact in &found.artifacts {
                let file = fetch_below(&kept, &found.key(artifact), artifact, folder).await?;
                out.note(&format!(
                    "{}  {}",
                    file.display(),
                    human::bytes(artifact.bytes)
                ))?;
            }
        }
        (Some(name), output) => {
            let named = found.artifacts.iter().find(|it| it.name.as_str() == name);
            let artifact = named.ok_or_else(|| anyhow!("run {id} has no artifact {name:?}"))?;
            let kept = opened(place.as_ref())?;
            let key = found.key(artifact);
            match output {
                Some(file) if file.as_os_str() != "-" => {
                    fetch_to(&kept, &key, artifact, file).await?;
                }
                None if io::stdout().is_terminal() => {
                    let why = "an artifact is not printed on a terminal: name a file by --output, or - for here";
                    return Err(WrongUse::new(why).into());
                }
                _ => print(&kept, &key, artifact).await?,
            }
        }
    }
    Ok(Status::Done)
}

/// The artifacts of a run.
pub(crate) struct Found {
    run: RunId,
    nonce: Option<Nonce>,
    /// By name.
    pub(crate) artifacts: Vec<Artifact>,
}

impl Found {
    /// Looks for those of the run of this id, or of the last one that had it.
    pub(crate) async fn of(store: &Store, id: &RunId) -> anyhow::Result<Self> {
        let nonce = match store.record(id).await? {
            Some(record) => record.nonce,
            // Artifacts outlive what is known of their run.
            None => match store.request_with_artifacts(id).await? {
                Some(nonce) => Some(nonce),
                None => {
                    bail!("run {id} is not known: it was never admitted, or ended too long ago")
                }
            },
        };
        let artifacts = match &nonce {
            Some(nonce) => store.artifacts(id, nonce).await?,
            None => Vec::new(),
        };
        Ok(Self {
            run: id.clone(),
            nonce,
            artifacts,
        })
    }

    /// Where one of them is.
    pub(crate) fn key(&self, artifact: &Artifact) -> ArtifactKey {
        let nonce = self.nonce.clone();
        ArtifactKey {
            run: self.run.clone(),
            nonce: nonce.expect("a run without a nonce has no artifacts"),
            put: artifact.put.clone(),
        }
    }
}

fn list(
    found: &Found,
    place: Option<&ArtifactPlace>,
    as_json: bool,
    out: &mut Output,
) -> anyhow::Result<()> {
    if as_json {
        let kept = place.map(ArtifactStore::open).transpose()?;
        for artifact in &found.artifacts {
            let key = found.key(artifact);
            out.json(&ArtifactJson {
                name: artifact.name.as_str(),
                bytes: artifact.bytes,
                sha256: &artifact.sha256,
                media_type: &artifact.media_type,
                key: kept
                    .as_ref()
                    .map_or_else(|| key.to_string(), |kept| kept.shown_key(&key)),
            })?;
        }
        return Ok(());
    }
    if found.artifacts.is_empty() {
        out.note("no artifacts")?;
        return Ok(());
    }
    let rows: Vec<_> = found
        .artifacts
        .iter()
        .map(|artifact| {
            let digest = artifact.sha256.get(..DIGEST_SHOWN).unwrap_or_default();
            vec![
                Cell::new(Tone::Strong, human::one_line(artifact.name.as_str(), 100)),
                Cell::new(Tone::Plain, human::bytes(artifact.bytes)),
                Cell::new(Tone::Plain, human::one_line(&artifact.media_type, 40)),
                Cell::new(Tone::Faint, digest),
            ]
        })
        .collect();
    out.table(&["NAME", "SIZE", "TYPE", "SHA-256"], &rows)?;
    Ok(())
}

/// Opens what is to be fetched from.
pub(crate) fn opened(place: Option<&ArtifactPlace>) -> anyhow::Result<ArtifactStore> {
    let place = place.ok_or_else(|| {
        WrongUse::new("COFFERDAM_ARTIFACTS: not set, and no `up` is running".to_owned())
    })?;
    Ok(ArtifactStore::open(place)?)
}

/// Fetches an artifact into the file of its name below `folder`, which is made if need be. Answers
/// which file that is.
pub(crate) async fn fetch_below(
    kept: &ArtifactStore,
    key: &ArtifactKey,
    artifact: &Artifact,
    folder: &Path,
) -> anyhow::Result<PathBuf> {
    let file = folder.join(artifact.name.as_str());
    if let Some(parent) = file.parent() {
        let made = fs::create_dir_all(parent);
        made.with_context(|| format!("make the folder {}", parent.display()))?;
    }
    fetch_to(kept, key, artifact, &file).await?;
    Ok(file)
}

/// Fetches an artifact into a file, which is there only once it is whole and is what was put.
async fn fetch_to(
    kept: &ArtifactStore,
    key: &ArtifactKey,
    artifact: &Artifact,
    file: &Path,
) -> anyhow::Result<()> {
    let mut part = file.as_os_str().to_owned();
    part.push(format!(".{}.part", artifact.put));
    let part = PathBuf::from(part);
    let context = || format!("fetch {} into {}", artifact.name, file.display());
    let mut to = File::create(&part).with_context(context)?;
    let fetched = kept
        .fetch(key, artifact, |piece| to.write_all(piece))
        .await
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(fs::rename(&part, file)?));
    if fetched.is_err() {
        let _ = fs::remove_file(&part);
    }
    fetched.with_context(context)
}

async fn print(kept: &ArtifactStore, key: &ArtifactKey, artifact: &Artifact) -> anyhow::Result<()> {
    let mut to = io::stdout();
    let fetched = kept.fetch(key, artifact, |piece| to.write_all(piece)).await;
    fetched.with_context(|| format!("fetch {}", artifact.name))?;
    Ok(to.flush()?)
}
