//! The result: what it says, and posting it until it is taken or cannot be.

use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::child::Ended;
use crate::http::Client;
use crate::job::Job;
use crate::output::Kept;

/// One post.
const POST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between tries grow from this to that.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// All that is known of a command that has ended.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) ended: &'a Ended,
    pub(crate) timed_out: bool,
    pub(crate) wall: Duration,
    pub(crate) stdout: Kept,
    pub(crate) stderr: Kept,
    pub(crate) artifacts: Vec<Value>,
}

impl Report<'_> {
    /// Posts it, again and again while the endpoint cannot be reached or is busy.
    pub(crate) fn post(self, job: &Job) -> Result<(), String> {
        let until = Instant::now() + job.time_to_tell();
        let oom_killed = match self.ended.signal {
            Some(9) if !self.timed_out => Value::Null,
            _ => Value::Bool(false),
        };
        let mut payload = json!({
            "exit_code": self.ended.code,
            "signal": self.ended.signal,
            "oom_killed": oom_killed,
            "timed_out": self.timed_out,
            "wall_ms": millis(self.wall),
            "cpu_ms": self.ended.cpu.map(millis),
            "peak_bytes": self.ended.peak_bytes,
            "artifacts": self.artifacts,
        });
        let (stdout, stdout_dropped) = self.stdout.into_bytes();
        let (stderr, stderr_dropped) = self.stderr.into_bytes();
        if let Value::Object(payload) = &mut payload {
            insert_text(payload, "stdout", &stdout);
            insert_text(payload, "stderr", &stderr);
            let dropped = json!({"stdout": stdout_dropped, "stderr": stderr_dropped});
            payload.insert("dropped".into(), dropped);
        }
        let body = payload.to_string().into_bytes();
        deliver(job, &body, until)
    }
}

fn deliver(job: &Job, body: &[u8], until: Instant) -> Result<(), String> {
    let mut client = Client::new(&job.token);
    let mut pause = PAUSE_MIN;
    loop {
        let left = until
            .saturating_duration_since(Instant::now())
            .max(PAUSE_MIN);
        let timeout = POST_TIMEOUT.min(left);
        let sent = client.send("POST", &job.result_url, "application/json", body, timeout);
        let (why, wait) = match sent {
            Ok(answer) => match answer.status {
                200..300 => return Ok(()),
                408 | 429 | 500.. => (format!("status {}", answer.status), answer.retry_after),
                status => return Err(format!("the result was refused with status {status}")),
            },
            Err(error) => (error, None),
        };
        let wait = wait.unwrap_or(pause).min(PAUSE_MAX);
        if Instant::now() + wait >= until {
            return Err(format!("the result could not be posted: {why}"));
        }
        thread::sleep(wait);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// As text where that is what it is and no longer than the other way, else in base64.
fn insert_text(payload: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).ok().filter(|text| {
        let is_costly =
            |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\r' | b'\t');
        // Such a character takes six bytes of JSON; base64 costs a third more for all. And not every
        // reader of JSON takes a NUL.
        !text.contains('\0') && text.bytes().filter(is_costly).count() <= text.len() / 16 + 64
    });
    match text {
        Some(text) => payload.insert(name.into(), text.into()),
        None => {
            payload.insert(name.into(), Value::Null);
            payload.insert(format!("{name}_base64"), STANDARD.encode(bytes).into())
        }
    };
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text_and_the_rest_is_base64() {
        let mut payload = Map::new();
        insert_text(&mut payload, "a", "grüße\n".as_bytes());
        insert_text(&mut payload, "b", b"\xff\x00");
        insert_text(&mut payload, "c", &[1; 1000]);
        insert_text(&mut payload, "d", b"a\0b");
        let payload = Value::Object(payload);
        assert_eq!(payload["a"], "grüße\n");
        assert_eq!(payload["a_base64"], Value::Null);
        assert_eq!(payload["b"], Value::Null);
        assert_eq!(payload["b_base64"], "/wA=");
        assert!(payload["c_base64"].is_string());
        assert_eq!(payload["d_base64"], "YQBi");
    }
}
