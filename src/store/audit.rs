//! What operators did, on a stream with a bound.

use crate::store::Store;
use crate::store::error::Error;
use crate::store::requests::Row;

/// Bytes of each word that are kept.
const WORD_MAX_BYTES: usize = 1024;

/// Something that an operator did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deed {
    /// Who: the fingerprint of the key, and the address.
    pub who: String,
    /// The role that the key has.
    pub role: String,
    /// What was done, in a word.
    pub act: String,
    /// To what.
    pub what: String,
    /// What became of it.
    pub answer: String,
}

impl Store {
    /// Records what somebody did. One round trip.
    ///
    /// # Errors
    /// [`Error`]; it may have been recorded.
    pub async fn record_deed(&self, deed: &Deed) -> Result<(), Error> {
        let mut command = redis::cmd("XADD");
        command.arg(self.keys.audit());
        command
            .arg("MAXLEN")
            .arg("~")
            .arg(self.retention.deeds)
            .arg("*");
        for (name, word) in [
            ("who", &deed.who),
            ("role", &deed.role),
            ("act", &deed.act),
            ("what", &deed.what),
            ("answer", &deed.answer),
        ] {
            command.arg(name).arg(cut(word));
        }
        self.door.query::<String>(&command).await.map(drop)
    }

    /// What was done last, at most `most`, newest first, each with its time in Unix milliseconds. One
    /// round trip.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn deeds(&self, most: usize) -> Result<Vec<(u64, Deed)>, Error> {
        let mut command = redis::cmd("XREVRANGE");
        command.arg(self.keys.audit()).arg("+").arg("-");
        command.arg("COUNT").arg(most);
        let rows: Vec<Row> = self.door.query(&command).await?;
        Ok(rows.into_iter().map(read).collect())
    }
}

fn read((id, fields): Row) -> (u64, Deed) {
    let text = |name: &str| {
        let found = fields.iter().find(|(known, _)| known == name.as_bytes());
        found
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .unwrap_or_default()
    };
    let at = id.split('-').next().and_then(|ms| ms.parse().ok());
    let deed = Deed {
        who: text("who"),
        role: text("role"),
        act: text("act"),
        what: text("what"),
        answer: text("answer"),
    };
    (at.unwrap_or(0), deed)
}

fn cut(word: &str) -> &str {
    let mut end = word.len().min(WORD_MAX_BYTES);
    while !word.is_char_boundary(end) {
        end -= 1;
    }
    &word[..end]
}
