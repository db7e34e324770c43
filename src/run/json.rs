//! JSON from strangers that every consumer can read.
//!
//! A guest's result and a request's `metadata` end up in front of programs in any language. Their
//! parsers differ in what they accept: Ruby's stops at 100 levels, .NET's at 64, Python's at integers
//! of 4,300 digits, and a lone surrogate is a string that most cannot write again. [`check`] is one
//! pass over the bytes that lets through what all of them take, and says what is wrong otherwise.
//!
//! Deliberately absent: values. What passes is kept byte for byte.

use std::collections::HashSet;
use std::ops::Range;

/// Levels of arrays and objects within each other. A result wraps them in one more, and .NET reads
/// 64.
pub const DEPTH_MAX: usize = 60;
/// Bytes of one number. Python reads integers of 4,300 digits; one of 300 still fits a double.
pub const NUMBER_MAX_BYTES: usize = 300;
/// Bytes of a member's name as it is written. Some parsers keep every name that they have seen.
pub const NAME_MAX_BYTES: usize = 1024;
/// Digits of an exponent, without leading zeros. Some decimal types write out all the digits of a
/// large one.
pub const EXPONENT_MAX_DIGITS: usize = 3;
/// Names of one object that are compared one by one; beyond they are kept in a set.
const NAMES_COMPARED: usize = 16;

/// What is wrong, and at which byte.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}, at byte {at}")]
pub struct JsonFault {
    /// What is wrong, without anything of the text itself.
    pub what: String,
    /// Where it was seen, counted from 0.
    pub at: usize,
}

/// Checks that `bytes` are one JSON value that every consumer can read, and answers that value
/// without the white space around it.
///
/// # Errors
/// [`JsonFault`] with the first rule that is broken.
pub fn check(bytes: &[u8]) -> Result<&str, JsonFault> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return Err(fault(encoding(bytes), error.valid_up_to())),
    };
    let mut scan = Scan {
        text: bytes,
        at: 0,
        open: Vec::new(),
        names: Vec::new(),
    };
    let whole = scan.value().map_err(|mut found| {
        // UTF-16 of plain letters is UTF-8 too, with a NUL in every second place.
        if found.at < 4 && bytes[..bytes.len().min(4)].contains(&0) {
            found.what = encoding(bytes).into();
        }
        found
    })?;
    Ok(&text[whole])
}

/// What bytes that are no UTF-8 seem to be.
fn encoding(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => {
            "it seems to be UTF-16 or UTF-32; JSON is sent as UTF-8"
        }
        [0x1f, 0x8b, ..] => "it seems to be compressed with gzip; send it as it is",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "it seems to be compressed with zstd; send it as it is",
        _ => "it is not UTF-8",
    }
}

fn fault(what: impl Into<String>, at: usize) -> JsonFault {
    JsonFault {
        what: what.into(),
        at,
    }
}

/// An array or object that is not closed yet.
enum Open<'a> {
    Array,
    Object(Names<'a>),
}

/// The names of one object.
struct Names<'a> {
    /// Where its names begin in [`Scan::names`].
    from: usize,
    /// All of them, once there are many.
    many: Option<HashSet<Name<'a>>>,
}

/// A name with its escapes resolved.
type Name<'a> = std::borrow::Cow<'a, [u8]>;

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    open: Vec<Open<'a>>,
    /// The first names of each open object, of the outer ones first.
    names: Vec<Name<'a>>,
}

impl<'a> Scan<'a> {
    fn value(&mut self) -> Result<Range<usize>, JsonFault> {
        if self.text.starts_with(b"\xef\xbb\xbf") {
            return Err(fault("it begins with a byte order mark (BOM)", 0));
        }
        self.space();
        let from = self.at;
        if from == self.text.len() {
            return Err(fault("it is empty", from));
        }
        // Each turn begins where a value stands, and ends behind it.
        loop {
            if self.begin()? {
                continue;
            }
            if self.end()? {
                break;
            }
        }
        let whole = from..self.at;
        self.space();
        match self.peek() {
            None => Ok(whole),
            Some(_) => Err(fault("something follows the value", self.at)),
        }
    }

