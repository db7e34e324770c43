//! What happens around a process so that it comes to its milestone.
//!
//! The names of runs say how the provider treats them, and their environment how their guests
//! behave, so that any two stories can be told in one world.

use std::time::Duration;

use cofferdam::run::id::Attempt;
use cofferdam::token::Grant;
use serde_json::{Value, json};

use super::world::World;
use crate::support::command::Daemon;
use crate::support::parts;
use crate::support::stack::{APP, Stack};
use crate::support::until::until;

/// Bytes of an input that makes a request too large to travel with others.
const LARGE_BYTES: usize = 100_000;

/// A story. `Left…` begin with another worker that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Story {
    /// A run that completes.
    Plain,
    /// An entry that is no request.
    Unreadable,
    /// The answer to the create call is lost.
    AnswerLost,
    /// It is lost, and the machine ends before it is looked for, without a result.
    EndedUnseen,
    /// It is lost, and the machine cannot be seen for a while.
    Unseen,
    /// The first create call comes too soon.
    RateLimited,
    /// The first create call's token is refused.
    Unauthorized,
    /// The image may not be had.
    ImageRefused,
    /// There is no room for the first machine.
    NoCapacity,
    /// The first machine never starts.
    Stuck,
    /// As many slow boots as a worker can do at once.
    Crowd,
    /// And one more run, later.
    Latecomer,
    /// A worker stops in the middle of a boot, and goes on when the run is over.
    Overtaken,
    /// A run is cancelled while its create call is on its way.
    CancelledInBoot,
    /// Another worker has the create call under way.
    CancelledElsewhere,
    /// A guest asks for its input and posts nothing that counts.
    Reads,
    /// A guest with the agent, which its machine is sent along, puts an artifact and posts output.
    Puts,
    /// A request too large to travel with others.
    Large,
    /// A guest posts and never exits.
    Stays,
    /// A guest exits without a result.
    Exits,
    /// A guest neither posts nor exits.
    Hangs,
    /// A machine that no run has.
    Orphan,
    /// Somebody deletes a run's hash.
    Vanished,
    /// A run is cancelled.
    Cancelled,
    /// Every run of a tenant is.
    TenantCancelled,
    /// A tenant is paused, and goes on.
    TenantPaused,
    /// Everything is.
    AllPaused,
    /// An order that is none.
    NoOrder,
    LeftUnadmitted,
    LeftUnbooted,
    LeftUntold,
    LeftUnobeyed,
}

/// How the provider treats the machines of each story, for the first and the second of its runs.
pub(super) fn rules() -> Vec<String> {
    let mut rules: Vec<String> = [
        "create name=sandbox-lost-*: lose",
        "create name=sandbox-ended-*: lose",
        "create name=sandbox-unseen-*: hide ms=1200",
        "create name=sandbox-slow-*: delay ms=1500",
        "create name=sandbox-elsewhere-*: delay ms=5000",
    ]
    .map(str::to_owned)
    .into();
    for n in ["a", "b"] {
        rules.push(format!("create name=sandbox-unseen-{n}-1-* nth=1: lose"));
        for (name, act) in [
            ("limited", "refuse status=429 error=\"rate limit exceeded\""),
            (
                "unauthorized",
                "refuse status=401 error=\"Authenticate: token validation error\"",
            ),
            (
                "refused",
                "refuse status=400 error=\"failed to get manifest r/a:b: unauthorized\"",
            ),
            ("full", "no-capacity kind=region"),
            ("stuck", "stick state=created"),
        ] {
            rules.push(format!("create name=sandbox-{name}-{n}-1-*: {act}"));
        }
    }
    rules
}

