//! Every milestone of the source, and the story in which a process comes to it.

use super::stories::Story;

/// Which process comes to a milestone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Worker,
    Endpoint,
}

/// A milestone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) name: &'static str,
    pub(super) story: Story,
}

impl Point {
    pub(super) fn role(&self) -> Role {
        let (part, _) = self.name.split_once("::").unwrap();
        if matches!(part, "endpoint" | "report" | "artifacts" | "log") {
            Role::Endpoint
        } else {
            Role::Worker
        }
    }

    /// What makes a process die there.
    pub(super) fn deadly(&self) -> String {
        match self.story {
            // Only who was overtaken comes there.
            Story::Overtaken => format!("boot::created=1*return(stop);{}=return(die)", self.name),
            _ => format!("{}=return(die)", self.name),
        }
    }

    /// What makes a process stop there, once.
    pub(super) fn stopping(&self) -> String {
        format!("{}=1*return(stop)", self.name)
    }
}

const fn point(name: &'static str, story: Story) -> Point {
    Point { name, story }
}

/// All of them, in the order of the flow.
pub(super) const POINTS: &[Point] = &[
    point("requests::read", Story::Plain),
    point("requests::taken_over", Story::LeftUnadmitted),
    point("intake::dead_lettered", Story::Unreadable),
    point("intake::admitted", Story::Plain),
    point("dispatch::claimed", Story::Plain),
    point("dispatch::notified_others", Story::Crowd),
    point("dispatch::notified", Story::Latecomer),
    point("leases::renewed", Story::Crowd),
    point("boot::fetched", Story::Large),
    point("boot::created", Story::Plain),
    point("boot::looked_up", Story::AnswerLost),
    point("boot::found_stopped", Story::EndedUnseen),
    point("boot::paced", Story::LeftUnbooted),
    point("boot::read_again", Story::LeftUnbooted),
    point("boot::adopted", Story::Unseen),
    point("boot::app_held", Story::RateLimited),
    point("boot::app_refused", Story::Unauthorized),
    point("boot::deferred", Story::NoCapacity),
    point("boot::requeued", Story::NoCapacity),
    point("boot::advanced", Story::Plain),
    point("boot::unowned", Story::Overtaken),
    point("boot::resumed", Story::LeftUnbooted),
    point("tasks::read_again", Story::CancelledInBoot),
    point("endpoint::body_read", Story::Plain),
    point("report::settled", Story::Plain),
    point("report::input_read", Story::Reads),
    point("report::standing_read", Story::Reads),
    point("artifacts::reserved", Story::Puts),
    point("endpoint::artifact_read", Story::Puts),
    point("artifacts::stored", Story::Puts),
    point("artifacts::listed", Story::Puts),
    point("log::appended", Story::Puts),
    point("wakeups::read", Story::Plain),
    point("wakeups::looked_up", Story::CancelledElsewhere),
    point("teardown::waited", Story::Stays),
    point("teardown::deleted", Story::Plain),
    point("teardown::forced", Story::Stays),
    point("teardown::looked_up", Story::LeftUntold),
    point("teardown::deferred", Story::CancelledElsewhere),
    point("teardown::closed", Story::Plain),
    point("sweeper::led", Story::Plain),
    point("sweeper::leased", Story::LeftUnbooted),
    point("reconcile::listed", Story::Plain),
    point("reconcile::in_flight_read", Story::Plain),
    point("reconcile::runs_read", Story::Exits),
    point("reconcile::preparing_noted", Story::Stuck),
    point("reconcile::orphan_read", Story::Orphan),
    point("reconcile::orphan_checked", Story::Orphan),
    point("observe::read", Story::Exits),
    point("observe::read_late", Story::Hangs),
    point("observe::requeued", Story::Stuck),
    point("settle::settled", Story::Hangs),
    point("settle::refused", Story::ImageRefused),
    point("missing::request_read", Story::Vanished),
    point("missing::settled", Story::Vanished),
    point("orders::read", Story::Cancelled),
    point("orders::taken_over", Story::LeftUnobeyed),
    point("orders::renewed", Story::Cancelled),
    point("control::dead_lettered", Story::NoOrder),
    point("control::run_asked", Story::Cancelled),
    point("control::tenant_asked", Story::TenantCancelled),
    point("control::tenant_walked", Story::TenantCancelled),
    point("control::tenant_read", Story::TenantCancelled),
    point("control::tenant_paused", Story::TenantPaused),
    point("control::all_paused", Story::AllPaused),
    point("control::app_pauses_lifted", Story::AllPaused),
    point("control::done", Story::Cancelled),
];
