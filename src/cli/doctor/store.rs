//! Checks Redis: its version, what it keeps, what it may throw away, its clock.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use crate::assembly;
use crate::cli::doctor::Finding;
use crate::cli::human;
use crate::cli::target;
use crate::clock::{Clock, UnixMs};
use crate::config::{Doctor, Redis};
use crate::store::health::Memory;
use crate::store::{Error, Store};
use crate::token::fleet::{self, Holder, Use};

/// A difference between clocks from which `doctor` warns; deadlines and leases still hold.
const SKEW_NOTED_MS: u64 = 1000;

/// A difference between clocks with which a worker can take over live work, or end runs early.
const SKEW_TOO_LARGE_MS: u64 = 5000;

/// Results that a group that is well does not have before it.
const BEHIND: u64 = 1000;
/// Most consumer groups in the report.
const GROUPS_TOLD_MAX: usize = 10;

pub(super) async fn check(doctor: &Doctor) -> Vec<Finding> {
    let redis = match target::redis(&doctor.tool) {
        Ok(redis) => redis,
        Err(error) => {
            return vec![Finding::fail(
                "redis",
                format!("{error:#}"),
                "set REDIS_URL",
            )];
        }
    };
    let shown = redis.url.expose().shown().to_owned();
    let store = match Store::connect(&redis).await {
        Ok(store) => store,
        Err(error) => {
            let remedy = match error {
                Error::Version(_) => "use Redis 7.0 or newer, or Valkey",
                Error::Schema { .. } => "upgrade this cofferdam to the version of the others",
                _ => "start Redis, or set REDIS_URL to where it is",
            };
            return vec![Finding::fail("redis", format!("{shown}: {error}"), remedy)];
        }
    };
    let mut findings = Vec::new();
    match sections(&store).await {
        Ok(info) => {
            findings.extend(server_findings(&info, &redis, &shown));
            if info
                .get("aof_enabled")
                .is_some_and(|enabled| enabled == "1")
            {
                findings.push(fsync(store.redis_setting("appendfsync").await));
            }
            let maxmemory = info.get("maxmemory").and_then(|bytes| bytes.parse().ok());
            findings.extend(memory(&info));
            findings.extend(backlog(maxmemory.unwrap_or(0), doctor.backlog_max_bytes));
        }
        Err(error) => findings.push(Finding::warn(
            "redis settings",
            format!("cannot be read: {error}"),
            "let the user run INFO, or check persistence and maxmemory-policy by hand",
        )),
    }
    findings.push(clock(&store).await);
    findings.extend(loss(&store).await);
    findings.extend(refused(&store).await);
    findings.extend(keyring_mismatches(&store, doctor).await);
    findings.extend(runs(&store).await);
    findings.extend(results(&store, doctor.results_retention).await);
    findings.extend(groups(&store).await);
    findings.extend(dead_letters(&store).await);
    findings
}

type Info = HashMap<String, String>;

