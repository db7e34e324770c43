//! The thread that sandboxes are started from.
//!
//! All sandboxes are started from one thread that lives as long as the engine. Three things hang on
//! that. bubblewrap ends its sandbox when the *thread* that started it ends, so a thread of a pool,
//! which goes when it is idle, must not start one. On that thread a server that is root has its
//! own [`View`]. And starting means forking the server, which is best done one at a time.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

use crate::bubblewrap::view::View;

type Job = Box<dyn FnOnce(&mut View) + Send>;

/// The thread that sandboxes are started from. It ends, and with it every sandbox, when the last
/// of its owners is dropped.
#[derive(Clone, Debug)]
pub(super) struct Starter(mpsc::Sender<Job>);

impl Starter {
    /// Starts the thread. With a folder, which must be empty and this engine's own, the thread
    /// gets a view there; where the system does not allow that, it sees what the server sees.
    pub(super) fn open(view: Option<PathBuf>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("sandboxes".into())
            .spawn(move || {
                let mut view = View::open(view);
                for job in queue {
                    job(&mut view);
                }
            })?;
        Ok(Self(jobs))
    }

    /// Does some work on the thread and waits for it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut View) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = oneshot::channel();
        let job = move |view: &mut View| drop(answer.send(work(view)));
        let gone = || io::Error::other("the thread that starts sandboxes has ended");
        self.0.send(Box::new(job)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}
