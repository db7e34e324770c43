//! The scripts, each embedded once with the shared functions in front.

use std::sync::LazyLock;

use redis::Script;

use crate::clock::UnixMs;
use crate::run::budget;
use crate::run::day::Day;
use crate::run::phase::State;
use crate::run::step::{Event, moves};

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $($(#[$doc])* pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(include_str!("lua/prelude.lua"), "\n", include_str!($file)))
        });)*
    };
}

scripts! {
    /// A request becomes a run.
    ADMIT = "lua/admit.lua";
    /// The next runs to boot.
    CLAIM = "lua/claim.lua";
    /// The machine of an attempt is known.
    ADVANCE = "lua/advance.lua";
    /// A boot came to nothing.
    REQUEUE = "lua/requeue.lua";
    /// The run ends.
    SETTLE = "lua/settle.lua";
    /// No machine is left.
    CLOSE = "lua/close.lua";
    /// A worker still holds its runs.
    RENEW = "lua/renew.lua";
    /// Runs at which somebody must look.
    OVERDUE = "lua/overdue.lua";
    /// One sweeper at a time.
    LEAD = "lua/lead.lua";
    /// What is set for a tenant.
    CONFIGURE = "lua/configure.lua";
    /// Nothing boots, or it goes on.
    PAUSE = "lua/pause.lua";
    /// What is known of runs is made to agree with their hashes.
    MEND = "lua/mend.lua";
    /// When the first of the waiting runs was asked for.
    OLDEST = "lua/oldest.lua";
    /// What a waiting run waits for.
    WHY = "lua/why.lua";
    /// An entry is set aside as dead.
    BURY = "lua/bury.lua";
    /// A dead entry goes back on the requests stream.
    REVIVE = "lua/revive.lua";
}

/// What a script that counts use is given: today, and until when that is known.
pub(crate) fn meter(now: UnixMs) -> [String; 2] {
    [
        Day::of(now).to_string(),
        budget::after(now, budget::USAGE_KEPT).to_string(),
    ]
}

/// The moves of an event as the scripts read them: `from:to,from:to`.
pub(crate) fn moves_word(event: &Event) -> String {
    let words: Vec<String> = moves(event)
        .into_iter()
        .map(|(from, to): (State, State)| format!("{}:{}", from.as_str(), to.as_str()))
        .collect();
    words.join(",")
}