async fn sections(store: &Store) -> Result<Info, Error> {
    let mut info = Info::new();
    for section in ["server", "persistence", "memory", "replication", "cluster"] {
        let text = store.info(section).await?;
        let pairs = text.lines().filter_map(|line| line.trim().split_once(':'));
        info.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    Ok(info)
}

/// Judges the answer of INFO.
fn server_findings(info: &Info, redis: &Redis, shown: &str) -> Vec<Finding> {
    let field = |name: &str| info.get(name).map_or("", String::as_str);
    let product = match field("valkey_version") {
        "" => format!("Redis {}", field("redis_version")),
        version => format!("Valkey {version}"),
    };
    let mut findings = vec![Finding::ok("redis", format!("{product} at {shown}"))];
    if field("role") == "slave" {
        findings.push(Finding::fail(
            "redis role",
            "it is a replica",
            "set REDIS_URL to the primary: a replica takes no writes",
        ));
    }
    if field("cluster_enabled") == "1" && !redis.namespace.starts_with('{') {
        findings.push(Finding::fail(
            "redis cluster",
            "the keys of a run would lie in several slots",
            format!(
                "set COFFERDAM_NAMESPACE to {{{}}}, with braces",
                redis.namespace
            ),
        ));
    }
    findings.push(persistence(
        field("aof_enabled"),
        field("aof_last_write_status"),
    ));
    findings.push(eviction(field("maxmemory_policy"), field("maxmemory")));
    findings
}

fn persistence(append_only: &str, last_write: &str) -> Finding {
    const WHAT: &str = "redis persistence";
    match (append_only, last_write) {
        ("1", "ok" | "") => Finding::ok(WHAT, "append-only file is on"),
        ("1", status) => Finding::fail(
            WHAT,
            format!("the last write of the append-only file: {status}"),
            "look at Redis's log: its disk may be full",
        ),
        _ => Finding::warn(
            WHAT,
            "append-only file is off",
            "set appendonly yes, in its settings or those of the service; else a restart of Redis can lose accepted requests",
        ),
    }
}

/// How soon what Redis has acknowledged is on its disk.
fn fsync(policy: Result<Option<String>, Error>) -> Finding {
    const WHAT: &str = "redis fsync";
    let every_write = "appendfsync always, where that is too much";
    match policy.as_ref().map(Option::as_deref) {
        Ok(Some("always")) => Finding::ok(WHAT, "appendfsync always: what is acknowledged is kept"),
        Ok(Some("everysec")) => Finding::ok(
            WHAT,
            format!("appendfsync everysec: a power cut can take the last second; {every_write}"),
        ),
        Ok(Some(policy)) => Finding::warn(
            WHAT,
            format!("appendfsync {policy}: a power cut can take the last half minute"),
            "set appendfsync everysec, or always, in its settings or those of the service",
        ),
        Ok(None) => Finding::warn(WHAT, "Redis tells no appendfsync", "look at its settings"),
        Err(error) => Finding::warn(
            WHAT,
            format!("appendfsync cannot be read: {error}"),
            "let the user run CONFIG GET, or check it by hand",
        ),
    }
}

fn eviction(policy: &str, bound: &str) -> Finding {
    const WHAT: &str = "redis eviction";
    let bound = match bound.parse() {
        Ok(0) | Err(_) => "without a memory bound".to_owned(),
        Ok(bytes) => format!("within {}", human::bytes(bytes)),
    };
    match policy {
        "noeviction" => Finding::ok(WHAT, format!("noeviction, {bound}")),
        policy => Finding::fail(
            WHAT,
            format!("{policy}, {bound}"),
            "set maxmemory-policy noeviction, in its settings or those of the service; else full memory loses runs in silence",
        ),
    }
}

/// What is used, against what may be.
fn memory(info: &Info) -> Option<Finding> {
    const WHAT: &str = "redis memory used";
    let number = |name: &str| info.get(name)?.parse::<u64>().ok();
    let most = number("maxmemory").filter(|most| *most > 0)?;
    let memory = Memory {
        used: number("used_memory")?,
        most: Some(most),
    };
    let found = format!("{} of {}", human::bytes(memory.used), human::bytes(most));
    if !memory.is_nearly_full() {
        return Some(Finding::ok(WHAT, found));
    }
    Some(Finding::warn(
        WHAT,
        format!("{found}: no more requests are taken in"),
        "raise maxmemory, in its settings or by a larger instance of the service, or find what fills it: \
         results kept for a group, dead letters, the backlog",
    ))
}

/// What may wait, against the memory that there is for it.
fn backlog(maxmemory: u64, most: Option<u64>) -> Option<Finding> {
    const WHAT: &str = "redis memory";
    if maxmemory == 0 {
        return None;
    }
    let bound = human::bytes(maxmemory);
    let shown = most.map_or_else(|| "any number of bytes".to_owned(), human::bytes);
    let found = format!("{shown} of requests may wait, within {bound}");
    if most.is_some_and(|most| most <= maxmemory / 2) {
        return Some(Finding::ok(WHAT, found));
    }
    Some(Finding::warn(
        WHAT,
        found,
        "set COFFERDAM_BACKLOG_MAX_BYTES to half of maxmemory or less, or raise maxmemory",
    ))
}

/// Data that a process missed lately.
async fn loss(store: &Store) -> Option<Finding> {
    let loss = store.last_loss().await.ok().flatten()?;
    let ago = loss.recent(Clock::system().now_ms())?;
    let (ago, how) = (human::duration(ago), loss.how.replace('_', " "));
    Some(Finding::warn(
        "redis data",
        format!("were {how} {ago} ago: requests and results of before may be lost"),
        "look at how Redis is kept; ask again for runs that have no result",
    ))
}

async fn clock(store: &Store) -> Finding {
    let clock = Clock::system();
    let before = clock.now_ms();
    match store.time().await {
        // Redis read its clock at some moment in between.
        Ok(theirs) => skew("redis clock", theirs, before, clock.now_ms(), 0),
        Err(error) => Finding::warn("redis clock", error.to_string(), "let the user run TIME"),
    }
}

/// Judges a clock that was read between `before` and `after` on ours, and is exact to
/// `exact_to_ms`.
pub(super) fn skew(
    what: &'static str,
    theirs: UnixMs,
    before: UnixMs,
    after: UnixMs,
    exact_to_ms: u64,
) -> Finding {
    let ahead = theirs.saturating_sub(after);
    let behind = before.saturating_sub(theirs.saturating_add(exact_to_ms));
    let apart = ahead.max(behind);
    let found = format!("{apart} ms apart from ours");
    let remedy = "let a time service (chrony, systemd-timesyncd) set the clocks of all hosts";
    match apart {
        0..SKEW_NOTED_MS => Finding::ok(what, found),
        SKEW_NOTED_MS..SKEW_TOO_LARGE_MS => Finding::warn(what, found, remedy),
        _ => Finding::fail(what, found, remedy),
    }
}

/// Apps in which the workers are refused: only a create call tells, and `doctor` makes none.
async fn refused(store: &Store) -> Vec<Finding> {
    let refused = store.refused_apps(Clock::system().now_ms()).await;
    let told = refused.unwrap_or_default().into_iter();
    told.map(|(app, words)| {
        Finding::fail(
            "boots",
            format!("the provider refuses them in {app}: {words}"),
            "mend the token, the app or the account; requests wait meanwhile and boot then",
        )
    })
    .collect()
}

/// Processes that sign what others refuse, this command's own settings included.
async fn keyring_mismatches(store: &Store, doctor: &Doctor) -> Vec<Finding> {
    const WHAT: &str = "signing keys";
    let now = store
        .time()
        .await
        .unwrap_or_else(|_| Clock::system().now_ms());
    let told = store.keyrings(now).await;
    let mut holders = told.unwrap_or_default();
    let running = fleet::mismatches(&holders);
    let ring = doctor.keys.as_deref().map(assembly::ring);
    if let Some(Ok(ring)) = ring {
        let name = "these settings".to_owned();
        holders.push(Holder::new(name, Use::Both, ring.fingerprints()));
    }
    let all = fleet::mismatches(&holders);
    let told = all.into_iter().map(|mismatch| {
        let found = mismatch.to_string();
        if running.contains(&mismatch) {
            let remedy = "results are refused: set the same COFFERDAM_SIGNING_KEYS for worker and \
                          serve, and restart them";
            Finding::fail(WHAT, found, remedy)
        } else {
            Finding::warn(
                WHAT,
                found,
                "set COFFERDAM_SIGNING_KEYS as the services have it",
            )
        }
    });
    told.collect()
}

/// Consumer groups for which old results are kept: nothing after those is trimmed.
async fn results(store: &Store, retention: Duration) -> Vec<Finding> {
    let now = Clock::system().now_ms();
    let kept_back = store.results_kept_back(now, retention).await;
    let kept_back = kept_back.unwrap_or_default().into_iter();
    let told = kept_back.take(GROUPS_TOLD_MAX).map(|kept| {
        let over = human::duration(kept.over);
        Finding::warn(
            "results",
            format!(
                "are kept {over} beyond their retention for the consumer group {}, which has not acknowledged them",
                kept.group
            ),
            "let it read and XACK, or XGROUP DESTROY it if nobody does; COFFERDAM_RESULTS_HARD_CAP bounds the stream whoever has read it",
        )
    });
    told.collect()
}

/// How far the consumer groups are.
async fn groups(store: &Store) -> Vec<Finding> {
    // Refused where there is no stream yet.
    let mut lags = store.result_lags().await.unwrap_or_default();
    lags.sort_by_key(|lag| Reverse(lag.behind()));
    let told = lags.into_iter().take(GROUPS_TOLD_MAX).map(|lag| {
        let unread = lag.unread.map_or_else(|| "?".to_owned(), |n| n.to_string());
        let found = format!(
            "the consumer group {} has {unread} before it and {} not acknowledged",
            lag.group, lag.unacknowledged
        );
        if lag.unread.unwrap_or(0).max(lag.unacknowledged) < BEHIND {
            return Finding::ok("results", found);
        }
        let remedy =
            "start its consumers, or more of them; let them acknowledge what they have read";
        Finding::warn("results", found, remedy)
    });
    told.collect()
}

async fn dead_letters(store: &Store) -> Option<Finding> {
    let dead = store.count_dead().await.ok().filter(|dead| *dead > 0)?;
    Some(Finding::warn(
        "dead letters",
        format!("{dead} entries are set aside"),
        "cofferdam dead list says why; requeue or delete them",
    ))
}

async fn runs(store: &Store) -> Option<Finding> {
    const WHAT: &str = "runs";
    let census = match store.census(Clock::system().now_ms()).await {
        Ok(census) => census,
        Err(error) => {
            let remedy = "look at the keys of the namespace: somebody else may write them";
            return Some(Finding::fail(WHAT, error.to_string(), remedy));
        }
    };
    let found = format!(
        "{} waiting, {} with a machine, {} requests unread, {} overdue",
        census.queued, census.in_flight, census.unread, census.overdue
    );
    if census.unread > 0 && census.queued + census.in_flight == 0 {
        return Some(Finding::warn(
            WHAT,
            found,
            "is a worker running with these settings?",
        ));
    }
    Some(Finding::ok(WHAT, found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    fn verdicts(pairs: &[(&str, &str)], namespace: &str) -> Vec<(&'static str, Verdict)> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let info = pairs.iter().map(own).collect();
        let redis = Redis {
            namespace: namespace.to_owned(),
            ..Redis::nearby()
        };
        let findings = server_findings(&info, &redis, "redis://host");
        findings
            .into_iter()
            .map(|finding| (finding.what, finding.verdict))
            .collect()
    }

    #[test]
    fn a_redis_that_keeps_everything_is_fine() {
        let info = [
            ("redis_version", "7.0.15"),
            ("role", "master"),
            ("aof_enabled", "1"),
            ("aof_last_write_status", "ok"),
            ("maxmemory_policy", "noeviction"),
        ];
        assert!(
            verdicts(&info, "cofferdam")
                .iter()
                .all(|(_, verdict)| *verdict == Verdict::Ok)
        );
    }

    #[test]
    fn what_could_lose_runs_is_found() {
        let info = [
            ("role", "slave"),
            ("cluster_enabled", "1"),
            ("aof_enabled", "0"),
            ("maxmemory_policy", "volatile-lru"),
        ];
        let expected = [
            ("redis", Verdict::Ok),
            ("redis role", Verdict::Fail),
            ("redis cluster", Verdict::Fail),
            ("redis persistence", Verdict::Warn),
            ("redis eviction", Verdict::Fail),
        ];
        assert_eq!(verdicts(&info, "cofferdam"), expected);
        assert_eq!(verdicts(&info, "{cofferdam}").len(), expected.len() - 1);
    }

    #[test]
    fn clocks_are_compared_with_what_could_be_seen() {
        let verdict = |theirs| skew("clock", theirs, 10_000, 10_100, 0).verdict;
        assert_eq!(verdict(10_050), Verdict::Ok);
        assert_eq!(verdict(11_099), Verdict::Ok);
        assert_eq!(verdict(8_900), Verdict::Warn);
        assert_eq!(verdict(16_000), Verdict::Fail);
        assert_eq!(verdict(4_000), Verdict::Fail);
    }
}
