//! What is asked of a storm.

use std::path::PathBuf;
use std::str::FromStr;

/// Which kind of plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Kills, stops, restarts and faults at random.
    Storm,
    /// A storm in which Redis loses all it has, and later is put back to an older copy of its data.
    Forgetful,
    /// Every process but Redis and the Machines server is replaced every three seconds.
    Rolling,
}

/// Who plays the guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guests {
    /// The Machines server itself, after so many milliseconds.
    Simulated(u64),
    /// Real sandboxes of this host.
    Host,
}

/// Which Redis is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    /// One server.
    One,
    /// A primary with a replica, and three sentinels that watch it.
    Sentinel,
    /// Three primaries with a replica each.
    Cluster,
}

/// What is asked of a storm.
#[derive(Clone, Debug)]
pub(crate) struct Args {
    pub(crate) kind: Kind,
    pub(crate) runs: usize,
    pub(crate) seed: u64,
    pub(crate) guests: Guests,
    pub(crate) servers: Servers,
    /// How many of a hundred runs are commands with `capture` that make an artifact; only with real
    /// sandboxes.
    pub(crate) captured: u32,
    /// Machines alive at once, whole fleet.
    pub(crate) cap: usize,
    /// Machines alive at once of one tenant.
    pub(crate) tenant_cap: usize,
    /// What the processes log.
    pub(crate) log: String,
    /// The command that is tried; the one of this build if `None`.
    pub(crate) command: Option<PathBuf>,
    /// Keep the folder with the processes' logs, however the storm ends.
    pub(crate) keeps: bool,
    /// Print the plan and end.
    pub(crate) only_plan: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            kind: Kind::Storm,
            runs: 1000,
            seed: 1,
            guests: Guests::Simulated(20),
            servers: Servers::One,
            captured: 0,
            cap: 64,
            tenant_cap: 24,
            log: "info".to_owned(),
            command: None,
            keeps: false,
            only_plan: false,
        }
    }
}

impl Args {
    /// Reads the words of a command line.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut args = Self::default();
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            if word == "--print-plan" {
                args.only_plan = true;
                continue;
            }
            if word == "--keep" {
                args.keeps = true;
                continue;
            }
            let value = words
                .next()
                .ok_or_else(|| format!("{word} needs a value"))?;
            match word {
                "--runs" => args.runs = number(word, value)?,
                "--seed" => args.seed = number(word, value)?,
                "--captured" => args.captured = number(word, value)?,
                "--cap" => args.cap = number(word, value)?,
                "--tenant-cap" => args.tenant_cap = number(word, value)?,
                "--log" => value.clone_into(&mut args.log),
                "--cofferdam" => args.command = Some(value.into()),
                "--plan" => {
                    args.kind = match value {
                        "storm" => Kind::Storm,
                        "forgetful" => Kind::Forgetful,
                        "rolling" => Kind::Rolling,
                        other => return Err(format!("there is no plan {other:?}")),
                    }
                }
                "--redis" => {
                    args.servers = match value {
                        "one" => Servers::One,
                        "sentinel" => Servers::Sentinel,
                        "cluster" => Servers::Cluster,
                        other => return Err(format!("there is no Redis {other:?}")),
                    }
                }
                "--guests" => {
                    args.guests = match value {
                        "host" => Guests::Host,
                        ms => Guests::Simulated(number(word, ms)?),
                    }
                }
                other => return Err(format!("there is no {other:?}")),
            }
        }
        if args.kind == Kind::Forgetful && args.servers != Servers::One {
            return Err("a forgetful storm needs --redis one".to_owned());
        }
        if args.captured > 0 && args.guests != Guests::Host {
            return Err("--captured goes with --guests host".to_owned());
        }
        Ok(args)
    }
}

fn number<N: FromStr>(word: &str, value: &str) -> Result<N, String> {
    value
        .parse()
        .map_err(|_| format!("{word} {value} is not a number"))
}
