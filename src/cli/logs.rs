//! `logs`: what the guest of a run wrote.

use anyhow::{Context as _, bail};

use crate::cli::args::Logs;
use crate::cli::output::Output;
use crate::cli::show;
use crate::cli::status::Status;
use crate::cli::target;
use crate::config;
use crate::machines::{Client, ClientSettings, Token};

/// Most pages read. An empty page ends the reading earlier.
const PAGES_MAX: usize = 1000;

pub(super) async fn run(
    args: &Logs,
    settings: &config::Logs,
    out: &mut Output,
) -> anyhow::Result<Status> {
    let id = show::run_id(&args.run)?;
    let store = target::store(&settings.tool).await?;
    let view = show::known(&store, &id).await?;
    let (Some(app), Some(machine)) = (&view.app, &view.machine_id) else {
        bail!("run {id} has no machine");
    };
    let (api, token) = target::machines_api(&settings.tool, &settings.api)?;
    let client = Client::new(ClientSettings::new(
        api,
        Token::new(token.expose().as_str()),
    ))?;
    let mut position: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let page = client.logs(app, Some(machine), position.as_deref()).await;
        let page = page.with_context(|| format!("read the logs of machine {machine}"))?;
        for line in &page.data {
            out.untrusted(line.attributes.message.trim_end_matches('\n'))?;
        }
        let next = page.meta.next_token;
        if page.data.is_empty() || next.is_none() || next == position {
            break;
        }
        position = next;
    }
    Ok(Status::Done)
}
