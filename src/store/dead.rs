//! Dead letters as people and programs read them.

use crate::clock::UnixMs;
use crate::store::requests::Entry;

/// Most fields in one line.
const SHOWN_FIELDS: usize = 8;

/// A dead entry, its own fields apart from ours. Bytes that are no text stand as `\xff`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letter {
    /// Its id on the dead stream.
    pub entry: String,
    /// What it was on its own stream.
    pub source_id: String,
    /// Which that was; empty if an older version set it aside.
    pub source_stream: String,
    /// Why it was set aside.
    pub reason: String,
    /// Its field `run`.
    pub run: Option<String>,
    /// Its other fields.
    pub fields: Vec<(String, String)>,
}

impl Letter {
    /// Reads an entry of the dead stream.
    #[must_use]
    pub fn new(entry: &Entry) -> Self {
        // Ours are the last fields of these names; the entry may have had such fields itself.
        let field = |name: &str| {
            let mut last = entry.fields.iter().rev();
            let found = last.find(|(known, _)| known == name.as_bytes());
            found.map(|(_, value)| escaped(value)).unwrap_or_default()
        };
        let last = entry.fields.last();
        let has_stream = last.is_some_and(|(name, _)| name == b"source_stream");
        let original = entry
            .fields
            .len()
            .saturating_sub(if has_stream { 3 } else { 2 });
        let (mut run, mut fields) = (None, Vec::new());
        for (name, value) in entry.fields.iter().take(original) {
            if name == b"run" && run.is_none() {
                run = Some(escaped(value));
            } else {
                fields.push((escaped(name), escaped(value)));
            }
        }
        Self {
            entry: entry.id.clone(),
            source_id: field("source_id"),
            source_stream: if has_stream {
                field("source_stream")
            } else {
                String::new()
            },
            reason: field("reason"),
            run,
            fields,
        }
    }

    /// What there is of the request, or of what it has instead, in one line.
    #[must_use]
    pub fn body(&self) -> String {
        if let Some(run) = &self.run {
            return run.clone();
        }
        let fields = self.fields.iter().take(SHOWN_FIELDS);
        let words: Vec<_> = fields
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        words.join(" ")
    }

    /// When it was set aside, by Redis's clock.
    #[must_use]
    pub fn set_aside_ms(&self) -> Option<UnixMs> {
        self.entry.split('-').next()?.parse().ok()
    }
}

/// Bytes as text: what is no UTF-8 as `\xff`.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&byte.escape_ascii().to_string());
        }
    }
    text
}
