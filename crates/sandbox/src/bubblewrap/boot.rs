//! Brings one sandbox up.
//!
//! ```text
//!   server                                      sandbox
//!   start bubblewrap ─────────────────────────▶ namespaces, root, filter
//!   make the control group, put it in
//!                    ◀───────────────── ready ─ init: listener made, waiting
//!   check that init is in the group
//!   lower init's limits, take the listener out
//!                     ─ go ───────────────────▶ starts the guest's program
//!                    ◀─────────────── started ─
//! ```
//!
//! Nothing of the guest runs before *go*. Whatever fails or takes too long ends in nothing being
//! left. A boot runs as a task of its own, so that this holds even if nobody waits for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Resource;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::bubblewrap::core::Core;
use crate::bubblewrap::launch::{Launched, launch};
use crate::bubblewrap::plan::{Plan, check};
use crate::bubblewrap::running::{Execs, Running, Sandbox, refusal};
use crate::bubblewrap::supervisor::Supervisor;
use crate::cgroup::{Group, Groups};
use crate::control::{self, Events, Requests, Waiting};
use crate::error::Error;
use crate::init::wire::{Event, Request};
use crate::limits::{self, Quota};
use crate::output;
use crate::pidfd::Process;
use crate::spec::{OutputSink, Spec};
use crate::uids::Uid;

/// A sandbox that is not up by then is given up. It usually takes some milliseconds.
const BOOT_MAX: Duration = Duration::from_secs(10);
/// So long init may take to say that the guest's program runs. By then it does: init was told to
/// start it, and what keeps it silent may be the guest.
const STARTED_MAX: Duration = Duration::from_secs(5);
/// What bubblewrap says when it fails is cut at this.
const SAID_MAX_BYTES: u64 = 4096;
/// What bubblewrap tells of a sandbox is shorter, or it is not what we know.
const STATUS_MAX_BYTES: u64 = 4096;

/// Starts a sandbox in a task of its own; if nobody waits for it any more it is ended.
pub(super) async fn start(
    core: &Arc<Core>,
    spec: Spec,
    quota: Quota,
    groups: Option<Groups>,
    sink: OutputSink,
) -> Result<Running, Error> {
    check(&spec).map_err(Error::Spec)?;
    if core.closing.is_cancelled() {
        return Err(Error::Busy("the engine is closing".into()));
    }
    let number = core.started.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}.{number}", spec.id);
    let plan = Plan {
        spec,
        name,
        quota,
        groups,
        sink,
    };
    let (answer, answered) = oneshot::channel();
    let booting = Arc::clone(core);
    core.tasks.spawn(async move {
        // If nobody waits any more, the sandbox is dropped here and thereby ended.
        let _ = answer.send(boot(booting, plan).await);
    });
    answered
        .await
        .unwrap_or_else(|_| Err(Error::Boot("the boot was broken off".into())))
}

/// Brings the sandbox up. It is running when this returns.
async fn boot(core: Arc<Core>, plan: Plan) -> Result<Running, Error> {
    let (mut launched, waiting) = launch(&core, &plan).await?;
    let up = tokio::time::timeout(BOOT_MAX, launched.come_up(&core, &plan, waiting)).await;
    let up = match up {
        Ok(Ok(starting)) => launched.begin(&plan, starting).await,
        Ok(Err(error)) => Err(error),
        Err(_) => Err(BootError::Known(Error::Late(BOOT_MAX))),
    };
    let error = match up {
        Ok(up) => return Ok(launched.live(core, plan, up)),
        Err(error) => error,
    };
    let said = launched.clean_up(&core, &plan.name).await;
    Err(match error {
        BootError::Known(error) => error,
        BootError::Gone => Error::Boot(said),
    })
}

/// Why a sandbox did not come up.
enum BootError {
    Known(Error),
    /// The sandbox has ended; why is on its standard error.
    Gone,
}

impl From<Error> for BootError {
    fn from(error: Error) -> Self {
        Self::Known(error)
    }
}

