//! Tokens that open nothing any more, as far as this process has seen: posts with them cost Redis
//! nothing, and those of a guest that goes on and on are made to wait.
//!
//! What is remembered is what Redis said a moment ago, and is asked again after that. A token that is
//! not remembered may be spent all the same; Redis knows.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::run::id::{Attempt, Nonce, RunId};
use crate::token::Grant;

/// Tokens that are remembered at the most; the oldest goes first.
const TOKENS_MAX: usize = 4096;
/// How long one is remembered: Redis may have been put back to an older copy since.
const REMEMBERED_FOR: Duration = Duration::from_secs(30);
/// Posts with a spent token that are answered at once. A guest that repeats its post for want of an
/// answer needs a few.
const QUICK_ANSWERS: u32 = 8;
/// How long each further one waits for its answer, and takes the place of another of its run.
const PAUSE: Duration = Duration::from_secs(1);

/// What a post with a spent token comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Only a body with this digest and, if it is known, length is the accepted one again.
    Accepted {
        /// SHA-256 of the accepted body, in hexadecimal digits.
        digest: String,
        /// Its length.
        bytes: Option<usize>,
        /// Whether it is the run's result, and was not dropped.
        is_kept: bool,
    },
    /// It is denied, whatever it is.
    Denied,
}

/// The spent tokens.
#[derive(Debug, Default)]
pub(super) struct Spent(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    tokens: HashMap<Key, Entry>,
    /// The keys of `tokens`, each once, oldest first.
    order: VecDeque<Key>,
}

type Key = (RunId, Attempt, Option<Nonce>);

#[derive(Debug)]
struct Entry {
    answer: Answer,
    since: Instant,
    /// Posts that asked for it.
    asked: u32,
}

impl Spent {
    /// What a post with this token comes to, if that is known, and how long it has to wait first.
    pub(super) fn ask(&self, grant: &Grant) -> Option<(Answer, Duration)> {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.tokens.is_empty() {
            return None;
        }
        let entry = remembered.tokens.get_mut(&key(grant))?;
        if entry.since.elapsed() > REMEMBERED_FOR {
            return None;
        }
        entry.asked = entry.asked.saturating_add(1);
        let pause = match entry.asked > QUICK_ANSWERS {
            true => PAUSE,
            false => Duration::ZERO,
        };
        Some((entry.answer.clone(), pause))
    }

    /// Remembers a spent token.
    pub(super) fn note(&self, grant: &Grant, answer: Answer) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = &mut *remembered;
        let (key, now) = (key(grant), Instant::now());
        // Those that are asked for all the time keep their count, and their place in the order.
        if let Some(entry) = remembered.tokens.get_mut(&key) {
            entry.answer = answer;
            entry.since = now;
            return;
        }
        while let Some(oldest) = remembered.order.front() {
            let since = remembered.tokens.get(oldest).map(|entry| entry.since);
            let is_old = since.is_none_or(|since| now - since > REMEMBERED_FOR);
            if !is_old && remembered.tokens.len() < TOKENS_MAX {
                break;
            }
            remembered.tokens.remove(oldest);
            remembered.order.pop_front();
        }
        remembered.order.push_back(key.clone());
        let entry = Entry {
            answer,
            since: now,
            asked: 0,
        };
        remembered.tokens.insert(key, entry);
    }
}

fn key(grant: &Grant) -> Key {
    (grant.run.clone(), grant.attempt, grant.nonce.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(run: &str) -> Grant {
        Grant {
            run: run.parse().unwrap(),
            attempt: Attempt(1),
            expires_s: 0,
            nonce: None,
        }
    }

    fn is_known(spent: &Spent, run: &str) -> bool {
        spent.ask(&grant(run)).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_remembered_for_a_while_and_a_guest_that_goes_on_waits() {
        let spent = Spent::default();
        assert!(!is_known(&spent, "a"));
        spent.note(&grant("a"), Answer::Denied);
        for _ in 0..QUICK_ANSWERS {
            assert_eq!(
                spent.ask(&grant("a")),
                Some((Answer::Denied, Duration::ZERO))
            );
        }
        assert_eq!(spent.ask(&grant("a")), Some((Answer::Denied, PAUSE)));
        let other = Grant {
            attempt: Attempt(2),
            ..grant("a")
        };
        assert_eq!(spent.ask(&other), None);
        tokio::time::advance(REMEMBERED_FOR + PAUSE).await;
        assert!(!is_known(&spent, "a"));
        // Redis was asked again and said the same.
        spent.note(&grant("a"), Answer::Denied);
        assert_eq!(spent.ask(&grant("a")), Some((Answer::Denied, PAUSE)));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_tokens_are_remembered_than_may_be() {
        let spent = Spent::default();
        for run in 0..=TOKENS_MAX {
            spent.note(&grant(&format!("r{run}")), Answer::Denied);
        }
        assert!(!is_known(&spent, "r0") && is_known(&spent, "r1"));
        let remembered = spent.0.lock().unwrap();
        assert_eq!(
            (remembered.tokens.len(), remembered.order.len()),
            (TOKENS_MAX, TOKENS_MAX)
        );
    }
}
