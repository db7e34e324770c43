//! Tokens beside an independent implementation of HMAC-SHA256: Python's `hmac`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use cofferdam::run::id::Attempt;
use cofferdam::token::{Grant, KeyRing};
use serde_json::{Value, json};

use crate::support::parts::skipped;

/// Makes tokens from lines of JSON, as `docs/guests.md` describes them.
const PYTHON: &str = r#"
import base64, hashlib, hmac, json, sys
for line in sys.stdin:
    t = json.loads(line)
    head = "{version}.{kid}.{run}.{attempt}.{expires_s}{nonce}".format(**t)
    mac = hmac.new(bytes(t["key"]), head.encode(), hashlib.sha256).digest()
    print(head + "." + base64.urlsafe_b64encode(mac).decode().rstrip("="))
"#;

fn python(lines: &str) -> Vec<String> {
    let mut child = Command::new("/usr/bin/python3")
        .args(["-ISc", PYTHON])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// What one token is made of, at random.
fn ticket() -> (String, Vec<u8>, Grant) {
    let word = |most: usize| -> String {
        (0..fastrand::usize(1..=most))
            .map(|_| fastrand::alphanumeric())
            .collect()
    };
    let key = (0..fastrand::usize(32..=200))
        .map(|_| fastrand::u8(..))
        .collect();
    let grant = Grant {
        run: word(64).parse().unwrap(),
        attempt: Attempt(fastrand::u32(1..)),
        expires_s: fastrand::u64(1..4_000_000_000),
        nonce: fastrand::bool().then(|| format!("{:032x}", fastrand::u128(..)).parse().unwrap()),
    };
    (word(16), key, grant)
}

#[test]
fn tokens_are_those_of_an_independent_implementation() {
    if !std::path::Path::new("/usr/bin/python3").exists() {
        skipped("the independent implementation is in Python, and /usr/bin/python3 is not here");
        return;
    }
    let tickets: Vec<_> = (0..500).map(|_| ticket()).collect();
    let lines: String = tickets
        .iter()
        .map(|(kid, key, grant)| {
            let nonce = grant.nonce.as_ref().map(|nonce| format!(".{nonce}"));
            let version = if nonce.is_some() { "cd2" } else { "cd1" };
            let line: Value = json!({
                "version": version, "nonce": nonce.unwrap_or_default(),
                "kid": kid, "key": key, "run": grant.run.as_str(),
                "attempt": grant.attempt.0, "expires_s": grant.expires_s,
            });
            format!("{line}\n")
        })
        .collect();
    let made = python(&lines);
    assert_eq!(made.len(), tickets.len());
    for ((kid, key, grant), theirs) in tickets.into_iter().zip(made) {
        let ring = KeyRing::new([(kid, key)]).unwrap();
        assert_eq!(ring.sign(&grant), theirs);
        assert_eq!(ring.verify(&theirs, grant.expires_s - 1), Ok(grant));
    }
}
