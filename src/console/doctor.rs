//! What `doctor` finds, and what operators did.

use std::sync::Arc;
use std::time::Duration;

use maud::{Markup, html};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::console::page::{self, Rendered, View, block};
use crate::store::Error;

/// How long findings are shown before they are looked for again.
const CACHED_FOR: Duration = Duration::from_secs(10);
/// How long they may take.
const TIMEOUT: Duration = Duration::from_secs(7);
/// Deeds that are shown.
const DEEDS: usize = 200;

/// The outcome of one check.
#[expect(missing_docs, reason = "each says itself")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was checked.
    pub what: String,
    /// What came of it.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// The last findings; who asks while they are looked for waits for the same ones.
#[derive(Default)]
pub(super) struct Findings(Mutex<Option<(Instant, Arc<Vec<Finding>>)>>);

impl Findings {
    async fn get(&self, view: &View<'_>) -> Option<Arc<Vec<Finding>>> {
        let examine = view.console.deps.examine.as_ref()?;
        let mut last = self.0.lock().await;
        if let Some((at, findings)) = &*last
            && at.elapsed() < CACHED_FOR
        {
            return Some(findings.clone());
        }
        let found = match timeout(TIMEOUT, examine()).await {
            Ok(found) => found,
            Err(_) => vec![Finding {
                what: "doctor".to_owned(),
                verdict: Verdict::Fail,
                found: "the checks took too long".to_owned(),
                remedy: Some("run `cofferdam doctor` beside this process".to_owned()),
            }],
        };
        let found = Arc::new(found);
        *last = Some((Instant::now(), found.clone()));
        Some(found)
    }
}

pub(super) async fn render(view: &View<'_>) -> Result<Rendered, Error> {
    let live = match view.console.findings.get(view).await {
        Some(findings) => table(&findings),
        None => {
            html! { p { "This console cannot run the checks; run " code { "cofferdam doctor" } "." } }
        }
    };
    Ok(Rendered::new("Doctor", live))
}

fn table(findings: &[Finding]) -> Markup {
    html! {
        div.scroll { table {
            caption { "As this process sees it, with its own settings" }
            thead { tr { th scope="col" { "Check" } th scope="col" { "Verdict" } th scope="col" { "Found" } th scope="col" { "What to do" } } }
            tbody { @for finding in findings { tr {
                th scope="row" { (page::text(&finding.what)) }
                td {
                    @match finding.verdict {
                        Verdict::Ok => span.good { "ok" },
                        Verdict::Warn => span.notice { "warn" },
                        Verdict::Fail => span.bad { "fail" },
                    }
                }
                td { (block(&finding.found, 1000)) }
                td { (block(finding.remedy.as_deref().unwrap_or_default(), 1000)) }
            } } }
        } }
    }
}

pub(super) async fn audit(view: &View<'_>) -> Result<Rendered, Error> {
    let deeds = view.console.deps.store.deeds(DEEDS).await?;
    let live = html! {
        @if deeds.is_empty() { p { "Nothing was done by a console yet." } }
        @else {
            div.scroll { table {
                caption { "The last " (deeds.len()) " things that were done by a console, newest first" }
                thead { tr {
                    th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "Act" } th scope="col" { "What" } th scope="col" { "Answer" }
                } }
                tbody { @for (at, deed) in &deeds { tr {
                    td { (view.ago(Some(*at))) }
                    td { (page::text(&deed.role)) " " (page::text(&deed.who)) }
                    td { (page::text(&deed.act)) }
                    td { (page::text(&deed.what)) }
                    td { (page::text(&deed.answer)) }
                } } }
            } }
        }
    };
    Ok(Rendered::new("Audit", live))
}
