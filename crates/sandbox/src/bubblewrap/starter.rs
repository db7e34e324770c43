//! The thread that sandboxes are started from.
//!
//! All sandboxes are started from one thread that lives as long as the engine. Three things hang on
//! that. bubblewrap ends its sandbox when the *thread* that started it ends, so a thread of a pool,
//! which goes when it is idle, must not start one. On that thread a server that is root has its
//! own [`View`]. And starting means forking the server, which is best done one at a time.
//!
//! Owners of sandboxes take turns, so that one with many starts does not keep another waiting.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use crate::bubblewrap::view::View;

type Job = Box<dyn FnOnce(&mut View) + Send>;

/// The thread that sandboxes are started from. It ends, and with it every sandbox, when the last
/// of its owners is dropped.
#[derive(Clone, Debug)]
pub(super) struct Starter(Arc<Door>);

/// Closes the queue when dropped.
#[derive(Debug)]
struct Door(Arc<Queue>);

impl Drop for Door {
    fn drop(&mut self) {
        self.0.change(|waiting| waiting.is_closed = true);
    }
}

/// The thread's end of the queue: when it ends, in whatever way, nobody waits for it any more.
struct Ends(Arc<Queue>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.change(|waiting| {
            waiting.is_closed = true;
            waiting.jobs.clear();
        });
    }
}

/// What is still to be done.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: HashMap<String, VecDeque<Job>>,
    /// Owners with jobs, in the order of their turns.
    turns: VecDeque<String>,
    is_closed: bool,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting")
            .field("turns", &self.turns)
            .finish_non_exhaustive()
    }
}

impl Waiting {
    /// Once the queue is closed a job is dropped, and whoever waits for it told so.
    fn push(&mut self, owner: &str, job: Job) {
        if self.is_closed {
            return;
        }
        let jobs = self.jobs.entry(owner.to_owned()).or_default();
        if jobs.is_empty() {
            self.turns.push_back(owner.to_owned());
        }
        jobs.push_back(job);
    }

    fn pop(&mut self) -> Option<Job> {
        let owner = self.turns.pop_front()?;
        let jobs = self.jobs.get_mut(&owner)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.jobs.remove(&owner);
        } else {
            self.turns.push_back(owner);
        }
        job
    }
}

impl Queue {
    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// Waits for the next job; `None` once the queue is closed and empty.
    fn next(&self) -> Option<Job> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = waiting.pop() {
                return Some(job);
            }
            if waiting.is_closed {
                return None;
            }
            let changed = self.changed.wait(waiting);
            waiting = changed.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Starter {
    /// Starts the thread. With a folder, which must be empty and this engine's own, the thread
    /// gets a view there; where the system does not allow that, it sees what the server sees.
    pub(super) fn open(view: Option<PathBuf>) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let jobs = Arc::clone(&queue);
        thread::Builder::new()
            .name("sandboxes".into())
            .spawn(move || {
                let mut view = View::open(view);
                let jobs = Ends(jobs);
                while let Some(job) = jobs.0.next() {
                    job(&mut view);
                }
            })?;
        Ok(Self(Arc::new(Door(queue))))
    }

    /// Does some work on the thread, when it is its owner's turn, and waits for it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        owner: &str,
        work: impl FnOnce(&mut View) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = oneshot::channel();
        let job = move |view: &mut View| drop(answer.send(work(view)));
        self.0
            .0
            .change(|waiting| waiting.push(owner, Box::new(job)));
        let gone = |_| io::Error::other("the thread that starts sandboxes has ended");
        answered.await.map_err(gone)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_take_turns_however_many_jobs_they_have() {
        let mut waiting = Waiting::default();
        let done = Arc::new(Mutex::new(Vec::new()));
        let job = |name: &'static str| -> Job {
            let done = Arc::clone(&done);
            Box::new(move |_| done.lock().unwrap().push(name))
        };
        for name in ["a1", "a2", "a3"] {
            waiting.push("a", job(name));
        }
        waiting.push("b", job("b1"));
        let mut view = View::open(None);
        waiting.pop().unwrap()(&mut view);
        waiting.push("b", job("b2"));
        waiting.push("c", job("c1"));
        while let Some(job) = waiting.pop() {
            job(&mut view);
        }
        assert_eq!(*done.lock().unwrap(), ["a1", "b1", "a2", "c1", "b2", "a3"]);
        assert!(waiting.jobs.is_empty() && waiting.turns.is_empty());
    }
}
