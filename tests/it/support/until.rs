//! Waits for a condition, with a bound, and tells what it last saw when the bound is passed.

use std::future::Future;
use std::panic::Location;
use std::time::Duration;

/// The bound of a wait that names none. Far longer than anything takes, so that a busy computer
/// fails no test; a condition that holds ends the wait at once.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `look` brings a value, for [`LONG`] at the most. A look that finds the condition
/// not yet there says what it saw instead.
#[track_caller]
pub(crate) fn until<T, F>(what: &str, look: impl FnMut() -> F) -> impl Future<Output = T>
where
    F: Future<Output = Result<T, String>>,
{
    until_within(LONG, what, look)
}

/// As [`until`], with a bound of its own.
#[track_caller]
pub(crate) fn until_within<T, F>(
    bound: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> impl Future<Output = T>
where
    F: Future<Output = Result<T, String>>,
{
    let caller = Location::caller();
    async move {
        let deadline = tokio::time::Instant::now() + bound;
        loop {
            let seen = match look().await {
                Ok(value) => return value,
                Err(seen) => seen,
            };
            assert!(
                tokio::time::Instant::now() < deadline,
                "{caller}: waited {bound:?} for {what}; last saw: {seen}"
            );
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "waited 1s for a third; last saw: 2 of 3")]
async fn a_wait_that_runs_out_tells_what_it_saw() {
    let look = || async { Err::<(), _>("2 of 3".to_owned()) };
    until_within(Duration::from_secs(1), "a third", look).await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_what_the_look_brings() {
    let mut looks = 0;
    let brought = until("the third look", || {
        looks += 1;
        let seen = looks;
        async move {
            if seen == 3 {
                Ok(seen)
            } else {
                Err(seen.to_string())
            }
        }
    });
    assert_eq!(brought.await, 3);
}
