//! How long anyone waits for cofferdam, at several rates.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::report::{Part, Report};
use crate::stack::{Size, Stack, System};
use crate::standin::{Guests, StandIn};
use crate::times::Times;

/// Offered runs a second, and for how long.
pub(crate) const FULL: [(f64, u64); 3] = [(1.0, 110), (100.0, 30), (1000.0, 30)];
pub(crate) const SHORT: [(f64, u64); 2] = [(20.0, 5), (500.0, 4)];

const COLUMNS: [&str; 4] = ["p50", "p99", "p99.9", "samples"];

fn row(part: &mut Part, name: String, times: &Histogram<u64>) {
    let at = |quantile: f64, least: u64| {
        // A quantile of fewer samples would be one of them.
        (times.len() >= least).then(|| times.value_at_quantile(quantile) as f64 / 1e6)
    };
    let values = vec![
        at(0.5, 1),
        at(0.99, 100),
        at(0.999, 1000),
        Some(times.len() as f64),
    ];
    part.row(name, values);
}

fn ms(times: &Histogram<u64>, quantile: f64) -> f64 {
    times.value_at_quantile(quantile) as f64 / 1e6
}

pub(crate) async fn measure(report: &mut Report, api: &Arc<StandIn>, rates: &[(f64, u64)]) {
    let mut part = Part::new("Latency, ms", &COLUMNS);
    for (index, (rate, seconds)) in rates.iter().enumerate() {
        let size = Size {
            workers: 1,
            in_flight: 10_000,
        };
        let stack = Stack::start(System::Cofferdam, api, size).await;
        stack.warm(200, Duration::from_millis(20)).await;
        let runs = (rate * *seconds as f64) as usize;
        let times = stack.offer(*rate, runs, Duration::from_millis(20)).await;
        stack.check(runs);
        row(
            &mut part,
            format!("(of it: this program was late), {rate}/s"),
            &times.to_sent(),
        );
        row(
            &mut part,
            format!("XADD to create call, {rate}/s"),
            &times.to_create(),
        );
        row(
            &mut part,
            format!("post to its 201, {rate}/s"),
            &times.to_answer(),
        );
        row(
            &mut part,
            format!("201 to seen on results, {rate}/s"),
            &times.to_seen(),
        );
        if index == 0 {
            let created = times.to_create();
            report.target(
                "XADD to create call, idle, p50",
                ms(&created, 0.5),
                "ms",
                1.0,
            );
            report.target(
                "XADD to create call, idle, p99",
                ms(&created, 0.99),
                "ms",
                5.0,
            );
        }
        if index + 1 == rates.len() {
            let answered = times.to_answer();
            let name = format!("post to its 201 at {rate} runs/s, p99");
            report.target(&name, ms(&answered, 0.99), "ms", 5.0);
        }
        drop(stack);
        let next = freed(api, *rate, *seconds).await;
        row(
            &mut part,
            format!("freed slot to next create, {rate}/s"),
            &next,
        );
    }
    report.parts.push(part);
}

/// More wait than may go: each delete makes room for one create.
async fn freed(api: &Arc<StandIn>, rate: f64, seconds: u64) -> Histogram<u64> {
    let slots = ((rate / 10.0) as usize).max(1);
    let delay = Duration::from_secs_f64(slots as f64 / rate);
    let size = Size {
        workers: 1,
        in_flight: slots,
    };
    // One a second is slow to measure, and a third as many say as much.
    let seconds = if rate < 10.0 { seconds / 3 } else { seconds };
    let runs = (rate * seconds as f64) as usize;
    let stack = Stack::start(System::Cofferdam, api, size).await;
    stack
        .warm(slots.clamp(5, 200), Duration::from_millis(20))
        .await;
    let times = Arc::new(Times::new(runs));
    api.begin(Guests::After(delay), times.clone());
    stack.submit(0..runs, 1).await;
    stack.until_deleted(runs).await;
    times.to_next(slots)
}
