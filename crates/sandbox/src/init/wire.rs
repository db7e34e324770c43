//! What the server and the guest's init say to each other.
//!
//! A frame is a length (32 bits, little end first) and that many bytes: one for the kind, then the
//! fields. Both sides are built from this one file, so there are no versions. Nothing here is
//! async or knows where the bytes come from. The server must treat what it reads as the words of a
//! stranger: init runs as the guest's own user.

/// The longest frame the server sends: a program with all its arguments and environment, or the
/// standard input of an exec.
pub(crate) const TO_INIT_MAX_BYTES: u32 = 8 << 20;
/// The longest frame init sends: the two outputs of an exec, cut.
pub(crate) const FROM_INIT_MAX_BYTES: u32 = 2 << 20;

/// A program as it is to be started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Program {
    /// Program and arguments, never empty.
    pub(crate) argv: Vec<String>,
    /// The whole environment.
    pub(crate) env: Vec<(String, String)>,
    /// Working directory.
    pub(crate) workdir: String,
}

/// What the server asks of init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Start the sandbox's main program. Sent once.
    Start(Program),
    /// Run another program beside it.
    Exec(Exec),
}

/// One exec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exec {
    /// Comes back in the answer.
    pub(crate) id: u32,
    /// What to run.
    pub(crate) program: Program,
    /// Its standard input.
    pub(crate) stdin: Vec<u8>,
    /// It is killed after so long.
    pub(crate) timeout_ms: u32,
    /// So much of each output is kept, the rest is read and thrown away.
    pub(crate) keep_bytes: u32,
}

/// What init reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Init runs, and this descriptor of its is the sandbox's listener.
    Ready {
        /// Number of the descriptor in init.
        listener: u32,
    },
    /// The main program has been exec'ed.
    Started {
        /// Its process id inside the sandbox.
        pid: u32,
    },
    /// Init or the main program could not be started.
    Failed(Failure),
    /// The main program has ended.
    Exited(Ending),
    /// An exec has ended, or could not be started.
    Done {
        /// The exec's id.
        id: u32,
        /// How it went.
        result: Result<ExecResult, Failure>,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What an exec brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExecResult {
    /// How the process ended.
    pub(crate) ending: Ending,
    /// Standard output, cut.
    pub(crate) stdout: Vec<u8>,
    /// Standard error, cut.
    pub(crate) stderr: Vec<u8>,
}

/// Why something could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What was being done.
    pub(crate) step: Step,
    /// The system's error number, 0 when there is none.
    pub(crate) errno: i32,
    /// What else is known.
    pub(crate) detail: String,
}

/// The steps that can fail inside the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Init's own preparations.
    Prepare,
    /// Entering the working directory.
    Workdir,
    /// Starting the program.
    Program,
    /// Too many execs at once.
    Busy,
}

/// Turns a message into a whole frame and back from a frame's body.
pub(crate) trait Frame: Sized {
    /// Writes the body.
    fn put(&self, body: &mut Vec<u8>);
    /// Reads the body; `None` when it is not exactly one message.
    fn take(body: &mut &[u8]) -> Option<Self>;

    /// The whole frame, length first. `None` when the message is longer than `max` bytes.
    fn encode(&self, max: u32) -> Option<Vec<u8>> {
        let mut frame = vec![0; 4];
        self.put(&mut frame);
        let length = u32::try_from(frame.len() - 4).ok()?;
        frame.splice(0..4, length.to_le_bytes());
        (length <= max).then_some(frame)
    }

    /// The message in `body`, the bytes after the length.
    fn decode(mut body: &[u8]) -> Option<Self> {
        let message = Self::take(&mut body)?;
        body.is_empty().then_some(message)
    }
}

impl Frame for Request {
    fn put(&self, body: &mut Vec<u8>) {
        match self {
            Self::Start(program) => {
                body.push(0);
                program.put(body);
            }
            Self::Exec(exec) => {
                body.push(1);
                exec.id.put(body);
                exec.program.put(body);
                exec.stdin.put(body);
                exec.timeout_ms.put(body);
                exec.keep_bytes.put(body);
            }
        }
    }

