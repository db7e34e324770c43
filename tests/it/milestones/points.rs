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
        if matches!(part, "endpoint" | "report") {
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
    point("pump::claimed", Story::Plain),
    point("pump::rung", Story::Crowd),
    point("crew::rung", Story::Latecomer),
    point("leases::renewed", Story::Crowd),
    point("boot::fetched", Story::Large),
    point("boot::created", Story::Plain),
    point("boot::looked_up", Story::AnswerLost),
    point("boot::found_ended", Story::EndedUnseen),
    point("boot::paced", Story::LeftUnbooted),
    point("boot::wanted", Story::LeftUnbooted),
    point("boot::adopted", Story::Unseen),
    point("boot::held_back", Story::RateLimited),
    point("boot::held_off", Story::Unauthorized),
    point("boot::deferred", Story::NoCapacity),
    point("boot::requeued", Story::NoCapacity),
    point("boot::advanced", Story::Plain),
    point("boot::disowned", Story::Overtaken),
    point("boot::taken_up", Story::LeftUnbooted),
    point("crew::looked_after", Story::CancelledInBoot),
    point("endpoint::body_read", Story::Plain),
    point("report::settled", Story::Plain),
    point("report::input_read", Story::Reads),
    point("report::looked", Story::Reads),
    point("bell::heard", Story::Plain),
    point("bell::looked_up", Story::CancelledElsewhere),
    point("teardown::waited", Story::Stays),
    point("teardown::deleted", Story::Plain),
    point("teardown::forced", Story::Stays),
    point("teardown::looked_up", Story::LeftUntold),
    point("teardown::put_off", Story::CancelledElsewhere),
    point("teardown::closed", Story::Plain),
    point("sweeper::led", Story::Plain),
    point("sweeper::leased", Story::LeftUnbooted),
    point("sweep::listed", Story::Plain),
    point("sweep::counted", Story::Plain),
    point("sweep::suspected", Story::Exits),
    point("sweep::noted", Story::Stuck),
    point("sweep::orphan_read", Story::Orphan),
    point("sweep::orphan_doubted", Story::Orphan),
    point("observe::looked", Story::Exits),
    point("observe::looked_late", Story::Hangs),
    point("observe::requeued", Story::Stuck),
    point("end::settled", Story::Hangs),
    point("end::refused", Story::ImageRefused),
    point("vanish::request_read", Story::Vanished),
    point("vanish::ended", Story::Vanished),
    point("orders::read", Story::Cancelled),
    point("orders::taken_over", Story::LeftUnobeyed),
    point("orders::held", Story::Cancelled),
    point("control::dead_lettered", Story::NoOrder),
    point("control::run_asked", Story::Cancelled),
    point("control::tenant_asked", Story::TenantCancelled),
    point("control::tenant_walked", Story::TenantCancelled),
    point("control::tenant_read", Story::TenantCancelled),
    point("control::tenant_paused", Story::TenantPaused),
    point("control::all_paused", Story::AllPaused),
    point("control::holds_lifted", Story::AllPaused),
    point("control::done", Story::Cancelled),
];
