//! `top`: the fleet at a glance, drawn anew every few seconds.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use serde_json::json;

use crate::cli::args::fleet::Top;
use crate::cli::human;
use crate::cli::output::{Cell, Output, Tone};
use crate::cli::status::Status;
use crate::cli::target;
use crate::clock::{Clock, UnixMs};
use crate::config::Tool;
use crate::run::outcome::Outcome;
use crate::run::spread::Spread;
use crate::shutdown::Signals;
use crate::stage::explain;
use crate::store::ended::Minute;
use crate::store::fleet::Census;
use crate::store::tenants::TenantView;
use crate::store::{Error, Store};
use crate::token::fleet::Holder;

/// Tenants and processes that are listed.
const LISTED: usize = 12;
/// Minutes that are counted.
const MINUTES: u32 = 5;
/// Tenants that are looked through for the busiest.
const TENANTS: usize = 500;

/// What is shown.
struct Picture {
    now: UnixMs,
    census: Census,
    limit: Option<u32>,
    minutes: Vec<Minute>,
    holders: Vec<Holder>,
    dead: u64,
    tenants: Vec<TenantView>,
}

impl Picture {
    async fn read(store: &Store) -> Result<Self, Error> {
        let now = store
            .time()
            .await
            .unwrap_or_else(|_| Clock::system().now_ms());
        let (census, limit, minutes, mut holders, dead, (mut tenants, _)) = tokio::try_join!(
            store.census(now),
            store.fleet_limit(),
            store.minutes(MINUTES, now),
            store.keyrings(now),
            store.count_dead(),
            store.some_tenants(TENANTS, now),
        )?;
        holders.sort_by(|one, other| one.name.cmp(&other.name));
        tenants.sort_by_key(|tenant| std::cmp::Reverse((tenant.in_flight, tenant.waiting)));
        Ok(Self {
            now,
            census,
            limit,
            minutes,
            holders,
            dead,
            tenants,
        })
    }

    fn spread(&self, of: fn(&Minute) -> &Spread) -> String {
        let mut whole = Spread::default();
        self.minutes
            .iter()
            .for_each(|minute| whole.merge(of(minute)));
        let at = |share: f64| {
            let ms = whole.quantile_ms(share);
            ms.map_or_else(
                || "–".to_owned(),
                |ms| human::duration(Duration::from_millis(ms)),
            )
        };
        format!("p50 {}, p95 {}, p99 {}", at(0.5), at(0.95), at(0.99))
    }

    fn ended(&self, at: usize) -> u64 {
        self.minutes
            .iter()
            .filter_map(|minute| minute.outcomes.get(at))
            .sum()
    }
}

pub(crate) async fn run(args: &Top, tool: &Tool, out: &mut Output) -> anyhow::Result<Status> {
    let store = target::store(tool).await?;
    let is_terminal = io::stdout().is_terminal();
    if args.format.json {
        let picture = Box::pin(Picture::read(&store)).await?;
        out.json(&as_json(&picture))?;
        return Ok(Status::Done);
    }
    if args.once || !is_terminal {
        draw(&Box::pin(Picture::read(&store)).await?, out)?;
        return Ok(Status::Done);
    }
    let mut signals = Signals::listen()?;
    let mut away: Option<UnixMs> = None;
    loop {
        match Box::pin(Picture::read(&store)).await {
            Ok(picture) => {
                away = None;
                out.clear()?;
                draw(&picture, out)?;
            }
            Err(error) => {
                let now = Clock::system().now_ms();
                let since = *away.get_or_insert(now);
                let line = format!(
                    "redis does not answer since {}: {error}",
                    human::ago(since, now)
                );
                let line = out.paint_note(Tone::Bad, &line);
                out.note(&line)?;
            }
        }
        tokio::select! {
            () = signals.received() => return Ok(Status::Done),
            () = tokio::time::sleep(Duration::from_secs(args.interval.into())) => {}
        }
    }
}

fn draw(picture: &Picture, out: &mut Output) -> anyhow::Result<()> {
    let census = &picture.census;
    let most = picture
        .limit
        .map_or_else(|| "?".to_owned(), |most| most.to_string());
    let wait = census.oldest_queued_ms.map_or_else(
        || "–".to_owned(),
        |at| human::duration(explain::between(at, picture.now)),
    );
    let mut ended = Vec::new();
    for (at, outcome) in Outcome::ALL.iter().enumerate() {
        ended.push(format!("{} {}", picture.ended(at), outcome.as_str()));
    }
    let lines = [
        ("machines", format!("{} of {most}", census.in_flight)),
        (
            "waiting",
            format!(
                "{}, the longest for {wait}; {} unread",
                census.queued, census.unread
            ),
        ),
        (
            "owed",
            format!(
                "{} tear-downs; {} overdue, {} dead letters",
                census.owed, census.overdue, picture.dead
            ),
        ),
        (
            "ended",
            format!("{} in {MINUTES} minutes", ended.join(", ")),
        ),
        ("waited", picture.spread(|minute| &minute.wait)),
        ("booted", picture.spread(|minute| &minute.boot)),
        ("ran", picture.spread(|minute| &minute.run)),
    ];
    for (head, text) in lines {
        let head = out.paint(Tone::Faint, &format!("{head:<10}"));
        out.line(&format!("{head}{text}"))?;
    }
    out.line("")?;
    let rows: Vec<_> = picture
        .tenants
        .iter()
        .take(LISTED)
        .map(tenant_row)
        .collect();
    if !rows.is_empty() {
        out.table(&["TENANT", "MACHINES", "WAITING", ""], &rows)?;
        out.line("")?;
    }
    let rows: Vec<_> = picture
        .holders
        .iter()
        .take(LISTED)
        .map(process_row)
        .collect();
    if !rows.is_empty() {
        out.table(&["PROCESS", "IN HAND", ""], &rows)?;
    }
    Ok(())
}

fn tenant_row(tenant: &TenantView) -> Vec<Cell> {
    vec![
        Cell::plain(&tenant.tenant),
        Cell::plain(tenant.in_flight.to_string()),
        Cell::plain(tenant.waiting.to_string()),
        Cell::new(
            Tone::Notice,
            if tenant.settings.paused { "paused" } else { "" },
        ),
    ]
}

fn process_row(holder: &Holder) -> Vec<Cell> {
    vec![
        Cell::plain(human::one_line(&holder.name, 60)),
        Cell::plain(holder.in_hand.to_string()),
        Cell::new(Tone::Notice, if holder.is_quiet { "quiet" } else { "" }),
    ]
}

fn as_json(picture: &Picture) -> serde_json::Value {
    let census = &picture.census;
    let ended: serde_json::Map<String, serde_json::Value> = Outcome::ALL
        .iter()
        .enumerate()
        .map(|(at, outcome)| (outcome.as_str().to_owned(), picture.ended(at).into()))
        .collect();
    json!({
        "in_flight": census.in_flight,
        "max_in_flight": picture.limit,
        "queued": census.queued,
        "unread": census.unread,
        "overdue": census.overdue,
        "teardowns_owed": census.owed,
        "oldest_queued_ms": census.oldest_queued_ms,
        "dead": picture.dead,
        "minutes": MINUTES,
        "ended": ended,
        "workers": picture.holders,
    })
}
