//! Reading a post: memory is reserved as its bytes arrive, and the state of the run is checked before a
//! large one is read.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::config::Results;
use crate::endpoint::spent::Answer;
use crate::http::rate::MinimumRate;
use crate::run::digest::Sha256;
use crate::stage::report::{self, Prospect};
use crate::stage::{Core, Error};
use crate::token::Grant;

/// How long a guest may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How slowly a body may come in, besides.
const SENDER: MinimumRate = MinimumRate::new(Duration::from_secs(10), 16 * 1024);
/// How long a post waits for memory among the bodies.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(10);
/// Memory is reserved in steps of this, for bodies that are longer.
const MEMORY_STEP_BYTES: usize = 16 * 1024;
/// Longer bodies are read only if the state of the run accepts a result. For shorter ones the check
/// costs more than it saves.
const SMALL_BYTES: usize = 64 * 1024;

/// The memory for bodies: a permit for each KiB. Small bodies have their own, so that they never wait
/// for large ones.
#[derive(Debug)]
pub(super) struct Memory {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Memory {
    /// So many bytes for small bodies and for large ones.
    pub(super) fn new(small_bytes: usize, large_bytes: usize) -> Self {
        let permits = |bytes| Arc::new(Semaphore::new(super::kib(bytes) as usize));
        Self {
            small: permits(small_bytes),
            large: permits(large_bytes),
        }
    }
}

/// A body, and its memory reservation.
pub(super) struct Received {
    pub(super) body: Bytes,
    pub(super) _memory: Option<OwnedSemaphorePermit>,
}

/// Why there is no body to report.
pub(super) enum Unreceived {
    /// The run has its result, and this was its repeat.
    Repeated,
    /// This was the repeat of a result that was dropped.
    OverBudget,
    /// The token opens nothing; for good, if there is an answer for its later posts.
    Denied(Option<Answer>),
    /// It is longer than allowed.
    TooLarge,
    /// Its connection broke.
    Broken,
    /// It came too slowly.
    TooSlow,
    /// The memory for bodies is full.
    NoMemory,
    /// Redis did not answer.
    Failed(Error),
}

/// A body on its way in.
pub(super) struct Receiving<'a> {
    core: &'a Core<Results>,
    grant: &'a Grant,
    memory: &'a Memory,
    limit_bytes: usize,
    reserved: Option<OwnedSemaphorePermit>,
    /// Whether what is reserved is memory for large bodies.
    is_large: bool,
    /// Whether this body is a large one, as far as is known.
    is_large_body: bool,
    whole: BytesMut,
    /// The digest of the accepted body, that of this one so far, and whether the result was kept.
    repeat: Option<(String, Sha256, bool)>,
    /// What a later post with this token would come to, if that was found out from Redis.
    found: Option<Answer>,
}

impl<'a> Receiving<'a> {
    pub(super) fn new(
        core: &'a Core<Results>,
        grant: &'a Grant,
        memory: &'a Memory,
        limit_bytes: usize,
    ) -> Self {
        Self {
            core,
            grant,
            memory,
            limit_bytes,
            reserved: None,
            is_large: false,
            is_large_body: false,
            whole: BytesMut::new(),
            repeat: None,
            found: None,
        }
    }

    /// What is known of the token without asking Redis. Says whether the body has to be read: it may be
    /// the accepted one again.
    pub(super) fn expect(&mut self, answer: Answer, body: &Incoming) -> bool {
        let Answer::Accepted {
            digest,
            bytes,
            is_kept,
        } = answer
        else {
            return false;
        };
        let other = |bytes| body.size_hint().exact().is_some_and(|exact| exact != bytes);
        if bytes
            .and_then(|bytes| u64::try_from(bytes).ok())
            .is_some_and(other)
        {
            return false;
        }
        self.repeat = Some((digest, Sha256::new(), is_kept));
        true
    }

