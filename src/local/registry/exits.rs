//! How the end of a machine's program is told.

use serde_json::{Value, json};

use crate::clock::UnixMs;
use crate::local::registry::machine::{MachineRecord, Next};
use crate::local::stamp;
use crate::machines::wire::ExitEvent;
use cofferdam_sandbox::Exit;

/// The `request` of an exit event. The fields of `exit_event` are those of the real service; what
/// it does not tell and this server knows stands under `cofferdam`.
pub(crate) fn request(
    machine: &MachineRecord,
    exit: &Exit,
    restarting: bool,
    now: UnixMs,
) -> Value {
    let event = ExitEvent {
        exit_code: Some(code(exit)),
        guest_exit_code: Some(0),
        guest_signal: Some(-1),
        signal: Some(exit.signal.map_or(-1, i64::from)),
        oom_killed: exit.oom_killed,
        // A guest that the host had no memory for is not at fault: the platform ended it.
        requested_stop: machine.next != Next::Policy || exit.oom_killed_by_host,
        restarting,
        error: Some(error(exit).to_owned()),
        guest_error: Some(exit.error.clone().unwrap_or_default()),
        exited_at: Some(stamp::millis(now)),
    };
    let mut request = event.into_request(machine.restarts);
    if let Some(fields) = request.as_object_mut() {
        fields.insert(
            "cofferdam".to_owned(),
            json!({
                "code": exit.code,
                "signal": exit.signal,
                "oom_elsewhere": exit.oom_elsewhere,
                "oom_killed_by_host": exit.oom_killed_by_host,
                "cpu_ms": exit.cpu_ms,
                "peak_bytes": exit.peak_bytes,
            }),
        );
    }
    request
}

/// A program that a signal ended has no exit code; the service shows 128 and the signal's number.
/// An end whose status is not known is not reported as a success.
fn code(exit: &Exit) -> i64 {
    match (exit.code, exit.signal) {
        (Some(code), _) => i64::from(code),
        (None, Some(signal)) => 128 + i64::from(signal),
        (None, None) => 255,
    }
}

fn error(exit: &Exit) -> &'static str {
    match (exit.code, exit.signal) {
        (None, None) => "the exit status is not known",
        _ if exit.oom_killed_by_host => "killed for want of the host's memory",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::registry::machine::tests::machine_that_was;

    #[track_caller]
    fn check(exit: &Exit, next: Next, expected: Value) {
        let mut machine = machine_that_was(&["started"]);
        machine.next = next;
        let told = request(&machine, exit, false, 1_699_408_350_300);
        for (field, value) in expected.as_object().expect("an object") {
            assert_eq!(&told["exit_event"][field], value, "{field} of {exit:?}");
        }
        assert_eq!(told["exit_event"]["exited_at"], "2023-11-08T01:52:30.300Z");
        assert_eq!(told["restart_count"], 0);
    }

    #[test]
    fn ends_are_told_as_the_service_tells_them() {
        let by_code = |code| Exit {
            code: Some(code),
            ..Exit::default()
        };
        check(
            &by_code(40),
            Next::Policy,
            json!({"exit_code": 40, "guest_exit_code": 0, "guest_signal": -1, "signal": -1,
                   "oom_killed": false, "requested_stop": false, "restarting": false, "error": ""}),
        );
        check(
            &by_code(0),
            Next::Stop,
            json!({"exit_code": 0, "signal": -1, "requested_stop": true}),
        );
        let killed = Exit {
            signal: Some(9),
            oom_killed: true,
            ..Exit::default()
        };
        check(
            &killed,
            Next::Policy,
            json!({"exit_code": 137, "signal": 9, "oom_killed": true}),
        );
        let by_host = Exit {
            signal: Some(9),
            oom_killed_by_host: true,
            ..Exit::default()
        };
        check(
            &by_host,
            Next::Policy,
            json!({"signal": 9, "oom_killed": false, "requested_stop": true,
                   "error": "killed for want of the host's memory"}),
        );
        check(
            &Exit::default(),
            Next::Policy,
            json!({"exit_code": 255, "error": "the exit status is not known"}),
        );
    }
}
