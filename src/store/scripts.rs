//! The scripts, each embedded once with the shared functions that it uses in front.

use std::borrow::Cow;
use std::sync::{LazyLock, OnceLock};

use redis::{Script, ScriptInvocation, ToRedisArgs};

use crate::run::phase::State;
use crate::run::step::{Event, moves};
use crate::store::keys;

/// A script and its name.
pub(crate) struct Named(&'static str, LazyLock<Script>);

impl Named {
    pub(crate) fn prepare_invoke(&'static self) -> Invocation {
        Invocation {
            name: self.0,
            call: self.1.prepare_invoke(),
        }
    }
}

/// A call of a script.
pub(crate) struct Invocation {
    pub(crate) name: &'static str,
    pub(crate) call: ScriptInvocation<'static>,
}

impl Invocation {
    pub(crate) fn key(&mut self, key: impl ToRedisArgs) -> &mut Self {
        self.call.key(key);
        self
    }

    pub(crate) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        self.call.arg(arg);
        self
    }
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $room:ident [$($part:literal)*]
        $(and in a branch [$($rare:literal)*])? $file:literal;)*) => {
        /// The names of all.
        #[cfg(test)]
        const NAMES: &[&str] = &[$($file),*];

        $($(#[$doc])* pub(crate) static $name: Named = Named($file, LazyLock::new(|| {
            let source = concat!(
                $(include_str!(concat!("lua/parts/", $part, ".lua")), "\n",)*
                include_str!(concat!("lua/", $file, ".lua")),
            );
            let of_branch = concat!(
                $($(include_str!(concat!("lua/parts/", $rare, ".lua")), "\n",)*)?
            );
            script(scripts!(@ $room), source, of_branch)
        }));)*
    };
    (@ when_full) => { "#!lua flags=allow-oom\n" };
    (@ unless_full) => { "" };
}

// `when_full`: it also runs when Redis's `maxmemory` is reached. It finishes work, renews leases, or
// moves what Redis has from one key to another; a full Redis would never be less full without it.
//
// A script makes the functions of its parts each time it runs, so it has only those that it uses, and
// those that only one of its branches uses where that branch begins.
scripts! {
    /// Requests become runs.
    ADMIT = when_full ["run" "places" "fair_queue" "usage" "result" "ended" "dead_letter"] "admit";
    /// The next runs to boot.
    CLAIM = when_full ["run" "fair_queue" "slots" "bucket" "inline"] "claim";
    /// Another create call takes a token.
    TAKE_TOKEN = when_full ["run" "bucket"] "take_token";
    /// The machine of an attempt is known.
    ADVANCE = when_full ["run"] "advance";
    /// A boot failed or was deferred.
    REQUEUE = when_full ["run" "fair_queue" "slots" "usage"] "requeue";
    /// The run ends.
    SETTLE = when_full ["run" "usage" "result" "kept" "ended"]
        and in a branch ["fair_queue" "slots"] "settle";
    /// A run whose hash is gone ends.
    END_LOST = when_full ["run" "fair_queue" "slots" "usage" "result" "ended"] "end_lost";
    /// No machine is left.
    CLOSE = when_full ["run" "fair_queue" "slots" "usage"] "close";
    /// A worker still holds its runs.
    RENEW = when_full ["run"] "renew";
    /// Machines are being prepared.
    PREPARING = when_full ["run"] "preparing";
    /// Runs that are due.
    OVERDUE = when_full [] "overdue";
    /// One sweeper at a time.
    LEAD = when_full [] "lead";
    /// What is set for a tenant.
    CONFIGURE = when_full ["fair_queue" "reconsider"] "configure";
    /// Boots are paused or resumed.
    PAUSE = when_full ["fair_queue" "reconsider"] "pause";
    /// What is known of runs is made to agree with their hashes.
    MEND = when_full ["run" "fair_queue" "slots"] "mend";
    /// How many of what there is.
    CENSUS = unless_full ["run" "places" "fair_queue"] "census";
    /// What a waiting run waits for.
    WHY = unless_full ["run" "fair_queue"] "why";
    /// A piece of a run's input.
    INPUT = unless_full ["run"] "input";
    /// A guest wrote something.
    LOG = unless_full ["run" "kept"] "log";
    /// Room for an artifact that is on its way.
    RESERVE_ARTIFACT = unless_full ["run" "artifacts"] "reserve_artifact";
    /// What is on its way by one put.
    PENDING_ARTIFACT = unless_full ["run"] "pending_artifact";
    /// An artifact is kept.
    KEEP_ARTIFACT = when_full ["run"] "keep_artifact";
    /// An artifact does not come.
    RELEASE_ARTIFACT = when_full ["artifacts"] "release_artifact";
    /// The artifacts of a request are gone.
    FORGET_ARTIFACTS = when_full ["artifacts"] "forget_artifacts";
    /// Which requests may have artifacts.
    KNOWN_ARTIFACTS = unless_full [] "known_artifacts";
    /// An entry is set aside as dead.
    DEAD_LETTER = when_full ["dead_letter"] "dead_letter";
    /// A few small writes.
    SMALL = when_full [] "small";
    /// Which signing keys each process has.
    KEYRINGS = when_full [] "keyrings";
    /// A worker takes no more work, or takes work again.
    QUIET = when_full [] "quiet";
    /// A waiting run gets another priority.
    PRIORITISE = when_full ["run" "places"] "prioritise";
    /// New entries of a stream.
    READ = when_full ["travelling"] "read";
    /// Entries that a dead worker had read.
    TAKE_OVER = when_full ["travelling"] "take_over";
    /// A run's request.
    REQUEST = unless_full ["inline"] "request";
    /// The workers' group of a stream.
    GROUP = when_full [] "group";
    /// Whether Redis takes our writes.
    PROBE = unless_full [] "probe";
    /// A dead entry goes back on its stream.
    REVIVE = unless_full [] "revive";
    /// Whether a request from before an order is unread.
    UNREAD = unless_full [] "unread";
    /// Results that may go are removed.
    TRIM = when_full [] "trim";
    /// What the groups that read results have not done with.
    NEEDED = unless_full [] "needed";
    /// An app that no run is in is forgotten.
    FORGET_APP = when_full [] "forget_app";
    /// Consumers that are gone leave the group.
    FORGET = when_full [] "forget";
}

