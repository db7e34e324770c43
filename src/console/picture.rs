//! Pictures of the last hour, drawn as SVG: how many ended, and how long they took.

use maud::{Markup, html};

use crate::console::page::{length, utc};
use crate::run::outcome::Outcome;
use crate::run::spread::Spread;
use crate::store::ended::Minute;

const WIDTH: usize = 600;
const HEIGHT: usize = 140;
/// Room for the words at the left and below.
const LEFT: usize = 52;
const BELOW: usize = 18;

/// How many runs ended in each minute, by outcome.
pub(super) fn throughput(minutes: &[Minute]) -> Markup {
    let total = |minute: &Minute| minute.outcomes.iter().sum::<u64>();
    let most = minutes.iter().map(total).max().unwrap_or(0).max(1);
    let all: u64 = minutes.iter().map(total).sum();
    let slot = (WIDTH - LEFT) as u64 / (minutes.len().max(1) as u64);
    let room = (HEIGHT - BELOW) as u64;
    let label = format!(
        "Runs that ended in each minute of the last hour, {all} in all, {most} in one minute at the most"
    );
    html! {
        figure {
            svg viewBox={"0 0 " (WIDTH) " " (HEIGHT)} role="img" aria-label=(label) {
                text x="4" y="14" { (most) }
                text x="4" y=(room) { "0" }
                @for (at, minute) in minutes.iter().enumerate() {
                    @for (outcome, from, height) in stacked(minute, most, room) {
                        rect class={"bar-" (outcome)} x=(LEFT as u64 + at as u64 * slot) y=(from)
                            width=(slot.saturating_sub(1).max(1)) height=(height) {}
                    }
                }
                (axis(minutes))
            }
            figcaption.faint {
                "Ended, each minute of the last hour: " (all) ". "
                @for (outcome, count) in by_outcome(minutes) {
                    span class={"key key-" (outcome.as_str())} {} " " (outcome.as_str()) " " (count) " "
                }
            }
        }
    }
}

/// p50, p95 and p99 of a length of time in each minute.
pub(super) fn percentiles(name: &str, minutes: &[Minute], of: fn(&Minute) -> &Spread) -> Markup {
    let mut whole = Spread::default();
    minutes.iter().for_each(|minute| whole.merge(of(minute)));
    let at = |share: f64| {
        whole
            .quantile_ms(share)
            .map_or_else(|| "–".to_owned(), length)
    };
    let label = format!(
        "{name} in the last hour: p50 {}, p95 {}, p99 {}",
        at(0.5),
        at(0.95),
        at(0.99)
    );
    let most = minutes
        .iter()
        .filter_map(|minute| of(minute).quantile_ms(0.99))
        .max()
        .unwrap_or(1)
        .max(1);
    html! {
        figure {
            svg viewBox={"0 0 " (WIDTH) " " (HEIGHT)} role="img" aria-label=(label) {
                text x="4" y="14" { (length(most)) }
                text x="4" y=(HEIGHT - BELOW) { "0" }
                @for (class, share) in [("line-p50", 0.5), ("line-p95", 0.95), ("line-p99", 0.99)] {
                    @for points in lines(minutes, of, share, most) {
                        polyline class=(class) points=(points) {}
                    }
                }
                (axis(minutes))
            }
            figcaption.faint { (label) " (solid, dashed, dotted)" }
        }
    }
}

