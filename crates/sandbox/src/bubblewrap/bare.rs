//! The same sandbox with no engine around it: what the engine's own cost is measured against.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::time::Instant;

use crate::bubblewrap::arguments::{Inputs, arguments};
use crate::bubblewrap::core::Core;
use crate::bubblewrap::launch::source;
use crate::bubblewrap::layout::layout;
use crate::bubblewrap::process::{self, Launch};
use crate::bubblewrap::tree::Image;
use crate::bubblewrap::view::View;
use crate::limits::CPU_PERIOD_US;
use crate::limits::Quota;
use crate::spec::Root;
use crate::uids::Uid;

const QUOTA: Quota = Quota {
    memory_bytes: 128 << 20,
    processes: 0,
    cpu_us: CPU_PERIOD_US,
};

impl Core {
    /// Runs a program on the host's root under bubblewrap with the options of a sandbox, but
    /// without init, limits, listener or control group; gives the time from the start of
    /// bubblewrap to the program's first byte of output.
    pub(super) async fn bare(self: &Arc<Self>, argv: Vec<String>) -> io::Result<Duration> {
        let core = Arc::clone(self);
        self.starter
            .run("", move |view| core.bare_here(view, argv))
            .await
    }

    fn bare_here(&self, view: &mut View, argv: Vec<String>) -> io::Result<Duration> {
        let uid = self.uids.as_ref().and_then(crate::uids::Uids::take);
        let (source, _own) = source(view, &Root::Host, &self.etc)?;
        let list = |folder: &OsStr| source.list(folder);
        let layout = layout(&Image::new(&list), &[]).map_err(io::Error::other)?;
        let seccomp = process::memfd(c"filter", &self.filter)?;
        let (_status, told) = pipe_with(PipeFlags::CLOEXEC)?;
        let options = arguments(&Inputs {
            layout: &layout,
            source: &source,
            init: view.copy(&self.init)?,
            program: None,
            files: &[],
            sizes: QUOTA.sizes(),
            masks: &self.masks,
            seccomp: seccomp.as_raw_fd(),
            status: told.as_raw_fd(),
        });
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let nothing: OwnedFd = File::open("/dev/null")?.into();
        let stderr = nothing.try_clone()?;
        let launch = Launch {
            program: self.bwrap.clone(),
            options,
            command: argv.into_iter().map(OsString::from).collect(),
            keep: vec![seccomp, told],
            stdin: nothing,
            stdout: write,
            stderr,
            uid: uid.as_ref().map(Uid::number),
            mark: self.mark.clone(),
            sandbox: "bare".into(),
        };
        let began = Instant::now();
        let mut child = process::start(launch)?;
        let read = File::from(read).read_exact(&mut [0]);
        let took = began.elapsed();
        child.wait()?;
        read.map(|()| took)
    }
}