/// Where the parts go that only one branch of a script uses.
const OF_BRANCH: &str = "-- PARTS OF THIS BRANCH\n";

/// A script, with the functions by which it makes keys in front of those who use them.
fn script(flags: &str, source: &str, of_branch: &str) -> Script {
    let of_branch = format!("{}{of_branch}", keys::lua(of_branch));
    let whole = source.replacen(OF_BRANCH, &of_branch, 1);
    Script::new(&format!("{flags}{}{whole}", keys::lua(source)))
}

/// A list of states as the scripts read it: `,a,b,`.
pub(crate) fn states(states: &[State]) -> String {
    let words: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
    format!(",{},", words.join(","))
}

/// The moves of an event as the scripts read them: `from:to,from:to`. Those of every run's life are
/// made once.
pub(crate) fn moves_word(event: &Event) -> Cow<'static, str> {
    static USUAL: [OnceLock<String>; 4] = [const { OnceLock::new() }; 4];
    let usual = match event {
        Event::Claimed { .. } => 0,
        Event::Created { .. } => 1,
        Event::Posted { .. } => 2,
        Event::Gone => 3,
        Event::Deferred { .. }
        | Event::Failed { .. }
        | Event::Refused { .. }
        | Event::Ended { .. } => {
            return Cow::Owned(words_of(event));
        }
    };
    Cow::Borrowed(USUAL[usual].get_or_init(|| words_of(event)))
}

fn words_of(event: &Event) -> String {
    let words: Vec<String> = moves(event)
        .into_iter()
        .map(|(from, to): (State, State)| format!("{}:{}", from.as_str(), to.as_str()))
        .collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_script_has_a_series() {
        assert_eq!(super::NAMES, crate::telemetry::REDIS_SCRIPTS);
    }

    /// Keys are made in `keys.rs` and nowhere else: not even by a script.
    #[test]
    fn no_script_puts_a_key_together() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/lua");
        let mut scripts = 0;
        for folder in [root.clone(), root.join("parts")] {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_none_or(|extension| extension != "lua") {
                    continue;
                }
                scripts += 1;
                for line in fs::read_to_string(&path).unwrap().lines() {
                    let code: String = line.split("--").next().unwrap_or_default().into();
                    let code = code.replace(char::is_whitespace, "");
                    let is_key = ["ns..", "..ns", "ARGV[1]..", "..':'"]
                        .iter()
                        .any(|piece| code.contains(piece));
                    assert!(!is_key, "{}: {line}", path.display());
                }
            }
        }
        assert!(scripts > 30, "{scripts} scripts");
    }
}