    /// Reads a value, or the opening of one that has others in it: then `true`, and the next value
    /// stands here.
    fn begin(&mut self) -> Result<bool, JsonFault> {
        match self.peek() {
            Some(b'{') => {
                self.deeper()?;
                self.space();
                if self.peek() == Some(b'}') {
                    self.at += 1;
                    return Ok(false);
                }
                self.open.push(Open::Object(Names {
                    from: self.names.len(),
                    many: None,
                }));
                self.name()?;
                Ok(true)
            }
            Some(b'[') => {
                self.deeper()?;
                self.space();
                if self.peek() == Some(b']') {
                    self.at += 1;
                    return Ok(false);
                }
                self.open.push(Open::Array);
                Ok(true)
            }
            Some(b'"') => self.string().map(|_| false),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| false),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            Some(b'N' | b'I') => Err(fault("NaN and Infinity are no JSON", self.at)),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// What follows a value. `false` when the next value stands here, `true` when all are closed.
    fn end(&mut self) -> Result<bool, JsonFault> {
        loop {
            let Some(open) = self.open.last() else {
                return Ok(true);
            };
            let is_object = matches!(open, Open::Object(_));
            self.space();
            match (self.peek(), is_object) {
                (Some(b','), true) => {
                    self.at += 1;
                    self.space();
                    self.name()?;
                    return Ok(false);
                }
                (Some(b','), false) => {
                    self.at += 1;
                    self.space();
                    return Ok(false);
                }
                (Some(b'}'), true) | (Some(b']'), false) => {
                    self.at += 1;
                    if let Some(Open::Object(names)) = self.open.pop() {
                        self.names.truncate(names.from);
                    }
                }
                (_, true) => return Err(self.unexpected("',' or '}'")),
                (_, false) => return Err(self.unexpected("',' or ']'")),
            }
        }
    }

    fn deeper(&mut self) -> Result<(), JsonFault> {
        if self.open.len() >= DEPTH_MAX {
            let what = format!("it is nested deeper than {DEPTH_MAX} levels");
            return Err(fault(what, self.at));
        }
        self.at += 1;
        Ok(())
    }

    /// The name of a member, up to where its value stands.
    fn name(&mut self) -> Result<(), JsonFault> {
        let from = self.at;
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a name in quotes"));
        }
        let (text, is_plain) = self.string()?;
        if text.len() > NAME_MAX_BYTES {
            let what = format!("a name is longer than {NAME_MAX_BYTES} bytes");
            return Err(fault(what, from));
        }
        let written = &self.text[text];
        let name = match is_plain {
            true => Name::Borrowed(written),
            false => resolved(written),
        };
        if !self.is_new(name) {
            return Err(fault("a name is given twice in one object", from));
        }
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.unexpected("':'"));
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    fn is_new(&mut self, name: Name<'a>) -> bool {
        let Some(Open::Object(own)) = self.open.last_mut() else {
            return true;
        };
        if let Some(many) = &mut own.many {
            return many.insert(name);
        }
        let few = &self.names[own.from..];
        if few.contains(&name) {
            return false;
        }
        if few.len() == NAMES_COMPARED {
            let mut many: HashSet<Name<'a>> = self.names.drain(own.from..).collect();
            many.insert(name);
            own.many = Some(many);
        } else {
            self.names.push(name);
        }
        true
    }

    /// A string: what stands between its quotes, and whether that is free of escapes.
    fn string(&mut self) -> Result<(Range<usize>, bool), JsonFault> {
        self.at += 1;
        let from = self.at;
        let mut is_plain = true;
        loop {
            let rest = &self.text[self.at..];
            let plain = rest
                .iter()
                .position(|&byte| byte == b'"' || byte == b'\\' || byte < 0x20);
            self.at += plain.unwrap_or(rest.len());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok((from..self.at - 1, is_plain));
                }
                Some(b'\\') => {
                    is_plain = false;
                    self.escape()?;
                }
                Some(_) => {
                    let what = "a control character in a string is not escaped";
                    return Err(fault(what, self.at));
                }
                None => return Err(self.unexpected("the end of a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonFault> {
        let from = self.at;
        match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                return Ok(());
            }
            Some(b'u') => {}
            _ => return Err(fault("an escape that JSON does not know", from)),
        }
        let lone = || fault("half of a surrogate pair, which is no character", from);
        let unit = self.unit(from)?;
        match unit {
            0 => Err(fault(r"\u0000, which databases and C cannot store", from)),
            0xd800..=0xdbff => {
                if !self.text[self.at..].starts_with(b"\\u") {
                    return Err(lone());
                }
                match self.unit(from)? {
                    0xdc00..=0xdfff => Ok(()),
                    _ => Err(lone()),
                }
            }
            0xdc00..=0xdfff => Err(lone()),
            _ => Ok(()),
        }
    }

