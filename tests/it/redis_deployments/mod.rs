//! Every Redis that users have, each a real server of the test's own: its processes meet its fault
//! under three hundred runs, and each run has exactly one result.

mod ability;
mod cluster;
mod data;
mod idle;
mod plain;
mod readiness;
mod sentinel;
mod tls;
mod waiting;

use std::time::Duration;

use cofferdam::config::{self, Retention, Secret, Tool};

use crate::support::command::{Ended, cofferdam, ended};
use crate::support::redis::namespace;

/// Runs of each story.
const RUNS: usize = 300;
/// After which each guest posts.
const DELAY: Duration = Duration::from_millis(200);

/// Settings, as the processes and the tools get them.
type Env = Vec<(&'static str, String)>;

/// The Redis that these settings name, with fresh keys.
fn redis(env: &Env) -> config::Redis {
    let lookup = |name: &str| {
        let mut found = env.iter().filter(|(known, _)| *known == name);
        found.next().map(|(_, text)| text.clone())
    };
    let tool = Tool::parse(&lookup).unwrap();
    config::Redis {
        url: Secret::new(tool.redis_url.unwrap().expose().clone()),
        namespace: tool.namespace.unwrap_or_else(namespace),
        tls: tool.redis_tls,
        wait: None,
        retention: Retention::default(),
    }
}

/// The settings as the helpers take them.
fn borrowed(env: &Env) -> Vec<(&'static str, &str)> {
    env.iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect()
}

/// Runs a tool with these settings.
fn tool(args: &[&str], env: &Env) -> Ended {
    let mut command = cofferdam(args);
    command.envs(env.iter().map(|(name, text)| (name, text)));
    ended(command)
}
