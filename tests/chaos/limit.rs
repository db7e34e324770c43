//! Fills Redis, and gives it room again: by its `maxmemory`.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use crate::link::Link;
use crate::produce::Progress;

/// Sets what the storm wants, until all is over. A Redis that was restarted has no limit, as the
/// last one that is wanted.
pub(crate) async fn limit(mut link: Link, progress: Rc<Progress>) {
    while !progress.is_over.get() {
        if let Some(bytes) = progress.maxmemory.take() {
            let set: String = link.ask(&["CONFIG", "SET", "maxmemory", bytes]).await;
            assert_eq!(set, "OK");
        }
        sleep(Duration::from_millis(10)).await;
    }
}