/// The numbers of the pictures, for who does not see them.
pub(super) fn table(minutes: &[Minute]) -> Markup {
    html! {
        details {
            summary { "The same in numbers" }
            div.scroll {
                table {
                    caption { "Ten minutes a line" }
                    thead { tr {
                        th scope="col" { "From" }
                        @for outcome in Outcome::ALL { th scope="col" { (outcome.as_str()) } }
                        th scope="col" { "Waited p50, p99" }
                        th scope="col" { "Booted p50, p99" }
                        th scope="col" { "Ran p50, p99" }
                    } }
                    tbody {
                        @for ten in minutes.chunks(10) {
                            tr {
                                th scope="row" { (ten.first().map(|minute| utc(minute.begins_ms)).unwrap_or_default()) }
                                @for (_, count) in by_outcome(ten) { td { (count) } }
                                @for of in [wait as fn(&Minute) -> &Spread, boot, ran] { td { (pair(ten, of)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn wait(minute: &Minute) -> &Spread {
    &minute.wait
}

pub(super) fn boot(minute: &Minute) -> &Spread {
    &minute.boot
}

pub(super) fn ran(minute: &Minute) -> &Spread {
    &minute.run
}

fn pair(minutes: &[Minute], of: fn(&Minute) -> &Spread) -> String {
    let mut whole = Spread::default();
    minutes.iter().for_each(|minute| whole.merge(of(minute)));
    match (whole.quantile_ms(0.5), whole.quantile_ms(0.99)) {
        (Some(half), Some(most)) => format!("{}, {}", length(half), length(most)),
        _ => "–".to_owned(),
    }
}

fn by_outcome(minutes: &[Minute]) -> Vec<(Outcome, u64)> {
    let sum = |at: usize| {
        minutes
            .iter()
            .filter_map(|minute| minute.outcomes.get(at))
            .sum()
    };
    Outcome::ALL
        .into_iter()
        .enumerate()
        .map(|(at, outcome)| (outcome, sum(at)))
        .collect()
}

/// The bars of a minute, from below: outcome, top, height.
fn stacked(minute: &Minute, most: u64, room: u64) -> Vec<(&'static str, u64, u64)> {
    let (mut bars, mut top) = (Vec::new(), room);
    for (outcome, count) in Outcome::ALL.iter().zip(minute.outcomes) {
        if count == 0 {
            continue;
        }
        // One that is there is seen.
        let height = (count.saturating_mul(room) / most).max(1).min(top);
        top -= height;
        bars.push((outcome.as_str(), top, height));
    }
    bars
}

/// The points of a line, broken where nothing was counted; a single one is a short stroke.
fn lines(minutes: &[Minute], of: fn(&Minute) -> &Spread, share: f64, most: u64) -> Vec<String> {
    let slot = (WIDTH - LEFT) / minutes.len().max(1);
    let room = (HEIGHT - BELOW) as u64;
    let (mut lines, mut current) = (Vec::new(), String::new());
    for (at, minute) in minutes.iter().enumerate() {
        match of(minute).quantile_ms(share) {
            Some(ms) => {
                let y = room - (ms.min(most).saturating_mul(room - 8) / most);
                let x = LEFT + at * slot;
                current.push_str(&format!("{x},{y} {},{y} ", x + slot.saturating_sub(1)));
            }
            None if current.is_empty() => {}
            None => lines.push(std::mem::take(&mut current)),
        }
    }
    if !current.is_empty() {
        lines.push(current);
    }
    lines
}

fn axis(minutes: &[Minute]) -> Markup {
    let word = |minute: Option<&Minute>| {
        let at = minute
            .map(|minute| utc(minute.begins_ms))
            .unwrap_or_default();
        at.get(11..16).unwrap_or_default().to_owned()
    };
    html! {
        text x=(LEFT) y=(HEIGHT - 4) { (word(minutes.first())) }
        text x=(WIDTH - 40) y=(HEIGHT - 4) { (word(minutes.last())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_the_room_and_a_small_one_is_seen() {
        let minute = Minute {
            outcomes: [997, 3, 0, 0, 0],
            ..Minute::default()
        };
        let bars = stacked(&minute, 1000, 100);
        assert_eq!(bars, [("completed", 1, 99), ("failed", 0, 1)]);
        assert!(stacked(&Minute::default(), 1, 100).is_empty());
    }

    #[test]
    fn a_minute_without_runs_breaks_the_line() {
        let mut with = Minute::default();
        with.wait.add(10, 1);
        let minutes = [with.clone(), Minute::default(), with];
        assert_eq!(lines(&minutes, wait, 0.5, 100).len(), 2);
        assert!(
            percentiles("Waited", &[], wait)
                .into_string()
                .contains("p50 –")
        );
    }
}
