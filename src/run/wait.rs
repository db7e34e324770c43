//! Why a run is waiting: what is known of the queues, turned into what people can act on.

use serde::{Deserialize, Serialize};

use crate::clock::UnixMs;
use crate::run::day::Day;
use crate::run::share;

/// Where a waiting run stands and what holds it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Waiting {
    /// How many runs of its tenant go before it; `None` while it waits for its time.
    pub runs_before: Option<u64>,
    /// How many tenants go before its tenant; `None` while the tenant may not go.
    pub tenants_before: Option<u64>,
    /// What holds it, apart from those. Nothing means that it goes after them.
    pub held_by: Vec<WaitReason>,
}

/// Something that holds a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum WaitReason {
    /// Everything is paused.
    Paused,
    /// Its tenant is paused.
    TenantPaused,
    /// It may not start before a time: its own, or the next try after a refusal.
    NotBefore {
        /// That time.
        until_ms: UnixMs,
    },
    /// Its tenant has as many machines as it may.
    TenantCap {
        /// How many it may have.
        max: u32,
        /// How many it has.
        in_flight: u64,
    },
    /// Its tenant has as many machines as it may while it leaves so few slots to others.
    TenantShare {
        /// How many it has.
        in_flight: u64,
        /// How many slots are free.
        free: u64,
    },
    /// Its tenant has used up its machine seconds of this UTC day.
    Budget {
        /// How many it may use.
        budget_s: u64,
        /// How many it used, by machines that are gone.
        used_s: u64,
        /// When the day ends.
        until_ms: UnixMs,
    },
    /// The fleet has as many machines as it may.
    FleetCap {
        /// How many it may have.
        max: u32,
        /// How many it has.
        in_flight: u64,
    },
    /// Every app has as many machines as it may.
    AppCap {
        /// How many one may have.
        max: u32,
    },
    /// No app may boot now: too many boots in a row, or the provider asked to wait.
    Limiter {
        /// When one may.
        until_ms: UnixMs,
    },
    /// The provider refuses us in every app, and somebody must act: token, address, account or
    /// quota.
    Provider {
        /// What it said last.
        says: String,
    },
    /// The provider had no machine for it when it was asked last; it is asked again.
    Refused {
        /// When it is given up.
        until_ms: UnixMs,
    },
    /// No worker has announced itself.
    NoWorker,
}

/// What is known of the queues at one moment.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Facts {
    /// Whether the run waits at all.
    pub queued: bool,
    /// Its place in its tenant's queue.
    #[serde(default)]
    pub before: Option<u64>,
    /// Since when the provider refuses it.
    #[serde(default)]
    pub refused_since_ms: Option<f64>,
    /// When it is ready, if it is delayed.
    #[serde(default)]
    pub ready_at_ms: Option<f64>,
    /// The place of its tenant among those that may go.
    #[serde(default)]
    pub tenants_before: Option<u64>,
    /// Everything is paused.
    pub all_paused: bool,
    /// Its tenant.
    pub tenant: TenantFacts,
    /// Machines in flight, whole fleet.
    pub in_flight: u64,
    /// The workers' limits, if a worker is there.
    #[serde(default)]
    pub fleet: Option<FleetFacts>,
}

/// What is known of a tenant.
#[expect(
    missing_docs,
    reason = "each is the setting or the count of the same name"
)]
#[derive(Clone, Debug, Default, Deserialize)]
pub struct TenantFacts {
    pub paused: bool,
    #[serde(default)]
    pub max_in_flight: Option<u32>,
    pub in_flight: u64,
    #[serde(default)]
    pub budget_s: Option<u64>,
    pub used_ms: u64,
}

/// The workers' limits; 0 stands for none, and no `tenant_max_in_flight` for a shared fleet.
#[expect(missing_docs, reason = "each is the setting of the same name")]
#[derive(Clone, Debug, Default, Deserialize)]
pub struct FleetFacts {
    pub max_in_flight: u32,
    pub app_max_in_flight: u32,
    #[serde(default)]
    pub tenant_max_in_flight: Option<u32>,
    pub boot_rate: f64,
    #[serde(default)]
    pub refused_max_ms: f64,
    pub apps: Vec<AppFacts>,
}

/// An app's machines, and the boots that it may make.
#[expect(missing_docs, reason = "each is the field of the same name")]
#[derive(Clone, Debug, Default, Deserialize)]
pub struct AppFacts {
    pub in_flight: u64,
    #[serde(default)]
    pub tokens: Option<f64>,
    #[serde(default)]
    pub at_ms: Option<f64>,
    #[serde(default)]
    pub hold_until_ms: Option<f64>,
    #[serde(default)]
    pub refused: Option<String>,
}

