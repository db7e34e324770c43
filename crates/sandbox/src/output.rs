//! Passes on what a guest writes, at a bounded rate.
//!
//! A guest that writes without end must not keep the server busy. So each sandbox has an limit
//! of bytes that fills up steadily; when it is empty nothing is read until there is some again,
//! the pipe fills, and the guest waits in its own write.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::spec::{OutputSink, Stream};

/// Bytes a sandbox may write per second, both outputs together.
const RATE_BYTES: u64 = 8 << 20;
/// Bytes it may write at once after a time of silence.
const BURST_BYTES: u64 = 4 << 20;
/// The most that is read at once; as much as a pipe usually holds.
const PIECE_BYTES: usize = 64 << 10;

/// A pipe: our end for reading, and the end a guest gets.
pub(crate) fn pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // Ours only: the flag belongs to this end.
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((pipe::Receiver::from_owned_fd(read)?, write))
}

/// Passes both outputs on until both have ended. Once `over` is set, all of the guest is gone and
/// the little that is left is taken at once.
pub(crate) async fn forward(
    mut stdout: pipe::Receiver,
    mut stderr: pipe::Receiver,
    sink: OutputSink,
    over: CancellationToken,
) {
    let mut limit = RateLimit::new(Instant::now());
    let (mut out, mut err) = (BytesMut::new(), BytesMut::new());
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        out.reserve(PIECE_BYTES);
        err.reserve(PIECE_BYTES);
        let (stream, read, buffer, open) = tokio::select! {
            read = stdout.read_buf(&mut out), if out_open => {
                (Stream::Stdout, read, &mut out, &mut out_open)
            }
            read = stderr.read_buf(&mut err), if err_open => {
                (Stream::Stderr, read, &mut err, &mut err_open)
            }
        };
        let length = read.unwrap_or(0);
        if length == 0 {
            *open = false;
            continue;
        }
        sink(stream, buffer.split().freeze());
        let pause = limit.spend(u64::try_from(length).unwrap_or(u64::MAX), Instant::now());
        let _ = over.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}

/// How many bytes may still be read.
#[derive(Debug)]
struct RateLimit {
    balance: u64,
    since: Instant,
}

impl RateLimit {
    fn new(now: Instant) -> Self {
        Self {
            balance: BURST_BYTES,
            since: now,
        }
    }

    /// Takes what was read off the balance; says how long to wait before reading on.
    fn spend(&mut self, bytes: u64, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.since);
        let earned = elapsed.as_micros().saturating_mul(u128::from(RATE_BYTES)) / 1_000_000;
        let earned = u64::try_from(earned).unwrap_or(u64::MAX);
        self.balance = self.balance.saturating_add(earned).min(BURST_BYTES);
        self.since = now;
        if bytes <= self.balance {
            self.balance -= bytes;
            return Duration::ZERO;
        }
        let missing = bytes - self.balance;
        self.balance = 0;
        let pause = Duration::from_micros(missing.saturating_mul(1_000_000) / RATE_BYTES);
        // What is earned during the pause is already spent.
        self.since = now + pause;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_held_over_any_length_of_time() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        let mut read = 0;
        while start.elapsed() < Duration::from_secs(10) {
            let pause = limit.spend(64 << 10, Instant::now());
            read += 64 << 10;
            tokio::time::sleep(pause).await;
        }
        let most = BURST_BYTES + 10 * RATE_BYTES;
        assert!(
            read <= most + (64 << 10) && read > most - (1 << 20),
            "{read}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn silence_earns_no_more_than_a_burst() {
        let mut limit = RateLimit::new(Instant::now());
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(limit.spend(BURST_BYTES, Instant::now()), Duration::ZERO);
        assert!(limit.spend(RATE_BYTES, Instant::now()) >= Duration::from_millis(999));
    }

    #[tokio::test]
    async fn all_that_was_written_arrives_in_order() {
        use std::io::Write;
        use std::sync::{Arc, Mutex};

        let ((stdout, out), (stderr, err)) = (pipe().unwrap(), pipe().unwrap());
        let got = Arc::new(Mutex::new((Vec::new(), Vec::new())));
        let taken = Arc::clone(&got);
        let sink: OutputSink = Arc::new(move |stream, bytes| {
            let mut got = taken.lock().unwrap();
            match stream {
                Stream::Stdout => got.0.extend(bytes),
                Stream::Stderr => got.1.extend(bytes),
            }
        });
        let expected: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let written = expected.clone();
        let writer = std::thread::spawn(move || {
            std::fs::File::from(out).write_all(&written).unwrap();
            std::fs::File::from(err).write_all(b"oops").unwrap();
        });
        forward(stdout, stderr, sink, CancellationToken::new()).await;
        writer.join().unwrap();
        let got = got.lock().unwrap();
        assert!(got.0 == expected && got.1 == b"oops");
    }
}
