//! `logs`: what the guest of a run wrote.

use crate::cli::args::Logs;
use crate::cli::live_log::{LogFormat, LogPrinter, print_all};
use crate::cli::output::Output;
use crate::cli::show;
use crate::cli::status::Status;
use crate::cli::target;
use crate::config::Tool;

pub(super) async fn run(args: &Logs, tool: &Tool, out: &mut Output) -> anyhow::Result<Status> {
    let id = show::run_id(&args.run)?;
    let store = target::store(tool).await?;
    show::known(&store, &id).await?;
    let dropped = store.log_dropped(&id).await?;
    if dropped > 0 {
        out.note(&format!(
            "{dropped} bytes are not here: the guest wrote more than is kept"
        ))?;
    }
    let format = match (args.format.json, args.timestamps) {
        (true, _) => LogFormat::Json,
        (false, true) => LogFormat::Timestamps,
        (false, false) => LogFormat::Plain,
    };
    print_all(&store, &id, args.follow, LogPrinter::new(format), out).await?;
    Ok(Status::Done)
}
