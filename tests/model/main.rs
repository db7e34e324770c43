//! A model of the protocol, checked in every order in which things can happen.
//!
//! Redis is what its scripts are: atomic steps, each decided by the real [`run::step`]. Workers,
//! guests and the provider take steps of one call at a time; a worker can die between any two, a
//! lease can end while its holder still works, an answer can be lost after the provider acted, a
//! call can take effect long after its caller has given up. What a look at a machine means is
//! decided by the real [`stage::observe::sight`], and what is owed by the real `Phase::owes`.
//!
//! Left out: the contents of requests and results, times (a deadline or a lease ends whenever it
//! likes), and how tenants take turns.
//!
//! [`run::step`]: cofferdam::run::step
//! [`stage::observe::sight`]: cofferdam::stage::observe::sight

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "a check says how much it has seen")]

mod check;
mod provider;
mod redis;
mod steps;
mod tasks;
mod world;

use check::check;
use cofferdam::run::outcome::Outcome;
use steps::Setting;

/// Two runs of two boots each, two workers, one death.
#[test]
fn a_worker_can_die_anywhere() {
    let setting = Setting {
        crashes: 1,
        ..Setting::plain(2, 2)
    };
    check(setting, &["a worker died", "completed"]);
}

/// The same for one run, with a provider that loses answers and machines and refuses.
#[test]
fn the_provider_can_lose_answers_and_machines() {
    let setting = Setting {
        crashes: 1,
        lost_answers: 1,
        refusals: 1,
        vanishings: 1,
        ..Setting::plain(1, 2)
    };
    check(
        setting,
        &[
            "a worker died",
            "an answer was lost",
            "adopted",
            "a machine was lost",
            "completed",
            "failed",
        ],
    );
}

/// A call takes effect after its caller has given up and the run has gone on.
#[test]
fn calls_can_come_late() {
    let setting = Setting {
        late_calls: 1,
        stalls: true,
        ..Setting::plain(1, 2)
    };
    check(
        setting,
        &[
            "a call came late",
            "disowned",
            "an orphan was removed",
            "completed",
        ],
    );
}

/// The same, to a run that is at another boot by then.
#[test]
fn calls_can_come_late_to_a_run_that_has_gone_on() {
    let setting = Setting {
        late_calls: 1,
        refusals: 1,
        ..Setting::plain(1, 1)
    };
    check(
        setting,
        &["a call came late", "an orphan was removed", "completed"],
    );
}

/// A worker is stopped past its lease, and goes on: two work for one run.
#[test]
fn two_can_believe_that_they_own_a_run() {
    let setting = Setting {
        stalls: true,
        crashes: 1,
        ..Setting::plain(1, 2)
    };
    check(
        setting,
        &["two worked for one run", "a worker died", "completed"],
    );
}

/// Listings and look-ups that do not show a machine yet.
#[test]
fn a_newborn_can_be_hidden() {
    let setting = Setting {
        hidden: true,
        crashes: 1,
        ..Setting::plain(1, 2)
    };
    check(setting, &["a machine was hidden", "adopted", "completed"]);
}

/// A guest ends, with a result or without, and its machine with it, before a worker that did not
/// hear of the machine looks for it.
#[test]
fn a_guest_can_be_quicker_than_the_look_for_its_machine() {
    let setting = Setting {
        quick: true,
        crashes: 1,
        lost_answers: 1,
        ..Setting::plain(1, 2)
    };
    check(
        setting,
        &[
            "an answer was lost",
            "found when it had ended",
            "completed",
            "failed",
        ],
    );
}

/// The same when the machine cannot be seen: the run tells that there was one.
#[test]
fn a_guest_can_post_before_its_machine_can_be_seen() {
    let setting = Setting {
        quick: true,
        hidden: true,
        lost_answers: 1,
        ..Setting::plain(1, 2)
    };
    check(
        setting,
        &[
            "a machine was hidden",
            "a create call was not repeated",
            "completed",
        ],
    );
}

/// Another installation has a run of the same id, and its machines in the same app.
#[test]
fn another_installation_can_share_the_app() {
    let setting = Setting {
        shared: true,
        crashes: 1,
        lost_answers: 1,
        ..Setting::plain(1, 2)
    };
    check(
        setting,
        &["another's machine was left alone", "adopted", "completed"],
    );
}

/// Orders to cancel, at any time.
#[test]
fn runs_can_be_cancelled() {
    let setting = Setting {
        cancels: 1,
        crashes: 1,
        lost_answers: 1,
        ..Setting::plain(1, 2)
    };
    check(setting, &["cancelled", "completed", "an answer was lost"]);
}

/// Requests that come twice, and runs that may not start yet.
#[test]
fn requests_can_come_twice_and_wait_for_their_time() {
    let setting = Setting {
        doubled: true,
        delayed: true,
        crashes: 1,
        cancels: 1,
        ..Setting::plain(1, 2)
    };
    check(
        setting,
        &[
            "a run was delayed",
            "a request was known",
            "cancelled",
            "completed",
        ],
    );
}

/// Room for one machine: neither of two runs goes without, and never two at once.
#[test]
fn caps_hold() {
    let setting = Setting {
        cap: 1,
        crashes: 1,
        ..Setting::plain(2, 2)
    };
    check(
        setting,
        &["a run waited for room", "a worker died", "completed"],
    );
}

/// The words that the checks above ask for are the outcomes' own.
#[test]
fn outcomes_have_these_names() {
    let names = Outcome::ALL.map(Outcome::as_str);
    for name in ["completed", "failed", "timed_out", "cancelled"] {
        assert!(names.contains(&name), "{name}");
    }
}
