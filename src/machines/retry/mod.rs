//! What is to be done about a call that failed: [`judge`], a pure function.
//!
//! A refusal is read in this order: the service's own code, its text, the HTTP status. A code that
//! is not known here outranks the texts about capacity, since whoever sends codes would send the
//! one for capacity. The texts are in [`words`]; the status decides where no text is known. Every
//! answer of the table, `tests/fixtures/machines/answers.json`, says where it was seen.

mod words;

use std::time::Duration;

use self::words::ImageFault;
use super::call::Call;
use super::error::{Error, Refusal};

/// What to do about a failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Make the same call again, after a pause; it did nothing, or is safe to repeat.
    Retry,
    /// Make the same call again after this long, or a pause of one's own; and hold back other
    /// calls to the same app, for the limit is not this call's alone.
    RateLimited {
        /// What the service asked for.
        retry_after: Option<Duration>,
    },
    /// It is not known whether the machine was created: look for its name. Found: use it. Not
    /// found: create again under the same name.
    LookUp,
    /// A machine of this name exists: read it, check its name, use it.
    Adopt {
        /// Its id.
        machine_id: String,
    },
    /// The chosen host had no room: create again, and the service chooses another.
    OtherHost,
    /// The region has no room: create again in another, or wait.
    OtherRegion,
    /// The account may have no more, or nothing: a quota, a payment, a verification. Stop booting,
    /// keep requests waiting.
    Quota,
    /// The token is not valid for this: stop booting, keep requests waiting.
    Unauthorized,
    /// The image cannot be used: final for this run.
    ImageRejected {
        /// In the service's words.
        message: String,
    },
    /// The registry does not know the image: final for this run, unless it was pushed moments ago.
    ImageUnknown {
        /// In the service's words.
        message: String,
    },
    /// The call itself is wrong: final.
    Invalid {
        /// In the service's words.
        message: String,
    },
    /// A refusal in words that are not known: tried a few times, then it is the call that is wrong.
    Unclear {
        /// In the service's words.
        message: String,
    },
    /// The app or the address is wrong, or the service does not have this call: stop booting, keep
    /// requests waiting.
    Misconfigured {
        /// In the service's words.
        message: String,
    },
    /// There is no such machine: it is gone, or was created moments ago and is not visible yet.
    Gone,
    /// The state was not reached in time: wait again.
    NotYet,
    /// It is alive: delete it by force.
    StillActive,
    /// Someone holds a lease on it: try again when that has ended.
    Held,
    /// Its state is not what the call needs, or it changed meanwhile: read it, then decide anew.
    ReadAgain,
}

/// Judges the failure of `call`.
#[must_use]
pub fn judge(call: Call, error: &Error) -> Decision {
    match error {
        Error::Settings(message) => misconfigured(message),
        Error::Malformed { reason, .. } => Decision::Invalid {
            message: reason.clone(),
        },
        Error::NotSent { .. } => Decision::Retry,
        Error::NoAnswer { .. } | Error::Unreadable { .. } => unsure(call),
        Error::Refused(refusal) => {
            // As it came: whoever names a variable's value after a word of the service's must not
            // be able to strike that word out of what it says.
            let text = &refusal.said.text;
            by_code(refusal)
                .or_else(|| by_text(call, refusal, text))
                .or_else(|| by_capacity_text(refusal, text))
                .unwrap_or_else(|| by_status(call, refusal, text))
        }
    }
}

/// The codes of the service's own description.
fn by_code(refusal: &Refusal) -> Option<Decision> {
    match refusal.said.code.as_deref()? {
        "insufficient_capacity" | "volume_placement_capacity" => Some(Decision::OtherRegion),
        // Of an app, not of a machine: nothing here makes apps.
        "name_taken" => {
            let message = refusal.text.clone();
            Some(Decision::Invalid { message })
        }
        _ => None,
    }
}

/// Texts that mean one thing whatever the status.
fn by_text(call: Call, refusal: &Refusal, text: &str) -> Option<Decision> {
    let has = |words: &str| text.contains(words);
    if let Some(fault) = words::image_fault(text) {
        return Some(image(fault, refusal));
    }
    if refusal.status == 400 {
        // It may repeat what the producer wrote, who must not be able to put words in our mouth.
        let ours = call == Call::Create && words::begins_with_the_account(text);
        return ours.then_some(Decision::Quota);
    }
    let decision = if has("unique machine name violation") {
        match machine_id(text) {
            Some(machine_id) => Decision::Adopt { machine_id },
            None => Decision::LookUp,
        }
    } else if has("lease currently held") {
        Decision::Held
    } else if has("currently replaced") || has("concurrent update") {
        Decision::ReadAgain
    } else if has("failed to reach desired state") {
        Decision::NotYet
    } else if has("refusing to destroy") {
        Decision::StillActive
    } else if has("rate limit exceeded") {
        rate_limited(refusal)
    } else if call == Call::Create
        && matches!(refusal.status, 402..=403 | 405..=499)
        && words::is_about_the_account(text)
    {
        Decision::Quota
    } else if has("page not found") {
        // The answer of a server that has no such route. Taken for the 404 of a machine it would
        // let a wrong address pass for machines that are gone.
        misconfigured(&refusal.text)
    } else {
        return None;
    };
    Some(decision)
}