impl Story {
    /// Where another worker dies at the story's beginning.
    pub(super) fn death_before(self) -> Option<&'static str> {
        match self {
            Self::LeftUnadmitted => Some("requests::read"),
            Self::LeftUnbooted => Some("dispatch::claimed"),
            Self::LeftUntold => Some("boot::created"),
            Self::LeftUnobeyed => Some("orders::read"),
            _ => None,
        }
    }

    /// Whether somebody else comes before the doomed process.
    pub(super) fn begins_without(self) -> bool {
        // What stops once, has stopped.
        let is_spent = matches!(self, Self::Overtaken | Self::CancelledElsewhere);
        self.death_before().is_some() || is_spent
    }

    /// How a run of it ends, where that is certain whoever dies.
    pub(super) fn outcome(self) -> Option<&'static str> {
        match self {
            Self::Cancelled
            | Self::TenantCancelled
            | Self::CancelledInBoot
            | Self::CancelledElsewhere
            | Self::LeftUnobeyed
            | Self::Puts
            | Self::Reads => Some("cancelled"),
            Self::Hangs | Self::Unseen => Some("timed_out"),
            Self::Exits | Self::EndedUnseen | Self::Vanished => Some("failed"),
            Self::Orphan | Self::NoOrder | Self::Unreadable | Self::ImageRefused => None,
            _ => Some("completed"),
        }
    }

    /// What another worker has done when the doomed process comes in. The worker stays for the
    /// rest of the story.
    pub(super) async fn begin(self, world: &World, n: &str) -> Option<Daemon> {
        if self != Self::CancelledElsewhere {
            return None;
        }
        let other = world.worker();
        self.run(world, "elsewhere", n, guest("hangs")).await;
        let id = format!("elsewhere-{n}");
        world.stack.reaches(&id, "booting").await;
        order(&world.stack, &[("cancel", &id)]).await;
        world.stack.reaches(&id, "settled").await;
        Some(other)
    }

    /// Tells it, as the `n`th of its world.
    pub(super) async fn tell(self, world: &World, n: &str) {
        match self {
            Self::Plain | Self::LeftUnadmitted | Self::LeftUnbooted | Self::LeftUntold => {
                self.run(world, "plain", n, json!({})).await;
            }
            Self::AnswerLost => self.run(world, "lost", n, json!({})).await,
            Self::EndedUnseen => self.run(world, "ended", n, guest("exits")).await,
            Self::RateLimited => self.run(world, "limited", n, json!({})).await,
            Self::Unauthorized => self.run(world, "unauthorized", n, json!({})).await,
            Self::ImageRefused => self.run(world, "refused", n, json!({})).await,
            Self::NoCapacity => self.run(world, "full", n, json!({})).await,
            Self::Stuck => self.run(world, "stuck", n, json!({})).await,
            Self::Overtaken => self.run(world, "plain", n, json!({})).await,
            Self::Stays => self.run(world, "stays", n, guest("stays")).await,
            Self::Exits => self.run(world, "exits", n, guest("exits")).await,
            // One that posts at once is over before it is looked for.
            Self::Unseen => {
                let mut request = guest("hangs");
                request["timeout_s"] = json!(6);
                self.run(world, "unseen", n, request).await;
            }
            Self::Hangs => {
                let mut request = guest("hangs");
                request["timeout_s"] = json!(3);
                self.run(world, "hangs", n, request).await;
            }
            Self::Crowd => {
                self.run(world, "slow-1", n, json!({})).await;
                self.run(world, "slow-2", n, json!({})).await;
            }
            Self::Latecomer => {
                self.run(world, "slow-1", n, json!({})).await;
                self.run(world, "slow-2", n, json!({})).await;
                for name in ["slow-1", "slow-2"] {
                    world.comes_to(&format!("{name}-{n}"), "booting").await;
                }
                self.run(world, "late", n, json!({})).await;
            }
            Self::CancelledInBoot => {
                self.run(world, "slow", n, guest("hangs")).await;
                let id = format!("slow-{n}");
                world.comes_to(&id, "booting").await;
                order(&world.stack, &[("cancel", &id)]).await;
            }
            Self::CancelledElsewhere => ring_until_closed(world, &format!("elsewhere-{n}")).await,
            Self::Large => {
                let request = json!({"input": "x".repeat(LARGE_BYTES)});
                self.run(world, "large", n, request).await;
            }
            Self::Reads => {
                self.run(world, "reads", n, guest("hangs")).await;
                let id = format!("reads-{n}");
                world.comes_to(&id, "running").await;
                let token = grant(world, &id).await;
                world.ask_for_input(&token).await;
                world.post_large(&token).await;
                order(&world.stack, &[("cancel", &id)]).await;
            }
            Self::Puts => {
                let mut request = guest("hangs");
                request["capture"] = json!({"artifacts": ["out/**"]});
                self.run(world, "puts", n, request).await;
                let id = format!("puts-{n}");
                world.comes_to(&id, "running").await;
                let token = grant(world, &id).await;
                let _ = world.put(&token).await;
                let _ = world.post_log(&token).await;
                order(&world.stack, &[("cancel", &id)]).await;
            }
            Self::Vanished => {
                let mut request = guest("hangs");
                request["timeout_s"] = json!(3);
                self.run(world, "vanished", n, request).await;
                let id = format!("vanished-{n}");
                world.comes_to(&id, "running").await;
                world.stack.raw.delete(&format!("run:{id}")).await;
            }
            Self::Unreadable => {
                world.stack.raw.add("runs", &[("run", "nonsense")]).await;
            }
            Self::Orphan => orphan(&world.stack, n).await,
            Self::Cancelled | Self::LeftUnobeyed => {
                self.run(world, "cancelled", n, guest("hangs")).await;
                let id = format!("cancelled-{n}");
                order(&world.stack, &[("cancel", &id)]).await;
            }
            Self::TenantCancelled => {
                let tenant = format!("gone-{n}");
                let mut request = guest("hangs");
                request["tenant"] = json!(tenant);
                self.run(world, "gone", n, request).await;
                order(&world.stack, &[("cancel_tenant", &tenant)]).await;
            }
            Self::TenantPaused => {
                let tenant = format!("paused-{n}");
                let orders = [("pause", tenant.as_str()), ("resume", &tenant)];
                order(&world.stack, &orders).await;
                self.run(world, "paused", n, json!({"tenant": tenant}))
                    .await;
            }
            Self::AllPaused => {
                order(&world.stack, &[("pause", "*"), ("resume", "*")]).await;
                self.run(world, "plain", n, json!({})).await;
            }
            Self::NoOrder => order(&world.stack, &[("abolish", "everything")]).await,
        }
    }

    async fn run(self, world: &World, name: &str, n: &str, mut request: Value) {
        request["id"] = json!(format!("{name}-{n}"));
        request["cmd"] = json!(["true"]);
        world.submit(request, self.outcome()).await;
    }
}

