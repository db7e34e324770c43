//! The machines of this computer: the registry, the processes behind it, and what ties them.
//!
//! Every change goes through here: the registry changes under its lock, the lock is given back,
//! and what the registry asks for is carried out. Each start of a machine has a task of its own,
//! the [`keeper`]. A keeper that panics ends its machine: the program is killed as its handle is
//! dropped, and the registry is told that the machine was lost.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tracing::error;

use crate::clock::UnixMs;
use crate::local::faults::rule::{MachineFault, StuckIn};
use crate::local::keeper;
use crate::local::refusal::Refusal;
use crate::local::registry::life::{Effect, Observation};
use crate::local::registry::view::Reply;
use crate::local::registry::{Done, Registry};
use crate::local::runner::Handle;
use crate::local::shared::{Parts, Shared};
use crate::local::waits::{self, Target, WaitQuery, WaitStatus};
use crate::machines::wire::{MachineState, WaitAnswer};
use crate::shutdown::panic_message;

/// How long the answer to a delete waits for the machine's processes.
const DESTROYING_MAX: Duration = Duration::from_secs(2);

/// The machines of this computer. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Host(Shared);

impl Host {
    /// The machines of `registry`, on top of `parts`.
    pub(crate) fn new(registry: Registry, parts: Parts) -> Self {
        Self(Shared::new(registry, parts))
    }

    /// What the machines depend on.
    pub(crate) fn parts(&self) -> &Parts {
        self.0.parts()
    }

    /// The time.
    pub(crate) fn now(&self) -> UnixMs {
        self.0.now()
    }

