//! Does to the fleet what the plan says, when it says so.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::count;
use crate::fleet::Fleet;
use crate::link::Link;
use crate::plan::{Act, Plan, When, Who};
use crate::produce::Progress;
use crate::provider::Provider;

/// Between two looks at the plan.
const BEAT: Duration = Duration::from_millis(10);
/// Between two looks at the provider.
const LOOK: Duration = Duration::from_millis(200);
/// How long the work may stand still, once nothing is done to it any more.
const STILL_MAX: Duration = Duration::from_secs(180);

/// What was really done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) kills: usize,
    pub(crate) stops: usize,
    pub(crate) replaced: usize,
    pub(crate) redis_restarts: usize,
    pub(crate) machines_kills: usize,
    pub(crate) pauses: usize,
    /// How often Redis lost data.
    pub(crate) forgot: usize,
    /// How often Redis's memory was full.
    pub(crate) full: usize,
}

/// Something that ends by itself after a while.
enum Later {
    /// A process that was stopped goes on, unless it was started anew meanwhile.
    Cont(Who, u32),
    /// A tenant goes on.
    Resume(String),
    /// Redis has memory again.
    Room,
}

/// The storm over a fleet.
pub(crate) struct Storm<'a> {
    pub(crate) fleet: Fleet,
    pub(crate) provider: Provider,
    pub(crate) progress: Rc<Progress>,
    pub(crate) done: Done,
    link: Link,
    /// Redis's data of some time ago.
    copy: Option<Vec<u8>>,
    began: Instant,
    later: Vec<(Instant, Later)>,
    /// The rules that should be in force, and whether they are.
    weather: &'a [String],
    is_current: bool,
}

impl<'a> Storm<'a> {
    /// A storm that has not begun.
    pub(crate) fn new(fleet: Fleet, progress: Rc<Progress>) -> Self {
        Self {
            provider: Provider::new(&fleet.machines_url),
            link: fleet.link(),
            copy: None,
            fleet,
            progress,
            done: Done::default(),
            began: Instant::now(),
            later: Vec::new(),
            weather: &[],
            is_current: true,
        }
    }

