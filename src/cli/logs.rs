//! `logs`: what the guest of a run wrote.

use anyhow::{Context as _, bail};

use crate::cli::args::Logs;
use crate::cli::place;
use crate::cli::say::Say;
use crate::cli::show;
use crate::cli::status::Status;
use crate::config::Tool;
use crate::machines::{Client, ClientSettings, Token};

/// Pages read at the most. One that brings nothing new ends the reading before.
const PAGES_MAX: usize = 1000;

pub(super) async fn run(args: &Logs, tool: &Tool, say: &mut Say) -> anyhow::Result<Status> {
    let id = show::run_id(&args.run)?;
    let store = place::store(tool).await?;
    let view = show::known(&store, &id).await?;
    let (Some(app), Some(machine)) = (&view.app, &view.machine_id) else {
        bail!("run {id} has no machine");
    };
    let (api, token) = place::machines_api(tool)?;
    let client = Client::new(ClientSettings::new(
        api,
        Token::new(token.expose().as_str()),
    ))?;
    let mut place: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let page = client.logs(app, Some(machine), place.as_deref()).await;
        let page = page.with_context(|| format!("read the logs of machine {machine}"))?;
        for line in &page.data {
            say.foreign(line.attributes.message.trim_end_matches('\n'))?;
        }
        let next = page.meta.next_token;
        if page.data.is_empty() || next.is_none() || next == place {
            break;
        }
        place = next;
    }
    Ok(Status::Done)
}