/// A sandbox whose init has been told to start the guest's program.
struct Starting {
    init: u32,
    listener: TcpListener,
    events: Events,
    requests: Requests,
}

/// A sandbox that is up.
struct Up {
    pid1: Process,
    /// The main program's number inside the sandbox; 0 when nobody tells.
    main: u32,
    starting: Starting,
}

impl Launched {
    /// From the start of bubblewrap to the order to start the guest's program.
    async fn come_up(
        &mut self,
        core: &Arc<Core>,
        plan: &Plan,
        waiting: Waiting,
    ) -> Result<Starting, BootError> {
        // While bubblewrap is still setting up; what it starts is started in the group.
        let moving = self.group.clone().filter(Group::needs_move);
        let joining = join(moving, self.monitor.pid());
        let (found, status) = (&mut self.pid1, &mut self.status);
        let finding = async {
            *found = Some(pid1(status).await?);
            Ok::<_, BootError>(())
        };
        let (joined, told, first) = tokio::join!(joining, finding, waiting.first());
        let first = first.map_err(|_| BootError::Gone)?;
        told?;
        joined?;
        let pid1 = self
            .pid1
            .as_ref()
            .map(Process::pid)
            .ok_or(BootError::Gone)?;
        let init = first.pid;
        let listener = match first.event {
            Event::Ready { listener } => listener,
            Event::Failed(failure) => return Err(Error::Boot(failure.detail).into()),
            _ => return Err(Error::Boot("init does not say that it is ready".into()).into()),
        };
        self.confirm(pid1, init).await?;
        let held = Process::open(init).map_err(Error::io("follow init"))?;
        self.lower(
            core,
            &plan.spec.owner,
            init,
            plan.quota.per_process(plan.kind(), core.count_processes),
        )
        .await?;
        let listener = control::take_listener(&held, listener)
            .and_then(TcpListener::from_std)
            .map_err(Error::io("take the listener out of the sandbox"))?;
        // Init runs, so the sandbox has mounts of its own.
        drop(self.own_root.take());

        if let Some(group) = &self.group {
            group
                .end_of_boot()
                .map_err(Error::io("set a control group's weight"))?;
        }
        let (events, mut requests) = waiting.split();
        requests
            .send(&Request::Start(plan.program()))
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => BootError::Known(Error::Spec(
                    "arguments and environment are too large".into(),
                )),
                _ => BootError::Gone,
            })?;
        Ok(Starting {
            init,
            listener,
            events,
            requests,
        })
    }

    /// Waits until init says that the guest's program runs, or why it cannot.
    async fn begin(&mut self, plan: &Plan, mut starting: Starting) -> Result<Up, BootError> {
        let main = match tokio::time::timeout(STARTED_MAX, starting.events.next()).await {
            Ok(Some(Event::Started { pid })) => pid,
            Ok(Some(Event::Failed(failure))) => {
                return Err(refusal(failure, &plan.spec.argv[0], plan.workdir()).into());
            }
            // The guest ran and ended or stopped its init, or the kernel did, before that could
            // say so. It is a sandbox all the same, and no process has this number.
            _ => 0,
        };
        let pid1 = self.pid1.take().ok_or(BootError::Gone)?;
        Ok(Up {
            pid1,
            main,
            starting,
        })
    }

    /// Makes sure that init is in the group: bubblewrap may have been quicker than we were.
    async fn confirm(&self, pid1: u32, init: u32) -> Result<(), Error> {
        let Some(group) = &self.group else {
            return Ok(());
        };
        let failed = |error| Error::io("read a control group")(error);
        if !group.contains(init).map_err(failed)? {
            join(self.group.clone(), pid1).await?;
            join(self.group.clone(), init).await?;
        }
        Ok(())
    }

    /// Lowers init's own limits. Where that takes the sandbox's ids, it is the starting thread
    /// that takes them on.
    async fn lower(
        &self,
        core: &Core,
        owner: &str,
        init: u32,
        limits: Vec<(Resource, u64)>,
    ) -> Result<(), Error> {
        let uid = self.uid.as_ref().map(Uid::number);
        let lowered = match uid {
            Some(_) => {
                core.starter
                    .run(owner, move |_| limits::apply(init, uid, &limits))
                    .await
            }
            None => limits::apply(init, None, &limits),
        };
        lowered.map_err(Error::io("limit init"))
    }

    /// Hands the sandbox over to its keeper.
    fn live(self, core: Arc<Core>, plan: Plan, up: Up) -> Running {
        let over = CancellationToken::new();
        let output = core.tasks.spawn(output::forward(
            self.stdout,
            self.stderr,
            plan.sink,
            over.clone(),
        ));
        // bubblewrap dies of a broken pipe if its status is not read to the end.
        core.tasks.spawn(drain(self.status));
        let sandbox = Arc::new(Sandbox {
            monitor: self.monitor,
            pid1: up.pid1,
            init: up.starting.init,
            main: up.main,
            requests: tokio::sync::Mutex::new(up.starting.requests),
            execs: Execs::default(),
            killed: AtomicBool::new(false),
        });
        let supervisor = Supervisor {
            sandbox: Arc::clone(&sandbox),
            child: self.child,
            events: up.starting.events,
            output,
            over,
            group: self.group,
            uid: self.uid,
        };
        let (tell, exit) = oneshot::channel();
        let tasks = core.tasks.clone();
        tasks.spawn(async move {
            let _ = tell.send(supervisor.supervise(&core.closing).await);
        });
        Running {
            sandbox,
            listener: Some(up.starting.listener),
            exit,
        }
    }

    /// Removes what there is of the sandbox; returns what bubblewrap had to say.
    async fn clean_up(mut self, core: &Core, name: &str) -> String {
        self.monitor.kill();
        self.monitor.ended().await;
        let _ = self.child.wait();
        if self.pid1.is_none() {
            // All that bubblewrap has told is in the pipe, and the pipe has an end now.
            self.pid1 = pid1(&mut self.status).await.ok();
        }
        match &self.pid1 {
            Some(pid1) => {
                pid1.kill();
                pid1.ended().await;
                pid1.reap();
            }
            // It may have been made in the moment before, without anyone having been told.
            None => core.kill_strays(Some(name)).await,
        }
        let mut said = Vec::new();
        let _ = (&mut self.stderr)
            .take(SAID_MAX_BYTES)
            .read_to_end(&mut said)
            .await;
        if let Some(group) = &self.group
            && let Err(error) = group.remove().await
        {
            tracing::warn!(%error, "a control group could not be removed");
        }
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        if said.is_empty() {
            "bubblewrap ended without a word".into()
        } else {
            said
        }
    }
}