    /// Carries the plan out, until everything was sent and nothing is left in it, or, where it
    /// goes by the clock, until `expected` runs have ended.
    pub(crate) async fn rage(&mut self, plan: &'a Plan, expected: usize) {
        let mut acts = plan.acts.iter();
        let mut next = acts.next();
        let mut looked = Instant::now();
        let (mut moved, mut ended) = (Instant::now(), 0);
        loop {
            sleep(BEAT).await;
            self.end_what_is_due(false);
            self.fleet.look_after();
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look().await;
            }
            if self.progress.over() != ended {
                (moved, ended) = (Instant::now(), self.progress.over());
            }
            let is_over = ended >= expected && self.progress.all_sent.get();
            let stands_still = moved.elapsed() > STILL_MAX;
            let Some(timed) = next else { break };
            if is_over || stands_still {
                break;
            }
            let is_time = match timed.when {
                When::Ended(runs) => ended >= runs,
                When::Ms(ms) => self.began.elapsed() >= Duration::from_millis(ms),
            };
            if is_time {
                self.act(&timed.act).await;
                next = acts.next();
            }
        }
        self.weather = &[];
        self.is_current = false;
    }

    /// Ends what still goes on.
    pub(crate) async fn calm(&mut self) {
        self.end_what_is_due(true);
        while !self.is_current {
            self.fleet.look_after();
            self.look().await;
            sleep(BEAT).await;
        }
    }

    /// Looks at the provider, and sees to its rules.
    pub(crate) async fn look(&mut self) {
        if self.is_current {
            self.provider.look().await;
        } else {
            self.is_current = self.provider.command(self.weather).await;
        }
    }

    fn end_what_is_due(&mut self, all: bool) {
        let now = Instant::now();
        for (at, later) in std::mem::take(&mut self.later) {
            if at > now && !all {
                self.later.push((at, later));
                continue;
            }
            match later {
                Later::Cont(who, starts) => {
                    let process = self.fleet.get(who);
                    if process.starts == starts {
                        process.signal(Signal::CONT);
                    }
                }
                Later::Resume(scope) => self.order("resume", scope),
                Later::Room => self.progress.maxmemory.set(Some("0")),
            }
        }
    }

    fn order(&mut self, word: &str, value: String) {
        self.progress
            .orders
            .borrow_mut()
            .push((word.to_owned(), value));
    }

    async fn hold_the_producer(&mut self) {
        self.progress.hold.set(true);
        while !self.progress.is_held.get() {
            // It may wait for Redis to go on.
            self.end_what_is_due(false);
            self.fleet.look_after();
            sleep(BEAT).await;
        }
    }

    /// Tells it what Redis has now.
    async fn let_the_producer_go(&mut self) {
        let kept = count::kept(&mut self.link).await;
        self.done.forgot += 1;
        self.progress.kept.replace(Some(kept));
        self.progress.hold.set(false);
    }

    async fn act(&mut self, act: &'a Act) {
        let after = |ms: u64| Instant::now() + Duration::from_millis(ms);
        match act {
            Act::Kill(who) => {
                if *who == Who::Machines {
                    self.provider.look().await;
                    self.provider.begin_anew();
                    self.is_current = false;
                    self.done.machines_kills += 1;
                }
                if !self.fleet.kill(*who) {
                    return;
                }
                match who {
                    Who::Redis => self.done.redis_restarts += 1,
                    Who::Worker(_) | Who::Serve(_) | Who::Machines => self.done.kills += 1,
                }
            }
            Act::Stop(who, ms) => {
                let process = self.fleet.get(*who);
                process.signal(Signal::STOP);
                let starts = process.starts;
                self.later.push((after(*ms), Later::Cont(*who, starts)));
                self.done.stops += 1;
            }
            Act::Replace(who) => {
                self.fleet.replace(*who);
                self.done.replaced += 1;
            }
            Act::Weather(rules) => {
                self.weather = rules;
                self.is_current = false;
                self.look().await;
            }
            Act::Copy => {
                let saved: String = self.link.ask(&["SAVE"]).await;
                assert_eq!(saved, "OK");
                self.copy = Some(self.fleet.saved());
            }
            Act::Restore => {
                let copy = self.copy.take().unwrap();
                self.hold_the_producer().await;
                self.fleet.restore(&copy);
                self.done.redis_restarts += 1;
                self.let_the_producer_go().await;
            }
            Act::Wipe => {
                self.hold_the_producer().await;
                let wiped: String = self.link.ask(&["FLUSHALL"]).await;
                assert_eq!(wiped, "OK");
                self.let_the_producer_go().await;
            }
            Act::Full(ms) => {
                self.progress.maxmemory.set(Some("1mb"));
                self.later.push((after(*ms), Later::Room));
                self.done.full += 1;
            }
            Act::Pause(scope, ms) => {
                self.order("pause", scope.clone());
                self.later.push((after(*ms), Later::Resume(scope.clone())));
                self.done.pauses += 1;
            }
            Act::CancelTenant(tenant) => self.order("cancel_tenant", tenant.clone()),
        }
    }
}

/// Waits until a look finds nothing left to be done, while `bound` lasts.
pub(crate) async fn settle<F: Future<Output = bool>>(
    bound: Duration,
    mut look: impl FnMut() -> F,
) -> bool {
    let began = Instant::now();
    loop {
        if look().await {
            return true;
        }
        if began.elapsed() > bound {
            return false;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Processes of guests that are left, by the mark in their environment.
pub(crate) fn left_processes(mark: &str) -> Vec<String> {
    let mark = format!("STORM={mark}");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let marked = processes.filter(|process| has(&process.path(), &mark));
    marked
        .map(|process| process.file_name().to_string_lossy().into_owned())
        .collect()
}

fn has(process: &Path, mark: &str) -> bool {
    let environment = std::fs::read(process.join("environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable == mark.as_bytes())
}
