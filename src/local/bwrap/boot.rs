//! Brings one machine up.
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

use crate::local::bwrap::cgroup::{Group, Groups};
use crate::local::bwrap::control::{self, Orders, Reports, Waiting};
use crate::local::bwrap::core::Core;
use crate::local::bwrap::end::Keeper;
use crate::local::bwrap::launch::{Launched, launch};
use crate::local::bwrap::limits::{self, Quota};
use crate::local::bwrap::machine::{Execs, Machine, Running, refusal};
use crate::local::bwrap::output;
use crate::local::bwrap::plan::{Plan, check};
use crate::local::bwrap::process::Process;
use crate::local::bwrap::uids::Uid;
use crate::local::bwrap::wire::{News, Order};
use crate::local::engine::{Error, OutputSink, Spec};

/// A machine that is not up by then is given up. It usually takes some milliseconds.
const BOOT_MAX: Duration = Duration::from_secs(10);
/// So long init may take to say that the guest's program runs. By then it does: init was told to
/// start it, and what keeps it silent may be the guest.
const WORD_MAX: Duration = Duration::from_secs(5);
/// What bubblewrap says when it fails is cut at this.
const COMPLAINT_MAX_BYTES: u64 = 4096;
/// What bubblewrap tells of a sandbox is shorter, or it is not what we know.
const STATUS_MAX_BYTES: u64 = 4096;

/// Starts a machine in a task of its own; if nobody waits for it any more it is ended.
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
        // If nobody waits any more, the machine is dropped here and thereby ended.
        let _ = answer.send(boot(booting, plan).await);
    });
    answered
        .await
        .unwrap_or_else(|_| Err(Error::Boot("the boot was broken off".into())))
}

/// Brings the machine up. It is running when this returns.
async fn boot(core: Arc<Core>, plan: Plan) -> Result<Running, Error> {
    let (mut launched, waiting) = launch(&core, &plan).await?;
    let up = tokio::time::timeout(BOOT_MAX, launched.come_up(&core, &plan, waiting)).await;
    let up = match up {
        Ok(Ok(told)) => launched.begin(&plan, told).await,
        Ok(Err(fault)) => Err(fault),
        Err(_) => Err(Fault::Known(Error::Late(BOOT_MAX))),
    };
    let fault = match up {
        Ok(up) => return Ok(launched.live(core, plan, up)),
        Err(fault) => fault,
    };
    let complaint = launched.bury(&core, &plan.name).await;
    Err(match fault {
        Fault::Known(error) => error,
        Fault::Gone => Error::Boot(complaint),
    })
}

/// Why a machine did not come up.
enum Fault {
    Known(Error),
    /// The sandbox has ended; why is on its standard error.
    Gone,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Known(error)
    }
}

/// A machine whose init has been told to start the guest's program.
struct Told {
    init: u32,
    listener: TcpListener,
    reports: Reports,
    orders: Orders,
}

/// A machine that is up.
struct Up {
    sandbox: Process,
    /// The main program's number inside the sandbox; 0 when nobody tells.
    main: u32,
    told: Told,
}

