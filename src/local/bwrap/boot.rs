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
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
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
use crate::local::bwrap::layout::{INIT, layout};
use crate::local::bwrap::limits::{self, Quota};
use crate::local::bwrap::machine::{Execs, Keeper, Machine, Running, refusal};
use crate::local::bwrap::output;
use crate::local::bwrap::process::{self, Launch, Process, View};
use crate::local::bwrap::roots::Source;
use crate::local::bwrap::sandbox::{File, Sandbox, options};
use crate::local::bwrap::uids::Uid;
use crate::local::bwrap::wire::{News, Order, Program};
use crate::local::bwrap::{Core, DEFAULT_WORKDIR};
use crate::local::engine::{Error, Limits, OutputSink, Root, Spec};

/// A machine that is not up by then is given up. It usually takes some milliseconds.
const BOOT_MAX: Duration = Duration::from_secs(10);
/// What bubblewrap says when it fails is cut at this.
const COMPLAINT_MAX_BYTES: u64 = 4096;
/// What bubblewrap tells of a sandbox is shorter, or it is not what we know.
const STATUS_MAX_BYTES: u64 = 4096;

/// What a boot works on.
pub(super) struct Plan {
    pub(super) spec: Spec,
    /// Unlike the spec's id, of one machine only.
    pub(super) name: String,
    pub(super) quota: Quota,
    pub(super) groups: Option<Groups>,
    pub(super) sink: OutputSink,
}

impl Plan {
    fn kind(&self) -> Limits {
        self.groups.as_ref().map_or(Limits::Rlimit, Groups::kind)
    }

    fn program(&self) -> Program {
        Program {
            argv: self.spec.argv.clone(),
            env: self
                .spec
                .env
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            workdir: self.workdir().to_owned(),
        }
    }

    fn workdir(&self) -> &str {
        self.spec.workdir.as_deref().unwrap_or(DEFAULT_WORKDIR)
    }
}

/// Brings the machine up. It is running when this returns.
pub(super) async fn boot(core: Arc<Core>, plan: Plan) -> Result<Running, Error> {
    let (mut birth, waiting) = launch(&core, &plan).await?;
    let up = tokio::time::timeout(BOOT_MAX, birth.come_up(&core, &plan, waiting)).await;
    let fault = match up {
        Ok(Ok(up)) => return Ok(birth.live(core, plan, up)),
        Ok(Err(fault)) => fault,
        Err(_) => Fault::Known(Error::Late(BOOT_MAX)),
    };
    let complaint = birth.bury(&core, &plan.name).await;
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

/// A machine that is coming up: what has to be removed if it does not.
struct Birth {
    child: Child,
    monitor: Process,
    status: Receiver,
    stdout: Receiver,
    stderr: Receiver,
    group: Option<Group>,
    uid: Option<Uid>,
}

/// A machine that is up.
struct Up {
    sandbox: Process,
    init: u32,
    main: u32,
    listener: TcpListener,
    reports: Reports,
    orders: Orders,
}

/// Starts bubblewrap, and makes the control group meanwhile.
async fn launch(core: &Arc<Core>, plan: &Plan) -> Result<(Birth, Waiting), Error> {
    let uid = match &core.uids {
        Some(uids) => {
            let full = || Error::Busy("every user id for machines is taken".into());
            Some(uids.take().ok_or_else(full)?)
        }
        None => None,
    };
    let (waiting, stdin) = control::pair().map_err(Error::io("make the control socket"))?;
    let (stdout, out) = output::pipe().map_err(Error::io("make a pipe"))?;
    let (stderr, err) = output::pipe().map_err(Error::io("make a pipe"))?;
    let (status, told) = output::pipe().map_err(Error::io("make a pipe"))?;
    let contents = contents(plan).await?;
    let ends = Ends {
        stdin,
        out,
        err,
        told,
        contents,
    };

    let grouping = plan.groups.clone().map(|groups| {
        let (name, quota) = (plan.name.clone(), plan.quota);
        spawn_blocking(move || groups.make(&name, &quota))
    });
    let job = Job {
        core: Arc::clone(core),
        spec: plan.spec.clone(),
        name: plan.name.clone(),
        quota: plan.quota,
        uid: uid.as_ref().map(Uid::number),
    };
    let started = core
        .starter
        .run(move |view| Ok(job.start(view, ends)))
        .await;
    let group = match grouping {
        Some(grouping) => Some(flatten(grouping.await)),
        None => None,
    };
    let started = started
        .map_err(Error::io("start bubblewrap"))
        .and_then(|started| started);
    match (
        started,
        group.transpose().map_err(Error::io("make a control group")),
    ) {
        (Ok((child, monitor)), Ok(group)) => {
            let birth = Birth {
                child,
                monitor,
                status,
                stdout,
                stderr,
                group,
                uid,
            };
            Ok((birth, waiting))
        }
        (Ok((mut child, monitor)), Err(error)) => {
            monitor.kill();
            let _ = spawn_blocking(move || child.wait()).await;
            core.end_strays(Some(&plan.name)).await;
            Err(error)
        }
        (Err(error), group) => {
            if let Ok(Some(group)) = group {
                let _ = group.remove().await;
            }
            Err(error)
        }
    }
}

/// The other ends of what the server holds on to.
struct Ends {
    stdin: OwnedFd,
    out: OwnedFd,
    err: OwnedFd,
    told: OwnedFd,
    contents: Vec<OwnedFd>,
}

/// The guest's files as nameless files in memory.
async fn contents(plan: &Plan) -> Result<Vec<OwnedFd>, Error> {
    if plan.spec.files.is_empty() {
        return Ok(Vec::new());
    }
    let files: Vec<_> = plan
        .spec
        .files
        .iter()
        .map(|file| file.bytes.clone())
        .collect();
    let made = spawn_blocking(move || {
        files
            .iter()
            .map(|bytes| process::memfd(c"file", bytes))
            .collect::<io::Result<Vec<_>>>()
    });
    flatten(made.await).map_err(Error::io("copy the files"))
}

/// What is done on the starting thread.
struct Job {
    core: Arc<Core>,
    spec: Spec,
    name: String,
    quota: Quota,
    uid: Option<u32>,
}

impl Job {
    fn start(self, view: &mut View, ends: Ends) -> Result<(Child, Process), Error> {
        let show = |view: &mut View, path: &std::path::Path| {
            let doing = format!("read {}", path.display());
            view.show(path).map_err(Error::io(doing))
        };
        let source = match &self.spec.root {
            Root::Host => Source::Host {
                etc: show(view, &self.core.etc)?,
            },
            Root::Dir(image) => Source::Image(show(view, image)?),
        };
        let paths: Vec<_> = self
            .spec
            .files
            .iter()
            .map(|file| file.path.as_str())
            .collect();
        let layout = layout(&|folder| source.list(folder), &paths)
            .map_err(|fault| Error::Spec(fault.to_string()))?;
        let modes = self.spec.files.iter().map(|file| file.mode);
        let files: Vec<_> = ends
            .contents
            .iter()
            .zip(modes)
            .map(|(contents, mode)| File {
                contents: contents.as_raw_fd(),
                mode,
            })
            .collect();
        let seccomp = process::memfd(c"filter", &self.core.filter)
            .map_err(Error::io("write the system call filter"))?;
        let options = options(&Sandbox {
            layout: &layout,
            source: &source,
            init: show(view, &self.core.init)?,
            files: &files,
            sizes: self.quota.sizes(),
            masks: &self.core.masks,
            seccomp: seccomp.as_raw_fd(),
            status: ends.told.as_raw_fd(),
        });
        let child = process::start(Launch {
            program: self.core.bwrap.clone(),
            options,
            command: vec![INIT.into()],
            keep: ends
                .contents
                .into_iter()
                .chain([seccomp, ends.told])
                .collect(),
            stdin: ends.stdin,
            stdout: ends.out,
            stderr: ends.err,
            uid: self.uid,
            mark: self.core.mark.clone(),
            machine: self.name,
        });
        let mut child = child.map_err(Error::io("start bubblewrap"))?;
        let _runtime = self.core.runtime.enter();
        match Process::open(child.id()) {
            Ok(monitor) => Ok((child, monitor)),
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(Error::Io {
                    doing: "follow bubblewrap".into(),
                    source,
                })
            }
        }
    }
}

