//! The overview: what limits the fleet now, what is not as it should be, and the last hour.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::console::page::{self, Rendered, View, length};
use crate::console::picture;
use crate::run::wait::{WaitReason, Waiting};
use crate::stage::explain;
use crate::store::Error;
use crate::store::data_set::Loss;
use crate::store::fleet::Census;
use crate::token::fleet::{self, Holder};

/// Minutes that are shown.
const MINUTES: u32 = 60;
/// Waiting runs of which it is asked why they wait.
const SAMPLED: usize = 16;
/// A wait that is no longer normal, and requests that are unread.
const LONG_WAIT_MS: u64 = 60_000;

/// What stands on a tile.
struct Tile {
    name: &'static str,
    value: String,
    is_wrong: bool,
    to: String,
}

pub(super) async fn render(view: &View<'_>) -> Result<Rendered, Error> {
    let (store, now) = (&view.console.deps.store, view.now);
    let (census, sample, minutes, holders, loss, limits, is_paused) = tokio::try_join!(
        store.census(now),
        store.sample_waiting(SAMPLED, now),
        store.minutes(MINUTES, now),
        store.keyrings(now),
        store.last_loss(),
        store.fleet_limit(),
        store.is_paused(),
    )?;
    let mut tiles = tiles(&census, &holders, limits, now);
    tiles.extend(loss.and_then(|loss| lost(&loss, now)));
    let live = html! {
        p.limits { (sentence(&census, &sample, &holders, limits, is_paused, now)) }
        h2 { "Now" }
        ul.tiles {
            @for tile in &tiles {
                li class=[tile.is_wrong.then_some("wrong")] {
                    a href=(tile.to) { (tile.name) b { (tile.value) } @if tile.is_wrong { span.bad { "not normal" } } }
                }
            }
        }
        h2 { "The last hour" }
        div.pictures {
            (picture::throughput(&minutes))
            (picture::percentiles("Waited", &minutes, picture::wait))
            (picture::percentiles("Booted", &minutes, picture::boot))
            (picture::percentiles("Ran", &minutes, picture::ran))
        }
        (picture::table(&minutes))
    };
    Ok(Rendered::new("Overview", live).with(pause_form(view, is_paused)))
}

fn tiles(census: &Census, holders: &[Holder], limit: Option<u32>, now: u64) -> Vec<Tile> {
    let tile = |name, value: String, is_wrong, to: String| Tile {
        name,
        value,
        is_wrong,
        to,
    };
    let count =
        |name, number: u64, to: &str| tile(name, number.to_string(), number > 0, to.to_owned());
    let runs = |state: &str| page::query("/runs", &[("state", state)]);
    let wait = census.oldest_queued_ms.map(|at| now.saturating_sub(at));
    let most = limit.map_or_else(|| "?".to_owned(), |most| most.to_string());
    let sum = |of: fn(&Holder) -> u64| holders.iter().map(of).sum::<u64>();
    let workers = holders
        .iter()
        .filter(|holder| holder.uses != fleet::Use::Verifies)
        .count();
    let mismatches = fleet::mismatches(holders).len();
    vec![
        tile(
            "Machines, of at most",
            format!("{} / {most}", census.in_flight),
            false,
            runs("running"),
        ),
        tile("Waiting", census.queued.to_string(), false, runs("queued")),
        tile(
            "Longest wait",
            wait.map_or_else(|| "–".to_owned(), length),
            wait.is_some_and(|ms| ms > LONG_WAIT_MS),
            runs("queued"),
        ),
        tile(
            "Unread requests",
            census.unread.to_string(),
            census.unread > 100 || (census.unread > 0 && workers == 0),
            "/workers".to_owned(),
        ),
        count("Overdue", census.overdue, "/runs?state=open"),
        tile(
            "Tear-downs owed",
            census.owed.to_string(),
            census.owed > 100,
            runs("settled"),
        ),
        count(
            "Machines without a run",
            sum(|holder| holder.orphans),
            "/machines",
        ),
        count(
            "Machines of others",
            sum(|holder| holder.foreign),
            "/machines",
        ),
        count(
            "Ways that are closed",
            sum(|holder| holder.closed_ways),
            "/workers",
        ),
        count("Dead letters", census.dead, "/dead"),
        count("Tenants held", census.tenants_held, "/tenants"),
        tile(
            "Processes",
            holders.len().to_string(),
            workers == 0 || mismatches > 0,
            "/workers".to_owned(),
        ),
    ]
}

