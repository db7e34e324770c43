//! cofferdam's guest agent: the first program of a machine whose run has `capture`.
//!
//! ```text
//!  cofferdam-guest -- CMD…
//!    ├─ starts CMD in a session of its own, without `SANDBOX_*` in its environment
//!    ├─ keeps the head and tail of both outputs, and posts them live as they come
//!    ├─ ends everything a little before the deadline, or when CMD ends
//!    └─ puts the artifacts, posts the result, and ends with CMD's exit status
//! ```
//!
//! It is linked statically and needs nothing of the image it runs in: no C library, no resolver,
//! no shell. What it is told comes in its environment ([`job`]).

#![forbid(unsafe_code)]

mod artifacts;
mod child;
mod dns;
mod http;
mod job;
mod live;
mod net;
mod output;
mod processes;
mod report;
mod unpack;

use std::process::exit;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::child::Ended;
use crate::job::Job;
use crate::live::Live;
use crate::output::{Capture, Stream};

/// How long the outputs may stay open once the command has ended, before what holds them is killed.
const PIPES_TIMEOUT: Duration = Duration::from_millis(50);
/// How long the last of both outputs may take after that.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the last live output may take before the result is posted.
const LIVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may take after that. A machine has some seconds to end once its result is there.
const LAST_TIMEOUT: Duration = Duration::from_secs(3);
/// From asking a command to end at the deadline to killing it.
const TERM_TIMEOUT: Duration = Duration::from_millis(300);
/// Exit status when the agent itself could not do its work.
const AGENT_FAILED: i32 = 125;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((word, command)) if word == child::ROLE => exit(child::exec(command)),
        Some((word, command)) if word == "--" && !command.is_empty() => {
            let status = run(command).unwrap_or_else(|why| {
                say(&why);
                live::tell_failure(&why);
                AGENT_FAILED
            });
            exit(status);
        }
        _ => {
            say("usage: cofferdam-guest -- CMD…");
            exit(AGENT_FAILED);
        }
    }
}

/// Runs `command` to its end and reports it; answers the exit status to end with.
fn run(command: &[String]) -> Result<i32, String> {
    let job = Job::from_environment()?;
    // The command runs as the same user: it must not read the token out of this process.
    nix::sys::prctl::set_dumpable(false).map_err(|error| format!("cannot hide: {error}"))?;
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|error| format!("cannot adopt orphans: {error}"))?;
    if let Some(archive) = &job.unpack {
        let folder = child::make_folder().ok_or("there is no working folder")?;
        unpack::unpack(archive, &folder)?;
    }
    let began = Instant::now();
    let live = Live::start(&job);
    let stdout = Capture::new(job.stdout_bytes);
    let stderr = Capture::new(job.stderr_bytes);
    let mut started = child::start(command, job.stdin.as_deref())?;
    let readers = [
        stdout.follow(started.stdout.take(), Stream::Stdout, live.sender()),
        stderr.follow(started.stderr.take(), Stream::Stderr, live.sender()),
    ];

    let (tell, ended) = channel();
    thread::spawn(move || tell.send(child::wait(&started)));
    let (ended, timed_out) = match ended.recv_timeout(job.time_left()) {
        Ok(ended) => (ended, false),
        Err(RecvTimeoutError::Timeout) => {
            processes::terminate();
            let ended = ended.recv_timeout(TERM_TIMEOUT).or_else(|_| {
                processes::kill();
                ended.recv_timeout(DRAIN_TIMEOUT)
            });
            (ended.unwrap_or(Ended::UNKNOWN), true)
        }
        Err(RecvTimeoutError::Disconnected) => (Ended::UNKNOWN, false),
    };
    let wall = began.elapsed();
    output::join(&readers, PIPES_TIMEOUT);
    // What the command left behind holds its outputs, and could go on changing its files.
    processes::kill();
    output::join(&readers, DRAIN_TIMEOUT);

    let artifacts = artifacts::put(&job);
    live.finish(LIVE_TIMEOUT);
    let report = report::Report {
        ended: &ended,
        timed_out,
        wall,
        stdout: stdout.take(),
        stderr: stderr.take(),
        artifacts,
    };
    report.post(&job)?;
    live.finish(LAST_TIMEOUT);
    Ok(ended.status())
}

/// Tells whoever reads the machine's own output.
#[expect(
    clippy::print_stderr,
    reason = "it is all that this program has to speak with"
)]
fn say(text: &str) {
    eprintln!("cofferdam-guest: {text}");
}
