//! Starts bubblewrap for a sandbox: everything up to the fork.
//!
//! The control group is made meanwhile by another thread. With version 1 the starting thread goes
//! into the group for the moment of the fork, so that the sandbox starts in it: moving it there
//! afterwards makes the kernel hold up every fork and exit on the host for some milliseconds. With
//! version 2 only whole processes can be moved, and it is done while bubblewrap sets up.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::sync::mpsc;

use tokio::net::unix::pipe::Receiver;
use tokio::task::spawn_blocking;

use crate::bubblewrap::additions::{Addition, additions};
use crate::bubblewrap::arguments::{self, File, Inputs};
use crate::bubblewrap::core::Core;
use crate::bubblewrap::layout::{Layout, layout};
use crate::bubblewrap::plan::Plan;
use crate::bubblewrap::process::{self, Launch};
use crate::bubblewrap::roots::{self, Source};
use crate::bubblewrap::tree::{INIT, Image, LISTEN};
use crate::bubblewrap::view::{Folder, OwnRoot, View};
use crate::cgroup::Group;
use crate::control::{self, Waiting};
use crate::error::Error;
use crate::limits::Quota;
use crate::output;
use crate::pidfd::Process;
use crate::spec::{Root, Spec};
use crate::uids::Uid;

/// The overlay of an image, and that of the `/etc` on the host's root.
const IMAGE: &str = "image";
const ETC: &str = "etc";

/// A bubblewrap that has been started: what has to be removed if no sandbox comes of it.
pub(super) struct Launched {
    pub(super) child: Child,
    /// bubblewrap's outer process.
    pub(super) monitor: Process,
    /// The first process in the sandbox, once it is known.
    pub(super) pid1: Option<Process>,
    pub(super) status: Receiver,
    pub(super) stdout: Receiver,
    pub(super) stderr: Receiver,
    pub(super) group: Option<Group>,
    pub(super) uid: Option<Uid>,
    /// Needed until bubblewrap has made the sandbox's own mounts.
    pub(super) own_root: Option<OwnRoot>,
}

/// Starts bubblewrap. If that fails nothing is left.
pub(super) async fn launch(core: &Arc<Core>, plan: &Plan) -> Result<(Launched, Waiting), Error> {
    let uid = match &core.uids {
        Some(uids) => {
            let full = || Error::Busy("every user id for sandboxes is taken".into());
            Some(uids.take().ok_or_else(full)?)
        }
        None => None,
    };
    let (waiting, stdin) = control::pair().map_err(Error::io("make the control socket"))?;
    let (stdout, out) = output::pipe().map_err(Error::io("make a pipe"))?;
    let (stderr, err) = output::pipe().map_err(Error::io("make a pipe"))?;
    let (status, told) = output::pipe().map_err(Error::io("make a pipe"))?;
    let contents = contents(plan).await?;
    let job = Job {
        core: Arc::clone(core),
        spec: plan.spec.clone(),
        name: plan.name.clone(),
        quota: plan.quota,
        uid: uid.as_ref().map(Uid::number),
        group: group(core, plan),
    };
    let ends = Ends {
        stdin,
        out,
        err,
        told,
        contents,
    };
    let started = core
        .starter
        .run(&plan.spec.owner, move |view| Ok(job.start(view, ends)))
        .await;
    let (child, monitor, group, own_root) = started.map_err(Error::io("start bubblewrap"))??;
    Ok((
        Launched {
            child,
            monitor,
            pid1: None,
            status,
            stdout,
            stderr,
            group,
            uid,
            own_root,
        },
        waiting,
    ))
}

/// Makes the sandbox's group on another thread; the starting thread asks for it.
fn group(core: &Core, plan: &Plan) -> Option<mpsc::Receiver<io::Result<Group>>> {
    let groups = plan.groups.clone()?;
    let (owner, name) = (plan.spec.owner.clone(), plan.name.clone());
    let quota = plan.quota;
    let (tell, told) = mpsc::sync_channel(1);
    drop(
        core.tasks
            .spawn_blocking(move || drop(tell.send(groups.make(&owner, &name, &quota)))),
    );
    Some(told)
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
    let copy = move || {
        files
            .iter()
            .map(|bytes| process::memfd(c"file", bytes))
            .collect()
    };
    let copied = spawn_blocking(copy)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    copied.map_err(Error::io("copy the files"))
}

/// The other ends of what the server holds on to.
struct Ends {
    stdin: OwnedFd,
    out: OwnedFd,
    err: OwnedFd,
    told: OwnedFd,
    contents: Vec<OwnedFd>,
}

/// What is done on the starting thread.
struct Job {
    core: Arc<Core>,
    spec: Spec,
    name: String,
    quota: Quota,
    uid: Option<u32>,
    group: Option<mpsc::Receiver<io::Result<Group>>>,
}

impl Job {
    fn start(
        mut self,
        view: &mut View,
        ends: Ends,
    ) -> Result<(Child, Process, Option<Group>, Option<OwnRoot>), Error> {
        let making = self.group.take();
        let launch = self.prepare(view, ends);
        // Waited for in any case: a group that is being made must not be forgotten.
        let group = making.map(|making| {
            let made = making
                .recv()
                .unwrap_or_else(|error| Err(io::Error::other(error)));
            made.map_err(Error::io("make a control group"))
        });
        let ((launch, own), group) = match (launch, group.transpose()) {
            (Ok(launch), Ok(group)) => (launch, group),
            (Err(error), group) => {
                discard(group.ok().flatten());
                return Err(error);
            }
            (_, Err(error)) => return Err(error),
        };
        let started = match &group {
            Some(group) => group.spawn_inside(|| process::start(launch)),
            None => process::start(launch),
        };
        let followed = started.and_then(|mut child| match self.follow(&child) {
            Ok(monitor) => Ok((child, monitor)),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        });
        match followed {
            Ok((child, monitor)) => Ok((child, monitor, group, own)),
            Err(error) => {
                discard(group);
                Err(Error::io("start bubblewrap")(error))
            }
        }
    }

