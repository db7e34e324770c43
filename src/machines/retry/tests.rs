//! The table: every refusal that is known, with where it was seen, and what is done about it.
//!
//! Sources are named as in the facts this was built from: *spec* is Fly's OpenAPI description,
//! *flyctl*, *fly-go*, *FLAME*, *autoscaler* and *bfaas* are Fly's or Phoenix's own programs,
//! *docs* is docs.fly.io; the others are public projects that recorded answers of the live service.

use std::time::Duration;

use super::super::call::{Call, Request};
use super::super::error::{Error, Redaction, Refusal};
use super::*;
use Call::{App, Create, Delete, Get, List, Logs, Start, Stop, Token, Wait};

/// A row: call, status, body, what is decided, by name.
type Row = (Call, u16, &'static str, &'static str);

const DUPLICATE: &str = include_str!("../../../tests/fixtures/machines/name_taken.json");

/// In the order of the API: waiting, endings, starts, limits, room, names, conflicts, the rest.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    // Waiting. Range of the timeout: seen by at least five projects.
    (Wait, 400, r#"{"error":"invalid_argument: invalid WaitMachineRequest.Timeout: value must be inside range [1s, 1m0s]"}"#, "invalid"),
    // Not in time: alchemy-run/distilled's matcher from live tests.
    (Wait, 408, r#"{"error":"deadline_exceeded: machine failed to reach desired state, started, currently stopped"}"#, "not_yet"),
    // The form of 2023, without the prefix: flyctl issue 1760.
    (Wait, 408, r#"{"error":"machine failed to reach desired state, started, currently created"}"#, "not_yet"),
    // The host did not answer: flyctl, flapsutil/retry.go.
    (Wait, 408, "", "not_yet"),
    // The version that was waited for was updated away: flyctl retries it.
    (Wait, 408, r#"{"error":"deadline_exceeded: machine failed to reach desired state, stopped, currently replaced"}"#, "read_again"),
    // Gone, or not visible yet: flyctl, leasable_machine.go; with auto_destroy seen by seazn.
    (Wait, 404, r#"{"error":"not_found: machine not found"}"#, "gone"),
    (Get, 404, r#"{"error":"not_found: machine not found"}"#, "gone"),
    (Stop, 404, r#"{"error":"not_found: machine not found"}"#, "gone"),
    (Delete, 404, r#"{"error":"not_found: machine not found"}"#, "gone"),
    // How things end. An image that cannot be had: motir-core, both wordings, no machine made.
    (Create, 400, r#"{"error":"failed to get manifest registry.fly.io/a:b: unauthorized"}"#, "image_rejected"),
    (Create, 400, r#"{"error":"failed to get manifest registry.fly.io/a:b: manifest unknown"}"#, "image_unknown"),
    // "unauthorized" alone is a bad token: the same source; the text from clutterfly.
    (Create, 401, r#"{"error":"Authenticate: token validation error"}"#, "unauthorized"),
    (Get, 401, r#"{"error":"unauthorized"}"#, "unauthorized"),
    // A dead host: calls to it end in 408; flyctl, flapsutil/retry.go.
    (Delete, 408, "", "retry"),
    (Get, 408, r#"{"error":"deadline_exceeded: context deadline exceeded"}"#, "retry"),
    // Starting what rests: logs of many projects; the third from alchemy-run/distilled.
    (Start, 412, r#"{"error":"failed_precondition: machine still active, refusing to start"}"#, "retry"),
    (Start, 412, r#"{"error":"failed_precondition: machine getting replaced, refusing to start"}"#, "retry"),
    (Start, 412, r#"{"error":"failed_precondition: unable to start machine from current state: 'created'"}"#, "retry"),
    (Start, 412, r#"{"error":"failed_precondition: machine still attempting to start"}"#, "retry"),
    (Start, 409, r#"{"error":"aborted: could not reserve resource for machine: insufficient memory available to fulfill request on the current host"}"#, "other_host"),
    // Limits. FLAME and flyctl handle 429; the text was recorded.
    (Create, 429, r#"{"error":"rate limit exceeded"}"#, "rate_limited"),
    (List, 429, "", "rate_limited"),
    (Create, 403, r#"{"error":"rate limit exceeded"}"#, "rate_limited"),
    // A new organisation's cap: community topic 20636.
    (Create, 422, r#"{"error":"To create more than 1 machine per app please add a payment method"}"#, "quota"),
    // No room. fly-go's flaps_error.go and its test, in this order.
    (Create, 422, r#"{"error":"could not find a candidate host","status":"insufficient_capacity"}"#, "other_region"),
    (Create, 422, r#"{"error":"could not find a candidate host"}"#, "other_region"),
    (Create, 409, r#"{"error":"aborted: could not reserve resource for machine: insufficient memory available to fulfill request on the current host"}"#, "other_host"),
    (Create, 409, r#"{"error":"aborted: could not reserve resource for machine: insufficient CPUs available to fulfill request on the current host"}"#, "other_host"),
    (Create, 409, r#"{"error":"aborted: insufficient resources available to fulfill request: could not reserve resource for machine"}"#, "other_host"),
    (Create, 409, r#"{"error":"aborted: insufficient IPs available to fulfill request"}"#, "other_host"),
    (Create, 409, r#"{"error":"aborted: no capacity"}"#, "other_region"),
    (Create, 412, r#"{"error":"insufficient resources to create new machine with existing volume 'vol_1'","status":"volume_placement_capacity"}"#, "other_region"),
    (Create, 412, r#"{"error":"insufficient resources to create new machine with existing volume 'vol_1'"}"#, "other_region"),
    // On a volume, as 400: Kilo-Org/cloud PR 787.
    (Create, 400, r#"{"error":"no capacity"}"#, "other_region"),
    // A code that is not known outranks the text: fly-go's newer error reading.
    (Create, 409, r#"{"error":"aborted: no capacity","status":"new_code"}"#, "look_up"),
    (Create, 409, r#"{"error":"aborted: no capacity","status":"unknown"}"#, "look_up"),
    // The envelope's word is not a code: fly-go's handleAPIError, community topic 15555.
    (Create, 409, r#"{"message":"aborted: no capacity","status":"error"}"#, "other_region"),
    // No room, by the status alone, says FLAME's fly_backend.ex; here only words say so.
    (Create, 412, "", "unclear"),
    (Create, 422, "", "unclear"),
    (Create, 409, "", "look_up"),
    // Over the memory of a region: Kilo-Org/cloud.
    (Create, 403, r#"{"error":"permission_denied: you are over the allowed quota of memory"}"#, "quota"),
    (Create, 403, r#"{"error":"permission_denied"}"#, "unauthorized"),
    // The name is taken: several projects; with 422 in a test double.
    (Create, 409, DUPLICATE, "adopt"),
    (Create, 422, DUPLICATE, "adopt"),
    (Create, 409, r#"{"error":"already_exists: unique machine name violation"}"#, "look_up"),
    // An app's name is taken: the newest spec, flyctl issue 4292.
    (App, 422, r#"{"error":"Validation failed: Name has already been taken","status":"name_taken"}"#, "invalid"),
    // Conflicts: section 7; the lease's text from logs.
    (Stop, 409, r#"{"error":"aborted: machine update failed due to concurrent update"}"#, "read_again"),
    (Stop, 409, r#"{"error":"current_version does not match"}"#, "read_again"),
    (Delete, 409, r#"{"error":"machine ID 1857156b526dd8 lease currently held by 5b@tokens.fly.io, expires at 2026-05-14T10:41:08Z"}"#, "held"),
    (Stop, 409, r#"{"status":"error","message":"machine ID 18 lease currently held by 5b@tokens.fly.io"}"#, "held"),
    // Alive, and no force: logs of many projects.
    (Delete, 412, r#"{"error":"failed_precondition: machine still active, refusing to destroy"}"#, "still_active"),
    (Delete, 412, "", "still_active"),
    (Stop, 412, "", "read_again"),
    // A host that takes nobody: flyctl; the governor from a hosted demo's notes.
    (Create, 503, r#"{"error":"deploys to this host are temporarily disabled"}"#, "other_host"),
    (Create, 503, r#"{"error":"governor policy blocked start"}"#, "other_host"),
    // It may have happened: flyctl, flapsutil/retry.go.
    (Create, 408, "", "look_up"),
    (Create, 500, r#"{"error":"unknown: internal"}"#, "look_up"),
    (Create, 502, "<html>bad gateway</html>", "look_up"),
    (Create, 503, "", "look_up"),
    (Create, 504, "", "look_up"),
    (Get, 500, "", "retry"),
    (Delete, 503, "", "retry"),
    (List, 502, "", "retry"),
    // What the caller did. The spec has 400 for create; 403 and 404 of apps are in the docs.
    (Create, 400, r#"{"error":"invalid_argument: unable to parse config"}"#, "invalid"),
    (Create, 422, r#"{"error":"Validation failed: guest is too large"}"#, "invalid"),
    (Create, 413, "", "invalid"),
    (Get, 400, "", "invalid"),
    (Create, 404, r#"{"error":"Could not find App \"nope\""}"#, "misconfigured"),
    (List, 404, "", "misconfigured"),
    (App, 404, "", "misconfigured"),
    (App, 403, "", "unauthorized"),
    (Token, 404, "", "misconfigured"),
    (Logs, 404, "", "misconfigured"),
    // A 400 may repeat the producer's words: none of these is what it says.
    (Create, 400, r#"{"error":"invalid image 'page not found'"}"#, "invalid"),
    (Create, 400, r#"{"error":"invalid image 'unique machine name violation, machine ID 1857156b526dd8'"}"#, "invalid"),
    // A route that is none answers in plain text: recorded by several projects. Never "gone".
    (Get, 404, "404 page not found\n", "misconfigured"),
    (Delete, 404, "404 page not found\n", "misconfigured"),
    (Delete, 405, "", "misconfigured"),
    (Start, 501, r#"{"error":"not implemented"}"#, "misconfigured"),
    (Create, 301, "", "misconfigured"),
];

fn request(call: Call) -> Request {
    Request {
        call,
        method: "POST",
        path: "/v1".into(),
    }
}

fn refused(call: Call, status: u16, body: &str) -> Error {
    let refusal = Refusal::read(
        request(call),
        status,
        body.as_bytes(),
        &Redaction::default(),
    );
    Error::Refused(Box::new(refusal))
}

fn name(decision: &Decision) -> &'static str {
    match decision {
        Decision::Retry => "retry",
        Decision::RateLimited { .. } => "rate_limited",
        Decision::LookUp => "look_up",
        Decision::Adopt { .. } => "adopt",
        Decision::OtherHost => "other_host",
        Decision::OtherRegion => "other_region",
        Decision::Quota => "quota",
        Decision::Unauthorized => "unauthorized",
        Decision::ImageRejected { .. } => "image_rejected",
        Decision::ImageUnknown { .. } => "image_unknown",
        Decision::Unclear { .. } => "unclear",
        Decision::Invalid { .. } => "invalid",
        Decision::Misconfigured { .. } => "misconfigured",
        Decision::Gone => "gone",
        Decision::NotYet => "not_yet",
        Decision::StillActive => "still_active",
        Decision::Held => "held",
        Decision::ReadAgain => "read_again",
    }
}

#[test]
fn every_refusal_that_was_seen_has_its_answer() {
    for &(call, status, body, decision) in TABLE {
        let decided = judge(call, &refused(call, status, body));
        assert_eq!(name(&decided), decision, "{call:?} {status} {body}");
    }
}

/// The answers that the whole pipeline is tried with too.
#[derive(serde::Deserialize)]
struct Recorded {
    about: String,
    status: u16,
    body: String,
    decision: String,
}

#[test]
fn every_recorded_answer_to_a_create_has_its_decision() {
    let text = include_str!("../../../tests/fixtures/machines/answers.json");
    let recorded: Vec<Recorded> = serde_json::from_str(text).unwrap();
    assert!(recorded.len() > 30);
    for answer in recorded {
        let error = refused(Create, answer.status, &answer.body);
        let decided = judge(Create, &error);
        assert_eq!(name(&decided), answer.decision, "{}", answer.about);
    }
}

#[test]
fn what_a_producer_chose_puts_no_words_in_the_providers_mouth() {
    for (status, body, decision) in [
        (422, r#"{"error":"region payment not found"}"#, "invalid"),
        (422, r#"{"error":"region quota not found"}"#, "invalid"),
        (
            400,
            r#"{"error":"invalid env 'add a payment method'"}"#,
            "invalid",
        ),
        (
            400,
            r#"{"error":"failed to get manifest r/a:timeout: unauthorized"}"#,
            "image_rejected",
        ),
        (
            400,
            r#"{"error":"failed to get manifest r/not-found:v1: unauthorized"}"#,
            "image_rejected",
        ),
    ] {
        let decided = judge(Create, &refused(Create, status, body));
        assert_eq!(name(&decided), decision, "{status} {body}");
    }
    // The name of an app is in what other calls are told.
    let gone = refused(
        Delete,
        404,
        r#"{"error":"machine not found, contact billing"}"#,
    );
    assert_eq!(judge(Delete, &gone), Decision::Gone);
}

#[test]
fn a_region_without_room_made_nothing_whatever_the_status() {
    use super::super::error::Certainty;
    for (body, certainty) in [
        (
            r#"{"error":"out of capacity","status":"insufficient_capacity"}"#,
            Certainty::Refused,
        ),
        (r#"{"error":"no capacity"}"#, Certainty::Refused),
        (
            r#"{"error":"governor policy blocked start"}"#,
            Certainty::Unknown,
        ),
        ("", Certainty::Unknown),
    ] {
        assert_eq!(refused(Create, 503, body).certainty(), certainty, "{body}");
    }
}

#[test]
fn the_id_to_adopt_is_read_out_of_the_text() {
    let decided = judge(Create, &refused(Create, 409, DUPLICATE));
    let machine_id = "1857156b526dd8".to_owned();
    assert_eq!(decided, Decision::Adopt { machine_id });
}

#[test]
fn a_message_is_passed_on_in_the_services_words() {
    let text = "failed to get manifest docker.io/Library/Nope: unauthorized";
    let decided = judge(Create, &refused(Create, 400, text));
    assert_eq!(
        decided,
        Decision::ImageRejected {
            message: text.to_owned()
        }
    );
}

#[test]
fn what_the_service_asks_us_to_wait_is_kept() {
    let Error::Refused(mut refusal) = refused(Create, 429, "") else {
        unreachable!()
    };
    let retry_after = Some(Duration::from_secs(7));
    refusal.retry_after = retry_after;
    let decided = judge(Create, &Error::Refused(refusal));
    assert_eq!(decided, Decision::RateLimited { retry_after });
}

#[test]
fn without_an_answer_only_a_create_is_looked_up() {
    for call in Call::ALL {
        let expected = if call == Create {
            Decision::LookUp
        } else {
            Decision::Retry
        };
        let (request, reason) = (request(call), "connection reset".to_owned());
        let lost = Error::NoAnswer {
            request: request.clone(),
            reason: reason.clone(),
        };
        assert_eq!(judge(call, &lost), expected.clone());
        let odd = Error::Unreadable {
            request: request.clone(),
            status: 200,
            reason: reason.clone(),
        };
        assert_eq!(judge(call, &odd), expected);
        let unsent = Error::NotSent { request, reason };
        assert_eq!(judge(call, &unsent), Decision::Retry);
    }
}

#[test]
fn a_value_that_is_a_word_of_the_services_changes_no_verdict() {
    let request = request(Call::Create);
    let body = br#"{"error":"it would put the organization over the allowed quota"}"#;
    let values = Redaction::new(["quota", "over the allowed quota"]);
    let refusal = Refusal::read(request, 403, body, &values);
    assert!(!format!("{refusal:?}").contains("quota"), "{refusal:?}");
    let error = Error::Refused(Box::new(refusal));
    assert_eq!(judge(Call::Create, &error), Decision::Quota);
}

proptest::proptest! {
    /// Whatever the service answers, there is a verdict, and a machine that can be read can be asked.
    #[test]
    fn no_answer_makes_it_panic(
        status in 300_u16..600,
        words in proptest::sample::subsequence(TABLE_WORDS.to_vec(), 0..4),
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
    ) {
        let mut body = words.concat().into_bytes();
        body.extend(bytes);
        for call in [Create, Get, List, Wait, Delete, Stop, App, Token, Logs, Start] {
            let refusal = Refusal::read(request(call), status, &body, &Redaction::default());
            let error = Error::Refused(Box::new(refusal));
            let _ = (judge(call, &error), error.certainty(), error.to_string());
        }
    }
}

/// Pieces of answers that the verdicts look for.
const TABLE_WORDS: [&str; 8] = [
    r#"{"error":""#,
    "failed to get manifest ",
    "insufficient memory available to fulfill request",
    "unique machine name violation, machine ID ",
    "region ",
    " not found",
    r#"","status":"insufficient_capacity"}"#,
    "[http 500]",
];
