//! Calls with a body and a short answer, one after another over one connection.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::net::{self, Target};

/// The longest head and body of an answer that are read.
const HEAD_BYTES: usize = 16 << 10;
const BODY_BYTES: usize = 64 << 10;
/// Most header lines of an answer.
const HEADERS: usize = 64;
/// A body that is longer is sent only once the endpoint wants it: it may be refused, or belong elsewhere.
const ASKED_BYTES: u64 = 16 << 10;
/// How long the endpoint has to say that it wants a body, before that is sent all the same.
const ASKED_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that a body is read and sent by.
const PIECE_BYTES: usize = 64 << 10;

/// An answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) location: Option<String>,
    pub(crate) body: Vec<u8>,
    keeps_open: bool,
    length: Option<usize>,
}

/// Makes calls with one token.
pub(crate) struct Client {
    token: String,
    open: Option<(Target, TcpStream)>,
}

impl Client {
    /// It connects at its first call.
    pub(crate) fn new(token: &str) -> Self {
        Self {
            token: token.to_owned(),
            open: None,
        }
    }

    /// Connects to the server of an address, for the next call.
    pub(crate) fn connect(&mut self, url: &str, timeout: Duration) -> Result<(), String> {
        let target = Target::parse(url)?;
        let connection = net::connect(&target, timeout)?;
        self.open = Some((target, connection));
        Ok(())
    }

    /// One call with a body in memory. A connection that the other side closed meanwhile is made anew,
    /// once.
    pub(crate) fn send(
        &mut self,
        method: &str,
        url: &str,
        media: &str,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Answer, String> {
        let was_open = self.open.is_some();
        let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
        let first = self.stream(method, url, media, &mut &*body, length, true, timeout);
        match first {
            Err(_) if was_open => {
                self.stream(method, url, media, &mut &*body, length, true, timeout)
            }
            answer => answer,
        }
    }

    /// One call with a body of `length` bytes that is read as it is sent. The token goes along only
    /// with `trusted`: an address that the endpoint sent us on to is another's.
    #[expect(clippy::too_many_arguments, reason = "the parts of one HTTP request")]
    pub(crate) fn stream(
        &mut self,
        method: &str,
        url: &str,
        media: &str,
        body: &mut dyn Read,
        length: u64,
        trusted: bool,
        timeout: Duration,
    ) -> Result<Answer, String> {
        let until = Instant::now() + timeout;
        let target = Target::parse(url)?;
        let mut connection = match self.open.take() {
            Some((open, connection)) if open.is_same_server(&target) => connection,
            _ => net::connect(&target, timeout)?,
        };
        let port = if target.port == 80 {
            String::new()
        } else {
            format!(":{}", target.port)
        };
        let token = if trusted {
            format!("authorization: Bearer {}\r\n", self.token)
        } else {
            String::new()
        };
        let asks = trusted && length > ASKED_BYTES;
        let expect = if asks { "expect: 100-continue\r\n" } else { "" };
        let head = format!(
            "{method} {} HTTP/1.1\r\nhost: {}{port}\r\n{token}content-type: {media}\r\n\
             content-length: {length}\r\n{expect}user-agent: cofferdam-guest\r\n\r\n",
            target.path, target.host
        );
        net::set_timeout(&connection, left(until)?);
        let mut begun = Vec::new();
        if asks {
            connection
                .write_all(head.as_bytes())
                .map_err(|error| error.to_string())?;
            match read_interim(&mut connection, until)? {
                // The body is not wanted, so this connection is of no use any more.
                Interim::Answer(answer) => return Ok(answer),
                Interim::Begun(bytes) => begun = bytes,
            }
        }
        let head = if asks { "" } else { head.as_str() };
        let written = connection
            .write_all(head.as_bytes())
            .map_err(|error| error.to_string())
            .and_then(|()| copy(body, length, &mut connection, until));
        // An endpoint that refuses early answers before all is sent: its answer is worth more.
        let answer = read_answer(&mut connection, begun, until);
        let answer = match (written, answer) {
            (_, Ok(answer)) => answer,
            (Err(error), Err(_)) | (Ok(()), Err(error)) => return Err(error),
        };
        if answer.keeps_open {
            self.open = Some((target, connection));
        }
        Ok(answer)
    }
}

fn left(until: Instant) -> Result<Duration, String> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err("it took too long".into())
    } else {
        Ok(left)
    }
}

