//! The scripts, each embedded once with the shared functions in front.

use std::sync::LazyLock;

use redis::Script;

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
    /// A dead entry goes back on the requests stream.
    REVIVE = "lua/revive.lua";
}

/// The moves of an event as the scripts read them: `from:to,from:to`.
pub(crate) fn moves_word(event: &Event) -> String {
    let words: Vec<String> = moves(event)
        .into_iter()
        .map(|(from, to): (State, State)| format!("{}:{}", from.as_str(), to.as_str()))
        .collect();
    words.join(",")
}
