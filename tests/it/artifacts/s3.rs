//! A real S3 server as a process: `s3s-fs`, which `scripts/setup --tests` installs. It checks signatures.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tokio::net::TcpStream;

use crate::support::until::until;

const KEY: &str = "key-of-the-test";
const SECRET: &str = "secret-of-the-test";
/// The one bucket.
pub(super) const BUCKET: &str = "artifacts";

/// A running server with one bucket.
pub(super) struct S3 {
    child: Child,
    pub(super) endpoint: String,
    folder: tempfile::TempDir,
}

impl S3 {
    /// `None`, said aloud, where the server is not installed.
    pub(super) async fn start() -> Option<Self> {
        let Some(program) = program() else {
            crate::support::parts::skipped("there is no s3s-fs: scripts/setup --tests installs it");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        // It takes no port 0. What is free now may be taken at once, so it is tried again.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port().to_string();
            drop(free);
            let mut child = Command::new("setpriv")
                .args(["--pdeathsig", "KILL"])
                .arg(&program)
                .args(["--host", "127.0.0.1", "--port", &port])
                .args(["--access-key", KEY, "--secret-key", SECRET])
                .arg(folder.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let address = format!("127.0.0.1:{port}");
            let child_of = std::cell::RefCell::new(&mut child);
            let is_up = until("the S3 server", || async {
                if child_of.borrow_mut().try_wait().unwrap().is_some() {
                    return Ok(false);
                }
                match TcpStream::connect(&address).await {
                    Ok(_) => Ok(true),
                    Err(error) => Err(error.to_string()),
                }
            })
            .await;
            if is_up {
                return Some(Self {
                    child,
                    endpoint: format!("http://{address}"),
                    folder,
                });
            }
        }
        panic!("s3s-fs does not start");
    }

    /// The settings of whoever uses it.
    pub(super) fn settings(&self) -> Vec<(&'static str, &str)> {
        vec![
            ("COFFERDAM_ARTIFACTS", "s3://artifacts/runs"),
            ("AWS_ENDPOINT", &self.endpoint),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
        ]
    }

    /// The objects of the bucket, as files.
    pub(super) fn objects(&self) -> Vec<PathBuf> {
        let mut files = super::files_below(&self.folder.path().join(BUCKET));
        files.sort();
        files
    }

    /// It goes away.
    pub(super) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.stop();
    }
}

fn program() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| Some(home?.join(".cargo")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(cargo.map(|cargo| cargo.join("bin")));
    folders
        .map(|folder| folder.join("s3s-fs"))
        .find(|program| program.is_file())
}