impl Facts {
    /// Why the run waits; `None` when it does not.
    #[must_use]
    pub fn explain(&self, now: UnixMs) -> Option<Waiting> {
        if !self.queued {
            return None;
        }
        let mut held_by = Vec::new();
        if self.all_paused {
            held_by.push(WaitReason::Paused);
        }
        let ready = self.ready_at_ms.map(whole).filter(|at| *at > now);
        held_by.extend(ready.map(|until_ms| WaitReason::NotBefore { until_ms }));
        self.tenant_reasons(now, &mut held_by);
        let refused_max = self.fleet.as_ref().map(|fleet| whole(fleet.refused_max_ms));
        if let (Some(since), Some(most @ 1..)) = (self.refused_since_ms, refused_max) {
            let until_ms = whole(since).saturating_add(most);
            held_by.push(WaitReason::Refused { until_ms });
        }
        match &self.fleet {
            Some(fleet) => fleet.reasons(self.in_flight, now, &mut held_by),
            None => held_by.push(WaitReason::NoWorker),
        }
        Some(Waiting {
            runs_before: self.before,
            tenants_before: self.tenants_before,
            held_by,
        })
    }

    fn tenant_reasons(&self, now: UnixMs, held_by: &mut Vec<WaitReason>) {
        let tenant = &self.tenant;
        if tenant.paused {
            held_by.push(WaitReason::TenantPaused);
        }
        let usual = self
            .fleet
            .as_ref()
            .and_then(|fleet| fleet.tenant_max_in_flight);
        let max = tenant.max_in_flight.or(usual).filter(|max| *max > 0);
        if let Some(max) = max.filter(|max| tenant.in_flight >= u64::from(*max)) {
            let in_flight = tenant.in_flight;
            held_by.push(WaitReason::TenantCap { max, in_flight });
        }
        if let (None, Some(fleet)) = (tenant.max_in_flight, &self.fleet) {
            let free = u64::from(fleet.max_in_flight).saturating_sub(self.in_flight);
            let per_free_slot =
                share::machines_per_free_slot(fleet.max_in_flight, fleet.tenant_max_in_flight);
            if free > 0 && !share::may_take(tenant.in_flight, free, per_free_slot) {
                let in_flight = tenant.in_flight;
                held_by.push(WaitReason::TenantShare { in_flight, free });
            }
        }
        let used_s = tenant.used_ms / 1000;
        if let Some(budget_s) = tenant.budget_s.filter(|budget| used_s >= *budget) {
            held_by.push(WaitReason::Budget {
                budget_s,
                used_s,
                until_ms: Day::of(now).end_ms(),
            });
        }
    }
}

impl FleetFacts {
    fn reasons(&self, in_flight: u64, now: UnixMs, held_by: &mut Vec<WaitReason>) {
        if in_flight >= u64::from(self.max_in_flight) {
            held_by.push(WaitReason::FleetCap {
                max: self.max_in_flight,
                in_flight,
            });
        }
        let max = self.app_max_in_flight;
        let has_room = |app: &AppFacts| max == 0 || app.in_flight < u64::from(max);
        if !self.apps.iter().any(has_room) {
            held_by.push(WaitReason::AppCap { max });
        }
        let free_at = self.apps.iter().map(|app| app.free_at(self.boot_rate, now));
        if let Some(until_ms) = free_at.min().filter(|at| *at > now) {
            held_by.push(WaitReason::Limiter { until_ms });
            let refused = self.apps.iter().map(|app| app.refused.as_deref());
            if let Some(says) = refused
                .collect::<Option<Vec<_>>>()
                .and_then(|says| says.last().copied())
            {
                let says = says.to_owned();
                held_by.push(WaitReason::Provider { says });
            }
        }
    }
}

impl AppFacts {
    /// From when on it may boot: the same rule as `claim.lua`'s.
    fn free_at(&self, rate: f64, now: UnixMs) -> UnixMs {
        let held_until = self.hold_until_ms.map_or(0, whole);
        let (Some(tokens), Some(at), true) = (self.tokens, self.at_ms, rate > 0.0) else {
            return held_until;
        };
        let since = now.saturating_sub(whole(at));
        let missing = 1.0 - (tokens + millis(since) * rate / 1000.0);
        if missing <= 0.0 {
            return held_until;
        }
        held_until.max(now.saturating_add(whole((missing * 1000.0 / rate).ceil())))
    }
}

/// A time that came as a number of JSON. Such are far below 2^53.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and a time has no fraction"
)]
fn whole(ms: f64) -> UnixMs {
    ms as UnixMs
}