/// "unauthorized" alone would also be what a bad API token gets; after the words about a manifest
/// it is the registry's.
fn image(fault: ImageFault, refusal: &Refusal) -> Decision {
    let message = refusal.text.clone();
    match fault {
        ImageFault::Registry => Decision::Retry,
        ImageFault::Unknown => Decision::ImageUnknown { message },
        ImageFault::Refused => Decision::ImageRejected { message },
    }
}

/// Texts that tell of no room.
fn by_capacity_text(refusal: &Refusal, text: &str) -> Option<Decision> {
    let codes = ["error", "success"];
    let coded = refusal
        .said
        .code
        .as_deref()
        .is_some_and(|code| !codes.contains(&code));
    if coded {
        return None;
    }
    if words::host_has_no_room(text) {
        Some(Decision::OtherHost)
    } else if words::region_has_no_room(text) {
        Some(Decision::OtherRegion)
    } else {
        None
    }
}

/// Whether a refusal says that no host could be chosen: then nothing was made, whatever the status.
pub(super) fn chose_no_host(refusal: &Refusal) -> bool {
    let decision = by_code(refusal).or_else(|| by_capacity_text(refusal, &refusal.said.text));
    decision.is_some_and(|decision| decision == Decision::OtherRegion)
}

fn by_status(call: Call, refusal: &Refusal, text: &str) -> Decision {
    match refusal.status {
        401 | 403 => Decision::Unauthorized,
        404 => not_found(call, refusal),
        408 if call == Call::Wait => Decision::NotYet,
        408 | 500 | 502..=599 => unsure(call),
        409 => conflict(call),
        412 => precondition(call, refusal),
        402 => Decision::Quota,
        422 if call == Call::Create && !words::request_is_wrong(text) => unclear(refusal),
        429 => rate_limited(refusal),
        // A redirect is the answer of something in between; 405 and 501 of a server without this
        // call.
        300..=399 | 405 | 501 => misconfigured(&refusal.text),
        _ => invalid(refusal),
    }
}

fn not_found(call: Call, refusal: &Refusal) -> Decision {
    match call {
        Call::Get | Call::Wait | Call::Start | Call::Stop | Call::Delete => Decision::Gone,
        Call::Create | Call::List | Call::App | Call::Token | Call::Logs => {
            misconfigured(&refusal.text)
        }
    }
}

/// 409 in words that are not known.
fn conflict(call: Call) -> Decision {
    match call {
        // A name that is taken also gets 409, and looking for it does no harm.
        Call::Create => Decision::LookUp,
        _ => Decision::ReadAgain,
    }
}

/// 412 in words that are not known.
fn precondition(call: Call, refusal: &Refusal) -> Decision {
    match call {
        Call::Create => unclear(refusal),
        Call::Delete => Decision::StillActive,
        // It is still stopping, being prepared or being replaced; that passes.
        Call::Start => Decision::Retry,
        _ => Decision::ReadAgain,
    }
}

/// A call that may have happened.
fn unsure(call: Call) -> Decision {
    if call == Call::Create {
        Decision::LookUp
    } else {
        Decision::Retry
    }
}

fn rate_limited(refusal: &Refusal) -> Decision {
    let retry_after = refusal.retry_after;
    Decision::RateLimited { retry_after }
}

fn misconfigured(message: &str) -> Decision {
    let message = message.to_owned();
    Decision::Misconfigured { message }
}

fn unclear(refusal: &Refusal) -> Decision {
    let message = refusal.text.clone();
    Decision::Unclear { message }
}

fn invalid(refusal: &Refusal) -> Decision {
    let message = refusal.text.clone();
    Decision::Invalid { message }
}

/// The id in `… machine id <id> already exists with name …`, in small letters.
fn machine_id(text: &str) -> Option<String> {
    let (_, after) = text.split_once("machine id ")?;
    let end = after
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(after.len());
    (1..=64).contains(&end).then(|| after[..end].to_owned())
}

#[cfg(test)]
mod tests;