    /// The four digits of `\uXXXX`.
    fn unit(&mut self, escape: usize) -> Result<u32, JsonFault> {
        let digits = self.text.get(self.at + 2..self.at + 6);
        self.at += 6;
        digits
            .and_then(hex)
            .ok_or_else(|| fault("an escape without four hexadecimal digits", escape))
    }

    fn number(&mut self) -> Result<(), JsonFault> {
        let from = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => {
                self.digits();
            }
            Some(b'I' | b'N') => return Err(fault("NaN and Infinity are no JSON", from)),
            _ => return Err(self.unexpected("a digit")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits().is_empty() {
                return Err(self.unexpected("a digit"));
            }
        }
        let mut exponent = 0..0;
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            exponent = self.digits();
            if exponent.is_empty() {
                return Err(self.unexpected("a digit"));
            }
        }
        if self.at - from > NUMBER_MAX_BYTES {
            let what = format!("a number is longer than {NUMBER_MAX_BYTES} characters");
            return Err(fault(what, from));
        }
        let zeros = self.text[exponent.clone()]
            .iter()
            .take_while(|&&d| d == b'0');
        if exponent.len() - zeros.count() > EXPONENT_MAX_DIGITS {
            let what = format!("an exponent has more than {EXPONENT_MAX_DIGITS} digits");
            return Err(fault(what, from));
        }
        Ok(())
    }

    fn digits(&mut self) -> Range<usize> {
        let from = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        from..self.at
    }

    fn word(&mut self, word: &[u8]) -> Result<bool, JsonFault> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        Ok(false)
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn unexpected(&self, wanted: &str) -> JsonFault {
        match self.peek() {
            None => fault(format!("it ends where {wanted} should stand"), self.at),
            Some(_) => fault(
                format!("something else stands where {wanted} should"),
                self.at,
            ),
        }
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, &digit| {
        char::from(digit)
            .to_digit(16)
            .map(|digit| number * 16 + digit)
    })
}

