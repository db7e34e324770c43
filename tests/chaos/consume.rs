//! The consumer: reads results with a group of its own, as a customer would.

use std::rc::Rc;
use std::time::Duration;

use redis::streams::StreamReadReply;
use tokio::time::sleep;

use crate::link::Link;
use crate::produce::Progress;

/// The consumer's group.
pub(crate) const GROUP: &str = "customer";

/// Reads until all is over.
pub(crate) async fn consume(mut link: Link, progress: Rc<Progress>) {
    let mut make = redis::pipe();
    make.cmd("XGROUP")
        .arg("CREATE")
        .arg("{cofferdam}:results")
        .arg(GROUP)
        .arg("0")
        .arg("MKSTREAM");
    let _: Result<(), _> = link.once(&make).await;
    // What was read before the connection was lost comes again.
    let mut from = "0";
    while !progress.is_over.get() {
        let mut read = redis::pipe();
        read.cmd("XREADGROUP").arg("GROUP").arg(GROUP).arg("one");
        read.arg("COUNT").arg(500).arg("BLOCK").arg(200);
        read.arg("STREAMS").arg("{cofferdam}:results").arg(from);
        let Ok((reply,)) = link.once::<(Option<StreamReadReply>,)>(&read).await else {
            let _: Result<(), _> = link.once(&make).await;
            sleep(Duration::from_millis(50)).await;
            from = "0";
            continue;
        };
        let keys = reply.map(|reply| reply.keys).unwrap_or_default();
        let entries: Vec<_> = keys.into_iter().flat_map(|key| key.ids).collect();
        if entries.is_empty() {
            from = ">";
            continue;
        }
        let mut done = redis::pipe();
        done.cmd("XACK").arg("{cofferdam}:results").arg(GROUP);
        for entry in &entries {
            let run = entry.get::<String>("run_id").unwrap();
            progress.read.borrow_mut().insert(run);
            done.arg(&entry.id);
        }
        progress.ended.set(progress.read.borrow().len());
        if link.once::<(i64,)>(&done).await.is_err() {
            from = "0";
        }
    }
}
