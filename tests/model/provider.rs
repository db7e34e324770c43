//! The Machines API: at most one machine of a name, and every answer can get lost.

use crate::tasks::{Boot, Task};
use crate::world::{Call, Id, Machine, Owner, World};

impl World {
    /// Does what a create call asks for, and answers it unless nobody waits any more.
    pub(crate) fn commit(&mut self, call: Call, is_hidden: bool, is_lost: bool) {
        self.calls.remove(&call);
        let mut known = self.machines.iter();
        let is_meant =
            |machine: &&Machine| machine.id.has_name(call.run, call.attempt) && !machine.is_gone;
        let existing = known.find(is_meant);
        let (id, is_new) = match existing {
            Some(machine) => (machine.id, false),
            None => (self.make(call, is_hidden), true),
        };
        if call.is_late {
            self.see("a call came late");
        }
        let Some(Task::Boot(boot)) = &mut self.hands[call.worker] else {
            return;
        };
        let waits =
            matches!(boot.at, Boot::Waits) && (boot.run, boot.attempt) == (call.run, call.attempt);
        if !waits || call.is_late {
            return;
        }
        boot.at = match (is_lost, is_new) {
            (true, _) => Boot::LooksUp,
            (false, true) => Boot::Arrived(id),
            (false, false) => Boot::Adopts(id),
        };
        if is_lost {
            self.see("an answer was lost");
        }
    }

    fn make(&mut self, call: Call, is_hidden: bool) -> Id {
        let before = self
            .made
            .iter()
            .filter(|id| id.has_name(call.run, call.attempt));
        let nth = u8::try_from(before.count()).unwrap();
        let id = Id {
            run: call.run,
            attempt: call.attempt,
            nth,
            of: Owner::Us,
        };
        self.made.insert(id);
        self.machines.insert(Machine {
            id,
            is_over: false,
            is_gone: false,
            is_hidden,
        });
        if is_hidden {
            self.see("a machine was hidden");
        }
        id
    }

    /// The other installation makes its machine, or deletes it.
    pub(crate) fn theirs(&mut self) {
        let id = Id {
            run: 0,
            attempt: 1,
            nth: 0,
            of: Owner::Them,
        };
        if self.theirs {
            self.delete(id);
        } else {
            self.machines.insert(Machine {
                id,
                is_over: false,
                is_gone: false,
                is_hidden: false,
            });
        }
        self.theirs = !self.theirs;
    }

    /// Deletes a machine by force. One that is gone already is no error.
    pub(crate) fn delete(&mut self, id: Id) {
        self.machines.retain(|machine| machine.id != id);
    }
}
