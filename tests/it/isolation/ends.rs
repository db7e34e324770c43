//! How a machine's end is told.

use super::lab::{Lab, sh};
use cofferdam::local::engine::Exit;

#[tokio::test]
async fn code_signal_and_want_of_memory_are_told_apart() {
    let lab = Lab::open().await;
    eprintln!("{} {:?}", lab.report, lab.report);
    let ended = |exit: Exit| (exit.code, exit.signal, exit.oom_killed, exit.oom_elsewhere);
    let run = |script: &'static str| async { ended(lab.run(sh(script)).await.exit) };
    assert_eq!(run("exit 0").await, (Some(0), None, false, false));
    assert_eq!(run("exit 3").await, (Some(3), None, false, false));
    assert_eq!(run("exit 137").await, (Some(137), None, false, false));
    assert_eq!(run("kill -9 $$").await, (None, Some(9), false, false));
    assert_eq!(run("kill -TERM $$").await, (None, Some(15), false, false));
    lab.close().await;
}
