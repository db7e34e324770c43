//! A request becomes a run.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::run::budget;
use crate::run::outcome::{Ending, ReasonCode};
use crate::run::request::{Guest, PRIORITY_DEFAULT, QUEUE_TTL_MAX};
use crate::store::Store;
use crate::store::acts::{Admission, Admitted, Fate, Terms};
use crate::store::codec::{self, result_parts};
use crate::store::error::Error;
use crate::store::keys::GROUP;
use crate::store::requests::{DEAD_FIELDS_MAX, millis};
use crate::store::scripts;

/// Bytes of requests that one script takes in, unless one alone is larger: Redis copies them, and
/// serves nobody else meanwhile.
const BATCH_BYTES: usize = 1 << 20;

/// How long the id of a request stays taken that was rejected because a backlog was full. Longer
/// than a request that is delivered twice takes to come again.
const QUEUE_FULL_KEPT: Duration = Duration::from_secs(60);

impl Store {
    /// Admits requests: each becomes a run (or its rejection), unless its id is known, and is
    /// acknowledged and deleted. The entries themselves do not travel: Redis copies them. One round trip for all of them, or for each MiB. Safe to repeat.
    ///
    /// # Errors
    /// [`Error`]; any part of the batch may have been admitted.
    pub async fn admit(
        &self,
        batch: &[Admission],
        terms: &Terms,
        now: UnixMs,
    ) -> Result<Vec<Admitted>, Error> {
        let mut answers = Vec::with_capacity(batch.len());
        let mut rest = batch;
        while !rest.is_empty() {
            let (some, others) = rest.split_at(fitting(rest));
            let mut script = self.admit_invocation(some, terms, now);
            let words: Vec<String> = self.door.decide(&mut script).await?;
            for word in words {
                answers.push(match word.as_str() {
                    "admitted" => Admitted::New,
                    "known" => Admitted::Known,
                    "taken" => Admitted::Taken,
                    "full" => Admitted::Full,
                    "tenant_full" => Admitted::TenantFull,
                    _ => {
                        return Err(Error::Corrupt {
                            what: "the answer of admit".into(),
                            found: word,
                        });
                    }
                });
            }
            rest = others;
        }
        Ok(answers)
    }

    fn admit_invocation(
        &self,
        batch: &[Admission],
        terms: &Terms,
        now: UnixMs,
    ) -> scripts::Invocation {
        let keys = &self.keys;
        let mut script = scripts::ADMIT.prepare_invoke();
        script
            .key(keys.runs())
            .key(keys.due())
            .key(keys.results())
            .key(keys.dead());
        script.arg(keys.namespace()).arg(GROUP);
        script
            .arg(terms.backlog_max.unwrap_or(0))
            .arg(terms.tenant_backlog_max.unwrap_or(0));
        script.arg(&self.meter(now));
        script.arg(self.retention.dead).arg(2 * DEAD_FIELDS_MAX);
        script.arg(batch.len());
        for admission in batch {
            add(&mut script, admission, terms, now);
        }
        script
    }
}

/// How many of the first requests go into one script; one at least.
fn fitting(batch: &[Admission]) -> usize {
    let mut bytes = 0;
    let fit = batch.iter().take_while(|admission| {
        bytes += match &admission.fate {
            Fate::Queued { request_bytes, .. } => *request_bytes,
            Fate::Rejected { .. } => 0,
        };
        bytes <= BATCH_BYTES
    });
    fit.count().max(1)
}

/// What the script needs of one request.
fn add(script: &mut scripts::Invocation, admission: &Admission, terms: &Terms, now: UnixMs) {
    let submitted = admission.submitted_at_ms;
    let mut words = vec![("submitted_at_ms", submitted.to_string())];
    script
        .arg(admission.id.as_str())
        .arg(&admission.entry)
        .arg(admission.tenant.as_str())
        .arg(&admission.digest);
    match &admission.fate {
        Fate::Queued {
            request_bytes: _,
            input,
            timeout,
            timeout_asked,
            queue_ttl,
            priority,
            not_before,
            image,
            size,
            metadata,
            traceparent,
        } => {
            let ready = not_before.unwrap_or(0);
            let waits_from = submitted.max(ready);
            let until = budget::after(waits_from, queue_ttl.unwrap_or(QUEUE_TTL_MAX));
            words.push(("timeout_ms", millis(*timeout).to_string()));
            words
                .extend(timeout_asked.map(|asked| ("timeout_asked_ms", millis(asked).to_string())));
            words.push(("queue_until_ms", until.to_string()));
            words.push(("input_span", format!("{} {}", input.start, input.len())));
            words.extend(codec::image_words(image));
            if *size != Guest::default() {
                words.push(("size", size.word()));
            }
            words.extend(metadata.clone().map(|metadata| ("metadata", metadata)));
            words.extend(traceparent.map(|parent| ("traceparent", parent.to_string())));
            let expires = budget::after(until.max(now), budget::HASH_SLACK);
            script.arg("queued").arg(expires).arg(until);
            script.arg(ready).arg(*priority);
            add_words(script, &words);
        }
        Fate::Rejected {
            ending,
            metadata,
            traceparent,
        } => {
            words.extend(metadata.clone().map(|metadata| ("metadata", metadata)));
            words.extend(traceparent.map(|parent| ("traceparent", parent.to_string())));
            words.push(("outcome", ending.outcome().as_str().to_owned()));
            words.push(("settled_at_ms", now.to_string()));
            words.push(("closed_at_ms", now.to_string()));
            if let Ending::Without { reason, .. } = ending {
                words.push(("reason", codec::json(reason)));
            }
            let expires = budget::after(now, kept(ending, terms.retention));
            script.arg("closed").arg(expires).arg(0);
            script.arg(0).arg(PRIORITY_DEFAULT);
            add_words(script, &words);
            script.arg(&result_parts(&admission.id, ending));
        }
    }
}

/// How long a rejected run is known. One for which there was no room may be asked for again, and
/// must not hold memory for days: there may be as many as there are requests.
fn kept(ending: &Ending, retention: Duration) -> Duration {
    match ending {
        Ending::Without { reason, .. } if reason.code == ReasonCode::QueueFull => {
            retention.min(QUEUE_FULL_KEPT)
        }
        _ => retention,
    }
}

fn add_words(script: &mut scripts::Invocation, words: &[(&str, String)]) {
    script.arg(words.len() * 2);
    for (field, value) in words {
        script.arg(*field).arg(value);
    }
}
