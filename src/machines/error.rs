//! What can come of a call that did not succeed, and how sure it is that nothing happened.

use std::fmt;
use std::time::Duration;

use super::call::Request;
use super::retry::chose_no_host;
use super::wire::ErrorBody;

/// Characters of a text or body that an error keeps.
const KEPT_CHARS: usize = 600;

/// Why a call brought no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings cannot make a client.
    #[error("cannot reach the Machines API with these settings: {0}")]
    Settings(String),
    /// The call cannot be made: a name in it is none.
    #[error("{request}: not a call: {reason}")]
    Malformed {
        /// The call.
        request: Request,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing reached the service: it could not be found or connected to.
    #[error("{request}: not sent: {reason}")]
    NotSent {
        /// The call.
        request: Request,
        /// What was in the way.
        reason: String,
    },
    /// The request went out and no whole answer came back: a timeout, a reset, a body cut short.
    #[error("{request}: no answer: {reason}")]
    NoAnswer {
        /// The call.
        request: Request,
        /// What happened instead.
        reason: String,
    },
    /// The service said yes in a way that cannot be read.
    #[error("{request}: the answer {status} cannot be read: {reason}")]
    Unreadable {
        /// The call.
        request: Request,
        /// HTTP status of the answer.
        status: u16,
        /// What is wrong with it.
        reason: String,
    },
    /// The service answered with an error.
    #[error("{0}")]
    Refused(Box<Refusal>),
}

/// How sure it is what a failed call has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Nothing happened: the service never saw the call.
    NothingSent,
    /// Nothing happened: the service said no.
    Refused,
    /// It may have happened all the same.
    Unknown,
}

impl Error {
    /// How sure it is what the call has done.
    #[must_use]
    pub fn certainty(&self) -> Certainty {
        match self {
            Self::Settings(_) | Self::Malformed { .. } | Self::NotSent { .. } => {
                Certainty::NothingSent
            }
            Self::NoAnswer { .. } | Self::Unreadable { .. } => Certainty::Unknown,
            // The service gives up waiting for its host with a 408, and the host may go on. Where
            // no host could be chosen there is none that could.
            Self::Refused(refusal) if refusal.status == 408 || refusal.status >= 500 => {
                if chose_no_host(refusal) {
                    Certainty::Refused
                } else {
                    Certainty::Unknown
                }
            }
            Self::Refused(_) => Certainty::Refused,
        }
    }

    /// The answer, where there was one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The service's id of the request, which its support asks for.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.refusal()?.request_id.as_deref()
    }
}

/// A refused call. Values that were sent as environment or file contents, and the token,
/// are blotted out wherever the service repeats them; headers are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The call.
    pub request: Request,
    /// HTTP status.
    pub status: u16,
    /// The service's own code, such as `insufficient_capacity`.
    pub code: Option<String>,
    /// What went wrong, in the service's words; empty when it said nothing.
    pub text: String,
    /// The service's id of the request.
    pub request_id: Option<String>,
    /// How long to stay away, when the service said so.
    pub retry_after: Option<Duration>,
    /// The beginning of the body, as it came.
    pub body: String,
    /// What it says before anything is blotted out: a value may be one of the service's own words.
    pub(super) said: Said,
}

/// Code and text of a refusal as they came, to be judged and never to be shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) code: Option<String>,
    /// In small letters, and of a bounded length.
    pub(super) text: String,
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Said(…)")
    }
}

impl Refusal {
    /// Reads a refusal out of an answer's body, of whatever kind it is.
    #[must_use]
    pub fn read(request: Request, status: u16, body: &[u8], redaction: &Redaction) -> Self {
        let read = ErrorBody::read(body);
        Self {
            request,
            status,
            code: read.status.as_deref().map(|code| redaction.clean(code)),
            text: redaction.clean(read.text()),
            request_id: None,
            retry_after: None,
            body: redaction.clean(&String::from_utf8_lossy(body)),
            said: Said {
                code: read.status.as_deref().map(one_line),
                text: one_line(read.text()).to_ascii_lowercase(),
            },
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: refused with {}", self.request, self.status)?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        match &self.request_id {
            Some(id) => write!(f, " (request {id})"),
            None => Ok(()),
        }
    }
}

/// The values that must not come back in an error.
///
/// A value can come back as it is or escaped, so both forms are known. Values of fewer than four
/// characters are left alone: blotting out every `1` would blot out machine ids.
#[derive(Clone, Default)]
pub struct Redaction(Vec<String>);