    fn take(body: &mut &[u8]) -> Option<Self> {
        match u8::take(body)? {
            0 => Program::take(body).map(Self::Start),
            1 => Some(Self::Exec(Exec {
                id: u32::take(body)?,
                program: Program::take(body)?,
                stdin: Vec::take(body)?,
                timeout_ms: u32::take(body)?,
                keep_bytes: u32::take(body)?,
            })),
            _ => None,
        }
    }
}

impl Frame for Event {
    fn put(&self, body: &mut Vec<u8>) {
        match self {
            Self::Ready { listener } => {
                body.push(0);
                listener.put(body);
            }
            Self::Started { pid } => {
                body.push(1);
                pid.put(body);
            }
            Self::Failed(failure) => {
                body.push(2);
                failure.put(body);
            }
            Self::Exited(ending) => {
                body.push(3);
                ending.put(body);
            }
            Self::Done { id, result } => {
                body.push(4);
                id.put(body);
                match result {
                    Ok(ran) => {
                        body.push(0);
                        ran.ending.put(body);
                        ran.stdout.put(body);
                        ran.stderr.put(body);
                    }
                    Err(failure) => {
                        body.push(1);
                        failure.put(body);
                    }
                }
            }
        }
    }

    fn take(body: &mut &[u8]) -> Option<Self> {
        Some(match u8::take(body)? {
            0 => Self::Ready {
                listener: u32::take(body)?,
            },
            1 => Self::Started {
                pid: u32::take(body)?,
            },
            2 => Self::Failed(Failure::take(body)?),
            3 => Self::Exited(Ending::take(body)?),
            4 => Self::Done {
                id: u32::take(body)?,
                result: match u8::take(body)? {
                    0 => Ok(ExecResult {
                        ending: Ending::take(body)?,
                        stdout: Vec::take(body)?,
                        stderr: Vec::take(body)?,
                    }),
                    1 => Err(Failure::take(body)?),
                    _ => return None,
                },
            },
            _ => return None,
        })
    }
}

impl Frame for Program {
    fn put(&self, body: &mut Vec<u8>) {
        count(self.argv.len()).put(body);
        self.argv.iter().for_each(|argument| argument.put(body));
        count(self.env.len()).put(body);
        for (name, value) in &self.env {
            name.put(body);
            value.put(body);
        }
        self.workdir.put(body);
    }

    fn take(body: &mut &[u8]) -> Option<Self> {
        let mut program = Self::default();
        for _ in 0..u32::take(body)? {
            program.argv.push(String::take(body)?);
        }
        for _ in 0..u32::take(body)? {
            program.env.push((String::take(body)?, String::take(body)?));
        }
        program.workdir = String::take(body)?;
        (!program.argv.is_empty()).then_some(program)
    }
}

impl Frame for Ending {
    fn put(&self, body: &mut Vec<u8>) {
        let (kind, number) = match self {
            Self::Code(code) => (0, *code),
            Self::Signal(signal) => (1, *signal),
        };
        body.push(kind);
        number.put(body);
    }

    fn take(body: &mut &[u8]) -> Option<Self> {
        match u8::take(body)? {
            0 => i32::take(body).map(Self::Code),
            1 => i32::take(body).map(Self::Signal),
            _ => None,
        }
    }
}

impl Frame for Failure {
    fn put(&self, body: &mut Vec<u8>) {
        body.push(match self.step {
            Step::Prepare => 0,
            Step::Workdir => 1,
            Step::Program => 2,
            Step::Busy => 3,
        });
        self.errno.put(body);
        self.detail.put(body);
    }

    fn take(body: &mut &[u8]) -> Option<Self> {
        let step = match u8::take(body)? {
            0 => Step::Prepare,
            1 => Step::Workdir,
            2 => Step::Program,
            3 => Step::Busy,
            _ => return None,
        };
        Some(Self {
            step,
            errno: i32::take(body)?,
            detail: String::take(body)?,
        })
    }
}

impl Frame for u8 {
    fn put(&self, body: &mut Vec<u8>) {
        body.push(*self);
    }

