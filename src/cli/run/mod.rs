//! `run`: one command in a machine, as if it ran here: its folder goes along, its output comes as it is
//! written, and its exit code is this command's own.

mod pack;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::args::run::Run;
use crate::cli::artifacts;
use crate::cli::human;
use crate::cli::live_log::{LiveLog, LogFormat, LogPrinter};
use crate::cli::output::Output;
use crate::cli::status::{Status, WrongUse};
use crate::cli::submit::{self, request, wait};
use crate::cli::target;
use crate::clock::Clock;
use crate::config;
use crate::run::id::RunId;
use crate::run::outcome::Outcome;
use crate::stage::operate::{self, CancelTerms};
use crate::store::Store;
use crate::store::logs::LogStream;

/// Where the packed folder is in the machine until it is unpacked.
const ARCHIVE: &str = "/.workspace.tar.gz";
/// Which files are fetched when nobody says.
const ARTIFACTS: &str = "out/**";
/// Exit status for what the platform did, as `docker run` has it.
const PLATFORM: u8 = 125;
/// Exit status after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;
/// Most characters of a note with a name or an error of the guest's.
const NOTE_MAX: usize = 500;
/// How long the result of a run that was cancelled is waited for.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) async fn run(
    args: &Run,
    settings: &config::RunTool,
    out: &mut Output,
) -> anyhow::Result<Status> {
    let request = request(args)?;
    match attached(args, request, settings, out).await {
        Ok(status) => Ok(Status::Guest(status)),
        // A mistake in the arguments is wrong use here too.
        Err(error) if error.is::<WrongUse>() => Err(error),
        Err(error) => {
            crate::cli::status::report(out, &error);
            Ok(Status::Guest(PLATFORM))
        }
    }
}

/// The request's JSON.
fn request(args: &Run) -> anyhow::Result<String> {
    let mut globs = args.artifact.clone();
    if globs.is_empty() && args.out.is_some() {
        globs.push(ARTIFACTS.to_owned());
    }
    let mut capture = json!({ "artifacts": globs });
    let mut files = Vec::new();
    if let Some(folder) = &args.dir {
        let packed = pack::pack(folder).map_err(|error| WrongUse::new(format!("{error:#}")))?;
        files.push(json!({"guest_path": ARCHIVE, "raw_value": STANDARD.encode(packed)}));
        capture["unpack"] = json!(ARCHIVE);
    }
    if let Some(path) = &args.stdin {
        capture["stdin"] = json!(stdin(path)?);
    }
    let env: serde_json::Map<String, Value> = request::pairs("--env", &args.env)?
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let mut request = json!({"cmd": args.cmd, "env": env, "files": files, "capture": capture});
    let optional = [
        ("image", args.image.as_ref().map(|image| json!(image))),
        ("timeout_s", args.timeout.map(|seconds| json!(seconds))),
        ("tenant", args.tenant.as_ref().map(|tenant| json!(tenant))),
        (
            "guest",
            request::guest(args.cpus, args.cpu_kind.as_deref(), args.memory_mb)
                .map(|guest| json!(guest)),
        ),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            request[name] = value;
        }
    }
    let request = request.to_string();
    request::check(&request)
        .map_err(|rule| WrongUse::new(format!("the request is refused: {rule}")))?;
    Ok(request)
}

fn stdin(path: &Path) -> Result<String, WrongUse> {
    let unreadable =
        |why: String| WrongUse::new(format!("--stdin: cannot read {}: {why}", path.display()));
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    let bytes = bytes.map_err(|error| unreadable(error.to_string()))?;
    String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".to_owned()))
}

/// Submits the request, shows the output as it comes, and gives the exit status.
async fn attached(
    args: &Run,
    request: String,
    settings: &config::RunTool,
    out: &mut Output,
) -> anyhow::Result<u8> {
    let store = target::store(&settings.cancel.tool).await?;
    let sent = submit::send(&store, vec![request]).await?.pop();
    let sent = sent.context("redis returned no id for the request")?;
    let mut live = LiveLog::follow(&store, &sent.run, LogPrinter::new(LogFormat::Plain));
    let result = tokio::select! {
        result = wait::for_one(&store, &sent.run, None, &mut live, out) => result?,
        _ = tokio::signal::ctrl_c() => {
            let terms = CancelTerms {
                retention: settings.cancel.retention,
                lease: settings.cancel.lease,
            };
            operate::cancel(&store, terms, &sent.run, Clock::system().now_ms()).await?;
            let bound = Some(CANCEL_TIMEOUT);
            let _ = wait::for_one(&store, &sent.run, bound, &mut live, out).await;
            out.note(&format!("{} is cancelled", sent.run))?;
            return Ok(INTERRUPTED);
        }
    };
    let mut printer = live.drain(out).await?;
    if result.outcome != Some(Outcome::Completed) {
        submit::print_result(out, &result, false)?;
        return Ok(PLATFORM);
    }
    let told = match serde_json::from_str::<OfCapture>(&result.result) {
        Ok(read) => read.payload,
        Err(error) => {
            let id = &sent.run;
            out.note(&format!(
                "{id}: its result is not the guest agent's: {error}"
            ))?;
            return Ok(PLATFORM);
        }
    };
    let status = finished(&sent.run, &told, &mut printer, out)?;
    take_artifacts(args, settings, &store, &sent.run, &told, out).await?;
    Ok(status)
}