impl Redaction {
    /// Blots out these values.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let long = values
            .into_iter()
            .filter(|value| value.chars().nth(3).is_some());
        Self(long.map(str::to_owned).collect())
    }

    /// The text without the values, on one line, and cut to a bounded length.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        let forms = self.forms();
        let blotted = |text: String| {
            let blot = |text: String, form: &String| match text.contains(form.as_str()) {
                true => text.replace(form.as_str(), "[redacted]"),
                false => text,
            };
            forms.iter().fold(text, blot)
        };
        // Once more on one line: a control character that stood in a value's blank is one there.
        blotted(one_line(&blotted(text.to_owned())))
    }

    /// As what the values can come back. Made when a call failed, and few do.
    fn forms(&self) -> Vec<String> {
        let mut forms = Vec::new();
        for value in &self.0 {
            let quoted = serde_json::Value::from(value.as_str()).to_string();
            let escaped = &quoted[1..quoted.len() - 1];
            if escaped != value {
                // Text that quotes the value and is itself quoted in JSON: escaped twice.
                let twice = serde_json::Value::from(escaped).to_string();
                forms.push(twice[1..twice.len() - 1].to_owned());
                forms.push(escaped.to_owned());
            }
            forms.push(value.clone());
        }
        // The longest first: one value may be a part of another.
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        forms
    }
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redaction({} values)", self.0.len())
    }
}

/// The beginning of a text, without what would break a line of a log.
pub(super) fn one_line(text: &str) -> String {
    let plain = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c });
    let mut kept: String = plain.take(KEPT_CHARS + 1).collect();
    if let Some((end, _)) = kept.char_indices().nth(KEPT_CHARS) {
        kept.truncate(end);
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::super::call::Call;
    use super::*;

    #[test]
    fn a_value_that_came_back_with_another_blank_is_blotted_out() {
        let redaction = Redaction::new(["a secret value"]);
        let cleaned = redaction.clean("bad: a secret\u{18}value");
        assert_eq!(cleaned, "bad: [redacted]");
    }

    fn request() -> Request {
        Request {
            call: Call::Create,
            method: "POST",
            path: "/v1/apps/a/machines".into(),
        }
    }

    #[test]
    fn values_we_sent_do_not_come_back() {
        let redaction = Redaction::new(["s3cret", "two \"lines\"\nhere", "s3cret-and-more", "no"]);
        let body = concat!(
            r#"{"error":"invalid_argument: env A=s3cret B=s3cret-and-more C=two \"lines\"\nhere "#,
            r#"D=\"two \\\"lines\\\"\\nhere\" no","status":"s3cret"}"#
        );
        let refusal = Refusal::read(request(), 400, body.as_bytes(), &redaction);
        assert_eq!(
            refusal.text,
            "invalid_argument: env A=[redacted] B=[redacted] C=[redacted] D=\"[redacted]\" no"
        );
        for shown in [
            format!("{refusal:?}"),
            refusal.to_string(),
            format!("{redaction:?}"),
        ] {
            assert!(
                !shown.contains("s3cret") && !shown.contains("lines"),
                "{shown}"
            );
        }
    }

    #[test]
    fn a_long_body_is_cut_between_characters_and_kept_on_one_line() {
        let body = "é\n".repeat(1000);
        let refusal = Refusal::read(request(), 500, body.as_bytes(), &Redaction::default());
        assert_eq!(refusal.body.chars().count(), KEPT_CHARS + 1);
        assert!(!refusal.body.contains('\n') && refusal.body.ends_with('…'));
    }

    #[test]
    fn a_refusal_reads_as_one_sentence() {
        let mut refusal = Refusal::read(
            request(),
            422,
            br#"{"error":"could not find a candidate host","status":"insufficient_capacity"}"#,
            &Redaction::default(),
        );
        refusal.request_id = Some("01J-ams".into());
        assert_eq!(
            Error::Refused(Box::new(refusal)).to_string(),
            "POST /v1/apps/a/machines: refused with 422 insufficient_capacity: \
             could not find a candidate host (request 01J-ams)"
        );
    }

    #[test]
    fn only_a_clear_no_is_certain() {
        let refused = |status| {
            let refusal = Refusal::read(request(), status, b"", &Redaction::default());
            Error::Refused(Box::new(refusal)).certainty()
        };
        assert_eq!(refused(400), Certainty::Refused);
        assert_eq!(refused(429), Certainty::Refused);
        assert_eq!(refused(408), Certainty::Unknown);
        assert_eq!(refused(500), Certainty::Unknown);
        assert_eq!(refused(503), Certainty::Unknown);
    }
}