/// Rings the bell for a tear-down, whoever may have heard it before.
async fn ring_until_closed(world: &World, id: &str) {
    until("the tear-down", async || {
        let state = world.stack.view(id).await.unwrap().state;
        if state == "closed" {
            return Ok(());
        }
        let raw = &world.stack.raw;
        raw.say::<i64>("RPUSH", "wakeups", &[id]).await;
        Err(state.to_owned())
    })
    .await;
}

fn guest(behaviour: &str) -> Value {
    json!({"env": {"SIMULATED_GUEST": behaviour}})
}

async fn order(stack: &Stack, words: &[(&str, &str)]) {
    stack.raw.add("control", words).await;
}

async fn orphan(stack: &Stack, n: &str) {
    let create = parts::orphan(&format!("orphan-{n}"), &parts::ring());
    let create = serde_json::from_value(create).unwrap();
    stack.machines.create(APP, &create).await.unwrap();
}

pub(super) async fn grant(world: &World, id: &str) -> String {
    let life = Duration::from_secs(60).as_secs();
    parts::ring().sign(&Grant {
        run: id.parse().unwrap(),
        attempt: Attempt(1),
        expires_s: world.stack.core.clock.now_ms() / 1000 + life,
        nonce: world.stack.raw.nonce(id).await,
    })
}