    /// Reads the registry under its lock.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Registry) -> T) -> T {
        self.0.read(read)
    }

    /// Changes something, and carries out what follows.
    ///
    /// # Errors
    /// What the change itself is refused with; then nothing was changed.
    pub(crate) fn change(
        &self,
        change: impl FnOnce(&mut Registry, UnixMs) -> Result<Done, Refusal>,
    ) -> Result<Reply, Refusal> {
        let now = self.now();
        let done = change(&mut self.0.registry(), now)?;
        for (id, effect) in done.touched {
            self.carry_out(&id, effect);
        }
        Ok(done.reply)
    }

    /// Injects a fault into an existing machine.
    pub(crate) fn inject(&self, id: &str, fault: &MachineFault) {
        let now = self.now();
        if *fault == MachineFault::Forget {
            let effect = self.0.registry().forget(id);
            self.carry_out(id, effect);
            self.parts().logs.retire(id);
            return;
        }
        self.0.registry().inject(id, fault, now);
    }

    /// What runs a started machine.
    ///
    /// # Errors
    /// 404 without the machine, 412 when it does not run.
    pub(crate) fn running(&self, app: &str, id: &str) -> Result<Handle, Refusal> {
        let now = self.now();
        let machine = self.read(|registry| registry.read(app, id, now))?;
        match self.0.handle(id) {
            Some(handle) if machine.state == MachineState::Started => Ok(handle),
            _ => Err(Refusal::precondition(format!(
                "machine is not running, currently '{}'",
                machine.state
            ))),
        }
    }

    /// Waits until a machine reaches a state.
    ///
    /// # Errors
    /// 404 when it is not there or is gone, 408 when the time is up, 503 when the server ends.
    pub(crate) async fn wait(
        &self,
        app: &str,
        id: &str,
        query: &WaitQuery,
    ) -> Result<WaitAnswer, Refusal> {
        let deadline = Instant::now() + query.timeout;
        let mut changes = self.0.waits().subscribe(id);
        let mut since = None;
        let outcome = loop {
            let now = self.now();
            let machine = match self.read(|registry| registry.read(app, id, now)) {
                Ok(machine) => machine,
                Err(refusal) => break Err(refusal),
            };
            let since = since.get_or_insert_with(|| machine.last_event_id().to_owned());
            match waits::check(&machine, query, since) {
                WaitStatus::Reached(answer) => break Ok(answer),
                WaitStatus::Gone => break Err(Refusal::no_machine()),
                WaitStatus::Replaced => break Err(waits::timed_out(query, "replaced")),
                WaitStatus::NotYet => {}
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(deadline) => {
                    break Err(waits::timed_out(query, machine.state.as_str()));
                }
                () = self.parts().shutdown.quiet().cancelled() => break Err(Refusal::ending()),
            }
        };
        self.0.waits().leave(id, changes);
        outcome
    }

    /// Waits until the processes of a deleted machine have ended, as far as that takes no longer
    /// than [`DESTROYING_MAX`]: a client that was told so may create another in its place.
    pub(crate) async fn await_destroyed(&self, app: &str, id: &str) {
        let stick = self.read(|registry| registry.by_id(id)?.injected.stick);
        if matches!(stick, Some((StuckIn::Destroying, _))) {
            return;
        }
        let query = WaitQuery {
            targets: vec![Target::State(MachineState::Destroyed)],
            timeout: DESTROYING_MAX,
            version: None,
            from_event_id: None,
        };
        let _ = self.wait(app, id, &query).await;
    }

    /// Ends every process, because the server ends. None is started from then on.
    pub(crate) fn end_all(&self) {
        self.0.kill_all();
    }

    /// Carries out what the registry asks for, and wakes those who wait for the machine.
    fn carry_out(&self, id: &str, effect: Option<Effect>) {
        match effect {
            None => {}
            Some(Effect::Launch {
                generation,
                pause,
                prepare_only,
            }) => self.launch(id, generation, pause, prepare_only),
            Some(Effect::Order(generation, order)) => self.0.order(id, generation, order),
            Some(Effect::Finish) => self.finish(id),
        }
        self.0.waits().notify(id);
    }

    fn launch(&self, id: &str, generation: u64, pause: Duration, prepare_only: bool) {
        if self.parts().shutdown.quiet().is_cancelled() {
            return;
        }
        let (orders, kill) = self.0.register(id, generation);
        let start = keeper::Start {
            id: id.to_owned(),
            generation,
            pause,
            prepare_only,
            orders,
            kill: kill.clone(),
        };
        self.parts().shutdown.spawn(self.clone().supervise(start));
        // The shutdown may have begun between the check above and the insertion.
        if self.parts().shutdown.quiet().is_cancelled() {
            kill.cancel();
        }
    }

    /// Runs a keeper to its end and takes in what became of the machine, also when it panics.
    async fn supervise(self, start: keeper::Start) {
        let (id, generation) = (start.id.clone(), start.generation);
        let kept = AssertUnwindSafe(keeper::keep(&self.0, start)).catch_unwind();
        let seen = kept.await.unwrap_or_else(|panic| {
            let panic = panic_message(&*panic);
            error!(
                machine_id = id,
                panic, "the keeper of a machine panicked; the machine is ended"
            );
            Some(Observation::Lost)
        });
        self.0.detach(&id, generation);
        if let Some(seen) = seen
            && let Some((_, effect)) = self.0.observe(&id, generation, seen)
        {
            self.carry_out(&id, effect);
        }
    }

    /// Removes a machine that nothing runs for any more, unless a fault keeps it.
    fn finish(&self, id: &str) {
        let stick = self.read(|registry| registry.by_id(id).and_then(|m| m.injected.stick));
        match stick {
            Some((StuckIn::Destroying, None)) => {}
            Some((StuckIn::Destroying, Some(length))) => {
                let (host, id) = (self.clone(), id.to_owned());
                self.parts().shutdown.spawn(async move {
                    let quiet = host.parts().shutdown.quiet();
                    let _ = quiet.run_until_cancelled(tokio::time::sleep(length)).await;
                    host.destroyed(&id);
                });
            }
            _ => self.destroyed(id),
        }
    }

    fn destroyed(&self, id: &str) {
        let now = self.now();
        self.0.registry().finish(id, now);
        self.parts().logs.retire(id);
        self.0.waits().notify(id);
    }
}