/// A result whose payload is the agent's.
#[derive(Debug, Deserialize)]
struct OfCapture {
    payload: Told,
}

/// What the agent tells of the command.
#[derive(Debug, Deserialize)]
struct Told {
    exit_code: Option<u8>,
    signal: Option<u8>,
    timed_out: bool,
    stdout: Option<String>,
    stdout_base64: Option<String>,
    stderr: Option<String>,
    stderr_base64: Option<String>,
    dropped: Dropped,
    artifacts: Vec<ToldArtifact>,
}

/// A file that the command made, and why it is not kept, if it is not.
#[derive(Debug, Deserialize)]
struct ToldArtifact {
    name: Option<String>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Dropped {
    stdout: u64,
    stderr: u64,
}

impl Told {
    /// What the result has of an output, and how many bytes it does not have.
    fn output(&self, stream: LogStream) -> (Vec<u8>, u64) {
        let (text, base64, dropped) = match stream {
            LogStream::Stdout => (&self.stdout, &self.stdout_base64, self.dropped.stdout),
            LogStream::Stderr => (&self.stderr, &self.stderr_base64, self.dropped.stderr),
        };
        let bytes = match (text, base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, base64) => {
                let base64 = base64.as_deref().unwrap_or_default();
                STANDARD.decode(base64).unwrap_or_default()
            }
        };
        (bytes, dropped)
    }
}

/// The artifacts that could not be kept, in words, and those that were: fetched, where a folder is given.
async fn take_artifacts(
    args: &Run,
    settings: &config::RunTool,
    store: &Store,
    run: &RunId,
    told: &Told,
    out: &mut Output,
) -> anyhow::Result<()> {
    for artifact in &told.artifacts {
        if let Some(error) = &artifact.error {
            let name = artifact.name.as_deref().unwrap_or("…");
            let text = format!("{run}: {name} is not kept: {error}");
            out.note(&human::one_line(&text, NOTE_MAX))?;
        }
    }
    let kept = told
        .artifacts
        .iter()
        .filter(|artifact| artifact.error.is_none());
    if kept.count() == 0 {
        return Ok(());
    }
    let Some(folder) = &args.out else {
        out.note(&format!("its files: cofferdam artifacts {run}"))?;
        return Ok(());
    };
    let place = match &settings.artifacts {
        Some(place) => Some(place.clone()),
        None => target::artifacts_of_up(&settings.cancel.tool)?,
    };
    let kept = artifacts::opened(place.as_ref())?;
    let found = artifacts::Found::of(store, run).await?;
    for artifact in &found.artifacts {
        artifacts::fetch_below(&kept, &found.key(artifact), artifact, folder).await?;
    }
    Ok(())
}

/// Prints what of the output is missing, and gives the exit status.
fn finished(
    run: &RunId,
    told: &Told,
    printer: &mut LogPrinter,
    out: &mut Output,
) -> anyhow::Result<u8> {
    for stream in [LogStream::Stdout, LogStream::Stderr] {
        let (kept, dropped) = told.output(stream);
        if dropped == 0 {
            printer.complete(out, stream, &kept)?;
            continue;
        }
        let whole = dropped.saturating_add(kept.len() as u64);
        let missing = whole.saturating_sub(printer.printed(stream));
        if missing > 0 {
            let stream = stream.as_str();
            out.note(&format!(
                "{run}: {missing} bytes of {stream} are not shown: they came faster than they are kept"
            ))?;
        }
    }
    if told.timed_out {
        out.note(&format!("{run} did not end before its deadline"))?;
        return Ok(PLATFORM);
    }
    match (told.exit_code, told.signal) {
        (Some(code), _) => Ok(code),
        (None, Some(signal)) => {
            out.note(&format!("{run} was ended by signal {signal}"))?;
            Ok(signal.saturating_add(128))
        }
        (None, None) => {
            let shown = human::one_line(run.as_str(), 64);
            out.note(&format!("{shown}: nobody knows how its command ended"))?;
            Ok(PLATFORM)
        }
    }
}
