//! Reading a post: room is taken as its bytes arrive, and a large one is looked up first.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::config::Results;
use crate::http::pace::Pace;
use crate::run::digest::Sha256;
use crate::stage::report::{self, Prospect};
use crate::stage::{Core, Error};
use crate::token::Grant;

/// How long a guest may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How slowly a body may come in, besides.
const SENDER: Pace = Pace::new(Duration::from_secs(10), 16 * 1024);
/// How long a post waits for room among the bodies in memory.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);
/// Room that is taken at once, when a body is longer than that.
const ROOM_STEP_BYTES: usize = 16 * 1024;
/// Longer bodies are read only when the run's state lets them count. For shorter ones that would
/// cost more than it saves.
const SMALL_BYTES: usize = 64 * 1024;

/// A body, and its room for as long as it is in memory.
pub(super) struct Received {
    pub(super) body: Bytes,
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

/// Why there is no body to report.
pub(super) enum Unreceived {
    /// The run has its result, and this was its repeat.
    Repeated,
    /// This was the repeat of a result that was dropped.
    OverBudget,
    /// It cannot count.
    Denied,
    /// It is longer than allowed.
    TooLarge,
    /// Its connection broke.
    Broken,
    /// It came too slowly.
    TooSlow,
    /// As many bodies are in memory as may.
    NoRoom,
    /// Redis did not answer.
    Failed(Error),
}

/// A body on its way in.
pub(super) struct Receiving<'a> {
    core: &'a Core<Results>,
    grant: &'a Grant,
    /// A permit for each KiB.
    room: &'a Arc<Semaphore>,
    limit_bytes: usize,
    held: Option<OwnedSemaphorePermit>,
    whole: BytesMut,
    /// In place of `whole`, when the run has its result.
    repeat: Option<(String, Sha256, bool)>,
}

impl<'a> Receiving<'a> {
    pub(super) fn new(
        core: &'a Core<Results>,
        grant: &'a Grant,
        room: &'a Arc<Semaphore>,
        limit_bytes: usize,
    ) -> Self {
        Self {
            core,
            grant,
            room,
            limit_bytes,
            held: None,
            whole: BytesMut::new(),
            repeat: None,
        }
    }

    /// Reads the whole body.
    pub(super) async fn read(mut self, mut body: Incoming) -> Result<Received, Unreceived> {
        let until = Instant::now() + BODY_TIMEOUT;
        let (mut pace, mut total, mut is_looked_up) = (SENDER, 0_usize, false);
        let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if declared > self.limit_bytes {
            return Err(Unreceived::TooLarge);
        }
        loop {
            if total.max(declared) > SMALL_BYTES && !is_looked_up {
                self.look_up().await?;
                is_looked_up = true;
            }
            let since = Instant::now();
            let wait = pace.left().min(until.saturating_duration_since(since));
            let data = match timeout(wait, body.frame()).await {
                Err(_) => return Err(Unreceived::TooSlow),
                Ok(None) => break,
                Ok(Some(Err(_))) => return Err(Unreceived::Broken),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            pace.waited(since.elapsed());
            pace.moved(data.len());
            total = total.saturating_add(data.len());
            if total > self.limit_bytes {
                return Err(Unreceived::TooLarge);
            }
            self.keep(&data, total).await?;
        }
        match self.repeat {
            None => Ok(Received {
                body: self.whole.freeze(),
                _room: self.held,
            }),
            Some((digest, hashed, is_kept)) if hashed.clone().finish() == digest => {
                Err(match is_kept {
                    true => Unreceived::Repeated,
                    false => Unreceived::OverBudget,
                })
            }
            Some(_) => Err(Unreceived::Denied),
        }
    }

    async fn look_up(&mut self) -> Result<(), Unreceived> {
        match report::prospect(self.core, self.grant).await {
            Ok(Prospect::Open) => Ok(()),
            Ok(Prospect::Denied) => Err(Unreceived::Denied),
            Ok(Prospect::Spent { digest, is_kept }) => {
                let mut hashed = Sha256::new();
                hashed.update(&std::mem::take(&mut self.whole));
                self.held = None;
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
        self.make_room(total).await?;
        self.whole.extend_from_slice(data);
        Ok(())
    }

    /// Takes room for `total` bytes.
    async fn make_room(&mut self, total: usize) -> Result<(), Unreceived> {
        let wanted = if total > ROOM_STEP_BYTES {
            total
                .next_multiple_of(ROOM_STEP_BYTES)
                .min(self.limit_bytes)
        } else {
            total
        };
        let held = self
            .held
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let more = super::kib(wanted).saturating_sub(u32::try_from(held).unwrap_or(u32::MAX));
        if more == 0 {
            return Ok(());
        }
        let room = Arc::clone(self.room).acquire_many_owned(more);
        let Ok(Ok(room)) = timeout(ROOM_TIMEOUT, room).await else {
            return Err(Unreceived::NoRoom);
        };
        match &mut self.held {
            Some(held) => held.merge(room),
            held => *held = Some(room),
        }
        Ok(())
    }
}
