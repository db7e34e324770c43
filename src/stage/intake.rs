//! Request entry → queued run, or a rejected result, or a dead entry.

use tracing::{info, warn};

use crate::clock::UnixMs;
use crate::milestone::milestone;
use crate::run::digest::sha256;
use crate::run::id::{RunId, Tenant};
use crate::run::outcome::{Ending, ReasonCode};
use crate::run::request::{Refusal, RunRequest};
use crate::stage::{Core, Error, PARSED_INLINE_BYTES, parsed};
use crate::store::acts::{Admission, Admitted, Fate, Terms};
use crate::store::keys::Inbox;
use crate::store::requests::Entry;

/// What became of a batch of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IntakeCounts {
    /// New runs, which wait for a machine.
    pub queued: usize,
    /// Requests that broke a rule, and have their result.
    pub rejected: usize,
    /// Requests that are runs already.
    pub known: usize,
    /// Requests whose id belongs to another request's run.
    pub conflicts: usize,
    /// Entries that are not requests.
    pub dead: usize,
}

/// What an entry is.
enum Parsed {
    Run(Box<Admission>),
    Dead(String),
}

/// Takes entries in. Safe to repeat: a run that is known stays as it is. One round trip for all
/// requests, one more when the backlog is full for some of them, and one for each entry that is not
/// a request.
///
/// # Errors
/// When Redis does not answer; entries that were not taken in stay pending and come again.
pub async fn intake(core: &Core, entries: &[Entry]) -> Result<IntakeCounts, Error> {
    let mut counts = IntakeCounts::default();
    let mut batch = Vec::with_capacity(entries.len());
    let now = core.clock.now_ms();
    for entry in entries {
        let parsed_entry = if entry.bytes() <= PARSED_INLINE_BYTES {
            parse(core, entry, now)
        } else {
            let (core, entry) = (core.clone(), entry.clone());
            parsed(entry.bytes(), move || parse(&core, &entry, now)).await
        };
        match parsed_entry {
            Parsed::Run(admission) => batch.push(*admission),
            Parsed::Dead(reason) => {
                core.store.dead_letter(Inbox::Runs, entry, &reason).await?;
                milestone!("intake::dead_lettered");
                warn!(
                    entry = entry.id,
                    reason, "an entry is not a request; set aside as dead"
                );
                counts.dead += 1;
            }
        }
    }
    let turned_away = admit(core, batch, now, &mut counts).await?;
    // A rejection needs no place in the backlog and is always admitted.
    admit(core, turned_away, now, &mut counts).await?;
    Ok(counts)
}

/// Admits a batch. Returns the rejections of those for which the backlog was full.
async fn admit(
    core: &Core,
    batch: Vec<Admission>,
    now: UnixMs,
    counts: &mut IntakeCounts,
) -> Result<Vec<Admission>, Error> {
    let mut turned_away = Vec::new();
    if batch.is_empty() {
        return Ok(turned_away);
    }
    let terms = Terms {
        retention: core.runs.retention,
        backlog_max: core.runs.backlog_max,
        tenant_backlog_max: core.runs.tenant_backlog_max,
    };
    let admitted = core.store.admit(&batch, &terms, now).await?;
    milestone!("intake::admitted");
    for (admission, admitted) in batch.into_iter().zip(admitted) {
        match admitted {
            Admitted::New => count(core, &admission, counts),
            Admitted::Known => {
                info!(
                    run_id = admission.id.as_str(),
                    "a run of this id is known; the request changes nothing"
                );
                counts.known += 1;
            }
            Admitted::Taken => {
                warn!(
                    run_id = admission.id.as_str(),
                    tenant = admission.tenant.as_str(),
                    entry = admission.entry,
                    "the id belongs to the run of another request; set aside as dead"
                );
                core.metrics.id_conflicts.inc();
                counts.conflicts += 1;
            }
            Admitted::Full => turned_away.push(reject(admission, "as many runs wait as may")),
            Admitted::TenantFull => {
                let message = "as many runs of this tenant wait as may";
                turned_away.push(reject(admission, message));
            }
        }
    }
    Ok(turned_away)
}

