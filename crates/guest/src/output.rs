//! The command's two outputs: the head and the tail of each are kept, and what is between is counted.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::live::Sender;

/// So much is read at once.
const READ_BYTES: usize = 16 << 10;
/// How often threads that should end are asked whether they have.
const PAUSE: Duration = Duration::from_millis(1);

/// Which output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// Its name on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// What is kept of one output. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Capture(Arc<Mutex<Kept>>);

/// The kept parts of an output.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    head_max: usize,
    tail_max: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    /// Bytes between head and tail.
    pub(crate) dropped: u64,
}

impl Capture {
    /// Keeps `limit` bytes, half of them for the head.
    pub(crate) fn new(limit: usize) -> Self {
        let head_max = limit / 2;
        Self(Arc::new(Mutex::new(Kept {
            head_max,
            tail_max: limit - head_max,
            ..Kept::default()
        })))
    }

    /// Reads an output to its end on a thread of its own.
    pub(crate) fn follow(
        &self,
        pipe: Option<impl Read + Send + 'static>,
        stream: Stream,
        live: Sender,
    ) -> JoinHandle<()> {
        let kept = Arc::clone(&self.0);
        thread::spawn(move || {
            let Some(mut pipe) = pipe else { return };
            let mut buffer = vec![0; READ_BYTES];
            while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                let Some(bytes) = buffer.get(..read) else {
                    return;
                };
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(bytes);
                live.send(stream, bytes);
            }
        })
    }

    /// What was kept so far. A reader that goes on keeps nothing more.
    pub(crate) fn take(&self) -> Kept {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn push(&mut self, bytes: &[u8]) {
        let room = self.head_max - self.head.len();
        let (head, rest) = bytes.split_at(bytes.len().min(room));
        self.head.extend_from_slice(head);
        let skipped = rest.len().saturating_sub(self.tail_max);
        let rest = rest.get(skipped..).unwrap_or_default();
        let over = (self.tail.len() + rest.len()).saturating_sub(self.tail_max);
        self.tail.drain(..over);
        self.tail.extend(rest);
        let dropped = u64::try_from(skipped + over).unwrap_or(u64::MAX);
        self.dropped = self.dropped.saturating_add(dropped);
    }

    /// Head and tail, and how much is not there between them. A character that was cut in two is left
    /// out, so that text stays text.
    pub(crate) fn into_bytes(mut self) -> (Vec<u8>, u64) {
        if self.dropped > 0 {
            let whole = match std::str::from_utf8(&self.head) {
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                _ => self.head.len(),
            };
            let is_rest = |byte: &u8| byte & 0b1100_0000 == 0b1000_0000;
            let rest = self
                .tail
                .iter()
                .take(3)
                .take_while(|byte| is_rest(byte))
                .count();
            let cut = self.head.len() - whole + rest;
            self.head.truncate(whole);
            self.tail.drain(..rest);
            self.dropped += u64::try_from(cut).unwrap_or(0);
        }
        let mut bytes = self.head;
        bytes.extend(self.tail);
        (bytes, self.dropped)
    }
}

/// Waits for the readers, no longer than `most` in all.
pub(crate) fn join(readers: &[JoinHandle<()>], most: Duration) {
    let until = Instant::now() + most;
    while readers.iter().any(|reader| !reader.is_finished()) && Instant::now() < until {
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(limit: usize, pieces: &[&str]) -> (String, u64) {
        let capture = Capture::new(limit);
        for piece in pieces {
            capture.0.lock().unwrap().push(piece.as_bytes());
        }
        let (bytes, dropped) = capture.take().into_bytes();
        (String::from_utf8(bytes).unwrap(), dropped)
    }

    #[test]
    fn a_character_is_not_cut_in_two() {
        // Two bytes each: the head ends and the tail begins inside one.
        assert_eq!(kept(6, &["äöüßéàç"]), ("äç".into(), 10));
    }

    #[test]
    fn head_and_tail_are_kept_whatever_the_pieces() {
        for pieces in [
            &["0123456789"][..],
            &["01", "23456", "789"],
            &["0", "123456789"],
        ] {
            assert_eq!(kept(4, pieces), ("0189".into(), 6), "{pieces:?}");
            assert_eq!(kept(10, pieces), ("0123456789".into(), 0), "{pieces:?}");
            assert_eq!(kept(1, pieces), ("9".into(), 9), "{pieces:?}");
            assert_eq!(kept(0, pieces), (String::new(), 10), "{pieces:?}");
        }
    }
}
