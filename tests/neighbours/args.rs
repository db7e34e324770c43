//! What is asked of a measurement.

use std::path::PathBuf;

/// What is asked of a measurement.
#[derive(Clone, Debug)]
pub(crate) struct Args {
    /// Runs of the victim, quiet and attacked each.
    pub(crate) runs: usize,
    /// The command that is tried; the one of this build if `None`.
    pub(crate) command: Option<PathBuf>,
    /// The folder for the table and the picture.
    pub(crate) write: Option<PathBuf>,
    /// The attacks that are wanted; all if there are none.
    only: Vec<String>,
}

impl Args {
    /// As the tests measure.
    pub(crate) fn short() -> Self {
        Self {
            runs: 12,
            command: None,
            write: None,
            only: Vec::new(),
        }
    }

    /// Reads the words of a command line.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut args = Self {
            runs: 100,
            ..Self::short()
        };
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            let value = words
                .next()
                .ok_or_else(|| format!("{word} needs a value"))?;
            match word {
                "--runs" => args.runs = value.parse().map_err(|_| format!("--runs {value}"))?,
                "--cofferdam" => args.command = Some(value.into()),
                "--write" => args.write = Some(value.into()),
                "--attack" => args.only.push(value.to_owned()),
                other => return Err(format!("there is no {other:?}")),
            }
        }
        Ok(args)
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}