impl Launched {
    /// From the start of bubblewrap to the order to start the guest's program.
    async fn come_up(
        &mut self,
        core: &Arc<Core>,
        plan: &Plan,
        waiting: Waiting,
    ) -> Result<Told, Fault> {
        // While bubblewrap is still at its beginnings; what it starts is born in the group.
        let adopting = self.group.clone().filter(Group::adopts);
        let joining = join(adopting, self.monitor.pid());
        let (found, status) = (&mut self.sandbox, &mut self.status);
        let finding = async {
            *found = Some(sandbox(status).await?);
            Ok::<_, Fault>(())
        };
        let (joined, told, first) = tokio::join!(joining, finding, waiting.first());
        let first = first.map_err(|_| Fault::Gone)?;
        told?;
        joined?;
        let sandbox = self.sandbox.as_ref().map(Process::pid).ok_or(Fault::Gone)?;
        let init = first.pid;
        let listener = match first.news {
            News::Ready { listener } => listener,
            News::Failed(failure) => return Err(Error::Boot(failure.detail).into()),
            _ => return Err(Error::Boot("init does not say that it is ready".into()).into()),
        };
        self.confirm(sandbox, init).await?;
        let held = Process::open(init).map_err(Error::io("follow init"))?;
        self.lower(
            core,
            init,
            plan.quota.per_process(plan.kind(), core.count_processes),
        )
        .await?;
        let listener = control::take_listener(&held, listener)
            .and_then(TcpListener::from_std)
            .map_err(Error::io("take the listener out of the sandbox"))?;

        let (reports, mut orders) = waiting.split();
        orders
            .send(&Order::Go(plan.program()))
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => Fault::Known(Error::Spec(
                    "arguments and environment are too large".into(),
                )),
                _ => Fault::Gone,
            })?;
        Ok(Told {
            init,
            listener,
            reports,
            orders,
        })
    }

    /// Waits until init says that the guest's program runs, or why it cannot.
    async fn begin(&mut self, plan: &Plan, mut told: Told) -> Result<Up, Fault> {
        let main = match tokio::time::timeout(WORD_MAX, told.reports.next()).await {
            Ok(Some(News::Started { pid })) => pid,
            Ok(Some(News::Failed(failure))) => {
                return Err(refusal(failure, &plan.spec.argv[0], plan.workdir()).into());
            }
            // The guest ran and ended or stopped its init, or the kernel did, before that could
            // say so. It is a machine all the same, and no process has this number.
            _ => 0,
        };
        let sandbox = self.sandbox.take().ok_or(Fault::Gone)?;
        Ok(Up {
            sandbox,
            main,
            told,
        })
    }

    /// Makes sure that init is in the group: bubblewrap may have been quicker than we were.
    async fn confirm(&self, sandbox: u32, init: u32) -> Result<(), Error> {
        let Some(group) = &self.group else {
            return Ok(());
        };
        let failed = |error| Error::io("read a control group")(error);
        if !group.contains(init).map_err(failed)? {
            join(self.group.clone(), sandbox).await?;
            join(self.group.clone(), init).await?;
        }
        Ok(())
    }

    /// Lowers init's own limits. Where that takes the machine's ids, it is the starting thread
    /// that takes them on.
    async fn lower(
        &self,
        core: &Core,
        init: u32,
        limits: Vec<(Resource, u64)>,
    ) -> Result<(), Error> {
        let uid = self.uid.as_ref().map(Uid::number);
        let lowered = match uid {
            Some(_) => {
                core.starter
                    .run(move |_| limits::put(init, uid, &limits))
                    .await
            }
            None => limits::put(init, None, &limits),
        };
        lowered.map_err(Error::io("limit init"))
    }

    /// Hands the machine over to its keeper.
    fn live(self, core: Arc<Core>, plan: Plan, up: Up) -> Running {
        let over = CancellationToken::new();
        let output = core.tasks.spawn(output::pass_on(
            self.stdout,
            self.stderr,
            plan.sink,
            over.clone(),
        ));
        // bubblewrap dies of a broken pipe if its status is not read to the end.
        core.tasks.spawn(drain(self.status));
        let machine = Arc::new(Machine {
            monitor: self.monitor,
            sandbox: up.sandbox,
            init: up.told.init,
            main: up.main,
            orders: tokio::sync::Mutex::new(up.told.orders),
            execs: Execs::default(),
            killed: AtomicBool::new(false),
        });
        let keeper = Keeper {
            machine: Arc::clone(&machine),
            child: self.child,
            reports: up.told.reports,
            output,
            over,
            group: self.group,
            uid: self.uid,
        };
        let (tell, exit) = oneshot::channel();
        let tasks = core.tasks.clone();
        tasks.spawn(async move {
            let _ = tell.send(keeper.keep(&core.closing).await);
        });
        Running {
            machine,
            listener: Some(up.told.listener),
            exit,
        }
    }

    /// Removes what there is of the machine; returns what bubblewrap had to say.
    async fn bury(mut self, core: &Core, name: &str) -> String {
        self.monitor.kill();
        self.monitor.ended().await;
        let _ = self.child.wait();
        if self.sandbox.is_none() {
            // All that bubblewrap has told is in the pipe, and the pipe has an end now.
            self.sandbox = sandbox(&mut self.status).await.ok();
        }
        match &self.sandbox {
            Some(sandbox) => {
                sandbox.kill();
                sandbox.ended().await;
                sandbox.reap();
            }
            // It may have been made in the moment before, without anyone having been told.
            None => core.end_strays(Some(name)).await,
        }
        let mut said = Vec::new();
        let _ = (&mut self.stderr)
            .take(COMPLAINT_MAX_BYTES)
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

/// Puts a process of the sandbox into the machine's group.
async fn join(group: Option<Group>, pid: u32) -> Result<(), Error> {
    let Some(group) = group else { return Ok(()) };
    flatten(spawn_blocking(move || group.add(pid)).await)
        .map_err(Error::io("put the sandbox into its control group"))
}

/// Waits for the first process of the sandbox, which bubblewrap tells by its number.
async fn sandbox(status: &mut Receiver) -> Result<Process, Fault> {
    let mut line = Vec::new();
    let mut status = BufReader::new(status.take(STATUS_MAX_BYTES));
    status
        .read_until(b'\n', &mut line)
        .await
        .map_err(|_| Fault::Gone)?;
    if line.is_empty() {
        return Err(Fault::Gone);
    }
    let told: serde_json::Value = serde_json::from_slice(&line).map_err(|_| Fault::Gone)?;
    let pid = told["child-pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok());
    let pid = pid.ok_or(Fault::Gone)?;
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
