//! A command that waits bears with Redis being away for a while.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::Error;

/// How long Redis may be away before waiting ends.
const AWAY: Duration = Duration::from_secs(60);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// How long Redis has been away.
#[derive(Debug, Default)]
pub(super) struct Patience {
    away_since: Option<Instant>,
}

impl Patience {
    /// The answer; `None`, after a pause, when there is none now and one may come yet.
    pub(super) async fn of<T>(&mut self, answer: Result<T, Error>) -> Result<Option<T>, Error> {
        match answer {
            Ok(answer) => {
                self.away_since = None;
                Ok(Some(answer))
            }
            Err(error) if error.may_pass() => {
                let since = *self.away_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= AWAY {
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

    fn away<T>() -> Result<T, Error> {
        Err(Error::Unavailable("gone".to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_begins_anew_with_an_answer() {
        let mut patience = Patience::default();
        assert_eq!(patience.of(away::<()>()).await.unwrap(), None);
        tokio::time::advance(AWAY / 2).await;
        assert_eq!(patience.of(Ok(1)).await.unwrap(), Some(1));
        tokio::time::advance(AWAY / 2).await;
        assert_eq!(patience.of(away::<()>()).await.unwrap(), None);
        tokio::time::advance(AWAY).await;
        assert!(patience.of(away::<()>()).await.is_err());
    }

    #[tokio::test]
    async fn what_is_no_outage_is_told_at_once() {
        let odd = Error::Version("redis 5".to_owned());
        assert!(Patience::default().of::<()>(Err(odd)).await.is_err());
    }
}
