//! A request becomes a run.

use crate::clock::UnixMs;
use crate::run::budget;
use crate::run::outcome::Ending;
use crate::run::request::{Guest, PRIORITY_DEFAULT, QUEUE_TTL_MAX};
use crate::store::Store;
use crate::store::acts::{Admission, Admitted, Fate, Terms};
use crate::store::codec::{self, result_pieces};
use crate::store::error::Error;
use crate::store::keys::GROUP;
use crate::store::requests::millis;
use crate::store::scripts;

impl Store {
    /// Admits requests: each becomes a run (or its rejection), unless its id is known, and is
    /// acknowledged and deleted. One round trip for all of them. Safe to repeat.
    ///
    /// # Errors
    /// [`Error`]; any part of the batch may have been admitted.
    pub async fn admit(
        &self,
        batch: &[Admission],
        terms: &Terms,
        now: UnixMs,
    ) -> Result<Vec<Admitted>, Error> {
        let mut pipe = redis::pipe();
        for admission in batch {
            pipe.invoke_script(&self.admit_invocation(admission, terms, now));
        }
        let words: Vec<String> = self.door.scripts(&scripts::ADMIT, &pipe).await?;
        words
            .iter()
            .map(|word| match word.as_str() {
                "admitted" => Ok(Admitted::New),
                "known" => Ok(Admitted::Known),
                "full" => Ok(Admitted::Full),
                "tenant_full" => Ok(Admitted::TenantFull),
                other => Err(Error::Corrupt {
                    what: "the answer of admit".into(),
                    found: other.to_owned(),
                }),
            })
            .collect()
    }

    fn admit_invocation(
        &self,
        admission: &Admission,
        terms: &Terms,
        now: UnixMs,
    ) -> redis::ScriptInvocation<'_> {
        let keys = &self.keys;
        let submitted = admission.submitted_at_ms;
        let mut words = vec![("submitted_at_ms", submitted.to_string())];
        let (mut ready, mut priority, mut json) = (0, PRIORITY_DEFAULT, "");
        let (state, due, expires, pieces) = match &admission.fate {
            Fate::Queued {
                request,
                timeout,
                queue_ttl,
                priority: first,
                not_before,
                size,
                metadata,
            } => {
                ready = not_before.unwrap_or(0);
                priority = *first;
                json = request;
                let waits_from = submitted.max(ready);
                let until = budget::after(waits_from, queue_ttl.unwrap_or(QUEUE_TTL_MAX));
                words.push(("timeout_ms", millis(*timeout).to_string()));
                words.push(("queue_until_ms", until.to_string()));
                if *size != Guest::default() {
                    words.push(("size", size.word()));
                }
                words.extend(metadata.clone().map(|metadata| ("metadata", metadata)));
                let expires = budget::after(until.max(now), budget::HASH_SLACK);
                ("queued", until, expires, Vec::new())
            }
            Fate::Rejected(ending) => {
                words.push(("outcome", ending.outcome().as_str().to_owned()));
                words.push(("settled_at_ms", now.to_string()));
                words.push(("closed_at_ms", now.to_string()));
                if let Ending::Without { reason, .. } = ending {
                    words.push(("reason", codec::json(reason)));
                }
                let pieces = result_pieces(&admission.id, ending);
                ("closed", 0, budget::after(now, terms.retention), pieces)
            }
        };
        let mut script = scripts::ADMIT.prepare_invoke();
        script
            .key(keys.run(&admission.id))
            .key(keys.runs())
            .key(keys.due())
            .key(keys.results())
            .key(keys.request(&admission.id));
        script
            .arg(keys.namespace())
            .arg(admission.id.as_str())
            .arg(GROUP)
            .arg(&admission.entry);
        script
            .arg(admission.tenant.as_str())
            .arg(state)
            .arg(expires)
            .arg(due);
        script.arg(ready).arg(priority).arg(json);
        script
            .arg(terms.backlog_max.unwrap_or(0))
            .arg(terms.tenant_backlog_max.unwrap_or(0));
        script.arg(&scripts::meter(now)).arg(words.len() * 2);
        for (field, value) in &words {
            script.arg(*field).arg(value);
        }
        script.arg(pieces);
        script
    }
}