    /// Reads the whole body.
    pub(super) async fn read(mut self, mut body: Incoming) -> Result<Received, Unreceived> {
        let until = Instant::now() + BODY_TIMEOUT;
        let (mut rate, mut total, mut is_checked) = (SENDER, 0_usize, self.repeat.is_some());
        let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if declared > self.limit_bytes {
            return Err(Unreceived::TooLarge);
        }
        loop {
            if total.max(declared) > SMALL_BYTES && !is_checked {
                self.check_run().await?;
                is_checked = true;
            }
            let since = Instant::now();
            let wait = rate.max_wait().min(until.saturating_duration_since(since));
            let data = match timeout(wait, body.frame()).await {
                Err(_) => return Err(Unreceived::TooSlow),
                Ok(None) => break,
                Ok(Some(Err(_))) => return Err(Unreceived::Broken),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            rate.waited(since.elapsed());
            rate.transferred(data.len());
            total = total.saturating_add(data.len());
            if total > self.limit_bytes {
                return Err(Unreceived::TooLarge);
            }
            self.is_large_body |= total.max(declared) > SMALL_BYTES;
            self.keep(&data, total).await?;
        }
        match self.repeat {
            None => Ok(Received {
                body: self.whole.freeze(),
                _memory: self.reserved,
            }),
            Some((digest, hashed, is_kept)) if hashed.clone().finish() == digest => {
                Err(match is_kept {
                    true => Unreceived::Repeated,
                    false => Unreceived::OverBudget,
                })
            }
            Some(_) => Err(Unreceived::Denied(self.found)),
        }
    }

    async fn check_run(&mut self) -> Result<(), Unreceived> {
        match report::prospect(self.core, self.grant).await {
            Ok(Prospect::Open) => Ok(()),
            Ok(Prospect::Denied) => Err(Unreceived::Denied(Some(Answer::Denied))),
            Ok(Prospect::Spent { digest, is_kept }) => {
                self.found = Some(Answer::Accepted {
                    digest: digest.clone(),
                    bytes: None,
                    is_kept,
                });
                let mut hashed = Sha256::new();
                hashed.update(&std::mem::take(&mut self.whole));
                self.reserved = None;
                self.repeat = Some((digest, hashed, is_kept));
                Ok(())
            }
            Err(error) => Err(Unreceived::Failed(error)),
        }
    }

    async fn keep(&mut self, data: &[u8], total: usize) -> Result<(), Unreceived> {
        if let Some((_, hashed, _)) = &mut self.repeat {
            hashed.update(data);
            return Ok(());
        }
        self.reserve(total).await?;
        self.whole.extend_from_slice(data);
        Ok(())
    }

    /// Reserves memory for `total` bytes.
    async fn reserve(&mut self, total: usize) -> Result<(), Unreceived> {
        let wanted = if total > MEMORY_STEP_BYTES {
            total
                .next_multiple_of(MEMORY_STEP_BYTES)
                .min(self.limit_bytes)
        } else {
            total
        };
        let is_large = self.is_large_body;
        let held = self.reserved.as_ref().filter(|_| self.is_large == is_large);
        let held = held.map_or(0, OwnedSemaphorePermit::num_permits);
        let more = super::kib(wanted).saturating_sub(u32::try_from(held).unwrap_or(u32::MAX));
        if more == 0 {
            return Ok(());
        }
        let pool = if is_large {
            &self.memory.large
        } else {
            &self.memory.small
        };
        let permits = Arc::clone(pool).acquire_many_owned(more);
        let Ok(Ok(permits)) = timeout(MEMORY_TIMEOUT, permits).await else {
            return Err(Unreceived::NoMemory);
        };
        match &mut self.reserved {
            Some(reserved) if self.is_large == is_large => reserved.merge(permits),
            reserved => *reserved = Some(permits),
        }
        self.is_large = is_large;
        Ok(())
    }
}

/// What later posts with a token come to that has this prospect; `None` while it can be accepted.
pub(super) fn answer(prospect: Prospect) -> Option<Answer> {
    match prospect {
        Prospect::Open => None,
        Prospect::Denied => Some(Answer::Denied),
        Prospect::Spent { digest, is_kept } => Some(Answer::Accepted {
            digest,
            bytes: None,
            is_kept,
        }),
    }
}