    fn take(body: &mut &[u8]) -> Option<Self> {
        let (first, rest) = body.split_first()?;
        *body = rest;
        Some(*first)
    }
}

impl Frame for u32 {
    fn put(&self, body: &mut Vec<u8>) {
        body.extend(self.to_le_bytes());
    }

    fn take(body: &mut &[u8]) -> Option<Self> {
        let (number, rest) = body.split_first_chunk()?;
        *body = rest;
        Some(Self::from_le_bytes(*number))
    }
}

impl Frame for i32 {
    fn put(&self, body: &mut Vec<u8>) {
        body.extend(self.to_le_bytes());
    }

    fn take(body: &mut &[u8]) -> Option<Self> {
        let (number, rest) = body.split_first_chunk()?;
        *body = rest;
        Some(Self::from_le_bytes(*number))
    }
}

impl Frame for Vec<u8> {
    fn put(&self, body: &mut Vec<u8>) {
        count(self.len()).put(body);
        body.extend(self);
    }

    fn take(body: &mut &[u8]) -> Option<Self> {
        let length = usize::try_from(u32::take(body)?).ok()?;
        let (bytes, rest) = body.split_at_checked(length)?;
        *body = rest;
        Some(bytes.to_vec())
    }
}

impl Frame for String {
    fn put(&self, body: &mut Vec<u8>) {
        count(self.len()).put(body);
        body.extend(self.as_bytes());
    }

    fn take(body: &mut &[u8]) -> Option<Self> {
        Self::from_utf8(Vec::take(body)?).ok()
    }
}

/// A length as the wire has it. One that does not fit makes a frame over every maximum anyway.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn program() -> Program {
        Program {
            argv: vec!["a".into(), String::new(), "ü".into()],
            env: vec![("NAME".into(), "value=x".into())],
            workdir: "/".into(),
        }
    }

    #[track_caller]
    fn check<T: Frame + PartialEq + std::fmt::Debug>(message: &T) {
        let frame = message.encode(u32::MAX).unwrap();
        let (length, body) = frame.split_first_chunk().unwrap();
        assert_eq!(
            u32::from_le_bytes(*length),
            u32::try_from(body.len()).unwrap()
        );
        assert_eq!(T::decode(body).as_ref(), Some(message));
        // Neither a part of a message nor a message and more is one.
        for cut in 0..body.len() {
            assert_eq!(T::decode(&body[..cut]), None, "cut at {cut}");
        }
        assert_eq!(T::decode(&[body, &[0]].concat()), None);
    }

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        check(&Request::Start(program()));
        check(&Request::Exec(Exec {
            id: 7,
            program: program(),
            stdin: vec![0, 255],
            timeout_ms: 1,
            keep_bytes: u32::MAX,
        }));
        check(&Event::Ready { listener: 4 });
        check(&Event::Started { pid: 3 });
        check(&Event::Exited(Ending::Code(-1)));
        check(&Event::Exited(Ending::Signal(9)));
        for step in [Step::Prepare, Step::Workdir, Step::Program, Step::Busy] {
            let failure = Failure {
                step,
                errno: 2,
                detail: "gone".into(),
            };
            check(&Event::Failed(failure.clone()));
            check(&Event::Done {
                id: 1,
                result: Err(failure),
            });
        }
        let ran = ExecResult {
            ending: Ending::Code(0),
            stdout: vec![1],
            stderr: Vec::new(),
        };
        check(&Event::Done {
            id: 2,
            result: Ok(ran),
        });
    }

    #[test]
    fn a_message_over_the_bound_is_not_sent() {
        let request = Request::Start(program());
        let length = request.encode(u32::MAX).unwrap().len() - 4;
        let bound = u32::try_from(length).unwrap();
        assert!(request.encode(bound).is_some() && request.encode(bound - 1).is_none());
    }

    proptest! {
        /// A guest can send anything in its init's name.
        #[test]
        fn no_bytes_do_more_than_be_refused(body: Vec<u8>) {
            if let Some(event) = Event::decode(&body) {
                prop_assert_eq!(&event.encode(u32::MAX).unwrap()[4..], &body[..]);
            }
        }
    }
}
