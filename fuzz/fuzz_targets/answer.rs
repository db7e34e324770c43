//! An answer of the Machines API, of any status: it is read, and there is a verdict.

#![no_main]

use cofferdam::machines::error::Redaction;
use cofferdam::machines::wire::machine::Machine;
use cofferdam::machines::{Call, Error, Refusal, Request, judge};
use libfuzzer_sys::fuzz_target;

const CALLS: [Call; 5] = [Call::Create, Call::Get, Call::List, Call::Wait, Call::Delete];

fuzz_target!(|answer: (u16, u8, &[u8])| {
    let (status, call, body) = answer;
    let call = CALLS[usize::from(call) % CALLS.len()];
    let request = Request {
        call,
        method: "POST",
        path: "/v1/apps/a/machines".into(),
    };
    let redaction = Redaction::new(["a secret value"]);
    let error = Error::Refused(Box::new(Refusal::read(request, status, body, &redaction)));
    assert!(!error.to_string().contains("a secret value"));
    let _ = (judge(call, &error), error.certainty());
    if let Ok(machine) = serde_json::from_slice::<Machine>(body) {
        let _ = (machine.last_exit(), machine.version_id(), machine.started_at_ms());
        let _ = machine.was_asked_to_end();
    }
});
