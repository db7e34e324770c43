//! Programs beside a machine's own: exec and the list of processes.

use std::cmp::Ordering;
use std::time::Duration;

use crate::local::refusal::Refusal;
use crate::local::runner::Handle;
use crate::machines::wire::{ExecAnswer, ProcessStat};
use cofferdam_sandbox::{Error, Process};

/// Runs a program in a machine. What it did is in the answer, whatever it was.
///
/// # Errors
/// 400 for a program that cannot be run, 412 when the machine has ended, 429 when it runs too many
/// already.
pub(crate) async fn exec(
    running: &Handle,
    argv: Vec<String>,
    stdin: String,
    timeout: Duration,
) -> Result<ExecAnswer, Refusal> {
    let ran = running.exec(argv, stdin.into_bytes(), timeout).await;
    let output = ran.map_err(|error| match error {
        Error::Ended => Refusal::precondition("machine is not running"),
        Error::Busy(what) => Refusal::new(429, format!("resource_exhausted: {what}")),
        Error::Io { .. } | Error::Boot(_) => Refusal::new(500, format!("unknown: {error}")),
        other => Refusal::invalid(other.to_string()),
    })?;
    let by_signal = output.exit_signal.map(|signal| 128 + i64::from(signal));
    Ok(ExecAnswer {
        stdout: output.stdout,
        stderr: output.stderr,
        exit_code: output.exit_code.map(i64::from).or(by_signal).unwrap_or(-1),
        exit_signal: output.exit_signal.map(i64::from),
    })
}

/// Lists the processes of a machine.
///
/// # Errors
/// 412 when the machine has ended.
pub(crate) fn list(
    running: &Handle,
    sort_by: Option<&str>,
    descending: bool,
) -> Result<Vec<ProcessStat>, Refusal> {
    let found = running
        .processes()
        .map_err(|_| Refusal::precondition("machine is not running"))?;
    let mut listed: Vec<ProcessStat> = found.into_iter().map(stat).collect();
    listed.sort_by(|a, b| {
        let order = compare(a, b, sort_by.unwrap_or("pid"));
        if descending { order.reverse() } else { order }
    });
    Ok(listed)
}

fn stat(process: Process) -> ProcessStat {
    ProcessStat {
        pid: i64::from(process.pid),
        command: process.command,
        directory: process.directory,
        cpu: (process.cpu_ms * 100)
            .checked_div(process.age_ms)
            .unwrap_or(0),
        rss: process.rss_bytes,
        rtime: process.age_ms / 1000,
        stime: process.cpu_ms / 1000,
        listen_sockets: Vec::new(),
    }
}

fn compare(a: &ProcessStat, b: &ProcessStat, column: &str) -> Ordering {
    match column {
        "cpu" => a.cpu.cmp(&b.cpu),
        "rss" => a.rss.cmp(&b.rss),
        "rtime" => a.rtime.cmp(&b.rtime),
        "stime" => a.stime.cmp(&b.stime),
        "command" => a.command.cmp(&b.command),
        _ => a.pid.cmp(&b.pid),
    }
}