#[expect(clippy::cast_precision_loss, reason = "a span of time, far below 2^53")]
fn millis(span: UnixMs) -> f64 {
    span as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = 1_795_392_000_000;

    fn facts() -> Facts {
        Facts {
            queued: true,
            before: Some(3),
            tenants_before: Some(1),
            in_flight: 7,
            fleet: Some(FleetFacts {
                max_in_flight: 50,
                apps: vec![AppFacts::default()],
                ..FleetFacts::default()
            }),
            ..Facts::default()
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Facts), expected: &[WaitReason]) {
        let mut facts = facts();
        change(&mut facts);
        assert_eq!(facts.explain(NOW).unwrap().held_by, expected);
    }

    #[test]
    fn a_run_that_may_go_is_held_by_nothing() {
        let waiting = facts().explain(NOW).unwrap();
        assert_eq!(
            (waiting.runs_before, waiting.tenants_before),
            (Some(3), Some(1))
        );
        assert_eq!(waiting.held_by, []);
    }

    #[test]
    fn a_run_that_does_not_wait_has_no_answer() {
        let facts = Facts {
            queued: false,
            ..facts()
        };
        assert_eq!(facts.explain(NOW), None);
    }

    #[test]
    fn each_reason_is_named_with_its_numbers() {
        check(|facts| facts.all_paused = true, &[WaitReason::Paused]);
        check(
            |facts| facts.tenant.paused = true,
            &[WaitReason::TenantPaused],
        );
        check(|facts| facts.fleet = None, &[WaitReason::NoWorker]);
        let until_ms = NOW + 5000;
        let at = 1_795_392_005_000.0;
        check(
            |facts| facts.ready_at_ms = Some(at),
            &[WaitReason::NotBefore { until_ms }],
        );
        check(|facts| facts.ready_at_ms = Some(5.0), &[]);
        check(
            |facts| (facts.tenant.max_in_flight, facts.tenant.in_flight) = (Some(2), 2),
            &[WaitReason::TenantCap {
                max: 2,
                in_flight: 2,
            }],
        );
        check(
            |facts| (facts.in_flight, facts.tenant.in_flight) = (45, 45),
            &[WaitReason::TenantShare {
                in_flight: 45,
                free: 5,
            }],
        );
        check(
            |facts| (facts.in_flight, facts.tenant.in_flight) = (45, 3),
            &[],
        );
        check(
            |facts| facts.in_flight = 50,
            &[WaitReason::FleetCap {
                max: 50,
                in_flight: 50,
            }],
        );
        check(
            |facts| (facts.tenant.budget_s, facts.tenant.used_ms) = (Some(60), 60_500),
            &[WaitReason::Budget {
                budget_s: 60,
                used_s: 60,
                until_ms: Day::of(NOW).end_ms(),
            }],
        );
        check(
            |facts| (facts.tenant.budget_s, facts.tenant.used_ms) = (Some(60), 59_999),
            &[],
        );
    }

    fn fleet(change: impl FnOnce(&mut FleetFacts)) -> impl FnOnce(&mut Facts) {
        |facts| change(facts.fleet.as_mut().unwrap())
    }

    #[test]
    fn the_usual_cap_holds_a_tenant_without_its_own() {
        let cap = [WaitReason::TenantCap {
            max: 4,
            in_flight: 4,
        }];
        let usual = |own| {
            move |facts: &mut Facts| {
                (facts.tenant.in_flight, facts.tenant.max_in_flight) = (4, own);
                facts.fleet.as_mut().unwrap().tenant_max_in_flight = Some(4);
            }
        };
        check(usual(None), &cap);
        // 0 stands for no limit of its own.
        check(usual(Some(0)), &[]);
        check(usual(Some(5)), &[]);
    }

    #[test]
    fn apps_hold_only_when_none_is_free() {
        let app = |in_flight, tokens: f64, hold: f64| AppFacts {
            refused: None,
            in_flight,
            tokens: Some(tokens),
            at_ms: Some(1_795_392_000_000.0),
            hold_until_ms: Some(hold),
        };
        let held = 1_795_392_009_000.0;
        let with = |apps: Vec<AppFacts>| {
            fleet(move |fleet| {
                (fleet.apps, fleet.boot_rate, fleet.app_max_in_flight) = (apps, 2.0, 5)
            })
        };
        check(with(vec![app(5, 3.0, 0.0), app(4, 3.0, 0.0)]), &[]);
        check(
            with(vec![app(5, 3.0, 0.0), app(6, 3.0, 0.0)]),
            &[WaitReason::AppCap { max: 5 }],
        );
        check(
            with(vec![app(0, 0.0, 0.0), app(0, 3.0, held)]),
            &[WaitReason::Limiter {
                until_ms: NOW + 500,
            }],
        );
        check(with(vec![app(0, 0.0, 0.0), app(0, 1.0, 0.0)]), &[]);
    }

    #[test]
    fn a_reason_has_its_name_in_json() {
        let reason = WaitReason::TenantCap {
            max: 2,
            in_flight: 2,
        };
        let json = serde_json::to_string(&reason).unwrap();
        assert_eq!(json, r#"{"by":"tenant_cap","max":2,"in_flight":2}"#);
    }
}
