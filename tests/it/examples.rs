//! The examples, each as its own text says, on a running `up`.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::command::{Daemon, Ended, ended};
use crate::support::parts::skipped;

/// An `up`, and the examples with it and its command at hand.
struct Place {
    folder: TempDir,
    up: Daemon,
}

impl Place {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let mut up = Daemon::start(&["up"], &[("COFFERDAM_STATE_DIR", state.to_str().unwrap())]);
        up.line("cofferdam is up").await;
        Self { folder, up }
    }

    fn example(&self, name: &str, args: &[&str]) -> Ended {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let bin = Path::new(env!("CARGO_BIN_EXE_cofferdam")).parent().unwrap();
        let mut command = Command::new(root.join("examples").join(name));
        command
            .args(args)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("COFFERDAM_STATE_DIR", self.folder.path().join("state"));
        ended(command)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn the_interpreter_runs_fifty_snippets_and_tells_how_long_they_took() {
    let place = Place::start().await;
    let said = place.example("interpreter/interpreter.py", &[]).done();
    assert!(said.starts_with("50 snippets, 5 of them failed"), "{said}");
    assert!(said.contains("p50 ") && said.contains("p99 "), "{said}");
    place.up.finish().await;
}

#[tokio::test]
async fn the_linter_finds_what_is_wrong_in_a_repository() {
    let place = Place::start().await;
    place.write("repository/good.py", "print(1)\n");
    place.write("repository/bad.py", "def f(:\n");
    place.write("repository/bad.sh", "if true\n");
    let repository = place.folder.path().join("repository");
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=Test", "-c", "user.email=test@localhost"]);
        let git = git.arg("-C").arg(&repository).args(words).status();
        assert!(git.unwrap().success(), "{words:?}");
    };
    git(&["init", "--quiet"]);
    git(&["add", "--all"]);
    git(&["commit", "--quiet", "--message", "all"]);
    let linted = place.example("linter/lint", &[repository.to_str().unwrap()]);
    assert_eq!(linted.status, 1, "{}{}", linted.stdout, linted.stderr);
    assert!(linted.stdout.contains("bad.py:1: "), "{}", linted.stdout);
    assert!(linted.stdout.contains("bad.sh: "), "{}", linted.stdout);
    assert!(linted.stdout.ends_with("2 findings\n"), "{}", linted.stdout);
    fs::remove_file(repository.join("bad.py")).unwrap();
    fs::remove_file(repository.join("bad.sh")).unwrap();
    git(&["commit", "--quiet", "--all", "--message", "better"]);
    let linted = place.example("linter/lint", &[repository.to_str().unwrap()]);
    assert_eq!(
        (linted.status, &*linted.stdout),
        (0, "0 findings\n"),
        "{}",
        linted.stderr
    );
    place.up.finish().await;
}

#[tokio::test]
async fn the_grader_tells_a_right_submission_from_a_wrong_one() {
    let pytest = Command::new("/usr/bin/python3")
        .args(["-c", "import pytest"])
        .output();
    if !pytest.is_ok_and(|run| run.status.success()) {
        return skipped("python3-pytest is not installed: the grader's image cannot be made");
    }
    let place = Place::start().await;
    place.example("grader/make-image", &[]).done();
    let right = place.write(
        "right.py",
        "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n",
    );
    let graded = place.example("grader/grade", &[&right]);
    assert_eq!(graded.status, 0, "{}{}", graded.stdout, graded.stderr);
    assert!(graded.stdout.contains("2 passed"), "{}", graded.stdout);
    let wrong = place.write("wrong.py", "def fibonacci(n):\n    return n\n");
    let graded = place.example("grader/grade", &[&wrong]);
    assert_eq!(graded.status, 1, "{}{}", graded.stdout, graded.stderr);
    assert!(graded.stdout.contains("2 failed"), "{}", graded.stdout);
    place.up.finish().await;
}
