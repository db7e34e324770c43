//! Programs by which the server finds out, at its start, which limits hold here.

#![expect(clippy::print_stdout, reason = "the engine reads what a trial prints")]

use std::process::{Command, Stdio, exit};
use std::thread;

/// Runs the trial of this name; a wrong name or number ends with code 2.
pub(crate) fn run(name: &str, argument: Option<String>) {
    let number = argument.and_then(|text| text.parse::<usize>().ok());
    match (name, number) {
        ("processes", Some(most)) => println!("{}", processes(most)),
        ("memory", Some(bytes)) => println!("{}", memory(bytes)),
        ("wait", None) => loop {
            thread::park();
        },
        _ => exit(2),
    }
}

/// Starts processes that wait until one cannot be started, or `most` run; tells how many run.
fn processes(most: usize) -> usize {
    let started = (0..most).map_while(|_| {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("wait")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .ok()
    });
    let started = started.collect::<Vec<_>>();
    started.len()
}

/// Fills so much memory; tells how much it filled.
fn memory(bytes: usize) -> usize {
    let filled = vec![1_u8; bytes];
    filled.iter().filter(|byte| **byte == 1).count()
}