impl Birth {
    /// From the start of bubblewrap to that of the guest's program.
    async fn come_up(
        &mut self,
        core: &Arc<Core>,
        plan: &Plan,
        waiting: Waiting,
    ) -> Result<Up, Fault> {
        // While bubblewrap is still at its beginnings; what it starts is born in the group.
        let joining = join(self.group.clone(), self.monitor.pid());
        let (joined, sandbox, first) =
            tokio::join!(joining, sandbox(&mut self.status), waiting.first());
        let first = first.map_err(|_| Fault::Gone)?;
        let (sandbox, init) = (sandbox?, first.pid);
        joined?;
        let listener = match first.news {
            News::Ready { listener } => listener,
            News::Failed(failure) => return Err(Error::Boot(failure.detail).into()),
            _ => return Err(Error::Boot("init does not say that it is ready".into()).into()),
        };
        self.confirm(sandbox.pid(), init).await?;
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

        let (mut reports, mut orders) = waiting.split();
        orders
            .send(&Order::Go(plan.program()))
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => Fault::Known(Error::Spec(
                    "arguments and environment are too large".into(),
                )),
                _ => Fault::Gone,
            })?;
        match reports.next().await {
            Some(News::Started { pid: main }) => Ok(Up {
                sandbox,
                init,
                main,
                listener,
                reports,
                orders,
            }),
            Some(News::Failed(failure)) => {
                Err(refusal(failure, &plan.spec.argv[0], plan.workdir()).into())
            }
            _ => Err(Fault::Gone),
        }
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
            init: up.init,
            main: up.main,
            orders: tokio::sync::Mutex::new(up.orders),
            execs: Execs::default(),
            killed: AtomicBool::new(false),
        });
        let keeper = Keeper {
            machine: Arc::clone(&machine),
            child: self.child,
            reports: up.reports,
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
            listener: Some(up.listener),
            exit,
        }
    }

    /// Removes what there is of the machine; returns what bubblewrap had to say.
    async fn bury(mut self, core: &Core, name: &str) -> String {
        self.monitor.kill();
        self.monitor.ended().await;
        let _ = self.child.wait();
        // The sandbox may have been made in the moment before, without anyone having been told.
        core.end_strays(Some(name)).await;
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
