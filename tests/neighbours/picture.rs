//! What was measured, as a page of `docs` and as a picture.

use std::fmt::Write as _;
use std::time::Duration;

use crate::args::Args;
use crate::{FACTOR, Outcome};

/// The page.
pub(crate) fn table(outcomes: &[Outcome], args: &Args, loads: [String; 2]) -> String {
    let [first, last] = loads;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut page = format!(
        "# Noisy neighbours\n\n\
         One hostile tenant attacks; another has short runs, one after the other, which are timed \
         from XADD to result. The sixth promise: none is lost, and the p99 under attack is at most \
         {FACTOR} times the quiet one of the same scene. Redis has 512 MB, `serve` 512 MiB, the \
         guests are real sandboxes of the local Machines server.\n\n\
         Made by `scripts/neighbours`: {} runs quiet and as many attacked, on {cores} processors. \
         The host's load average was {first} before it and {last} after it: more than {cores} means that \
         other work ran beside it, and may have come or gone between the quiet runs and the attacked.\n\n\
         ![The victim's p99, quiet and attacked](neighbours.svg)\n\n\
         | Attack | Quiet p50, p99 (ms) | Attacked p50, p99 (ms) | Factor | Lost | Bound |\n\
         |---|---|---|---|---|---|\n",
        args.runs
    );
    for outcome in outcomes {
        let (quiet, attacked) = (&outcome.quiet, &outcome.attacked);
        let ms = |time: Duration| time.as_millis();
        let bound = match outcome.holds() {
            true => "holds",
            false => "**broken**",
        };
        let _ = writeln!(
            page,
            "| `{}`: {} | {}, {} | {}, {} | {:.1} | {} | {bound} |",
            outcome.attack.name,
            outcome.attack.what,
            ms(quiet.p50()),
            ms(quiet.p99()),
            ms(attacked.p50()),
            ms(attacked.p99()),
            outcome.factor(),
            outcome.lost(),
        );
    }
    page
}

/// How many processes wanted a processor in the last minute, on average.
pub(crate) fn load() -> String {
    let told = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    told.split_whitespace()
        .next()
        .unwrap_or("unknown")
        .to_owned()
}

const LEFT: f64 = 130.0;
const WIDTH: f64 = 560.0;
const ROW: f64 = 34.0;

/// Two bars for each attack, and the bound as a line across the second.
pub(crate) fn svg(outcomes: &[Outcome]) -> String {
    let longest = outcomes.iter().map(|outcome| {
        let bound = outcome.quiet.p99().mul_f64(FACTOR);
        bound.max(outcome.attacked.p99()).as_secs_f64()
    });
    let longest = longest.fold(0.001, f64::max);
    let x = |time: Duration| time.as_secs_f64() / longest * WIDTH;
    #[expect(clippy::cast_precision_loss, reason = "a handful of rows")]
    let height = 40.0 + ROW * outcomes.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"800\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"800\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\">p99 from XADD to result, ms: quiet, attacked, and the bound</text>\n"
    );
    let mut top = 32.0;
    for outcome in outcomes {
        let (quiet, attacked) = (outcome.quiet.p99(), outcome.attacked.p99());
        let bound = LEFT + x(quiet.mul_f64(FACTOR));
        let colour = if outcome.holds() {
            "#2f6f9f"
        } else {
            "#c0504d"
        };
        let _ = write!(
            svg,
            "<text x=\"8\" y=\"{}\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{top}\" width=\"{:.1}\" height=\"12\" fill=\"#b8c4cc\"/>\n\
             <rect x=\"{LEFT}\" y=\"{}\" width=\"{:.1}\" height=\"12\" fill=\"{colour}\"/>\n\
             <line x1=\"{bound:.1}\" x2=\"{bound:.1}\" y1=\"{top}\" y2=\"{}\" stroke=\"#333\"/>\n\
             <text x=\"{:.1}\" y=\"{}\" font-size=\"11\">{}</text>\n",
            top + 16.0,
            outcome.attack.name,
            x(quiet),
            top + 12.0,
            x(attacked),
            top + 26.0,
            LEFT + x(attacked).max(x(quiet)) + 6.0,
            top + 22.0,
            attacked.as_millis(),
        );
        top += ROW;
    }
    svg + "</svg>\n"
}
