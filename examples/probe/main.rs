//! A guest that tries to reach what a guest must not reach, and reports what came of it.
//!
//! It runs on any engine that starts Linux machines. Each item is `walled`, `open`, or `allowed`: open,
//! but named in `PROBE_ALLOW` (items or groups, comma separated). The report is posted as the run's
//! result where `SANDBOX_RESULT_URL` is set, and printed in any case; the exit status is 1 if an item
//! is open. See `README.md` beside this file.

#![expect(clippy::print_stdout, reason = "it reports on standard output")]
#![expect(clippy::disallowed_methods, reason = "it is a program of its own")]

mod files;
mod kernel;
mod network;
mod processes;
mod report;

use std::process::ExitCode;

use crate::report::Report;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if let (Some("--attempt"), Some(name)) = (words.next().as_deref(), words.next()) {
        return kernel::attempt(&name);
    }
    let mut report = Report::new(&std::env::var("PROBE_ALLOW").unwrap_or_default());
    processes::probe(&mut report);
    files::probe(&mut report);
    kernel::probe(&mut report);
    network::probe(&mut report);
    let json = report.json();
    println!("{json}");
    match network::post(&json) {
        Ok(()) if report.is_walled() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(why) => {
            println!("the report was not accepted: {why}");
            ExitCode::FAILURE
        }
    }
}
