//! Whether what a machine sends carries its own token and no other machine's.
//!
//! A token opens its run wherever it is sent from, so a guest that got hold of another guest's token
//! could post in its name. Inside a local machine that is refused: the relay knows which machine
//! sends.

use std::sync::Arc;

/// The header that carries a token.
const HEADER: &[u8] = b"authorization:";
/// Bytes of its value that are kept: more than any token has.
const VALUE_MAX_BYTES: usize = 1024;

/// Reads what one connection of a machine sends, line by line and in whatever pieces it comes.
///
/// It does not tell heads from bodies. A result is JSON, in which no line can begin with the name of
/// a header and a colon.
#[derive(Debug)]
pub(crate) struct TokenCheck {
    own: Arc<str>,
    line: Line,
}

#[derive(Debug)]
enum Line {
    /// So many bytes of the header's name have been seen.
    Name(usize),
    /// The value of the header, so far.
    Value(Vec<u8>),
    /// Another line.
    Other,
}

impl TokenCheck {
    /// For a connection of the machine whose token is `own`.
    pub(crate) fn new(own: Arc<str>) -> Self {
        Self {
            own,
            line: Line::Name(0),
        }
    }

    /// Whether the next bytes may pass: they do not end a line with another token than the machine's.
    pub(crate) fn passes(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((&byte, rest)) = bytes.split_first() {
            if !self.passes_byte(byte) {
                return false;
            }
            bytes = rest;
            // Most of a body is one line, of which only the end counts.
            if matches!(self.line, Line::Other) {
                let end = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
                bytes = &bytes[end..];
            }
        }
        true
    }

    fn passes_byte(&mut self, byte: u8) -> bool {
        if byte == b'\n' {
            let line = std::mem::replace(&mut self.line, Line::Name(0));
            return match line {
                Line::Value(value) => self.is_own(&value),
                Line::Name(_) | Line::Other => true,
            };
        }
        match &mut self.line {
            Line::Other => {}
            Line::Value(value) => {
                if value.len() < VALUE_MAX_BYTES {
                    value.push(byte);
                }
            }
            Line::Name(seen) => {
                let is_next = HEADER.get(*seen) == Some(&byte.to_ascii_lowercase());
                *seen += 1;
                if !is_next {
                    self.line = Line::Other;
                } else if *seen == HEADER.len() {
                    self.line = Line::Value(Vec::new());
                }
            }
        }
        true
    }

    fn is_own(&self, value: &[u8]) -> bool {
        let mut words = value.split(u8::is_ascii_whitespace);
        let token = words.rfind(|word| !word.is_empty());
        token == Some(self.own.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(text: &str, piece: usize) -> bool {
        let mut check = TokenCheck::new("cd2.k.one.1.9.n.tag".into());
        text.as_bytes()
            .chunks(piece)
            .all(|piece| check.passes(piece))
    }

    #[test]
    fn only_its_own_token_passes_however_it_is_written_and_cut() {
        let post = "POST /results HTTP/1.1\r\nhost: x\r\n";
        for (line, expected) in [
            ("Authorization: Bearer cd2.k.one.1.9.n.tag\r\n", true),
            ("authorization:bearer  cd2.k.one.1.9.n.tag \r\n", true),
            ("AUTHORIZATION:\tBearer cd2.k.one.1.9.n.tag\n", true),
            ("x-authorization: Bearer cd2.k.two.1.9.n.tag\r\n", true),
            ("authorisation: Bearer cd2.k.two.1.9.n.tag\r\n", true),
            ("Authorization: Bearer cd2.k.two.1.9.n.tag\r\n", false),
            ("aUTHORIZATION:Bearer cd2.k.two.1.9.n.tag\n", false),
            ("Authorization: Bearer cd2.k.one.1.9.n.tagg\r\n", false),
            ("Authorization: Bearer\r\n", false),
        ] {
            for piece in [1, 7, 1000] {
                let head = format!("{post}{line}content-length: 2\r\n\r\n{{}}");
                assert_eq!(passes(&head, piece), expected, "{line:?} in {piece}");
                // A later request on the same connection.
                let own = format!("{post}Authorization: Bearer cd2.k.one.1.9.n.tag\r\n\r\n");
                assert_eq!(passes(&(own + &head), piece), expected, "{line:?}");
            }
        }
    }

    #[test]
    fn a_body_may_name_whatever_it_likes() {
        let body = "{\"a\": \"Authorization: Bearer other\",\n\"authorization\": \"x\"}\n";
        assert!(passes(body, 5));
    }
}
