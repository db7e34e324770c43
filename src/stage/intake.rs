//! Request entry → queued run, or a rejected result, or a dead entry.

use tracing::{info, warn};

use crate::clock::UnixMs;
use crate::milestone::milestone;
use crate::run::digest::sha256;
use crate::run::id::{RunId, Tenant};
use crate::run::outcome::{Ending, ReasonCode};
use crate::run::request::{Refusal, RunRequest};
use crate::stage::{Core, Error, PARSED_HERE_BYTES, parsed};
use crate::store::acts::{Admission, Admitted, Fate, Terms};
use crate::store::keys::Inbox;
use crate::store::requests::Entry;

/// What became of a batch of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// New runs that wait for a machine now.
    pub queued: usize,
    /// Requests that broke a rule and have their result.
    pub rejected: usize,
    /// Requests that are runs already.
    pub known: usize,
    /// Requests whose id is that of another run.
    pub taken: usize,
    /// Entries that are no request.
    pub dead: usize,
}

/// What an entry is.
enum Sorted {
    Run(Box<Admission>),
    Dead(String),
}

/// Takes entries in. Safe to repeat: a run that is known stays as it is. One round trip for all
/// requests, one more when there is no room for some of them, and one for each entry that is no
/// request.
///
/// # Errors
/// When Redis does not answer; entries that were not taken in stay pending and come again.
pub async fn intake(core: &Core, entries: &[Entry]) -> Result<Taken, Error> {
    let mut taken = Taken::default();
    let mut batch = Vec::with_capacity(entries.len());
    let now = core.clock.now_ms();
    for entry in entries {
        let sorted = if entry.bytes() <= PARSED_HERE_BYTES {
            sort(core, entry, now)
        } else {
            let (core, entry) = (core.clone(), entry.clone());
            parsed(entry.bytes(), move || sort(&core, &entry, now)).await
        };
        match sorted {
            Sorted::Run(admission) => batch.push(*admission),
            Sorted::Dead(reason) => {
                core.store.dead_letter(Inbox::Runs, entry, &reason).await?;
                milestone!("intake::dead_lettered");
                warn!(
                    entry = entry.id,
                    reason, "an entry is no request; set aside as dead"
                );
                taken.dead += 1;
            }
        }
    }
    let crowded = admit(core, batch, now, &mut taken).await?;
    // Second thoughts are settled at once: a rejection is never turned away.
    admit(core, crowded, now, &mut taken).await?;
    Ok(taken)
}

/// Admits a batch. Answers the rejections of those for which there was no room.
async fn admit(
    core: &Core,
    batch: Vec<Admission>,
    now: UnixMs,
    taken: &mut Taken,
) -> Result<Vec<Admission>, Error> {
    let mut crowded = Vec::new();
    if batch.is_empty() {
        return Ok(crowded);
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
            Admitted::New => count(core, &admission, taken),
            Admitted::Known => {
                info!(
                    run_id = admission.id.as_str(),
                    "a run of this id is known; the request changes nothing"
                );
                taken.known += 1;
            }
            Admitted::Taken => {
                warn!(
                    run_id = admission.id.as_str(),
                    tenant = admission.tenant.as_str(),
                    entry = admission.entry,
                    "another request has become the run of this id; set aside as dead"
                );
                core.metrics.ids_taken.inc();
                taken.taken += 1;
            }
            Admitted::Full => crowded.push(turned_away(admission, "as many runs wait as may")),
            Admitted::TenantFull => {
                let message = "as many runs of this tenant wait as may";
                crowded.push(turned_away(admission, message));
            }
        }
    }
    Ok(crowded)
}

fn turned_away(admission: Admission, message: &str) -> Admission {
    let ending = Ending::without(ReasonCode::QueueFull, message);
    let (Fate::Queued { metadata, .. } | Fate::Rejected { metadata, .. }) = admission.fate;
    Admission {
        fate: Fate::Rejected { ending, metadata },
        ..admission
    }
}

fn count(core: &Core, admission: &Admission, taken: &mut Taken) {
    let run = admission.id.as_str();
    match &admission.fate {
        Fate::Queued { .. } => {
            info!(run_id = run, tenant = admission.tenant.as_str(), "queued");
            core.metrics.runs_admitted.inc();
            taken.queued += 1;
        }
        Fate::Rejected { ending, .. } => {
            info!(run_id = run, %ending, "rejected");
            core.metrics.results.of(ending.outcome()).inc();
            taken.rejected += 1;
        }
    }
}

fn sort(core: &Core, entry: &Entry, now: UnixMs) -> Sorted {
    if let Some(bytes) = entry.unread_bytes {
        return Sorted::Dead(format!("the entry has {bytes} bytes, too many to be read"));
    }
    let Some(json) = entry.run() else {
        return Sorted::Dead("the entry has no field `run` that is UTF-8 text".into());
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
                size: request.guest,
                not_before: request.not_before_ms.filter(|at| *at > now),
                metadata: request.metadata.map(|raw| raw.get().to_owned()),
            },
        ),
        Err(refusal) => match RunRequest::readable(json) {
            Ok(readable) => {
                let ending = Ending::without(ReasonCode::InvalidRequest, refusal.to_string());
                let metadata = readable.metadata.map(|raw| raw.get().to_owned());
                let fate = Fate::Rejected { ending, metadata };
                admission(from, readable.id, readable.tenant, fate)
            }
            Err(_) => Sorted::Dead(refusal.to_string()),
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
) -> Sorted {
    // A stream id is digits and a dash, which is a run id.
    let Some(id) = id.or_else(|| entry.id.parse().ok()) else {
        return Sorted::Dead("the entry's id is no run id".into());
    };
    Sorted::Run(Box::new(Admission {
        id,
        entry: entry.id.clone(),
        digest,
        tenant,
        submitted_at_ms: entry.appended_at_ms(now),
        fate,
    }))
}
