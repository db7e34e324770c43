//! An engine of a test's own, and machines to try things in.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cofferdam::local::engine::{
    Engine, Error, Exit, GuestFile, Limits, OutputSink, Report, Root, Running, Settings, Spec,
    Stream,
};
use tempfile::TempDir;

/// No machine of a test takes so long, unless something is wrong.
const RUN_MAX: Duration = Duration::from_secs(60);

/// An engine over a folder of its own.
pub struct Lab {
    pub engine: Engine,
    pub report: Report,
    pub dir: TempDir,
}

/// What a machine did.
#[derive(Debug)]
pub struct Ran {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
}

/// A machine's output as far as it has come.
#[derive(Clone, Default)]
pub struct Output(Arc<Mutex<[Vec<u8>; 2]>>);

impl Output {
    pub fn sink(&self) -> OutputSink {
        let output = self.clone();
        Arc::new(move |stream, bytes| {
            let index = usize::from(stream == Stream::Stderr);
            output.0.lock().unwrap()[index].extend(bytes);
        })
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()[0]).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()[1]).into_owned()
    }

    /// Waits until standard output contains `text`.
    pub async fn says(&self, text: &str) {
        until(|| {
            Err(self.stdout() + &self.stderr()).or_else(|all: String| {
                if all.contains(text) { Ok(()) } else { Err(all) }
            })
        })
        .await;
    }
}

impl Lab {
    pub async fn open() -> Self {
        Self::with(|_| {}).await
    }

    /// An engine that is not to use better limits than these.
    pub async fn limited(limits: Limits) -> Self {
        Self::with(|settings| settings.limits = Some(limits)).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(dir.path().to_owned());
        change(&mut settings);
        let (engine, report) = Engine::open(settings).await.unwrap();
        Self {
            engine,
            report,
            dir,
        }
    }

    pub async fn start(&self, spec: Spec) -> (Running, Output) {
        let output = Output::default();
        let running = self.engine.start(spec, output.sink()).await.unwrap();
        (running, output)
    }

    /// Runs a machine to its end.
    pub async fn run(&self, spec: Spec) -> Ran {
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

    pub async fn refused(&self, spec: Spec) -> Error {
        self.engine
            .start(spec, Output::default().sink())
            .await
            .unwrap_err()
    }

    /// Runs a shell script and gives back what it wrote, without the last line's end.
    #[track_caller]
    pub async fn sh(&self, script: &str) -> String {
        self.run(sh(script)).await.good()
    }

    /// Runs a Python program and gives back what it wrote.
    pub async fn python(&self, program: &str) -> String {
        self.run(python(program)).await.good()
    }

    /// Ends all and shows that the engine leaves nothing.
    pub async fn close(self) {
        self.engine.close().await;
    }
}

impl Ran {
    /// The output of a machine that ended well.
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.exit.code, Some(0), "{self:?}");
        self.stdout.trim_end().to_owned()
    }
}

/// A machine on the host's root.
pub fn spec(argv: &[&str]) -> Spec {
    let env = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/workspace"),
        ("LANG", "C.UTF-8"),
    ];
    Spec {
        id: "m".into(),
        root: Root::Host,
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: env
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        workdir: None,
        files: Vec::new(),
        memory_mb: 128,
        cpus: 1,
    }
}

pub fn sh(script: &str) -> Spec {
    spec(&["sh", "-c", script])
}

/// Python without what it would import from anywhere but its own library.
pub fn python(program: &str) -> Spec {
    spec(&["/usr/bin/python3", "-I", "-S", "-c", program])
}

pub fn file(path: &str, contents: &str) -> GuestFile {
    GuestFile {
        path: path.into(),
        bytes: Bytes::copy_from_slice(contents.as_bytes()),
        mode: 0o644,
    }
}

pub fn image(dir: PathBuf) -> Root {
    Root::Dir(dir)
}

pub fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Waits until something is so; when it does not come, tells what was seen last.
pub async fn until<T, E: Debug>(mut ask: impl FnMut() -> Result<T, E>) -> T {
    let deadline = tokio::time::Instant::now() + RUN_MAX;
    loop {
        match ask() {
            Ok(found) => return found,
            Err(seen) if tokio::time::Instant::now() > deadline => panic!("last seen: {seen:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