/// A name of which every escape was checked, as its reader will have it.
fn resolved<'a>(written: &[u8]) -> Name<'a> {
    let mut quoted = Vec::with_capacity(written.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(written);
    quoted.push(b'"');
    let name: String = serde_json::from_slice(&quoted).unwrap_or_default();
    Name::Owned(name.into_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[track_caller]
    fn refused(text: impl AsRef<[u8]>, expected: &str) {
        let fault = check(text.as_ref())
            .expect_err("it should be refused")
            .to_string();
        assert!(fault.contains(expected), "{fault}\n  not {expected:?}");
    }

    #[track_caller]
    fn taken(text: &str) {
        assert_eq!(
            check(text.as_bytes()),
            Ok(text.trim_matches([' ', '\n', '\t', '\r']))
        );
    }

    fn nested(depth: usize) -> String {
        "[".repeat(depth) + &"]".repeat(depth)
    }

    fn nested_objects(depth: usize) -> String {
        r#"{"a":"#.repeat(depth) + "1" + &"}".repeat(depth)
    }

    #[test]
    fn what_every_reader_takes_is_taken_as_it_stands() {
        for text in [
            "0",
            "-0",
            "-0.0e-0",
            "1E+2",
            "\n [ ] \t",
            "{ }",
            r#" {"a" : [1 , {"b":null}] } "#,
            r#""\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00""#,
            "\"é\u{10ffff}\u{7f}\u{2028}\"",
            "true",
            r#"{"":1," ":2,"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}]}"#,
            "1.7e308",
            "1e-400",
            r#""\uFFFF""#,
            "1e0000000010",
            "1e400",
        ] {
            taken(text);
        }
        taken(&nested(DEPTH_MAX));
        taken(&nested_objects(DEPTH_MAX));
        taken(&"9".repeat(NUMBER_MAX_BYTES));
        taken(&format!(r#"{{"{}":1}}"#, "k".repeat(NAME_MAX_BYTES)));
        taken(&format!(r#""{}""#, "long".repeat(100_000)));
    }

    #[test]
    fn what_stops_a_reader_is_refused_by_name() {
        refused(
            nested(DEPTH_MAX + 1),
            "nested deeper than 60 levels, at byte 60",
        );
        refused(nested_objects(DEPTH_MAX + 1), "nested deeper than");
        refused("[".repeat(1_000_000), "nested deeper than");
        refused(
            "9".repeat(NUMBER_MAX_BYTES + 1),
            "longer than 300 characters",
        );
        refused(
            format!("[-0.{}]", "0".repeat(5000)),
            "longer than 300 characters",
        );
        for text in [
            "1e1000",
            "-1e9999",
            "1e999999",
            "1e-999999",
            "0e99999999999999999999",
        ] {
            refused(text, "an exponent has more than 3 digits");
        }
        for text in [
            r#""\ud800""#,
            r#""\udc00""#,
            r#"{"\uD800":1}"#,
            r#""\ud800\ud800""#,
            r#""\ud800\n""#,
            r#""\ud800x""#,
            r#""\udc00\ud800""#,
            r#"{"a":["\uDFFF"]}"#,
        ] {
            refused(text, "half of a surrogate pair");
        }
        refused(b"\"\xed\xa0\x80\"", "not UTF-8, at byte 1");
        refused(r#""a\u0000""#, r"\u0000, which databases");
        refused(r#"{"\u0000":1}"#, r"\u0000, which databases");
        refused(
            r#"{"a":1,"b":2,"\u0061":3}"#,
            "given twice in one object, at byte 13",
        );
        refused(r#"[{"a":{"a":1},"a":1}]"#, "given twice");
        let many: Vec<String> = (0..100).map(|n| format!("\"{n}\":{n}")).collect();
        taken(&format!("{{{}}}", many.join(",")));
        refused(
            format!("{{{},\"\\u0035\":1}}", many.join(",")),
            "given twice",
        );
        refused(format!("{{{},\"99\":1}}", many.join(",")), "given twice");
        refused(
            format!(r#"{{"{}":1}}"#, "k".repeat(NAME_MAX_BYTES + 1)),
            "a name is longer",
        );
        for text in ["NaN", "Infinity", "-Infinity", "[NaN]"] {
            refused(text, "NaN and Infinity");
        }
        refused("\u{feff}{}", "byte order mark");
        let utf16: Vec<u8> = "{\"a\":1}"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        refused(&utf16, "UTF-16");
        refused([&b"\xff\xfe"[..], &utf16].concat(), "UTF-16");
        refused([&b"\0"[..], &utf16].concat(), "UTF-16");
        refused(b"\x1f\x8b\x08\0", "gzip");
        refused(b"\"\xff\"", "not UTF-8, at byte 1");
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,}",
            "{a:1}",
            "\"",
            "\"\\",
            "\"\\u12",
            "\"\\x\"",
            "\"\\u12g4\"",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "1e+",
            "+1",
            "tru",
            "nul",
            "1 2",
            "[]]",
            "{}}",
            "[1}",
            "{\"a\" 1}",
            "'a'",
            "\"a\nb\"",
            "[1 2]",
            "// no\n1",
            "True",
            "-a",
            "\u{a0}1",
        ] {
            assert!(check(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// What passes is what serde_json takes; what it takes breaks one of our rules at most.
        #[test]
        fn it_agrees_with_a_parser(text in r#"[\[\]{}:," \\0-9eE.+\-untrfalsd]{0,24}"#) {
            let theirs = serde_json::from_str::<Value>(&text);
            match check(text.as_bytes()) {
                // A number that no double holds is still one.
                Ok(value) => prop_assert!(
                    theirs.as_ref().map_or_else(|e| e.to_string().contains("range"), |_| true),
                    "{value}"
                ),
                Err(fault) => prop_assert!(
                    theirs.is_err() || fault.what.contains("twice") || fault.what.contains("exponent"),
                    "{}: {}", text, fault
                ),
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = check(&bytes);
        }

        #[test]
        fn values_written_by_a_serializer_pass(
            values in prop::collection::btree_map("[ -~é\u{1}]{0,4}", -1e300..1e300, 0..40),
        ) {
            let text = serde_json::to_string(&values).unwrap();
            // Of the control characters only NUL is refused.
            prop_assert_eq!(check(text.as_bytes()), Ok(text.as_str()));
        }
    }
}
