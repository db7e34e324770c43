//! An engine of a test's own, and machines to try things in.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cofferdam_sandbox::{
    Engine, Error, Exit, GuestFile, Kind, Limits, OutputSink, Report, Root, Running, Settings,
    Spec, Stream,
};
use tempfile::TempDir;

/// No machine of a test takes so long, unless something is wrong.
const RUN_MAX: Duration = Duration::from_secs(60);

/// Where the users of machines begin when the tests are root.
const FIRST_UID: u32 = 1_950_000_000;

/// An engine over a folder of its own.
pub(super) struct Lab {
    pub(super) engine: Engine,
    pub(super) report: Report,
    pub(super) dir: TempDir,
}

/// What a machine did.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) exit: Exit,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// A machine's output as far as it has come.
#[derive(Clone, Default)]
pub(super) struct Output(Arc<Mutex<[Vec<u8>; 2]>>);

impl Output {
    pub(super) fn sink(&self) -> OutputSink {
        let output = self.clone();
        Arc::new(move |stream, bytes| {
            let index = usize::from(stream == Stream::Stderr);
            output.0.lock().unwrap()[index].extend(bytes);
        })
    }

    pub(super) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()[0]).into_owned()
    }

    pub(super) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()[1]).into_owned()
    }

    /// Waits until standard output contains `text`.
    pub(super) async fn says(&self, text: &str) {
        until(|| {
            let all = self.stdout() + &self.stderr();
            if all.contains(text) { Ok(()) } else { Err(all) }
        })
        .await;
    }
}

/// The settings of an engine over this folder: of the kind that `COFFERDAM_TEST_ENGINE` names, so
/// that the suite can be run over each.
pub(super) fn settings(dir: &Path) -> Settings {
    let mut settings = Settings::new(dir.to_owned());
    if let Some(name) = std::env::var_os("COFFERDAM_TEST_ENGINE") {
        let named = Kind::ALL.iter().find(|kind| name == *kind.to_string());
        settings.kind = *named.expect("an engine that there is");
    }
    settings.require_limits = false;
    settings
}

impl Lab {
    pub(super) async fn open() -> Self {
        Self::with(|_| {}).await
    }

    /// An engine that is not to use better limits than these.
    pub(super) async fn limited(limits: Limits) -> Self {
        Self::with(|settings| settings.limits = Some(limits)).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path());
        settings.uid_base = Some(FIRST_UID);
        change(&mut settings);
        let (engine, report) = Engine::open(settings).await.unwrap();
        // Seen only when the test fails; then something of this engine may be left.
        eprintln!("engine {} {report}", mark(dir.path()));
        Self {
            engine,
            report,
            dir,
        }
    }

    pub(super) async fn start(&self, spec: Spec) -> (Running, Output) {
        let output = Output::default();
        let running = self.engine.start(spec, output.sink()).await.unwrap();
        (running, output)
    }

    /// Runs a machine to its end.
    pub(super) async fn run(&self, spec: Spec) -> Ran {
        let (running, output) = self.start(spec).await;
        let waited = tokio::time::timeout(RUN_MAX, running.wait()).await;
        let Ok(exit) = waited else {
            panic!("still running: {:?} {:?}", output.stdout(), output.stderr());
        };
        Ran {
            exit,
            stdout: output.stdout(),
            stderr: output.stderr(),
        }
    }

    pub(super) async fn refused(&self, spec: Spec) -> Error {
        self.engine
            .start(spec, Output::default().sink())
            .await
            .unwrap_err()
    }

    /// Runs a shell script and gives back what it wrote, without the last line's end.
    pub(super) async fn sh(&self, script: &str) -> String {
        self.run(sh(script)).await.good()
    }

    /// Runs a Python program and gives back what it wrote.
    pub(super) async fn python(&self, program: &str) -> String {
        self.run(python(program)).await.good()
    }

    /// The user, as the host sees it, of a machine that runs alone.
    pub(super) fn uid(&self) -> u32 {
        if is_root() {
            FIRST_UID
        } else {
            rustix::process::geteuid().as_raw()
        }
    }

    /// Ends all and shows that the engine leaves nothing.
    pub(super) async fn close(self) {
        self.engine.close().await;
        assert_eq!(groups(self.dir.path()), Vec::<PathBuf>::new());
    }
}

impl Ran {
    /// The output of a machine that ended well.
    #[track_caller]
    pub(super) fn good(self) -> String {
        assert_eq!(self.exit.code, Some(0), "{self:?}");
        self.stdout.trim_end().to_owned()
    }
}

/// A machine on the host's root.
pub(super) fn spec(argv: &[&str]) -> Spec {
    let env = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/workspace"),
        ("LANG", "C.UTF-8"),
    ];
    Spec {
        id: "m".into(),
        owner: String::new(),
        root: Root::Host,
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: env
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        workdir: None,
        files: Vec::new(),
        memory_mb: 128,
        cpus: 1,
        port: 8080,
    }
}

pub(super) fn sh(script: &str) -> Spec {
    spec(&["sh", "-c", script])
}

/// Python without what it would import from anywhere but its own library.
pub(super) fn python(program: &str) -> Spec {
    spec(&["/usr/bin/python3", "-I", "-S", "-c", program])
}

pub(super) fn file(path: &str, contents: &str) -> GuestFile {
    GuestFile {
        path: path.into(),
        bytes: Bytes::copy_from_slice(contents.as_bytes()),
        mode: 0o644,
    }
}

pub(super) fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Waits until something is so; when it does not come, tells what was seen last.
pub(super) async fn until<T, E: Debug>(mut ask: impl FnMut() -> Result<T, E>) -> T {
    let deadline = tokio::time::Instant::now() + RUN_MAX;
    loop {
        match ask() {
            Ok(found) => return found,
            Err(seen) if tokio::time::Instant::now() > deadline => panic!("last seen: {seen:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// The same for what does not go through the runtime.
pub(super) fn until_now<T, E: Debug>(mut ask: impl FnMut() -> Result<T, E>) -> T {
    let mut tries = 0;
    loop {
        match ask() {
            Ok(found) => return found,
            Err(seen) if tries > 10_000 => panic!("last seen: {seen:?}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        tries += 1;
    }
}

/// Makes a command run as this user, where the tests are root.
pub(super) fn as_user(command: &mut Command, uid: u32) -> &mut Command {
    if is_root() {
        command.uid(uid).gid(uid);
    }
    command
}

/// How an engine over this folder marks what it makes: by the folder's device and inode.
pub(super) fn mark(state_dir: &Path) -> String {
    let found = fs::metadata(state_dir.join("engine")).unwrap();
    format!("{:x}-{:x}", found.dev(), found.ino())
}

/// Control groups of an engine over this folder, wherever they are.
pub(super) fn groups(state_dir: &Path) -> Vec<PathBuf> {
    let name = format!("cofferdam-{}", mark(state_dir));
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name() == name.as_str() {
                    found.push(entry.path());
                }
                folders.push(entry.path());
            }
        }
    }
    found
}