    fn follow(&self, child: &Child) -> io::Result<Process> {
        let _runtime = self.core.runtime.enter();
        Process::open(child.id())
    }

    /// Plans the sandbox and opens what it needs.
    fn prepare(
        self: &Job,
        view: &mut View,
        mut ends: Ends,
    ) -> Result<(Launch, Option<OwnRoot>), Error> {
        if let Root::Dir(image) = &self.spec.root
            && !image.is_dir()
        {
            let why = format!("there is no image at {}", image.display());
            return Err(Error::Spec(why));
        }
        let (source, own) = source(view, &self.spec.root, &self.core.etc)
            .map_err(Error::io("show the root file system"))?;
        let lacks = match (&own, &self.spec.root) {
            (None, Root::Dir(_)) => additions(&source),
            _ => Vec::new(),
        };
        let (layout, lacks) = self.layout(&source, lacks)?;
        let texts = lacks.iter().map(|addition| addition.text.as_slice());
        let given = self.spec.files.iter().map(|file| &file.bytes[..]);
        let lengths: Vec<_> = given.chain(texts.clone()).map(<[u8]>::len).collect();
        let too_large = arguments::too_large(&layout, &lengths, self.quota.sizes());
        if let Some(path) = too_large {
            let why = "is too large for the memory of the sandbox";
            return Err(Error::Spec(format!("file {} {why}", path.display())));
        }
        for text in texts {
            let copied = process::memfd(c"file", text).map_err(Error::io("copy the files"))?;
            ends.contents.push(copied);
        }
        let modes = self.spec.files.iter().map(|file| file.mode);
        let modes = modes.chain(lacks.iter().map(|_| 0o644));
        let file = |(contents, mode): (&OwnedFd, u32)| File {
            contents: contents.as_raw_fd(),
            mode,
        };
        let files: Vec<_> = ends.contents.iter().zip(modes).map(file).collect();
        let seccomp = process::memfd(c"filter", &self.core.filter)
            .map_err(Error::io("write the system call filter"))?;
        let options = arguments::arguments(&Inputs {
            layout: &layout,
            source: &source,
            init: view
                .copy(&self.core.init)
                .map_err(Error::io("show the first program"))?,
            program: match &self.core.program {
                Some(program) => Some(
                    view.copy(program)
                        .map_err(Error::io("show the sandboxes' program"))?,
                ),
                None => None,
            },
            files: &files,
            sizes: self.quota.sizes(),
            masks: &self.core.masks,
            seccomp: seccomp.as_raw_fd(),
            status: ends.told.as_raw_fd(),
        });
        let launch = Launch {
            program: self.core.bwrap.clone(),
            options,
            command: vec![
                INIT.into(),
                LISTEN.into(),
                self.spec.port.to_string().into(),
            ],
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
            sandbox: self.name.clone(),
        };
        Ok((launch, own))
    }

    /// Plans the root with the guest's files and, below them in the list, what its image lacks; the
    /// latter is left out where it does not fit in.
    fn layout(
        &self,
        source: &Source,
        mut lacks: Vec<Addition>,
    ) -> Result<(Layout, Vec<Addition>), Error> {
        let list = |folder: &OsStr| source.list(folder);
        let image = Image::new(&list);
        let given: Vec<_> = self
            .spec
            .files
            .iter()
            .map(|file| file.path.as_str())
            .collect();
        lacks.retain(|addition| given.iter().all(|path| addition.path != *path));
        if !lacks.is_empty() {
            let added = lacks.iter().filter_map(|addition| addition.path.to_str());
            let paths: Vec<_> = given.iter().copied().chain(added).collect();
            if paths.len() == given.len() + lacks.len()
                && let Ok(layout) = layout(&image, &paths)
            {
                return Ok((layout, lacks));
            }
        }
        let planned = layout(&image, &given);
        let planned = planned.map_err(|fault| Error::Spec(fault.to_string()))?;
        Ok((planned, Vec::new()))
    }
}

/// Where the entries of a root come from: overlays of the sandbox's own, where there can be any.
pub(super) fn source(
    view: &mut View,
    root: &Root,
    etc: &Path,
) -> io::Result<(Source, Option<OwnRoot>)> {
    let mut folders = Vec::new();
    match root {
        Root::Dir(image) => folders.push((IMAGE, Folder::Image(image))),
        Root::Host => {
            for (name, folder) in roots::host_folders() {
                folders.push((name, Folder::Whole(folder)));
            }
            folders.push((ETC, Folder::Whole(etc)));
        }
    }
    let own = view.overlay(&folders)?;
    let source = match (&own, root) {
        (Some(own), Root::Dir(_)) => Source::Image(own.path().join(IMAGE)),
        (Some(own), Root::Host) => Source::Host {
            etc: own.path().join(ETC),
            root: own.path().to_owned(),
        },
        (None, Root::Dir(image)) => Source::Image(view.show(image)?),
        (None, Root::Host) => Source::Host {
            etc: view.show(etc)?,
            root: "/".into(),
        },
    };
    Ok((source, own))
}

fn discard(group: Option<Group>) {
    if let Some(group) = group {
        group.discard();
    }
}
