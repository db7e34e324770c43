//! What an engine needs to know to open.

use std::fmt;
use std::path::PathBuf;

use crate::report::Limits;

/// Which engine runs sandboxes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Namespaces of the host's own kernel, made by bubblewrap.
    #[default]
    Bubblewrap,
}

impl Kind {
    /// Every engine there is.
    pub const ALL: &[Self] = &[Self::Bubblewrap];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bubblewrap => "bubblewrap",
        })
    }
}

/// Where every sandbox has the program of [`Settings::program`].
pub const PROGRAM_PATH: &str = "/.cofferdam-guest";

/// What an engine needs to know to open.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which engine it is.
    pub kind: Kind,
    /// The engine keeps its own files in the folder `engine` in here, which it makes.
    pub state_dir: PathBuf,
    /// Refuse to open unless every limit holds for a sandbox as a whole.
    pub require_limits: bool,
    /// Try no better kind of limits than this one; the best that works when `None`.
    pub limits: Option<Limits>,
    /// First user id of 65536 for sandboxes, when the server is root; chosen by the engine when
    /// `None`. No sandbox shares one with another while it lives.
    pub uid_base: Option<u32>,
    /// A static program that every sandbox has at [`PROGRAM_PATH`].
    pub program: Option<&'static [u8]>,
    /// The bubblewrap program; looked for in the usual folders when `None`.
    pub bwrap: Option<PathBuf>,
}

impl Settings {
    /// The defaults over this folder.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            kind: Kind::default(),
            state_dir,
            require_limits: true,
            limits: None,
            uid_base: None,
            program: None,
            bwrap: None,
        }
    }
}