/// Puts a process of the sandbox into the sandbox's group.
async fn join(group: Option<Group>, pid: u32) -> Result<(), Error> {
    let Some(group) = group else { return Ok(()) };
    flatten(spawn_blocking(move || group.add(pid)).await)
        .map_err(Error::io("put the sandbox into its control group"))
}

/// Waits for the first process of the sandbox, which bubblewrap tells by its number.
async fn pid1(status: &mut Receiver) -> Result<Process, BootError> {
    let mut line = Vec::new();
    let mut status = BufReader::new(status.take(STATUS_MAX_BYTES));
    status
        .read_until(b'\n', &mut line)
        .await
        .map_err(|_| BootError::Gone)?;
    if line.is_empty() {
        return Err(BootError::Gone);
    }
    let told: serde_json::Value = serde_json::from_slice(&line).map_err(|_| BootError::Gone)?;
    let pid = told["child-pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok());
    let pid = pid.ok_or(BootError::Gone)?;
    Ok(Process::open(pid).map_err(Error::io("follow the sandbox"))?)
}

async fn drain(mut status: Receiver) {
    let mut rest = [0; 256];
    while status.read(&mut rest).await.is_ok_and(|length| length > 0) {}
}

/// The answer of a blocking task; one that panicked is an error like others.
fn flatten<T>(answer: Result<io::Result<T>, tokio::task::JoinError>) -> io::Result<T> {
    answer.unwrap_or_else(|error| Err(io::Error::other(error)))
}
