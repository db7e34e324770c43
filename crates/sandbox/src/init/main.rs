//! The first program of every local sandbox.
//!
//! The server starts it inside the finished sandbox, with one end of a socket pair as its standard
//! input. It makes the sandbox's listener, says that it is ready, and waits: until the server has
//! put limits on it and taken the listener out, nothing of the guest runs. Then it starts the
//! guest's program, tells how it ended (code and signal apart, which an exit status of 128 + n
//! does not), and meanwhile runs what the server asks for by exec, so that this has the same
//! namespaces, limits and system call filter as the guest.
//!
//! It is not process 1: bubblewrap is, and reaps what the guest leaves behind. When init ends, the
//! sandbox ends. It depends on the standard library only and is linked statically, so that it runs
//! in any image.

#![forbid(unsafe_code)]

mod exec;
mod trial;
mod wire;

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio, exit};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use wire::TO_INIT_MAX_BYTES;
use wire::{Ending, Event, FROM_INIT_MAX_BYTES, Failure, Frame, Program, Request, Step};

/// What the first program of a sandbox is started with; the port of the listener follows. The guest
/// finds the one thing it can reach there, at 127.0.0.1.
const LISTEN: &str = "listen";
/// Init's threads read, write and wait; they need little.
const STACK_BYTES: usize = 64 << 10;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (name, argument) = (arguments.next().unwrap_or_default(), arguments.next());
    if name != LISTEN {
        return trial::run(&name, argument);
    }
    let Some(port) = argument.and_then(|text| text.parse().ok()) else {
        exit(2);
    };
    // First of all: nothing of our own is open yet.
    let strays = refuse_inherited_descriptors();
    let Ok(control) = io::stdin().as_fd().try_clone_to_owned() else {
        exit(1);
    };
    let reporter = Reporter(Arc::new(Mutex::new(UnixStream::from(control))));
    let lived = strays.map_err(|error| prepare("inherited descriptors", &error));
    if let Err(failure) = lived.and_then(|()| live(&reporter, port)) {
        reporter.report(&Event::Failed(failure));
        exit(1);
    }
}

/// From the first instruction to the guest's start, then serves execs until the server goes.
fn live(reporter: &Reporter, port: u16) -> Result<(), Failure> {
    let mut requests = reporter
        .requests()
        .map_err(|error| prepare("the control socket", &error))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map_err(|error| prepare("the listener", &error))?;
    reporter.report(&Event::Ready {
        listener: number(&listener),
    });
    let Some(Request::Start(program)) = next(&mut requests) else {
        return Err(prepare("the first order", &ErrorKind::UnexpectedEof.into()));
    };
    // From here on only the server holds the listener.
    drop(listener);
    let main = start(
        &program,
        [Stdio::null(), Stdio::inherit(), Stdio::inherit()],
    )?;
    reporter.report(&Event::Started { pid: main.id() });
    let told = reporter.clone();
    spawn(move || follow(main, &told)).map_err(|error| prepare("a thread", &error))?;

    let slots = exec::Slots::default();
    while let Some(request) = next(&mut requests) {
        if let Request::Exec(exec) = request {
            exec::serve(exec, &slots, reporter);
        }
    }
    exit(1);
}

/// Waits for the main program, tells how it ended, and ends the sandbox.
fn follow(mut main: Child, reporter: &Reporter) {
    let ending = main.wait().map_or(Ending::Signal(9), ending);
    reporter.report(&Event::Exited(ending));
    exit(0);
}

/// Starts a program with its input and outputs. What is wrong with its folder is told apart from
/// what is wrong with itself: the system has the same error for both.
fn start(program: &Program, [stdin, stdout, stderr]: [Stdio; 3]) -> Result<Child, Failure> {
    let failed = |step, error: io::Error| Failure {
        step,
        errno: error.raw_os_error().unwrap_or(0),
        detail: error.to_string(),
    };
    match fs::metadata(&program.workdir) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(failed(Step::Workdir, ErrorKind::NotADirectory.into())),
        Err(error) => return Err(failed(Step::Workdir, error)),
    }
    Command::new(&program.argv[0])
        .args(&program.argv[1..])
        .current_dir(&program.workdir)
        .env_clear()
        .envs(program.env.iter().map(|(name, value)| (name, value)))
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .map_err(|error| failed(Step::Program, error))
}

/// Refuses to go on when more than the three standard descriptors came in: one on a folder of the
/// host would be a way out of the sandbox.
fn refuse_inherited_descriptors() -> io::Result<()> {
    // The descriptor by which the folder is being read is in it too.
    let itself = format!("/proc/{}/fd", std::process::id());
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let standard = matches!(entry.file_name().to_str(), Some("0" | "1" | "2"));
        if standard {
            continue;
        }
        let target = fs::read_link(entry.path())?;
        if target.as_os_str() != itself.as_str() {
            return Err(io::Error::other(target.display().to_string()));
        }
    }
    Ok(())
}

/// The control socket's writing side; reports never mix.
#[derive(Clone)]
struct Reporter(Arc<Mutex<UnixStream>>);

impl Reporter {
    /// Sends one report. Init ends when the server is gone.
    fn report(&self, event: &Event) {
        let Some(frame) = event.encode(FROM_INIT_MAX_BYTES) else {
            exit(1);
        };
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if socket.write_all(&frame).is_err() {
            exit(1);
        }
    }

    /// The reading side.
    fn requests(&self) -> io::Result<UnixStream> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .try_clone()
    }
}

/// The next order; `None` when the server is gone or speaks nonsense.
fn next(requests: &mut UnixStream) -> Option<Request> {
    let mut length = [0; 4];
    requests.read_exact(&mut length).ok()?;
    let length = u32::from_le_bytes(length);
    if length > TO_INIT_MAX_BYTES {
        return None;
    }
    let mut body = vec![0; usize::try_from(length).ok()?];
    requests.read_exact(&mut body).ok()?;
    Request::decode(&body)
}

fn ending(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Code(code),
        (None, Some(signal)) => Ending::Signal(signal),
        (None, None) => Ending::Signal(9),
    }
}

fn prepare(what: &str, error: &io::Error) -> Failure {
    Failure {
        step: Step::Prepare,
        errno: error.raw_os_error().unwrap_or(0),
        detail: format!("{what}: {error}"),
    }
}

fn number(listener: &TcpListener) -> u32 {
    u32::try_from(listener.as_raw_fd()).unwrap_or(u32::MAX)
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().stack_size(STACK_BYTES).spawn(work)
}