fn reject(admission: Admission, message: &str) -> Admission {
    let ending = Ending::without(ReasonCode::QueueFull, message);
    let (Fate::Queued {
        metadata,
        traceparent,
        ..
    }
    | Fate::Rejected {
        metadata,
        traceparent,
        ..
    }) = admission.fate;
    Admission {
        fate: Fate::Rejected {
            ending,
            metadata,
            traceparent,
        },
        ..admission
    }
}

fn count(core: &Core, admission: &Admission, counts: &mut IntakeCounts) {
    let run = admission.id.as_str();
    match &admission.fate {
        Fate::Queued { .. } => {
            info!(run_id = run, tenant = admission.tenant.as_str(), "queued");
            core.metrics.runs_admitted.inc();
            counts.queued += 1;
        }
        Fate::Rejected { ending, .. } => {
            info!(run_id = run, %ending, "rejected");
            core.metrics.results.of(ending.outcome()).inc();
            counts.rejected += 1;
        }
    }
}

fn parse(core: &Core, entry: &Entry, now: UnixMs) -> Parsed {
    if let Some(bytes) = entry.unread_bytes {
        return Parsed::Dead(format!("the entry has {bytes} bytes, too many to be read"));
    }
    let Some(json) = entry.run() else {
        return Parsed::Dead("the entry has no field `run` that is UTF-8 text".into());
    };
    let from = Source {
        entry,
        now,
        digest: sha256(json.as_bytes()),
    };
    let judged = if json.len() > core.runs.request_max_bytes {
        let rule = format!("is longer than {} bytes", core.runs.request_max_bytes);
        Err(Refusal::Field {
            field: "run".into(),
            rule,
        })
    } else {
        RunRequest::parse(json, &core.limits()).and_then(|request| {
            request.check_times(now)?;
            Ok(request)
        })
    };
    match judged {
        Ok(request) => admission(
            from,
            request.id.clone(),
            request.tenant.clone(),
            Fate::Queued {
                request_bytes: json.len(),
                input: RunRequest::input_span(json),
                timeout: request.timeout,
                timeout_asked: request.timeout_asked,
                queue_ttl: request.queue_ttl,
                priority: request.priority,
                image: request.image,
                size: request.guest,
                not_before: request.not_before_ms.filter(|at| *at > now),
                traceparent: request.traceparent,
                metadata: request.metadata.map(|raw| raw.get().to_owned()),
            },
        ),
        Err(refusal) => match RunRequest::readable(json) {
            Ok(readable) => {
                let ending = Ending::without(ReasonCode::InvalidRequest, refusal.to_string());
                let metadata = readable.metadata.map(|raw| raw.get().to_owned());
                let fate = Fate::Rejected {
                    ending,
                    metadata,
                    traceparent: readable.traceparent,
                };
                admission(from, readable.id, readable.tenant, fate)
            }
            Err(_) => Parsed::Dead(refusal.to_string()),
        },
    }
}

/// Where a request comes from.
struct Source<'a> {
    entry: &'a Entry,
    now: UnixMs,
    digest: String,
}

fn admission(
    Source { entry, now, digest }: Source<'_>,
    id: Option<RunId>,
    tenant: Tenant,
    fate: Fate,
) -> Parsed {
    // A stream id is digits and a dash, which is a run id.
    let Some(id) = id.or_else(|| entry.id.parse().ok()) else {
        return Parsed::Dead("the entry's id is no run id".into());
    };
    Parsed::Run(Box::new(Admission {
        id,
        entry: entry.id.clone(),
        digest,
        tenant,
        submitted_at_ms: entry.appended_at_ms(now),
        fate,
    }))
}
