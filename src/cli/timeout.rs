//! How long a waiting command retries while Redis is unavailable.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::Error;

/// How long Redis may be unavailable before the command fails.
const UNAVAILABLE_MAX: Duration = Duration::from_secs(60);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Counts how long Redis has been unavailable.
#[derive(Debug, Default)]
pub(super) struct OutageTimeout {
    unavailable_since: Option<Instant>,
}

impl OutageTimeout {
    /// The answer; `None`, after a pause, for a failure that may pass within the time-out.
    pub(super) async fn allow<T>(&mut self, answer: Result<T, Error>) -> Result<Option<T>, Error> {
        match answer {
            Ok(answer) => {
                self.unavailable_since = None;
                Ok(Some(answer))
            }
            Err(error) if error.may_pass() => {
                let since = *self.unavailable_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= UNAVAILABLE_MAX {
                    return Err(error);
                }
                tokio::time::sleep(PAUSE).await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable<T>() -> Result<T, Error> {
        Err(Error::Unavailable("gone".to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_resets_the_timeout() {
        let mut outage = OutageTimeout::default();
        assert_eq!(outage.allow(unavailable::<()>()).await.unwrap(), None);
        tokio::time::advance(UNAVAILABLE_MAX / 2).await;
        assert_eq!(outage.allow(Ok(1)).await.unwrap(), Some(1));
        tokio::time::advance(UNAVAILABLE_MAX / 2).await;
        assert_eq!(outage.allow(unavailable::<()>()).await.unwrap(), None);
        tokio::time::advance(UNAVAILABLE_MAX).await;
        assert!(outage.allow(unavailable::<()>()).await.is_err());
    }

    #[tokio::test]
    async fn other_errors_are_returned_at_once() {
        let odd = Error::Version("redis 5".to_owned());
        assert!(
            OutageTimeout::default()
                .allow::<()>(Err(odd))
                .await
                .is_err()
        );
    }
}