fn copy(
    body: &mut dyn Read,
    length: u64,
    connection: &mut TcpStream,
    until: Instant,
) -> Result<(), String> {
    let mut body = body.take(length);
    let mut piece = vec![0; PIECE_BYTES];
    let mut sent = 0;
    loop {
        let read = body
            .read(&mut piece)
            .map_err(|error| format!("its file: {error}"))?;
        if read == 0 {
            break;
        }
        net::set_timeout(connection, left(until)?);
        let bytes = piece.get(..read).unwrap_or_default();
        connection
            .write_all(bytes)
            .map_err(|error| error.to_string())?;
        sent += u64::try_from(read).unwrap_or(0);
    }
    if sent < length {
        return Err("its file became shorter".into());
    }
    connection.flush().map_err(|error| error.to_string())
}

/// What came before the body was sent.
enum Interim {
    /// The answer, already.
    Answer(Answer),
    /// The body is wanted, or nothing was said; these bytes belong to the answer.
    Begun(Vec<u8>),
}

fn read_interim(connection: &mut TcpStream, until: Instant) -> Result<Interim, String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    net::set_timeout(connection, left(until)?.min(ASKED_TIMEOUT));
    loop {
        match connection.read(&mut piece) {
            Ok(0) => return Err("the connection was closed without an answer".into()),
            Ok(read) => bytes.extend_from_slice(piece.get(..read).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(Interim::Begun(bytes));
            }
            Err(error) => return Err(error.to_string()),
        }
        let Some((answer, head)) = parse(&bytes)? else {
            continue;
        };
        if answer.status == 100 {
            bytes.drain(..head);
            return Ok(Interim::Begun(bytes));
        }
        return read_answer(connection, bytes, until).map(Interim::Answer);
    }
}

fn read_answer(
    connection: &mut TcpStream,
    mut bytes: Vec<u8>,
    until: Instant,
) -> Result<Answer, String> {
    loop {
        if let Some((mut answer, head)) = parse(&bytes)? {
            if matches!(answer.status, 100..200) {
                bytes.drain(..head);
                continue;
            }
            answer.body = bytes.split_off(head);
            return read_body(connection, answer, until);
        }
        if bytes.len() > HEAD_BYTES {
            return Err("an answer with a head that is too long".into());
        }
        if read_more(connection, &mut bytes, until)? == 0 {
            return Err("the connection was closed without an answer".into());
        }
    }
}

fn read_body(
    connection: &mut TcpStream,
    mut answer: Answer,
    until: Instant,
) -> Result<Answer, String> {
    let Some(length) = answer.length else {
        // Only the status counts then, and the connection is not used again.
        answer.keeps_open = false;
        return Ok(answer);
    };
    if length > BODY_BYTES {
        answer.keeps_open = false;
        return Ok(answer);
    }
    while answer.body.len() < length {
        if read_more(connection, &mut answer.body, until)? == 0 {
            return Err("an answer that was cut off".into());
        }
    }
    answer.body.truncate(length);
    Ok(answer)
}

fn read_more(
    connection: &mut TcpStream,
    bytes: &mut Vec<u8>,
    until: Instant,
) -> Result<usize, String> {
    net::set_timeout(connection, left(until)?);
    let mut piece = [0; 4096];
    let read = connection
        .read(&mut piece)
        .map_err(|error| error.to_string())?;
    bytes.extend_from_slice(piece.get(..read).unwrap_or_default());
    Ok(read)
}

/// The head of an answer and its length, once it is whole.
fn parse(bytes: &[u8]) -> Result<Option<(Answer, usize)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("not an HTTP answer: {error}")),
    };
    let mut answer = Answer {
        status: parsed.code.unwrap_or(0),
        keeps_open: parsed.version == Some(1),
        ..Answer::default()
    };
    for header in parsed.headers.iter() {
        let value = String::from_utf8_lossy(header.value);
        let value = value.trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            answer.length = value.parse().ok();
        } else if header.name.eq_ignore_ascii_case("connection") {
            answer.keeps_open &= !value.eq_ignore_ascii_case("close");
        } else if header.name.eq_ignore_ascii_case("retry-after") {
            answer.retry_after = value.parse().ok().map(Duration::from_secs);
        } else if header.name.eq_ignore_ascii_case("location") {
            answer.location = Some(value.to_owned());
        }
    }
    if answer.status == 204 {
        answer.length = Some(0);
    }
    Ok(Some((answer, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_when_their_head_is_whole() {
        let text = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\ncontent-length: 2\r\nConnection: close\r\n\r\nno";
        for cut in 0..text.len() - 2 {
            assert!(parse(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        let (answer, head) = parse(text).unwrap().unwrap();
        assert_eq!((answer.status, answer.length), (503, Some(2)));
        assert_eq!(answer.retry_after, Some(Duration::from_secs(7)));
        assert!(!answer.keeps_open);
        assert_eq!(&text[head..], b"no");
        assert!(parse(b"SSH-2.0\r\n\r\n").is_err());
    }
}
