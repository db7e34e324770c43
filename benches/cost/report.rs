//! What was measured, as a table for people, as JSON, and as a picture.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::load::Cost;

/// Figures of one kind.
#[derive(Deserialize, Serialize)]
pub(crate) struct Part {
    pub(crate) title: String,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) values: Vec<Option<f64>>,
}

/// A bound on a figure. `at_least` turns it round.
#[derive(Deserialize, Serialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) bound: f64,
    pub(crate) at_least: bool,
    pub(crate) measured: f64,
    pub(crate) unit: String,
    /// The measured figure as people read it.
    pub(crate) shown: String,
    pub(crate) is_met: bool,
}

#[derive(Default, Deserialize, Serialize)]
pub(crate) struct Report {
    /// When, on what, and with which versions.
    pub(crate) measured: Vec<(String, String)>,
    pub(crate) is_short: bool,
    pub(crate) parts: Vec<Part>,
    pub(crate) targets: Vec<Target>,
    pub(crate) skipped: Vec<String>,
    /// Name, and cost of a run, for the picture.
    #[serde(skip)]
    pub(crate) bars: Vec<(String, Cost)>,
}

impl Part {
    pub(crate) fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, name: impl Into<String>, values: Vec<Option<f64>>) {
        self.rows.push(Row {
            name: name.into(),
            values,
        });
    }

    fn text(&self) -> String {
        let mut text = format!("\n{}\n", self.title);
        let width = self.rows.iter().map(|row| row.name.chars().count()).max();
        let width = width.unwrap_or(0).max(12);
        let _ = write!(text, "  {:width$}", "");
        for column in &self.columns {
            let _ = write!(text, " {column:>13}");
        }
        text.push('\n');
        for row in &self.rows {
            let _ = write!(text, "  {:width$}", row.name);
            for value in &row.values {
                let shown = value.map_or_else(|| "-".to_owned(), number);
                let _ = write!(text, " {shown:>13}");
            }
            text.push('\n');
        }
        text
    }
}

/// Three figures that count.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

impl Report {
    pub(crate) fn target(&mut self, name: &str, measured: f64, unit: &str, bound: f64) {
        self.bound(name, measured, unit, bound, false);
    }

    pub(crate) fn target_at_least(&mut self, name: &str, measured: f64, unit: &str, bound: f64) {
        self.bound(name, measured, unit, bound, true);
    }

    fn bound(&mut self, name: &str, measured: f64, unit: &str, bound: f64, at_least: bool) {
        let is_met = if at_least {
            measured >= bound
        } else {
            measured <= bound
        };
        self.targets.push(Target {
            name: name.to_owned(),
            shown: number(measured),
            is_met,
            bound,
            at_least,
            measured,
            unit: unit.to_owned(),
        });
    }

    pub(crate) fn text(&self) -> String {
        let told = |(name, what): &(String, String)| format!("{name}: {what}\n");
        let mut text: String = self.measured.iter().map(told).collect();
        text.extend(self.parts.iter().map(Part::text));
        if !self.targets.is_empty() {
            text.push_str("\nTargets\n");
        }
        for target in &self.targets {
            let _ = writeln!(
                text,
                "  {:<58} {:>9} {:<13} {} {:<8} {}",
                target.name,
                number(target.measured),
                target.unit,
                if target.at_least { "≥" } else { "≤" },
                number(target.bound),
                if target.is_met { "met" } else { "MISSED" }
            );
        }
        for skipped in &self.skipped {
            let _ = writeln!(text, "\nskipped: {skipped}");
        }
        text
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap()
    }

    /// Bars of processor time per run, and of runs per second.
    pub(crate) fn svg(&self) -> String {
        const LEFT: f64 = 110.0;
        const WIDE: f64 = 250.0;
        const SECOND: f64 = 500.0;
        let most = |f: fn(&Cost) -> f64| {
            self.bars
                .iter()
                .map(|(_, cost)| f(cost))
                .fold(0.0, f64::max)
        };
        let (ms, rate) = (most(Cost::all_ms), most(|cost| cost.runs_per_s));
        let high = 74 + 34 * self.bars.len();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"860\" height=\"{high}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"860\" height=\"{high}\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"22\" font-weight=\"bold\">processor ms per run</text>\n\
             <text x=\"{SECOND}\" y=\"22\" font-weight=\"bold\">runs per second</text>\n"
        );
        for (index, (name, cost)) in self.bars.iter().enumerate() {
            let y = 36 + 34 * index;
            let _ = writeln!(svg, "<text x=\"10\" y=\"{}\">{name}</text>", y + 17);
            let mut x = LEFT;
            for (part, colour) in [
                (cost.worker_ms, "#2f6f9f"),
                (cost.endpoint_ms, "#7fb2d6"),
                (cost.redis_ms, "#c0504d"),
            ] {
                let wide = part / ms * WIDE;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{wide:.1}\" height=\"24\" fill=\"{colour}\"/>"
                );
                x += wide;
            }
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\">{}</text>",
                x + 6.0,
                y + 17,
                number(cost.all_ms())
            );
            let wide = cost.runs_per_s / rate * WIDE;
            let _ = writeln!(
                svg,
                "<rect x=\"{SECOND}\" y=\"{y}\" width=\"{wide:.1}\" height=\"24\" fill=\"#6a994e\"/>\n\
                 <text x=\"{:.1}\" y=\"{}\">{:.0}</text>",
                SECOND + wide + 6.0,
                y + 17,
                cost.runs_per_s
            );
        }
        let foot = 36 + 34 * self.bars.len() + 22;
        for (index, (word, colour)) in [
            ("worker", "#2f6f9f"),
            ("endpoint", "#7fb2d6"),
            ("Redis", "#c0504d"),
        ]
        .iter()
        .enumerate()
        {
            let x = LEFT + 90.0 * index as f64;
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{}\" width=\"11\" height=\"11\" fill=\"{colour}\"/>\
                 <text x=\"{}\" y=\"{foot}\">{word}</text>",
                foot - 10,
                x + 16.0
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}
