//! The output of one machine: its first lines and its last ones, within bounds.

use std::collections::VecDeque;

use crate::clock::UnixMs;

/// Bytes kept of the beginning.
const HEAD_BYTES: usize = 64 * 1024;
/// Bytes kept of the end.
const TAIL_BYTES: usize = 192 * 1024;
/// The longest line; longer ones are cut into several.
const LINE_BYTES: usize = 8 * 1024;
/// What a line costs besides its text, so that empty lines are bounded too.
const LINE_COST: usize = 64;

/// Where a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A line that a machine wrote, or that tells of lines which were dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its place among all lines of the server.
    pub(crate) sequence: u64,
    /// When it was complete.
    pub(crate) at_ms: UnixMs,
    /// Where it was written to; `None` for a line of the server's own.
    pub(crate) stream: Option<Stream>,
    /// Its text, without the line end.
    pub(crate) text: String,
}

/// The output of one machine.
#[derive(Debug, Default)]
pub(super) struct Ring {
    head: Vec<Line>,
    tail: VecDeque<Line>,
    head_bytes: usize,
    tail_bytes: usize,
    dropped: Option<Dropped>,
    /// What was written since the last line end, for each stream.
    partial: [Vec<u8>; 2],
}

#[derive(Clone, Copy, Debug)]
struct Dropped {
    lines: u64,
    bytes: u64,
    last_sequence: u64,
    last_ms: UnixMs,
}

impl Ring {
    /// Takes in what was written, and numbers its lines with `sequence`.
    pub(super) fn write(
        &mut self,
        stream: Stream,
        mut bytes: &[u8],
        now: UnixMs,
        mut sequence: impl FnMut() -> u64,
    ) {
        while !bytes.is_empty() {
            let partial = &mut self.partial[stream as usize];
            let room = LINE_BYTES - partial.len();
            let window = &bytes[..bytes.len().min(room)];
            let end = window.iter().position(|&b| b == b'\n');
            let taken = end.unwrap_or(window.len());
            partial.extend_from_slice(&window[..taken]);
            bytes = &bytes[taken + usize::from(end.is_some())..];
            if end.is_some() || self.partial[stream as usize].len() == LINE_BYTES {
                self.end_line(stream, now, &mut sequence);
            }
        }
    }

    /// Ends the lines that were begun: nothing more comes from this process.
    pub(super) fn close(&mut self, now: UnixMs, mut sequence: impl FnMut() -> u64) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.partial[stream as usize].is_empty() {
                self.end_line(stream, now, &mut sequence);
            }
        }
    }

    /// The lines after `after`, oldest first, at most `limit`. Where lines were dropped, one says
    /// so.
    pub(super) fn after(&self, after: u64, limit: usize) -> Vec<Line> {
        let gap = self.dropped.map(|dropped| Line {
            sequence: dropped.last_sequence,
            at_ms: dropped.last_ms,
            stream: None,
            text: format!(
                "… {} lines ({} bytes) of output were dropped here …",
                dropped.lines, dropped.bytes
            ),
        });
        self.head
            .iter()
            .chain(gap.as_ref())
            .chain(&self.tail)
            .filter(|line| line.sequence > after)
            .take(limit)
            .cloned()
            .collect()
    }

    fn end_line(&mut self, stream: Stream, now: UnixMs, sequence: &mut impl FnMut() -> u64) {
        let partial = &mut self.partial[stream as usize];
        let text = String::from_utf8_lossy(partial);
        let text = text.strip_suffix('\r').unwrap_or(&text).to_owned();
        partial.clear();
        self.push(Line {
            sequence: sequence(),
            at_ms: now,
            stream: Some(stream),
            text,
        });
    }

    fn push(&mut self, line: Line) {
        let cost = line.text.len() + LINE_COST;
        let still_head = self.tail.is_empty() && self.dropped.is_none();
        if still_head && self.head_bytes + cost <= HEAD_BYTES {
            self.head_bytes += cost;
            self.head.push(line);
            return;
        }
        self.tail_bytes += cost;
        self.tail.push_back(line);
        while self.tail_bytes > TAIL_BYTES {
            let Some(oldest) = self.tail.pop_front() else {
                return;
            };
            self.tail_bytes -= oldest.text.len() + LINE_COST;
            let dropped = self.dropped.get_or_insert(Dropped {
                lines: 0,
                bytes: 0,
                last_sequence: 0,
                last_ms: 0,
            });
            dropped.lines += 1;
            dropped.bytes += oldest.text.len() as u64 + 1;
            dropped.last_sequence = oldest.sequence;
            dropped.last_ms = oldest.at_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(chunks: &[&[u8]]) -> Ring {
        let mut ring = Ring::default();
        let mut next = 0;
        let mut sequence = || {
            next += 1;
            next
        };
        for chunk in chunks {
            ring.write(Stream::Stdout, chunk, 0, &mut sequence);
        }
        ring.close(0, sequence);
        ring
    }

    fn texts(ring: &Ring) -> Vec<String> {
        let lines = ring.after(0, usize::MAX);
        lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn lines_are_put_together_from_chunks() {
        assert_eq!(
            texts(&written(&[b"a\nb", b"c\r\n\nd"])),
            ["a", "bc", "", "d"]
        );
        assert_eq!(texts(&written(&[b"\xff\xfe\n"])), ["\u{fffd}\u{fffd}"]);
        assert!(texts(&written(&[])).is_empty());
    }

    #[test]
    fn a_line_without_an_end_is_cut() {
        let endless = vec![b'x'; LINE_BYTES * 2 + 5];
        let lengths: Vec<usize> = texts(&written(&[&endless]))
            .iter()
            .map(String::len)
            .collect();
        assert_eq!(lengths, [LINE_BYTES, LINE_BYTES, 5]);
    }

    #[test]
    fn the_beginning_and_the_end_are_kept_and_the_gap_is_told() {
        let line = [&[b'y'; 999][..], b"\n"].concat();
        let chunks: Vec<&[u8]> = (0..1000).map(|_| line.as_slice()).collect();
        let ring = written(&chunks);
        let lines = ring.after(0, usize::MAX);
        let kept: usize = lines.iter().map(|line| line.text.len() + LINE_COST).sum();
        assert!(kept <= HEAD_BYTES + TAIL_BYTES + 200, "{kept}");
        assert_eq!(lines.first().map(|line| line.sequence), Some(1));
        assert_eq!(lines.last().map(|line| line.sequence), Some(1000));
        let gap = lines
            .iter()
            .find(|line| line.stream.is_none())
            .expect("a gap");
        let missing = 1000 - (lines.len() - 1);
        let expected = format!(
            "… {missing} lines ({} bytes) of output were dropped here …",
            missing * 1000
        );
        assert_eq!(gap.text, expected);
        assert!(lines.is_sorted_by_key(|line| line.sequence));
    }

    #[test]
    fn reading_goes_on_where_it_stopped() {
        let ring = written(&[b"a\nb\nc\n"]);
        let first = ring.after(0, 2);
        assert_eq!(first.len(), 2);
        let rest = ring.after(first[1].sequence, 2);
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].text, "c");
        assert!(ring.after(rest[0].sequence, 2).is_empty());
    }
}