/// Data that a process missed within the last week.
fn lost(loss: &Loss, now: u64) -> Option<Tile> {
    loss.recent(now)?;
    Some(Tile {
        name: "Redis lost data",
        value: format!("{} ago", length(now.saturating_sub(loss.at_ms))),
        is_wrong: true,
        to: "/doctor".to_owned(),
    })
}

/// What limits the fleet right now.
fn sentence(
    census: &Census,
    sample: &[Waiting],
    holders: &[Holder],
    limit: Option<u32>,
    is_paused: bool,
    now: u64,
) -> Markup {
    let workers = holders
        .iter()
        .filter(|holder| holder.uses != fleet::Use::Verifies)
        .count();
    if is_paused {
        return html! { strong.bad { "Everything is paused: " } "nothing boots until it is resumed." };
    }
    if workers == 0 && limit.is_none() {
        return html! { strong.bad { "No worker is running: " } "requests stay unread and nothing boots." };
    }
    if census.queued == 0 {
        return html! { "Nothing waits: nothing limits the fleet." };
    }
    match reasons(sample, now)
        .into_iter()
        .max_by_key(|(_, count)| *count)
    {
        Some((words, count)) => html! {
            "Of " (sample.len()) " waiting runs that were looked at, " strong { (count) } " wait because "
            strong { (page::text(&words)) } "."
        },
        None => html! { "What waits is held by nothing: it boots as its turn comes." },
    }
}

/// Why runs wait, in words without what differs from run to run, and how many for each.
fn reasons(sample: &[Waiting], now: u64) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for hold in sample.iter().filter_map(|waiting| waiting.held_by.first()) {
        let words = match hold {
            WaitReason::TenantPaused => "their tenant is paused".to_owned(),
            WaitReason::TenantCap { .. } => {
                "their tenant has as many machines as it may".to_owned()
            }
            WaitReason::TenantShare { .. } => {
                "their tenant has its share of the machines".to_owned()
            }
            WaitReason::Budget { .. } => "their tenant has used up its day's budget".to_owned(),
            WaitReason::NotBefore { .. } => "their time has not come".to_owned(),
            WaitReason::Refused { .. } => "the provider had no capacity for them".to_owned(),
            other => explain::hold(other, now),
        };
        *reasons.entry(words).or_insert(0) += 1;
    }
    reasons
}

fn pause_form(view: &View<'_>, is_paused: bool) -> Markup {
    html! {
        @if view.is_operator() {
            h2 { "Everything" }
            @if is_paused {
                (view.button("resume", &[("all", "1")], "Resume everything", "strong"))
            } @else {
                (view.button("pause", &[("all", "1")], "Pause everything", "danger"))
                p.faint { "Machines that run go on; nothing boots, and requests wait." }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_one_kind_are_counted_together() {
        let waiting = |hold: WaitReason| Waiting {
            runs_before: None,
            tenants_before: None,
            held_by: vec![hold],
        };
        let sample = [
            waiting(WaitReason::TenantCap {
                max: 1,
                in_flight: 1,
            }),
            waiting(WaitReason::TenantCap {
                max: 2,
                in_flight: 2,
            }),
            waiting(WaitReason::NoWorker),
        ];
        let found = reasons(&sample, 0);
        assert_eq!(found["their tenant has as many machines as it may"], 2);
        assert_eq!(found["no worker is running"], 1);
    }
}
