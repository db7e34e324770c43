//! How much Redis keeps of what is no run and no result.

use std::time::Duration;

use crate::config::reader::Reader;
use crate::config::table::{self, Setting};

/// How much Redis keeps of what is no run and no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How long it is known what a tenant used on a day.
    pub usage: Duration,
    /// Dead letters, the newest.
    pub dead: usize,
    /// What operators did at the console, the newest.
    pub deeds: usize,
}

impl Retention {
    /// For a process that ends runs.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            usage: reader.seconds(&table::USAGE_RETENTION_S, 10 * 366 * 24 * 3600),
            ..Self::default()
        }
    }

    /// Also for one that takes requests in.
    pub(crate) fn read_dead(&mut self, reader: &mut Reader<'_>) {
        self.dead = entries(reader, &table::DEAD_MAX);
    }

    /// Also for one at which operators act.
    pub(crate) fn read_deeds(&mut self, reader: &mut Reader<'_>) {
        self.deeds = entries(reader, &table::AUDIT_MAX);
    }
}

fn entries(reader: &mut Reader<'_>, setting: &Setting) -> usize {
    reader.count(setting, 10_000_000).get() as usize
}

impl Default for Retention {
    fn default() -> Self {
        let mut reader = Reader::new(&|_| None);
        Self {
            usage: reader.seconds(&table::USAGE_RETENTION_S, u64::MAX),
            dead: entries(&mut reader, &table::DEAD_MAX),
            deeds: entries(&mut reader, &table::AUDIT_MAX),
        }
    }
}
