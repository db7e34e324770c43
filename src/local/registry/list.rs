//! Listings: which machines, in which order, and where a page goes on.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::UnixMs;
use crate::local::action::{Filter, Page};
use crate::local::refusal::Refusal;
use crate::local::registry::Registry;
use crate::local::registry::apps::App;
use crate::local::registry::machine::MachineRecord;

/// How long the pages of one listing can be asked for: 30 minutes.
const CURSOR_LIFE_MS: u64 = 30 * 60 * 1000;
/// A page of an organisation's machines by default.
const ORG_PAGE: usize = 1000;

/// A page of machines, before filtering: [`Listing::kept`] does that,
/// outside of any lock.
#[derive(Debug)]
pub(crate) struct Listing {
    machines: Vec<Arc<MachineRecord>>,
    cursor: Cursor,
    limit: usize,
}

/// Where a listing goes on, and when its first page was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    begun_ms: UnixMs,
    pub(super) key: Option<String>,
}

impl Cursor {
    /// The cursor that a page was asked for with, or a fresh one.
    ///
    /// # Errors
    /// 400 for a text that is no cursor, or one that has expired.
    pub(super) fn resume(page: &Page, now: UnixMs) -> Result<Self, Refusal> {
        let Some(text) = &page.cursor else {
            return Ok(Self {
                begun_ms: now,
                key: None,
            });
        };
        let cursor = Self::decode(text).ok_or_else(|| Refusal::invalid("invalid cursor"))?;
        if now.saturating_sub(cursor.begun_ms) > CURSOR_LIFE_MS {
            return Err(Refusal::invalid("cursor has expired"));
        }
        Ok(cursor)
    }

    /// The text of the cursor that goes on after `key`.
    pub(super) fn next(&self, key: &str) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}:{key}", self.begun_ms))
    }

    fn decode(text: &str) -> Option<Self> {
        let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (begun, key) = plain.split_once(':')?;
        Some(Self {
            begun_ms: begun.parse().ok()?,
            key: Some(key.to_owned()),
        })
    }
}

impl Listing {
    /// The machines of this page, and the cursor of the next one if there is one.
    pub(crate) fn kept(
        self,
        filter: &Filter,
        now: UnixMs,
    ) -> (Vec<Arc<MachineRecord>>, Option<String>) {
        let mut rest = self
            .machines
            .into_iter()
            .filter(|machine| matches(machine, filter, now));
        let page: Vec<Arc<MachineRecord>> = rest.by_ref().take(self.limit).collect();
        let next = match (rest.next(), page.last()) {
            (Some(_), Some(last)) => Some(self.cursor.next(&last.sequence.to_string())),
            _ => None,
        };
        (page, next)
    }
}

impl Registry {
    /// An app's machines, the oldest first.
    ///
    /// # Errors
    /// 404 without the app, 400 for a cursor that is no good.
    pub(crate) fn list(
        &self,
        app: &str,
        filter: &Filter,
        page: &Page,
        now: UnixMs,
    ) -> Result<Listing, Refusal> {
        let app = self.app(app)?;
        let cursor = Cursor::resume(page, now)?;
        let after = sequence(&cursor)?;
        let mut machines = self.of_app(app, filter, now, |m| after.is_none_or(|a| m.sequence > a));
        machines.sort_unstable_by_key(|machine| machine.sequence);
        Ok(Listing {
            machines,
            cursor,
            limit: page.limit.unwrap_or(usize::MAX),
        })
    }

    /// The machines of all apps of an organisation, those that changed first at the front.
    ///
    /// # Errors
    /// 400 for a cursor that is no good.
    pub(crate) fn list_org(
        &self,
        org: &str,
        filter: &Filter,
        updated_after: Option<UnixMs>,
        page: &Page,
        now: UnixMs,
    ) -> Result<Listing, Refusal> {
        let cursor = Cursor::resume(page, now)?;
        let after = sequence(&cursor)?;
        let wanted = |m: &MachineRecord| match after {
            Some(after) => m.sequence > after,
            None => updated_after.is_none_or(|time| m.updated_ms > time),
        };
        let mut machines = Vec::new();
        for app in self.apps.values().filter(|app| app.org == org) {
            machines.extend(self.of_app(app, filter, now, wanted));
        }
        // Pages go by age, so that a change between two pages neither hides nor repeats a machine;
        // a single page is in the order of change, as the API has it.
        machines.sort_unstable_by_key(|machine| machine.sequence);
        let limit = page.limit.unwrap_or(ORG_PAGE);
        if machines.len() <= limit {
            machines.sort_by_key(|machine| machine.updated_ms);
        }
        Ok(Listing {
            machines,
            cursor,
            limit,
        })
    }

    fn of_app(
        &self,
        app: &App,
        filter: &Filter,
        now: UnixMs,
        wanted: impl Fn(&MachineRecord) -> bool,
    ) -> Vec<Arc<MachineRecord>> {
        let gone = filter.include_deleted.then_some(&app.gone);
        app.live
            .values()
            .chain(gone.into_iter().flat_map(|gone| gone.values()))
            .filter_map(|id| self.by_id(id))
            .filter(|machine| wanted(machine) && !self.is_expired(machine, now))
            .map(Arc::clone)
            .collect()
    }
}

fn sequence(cursor: &Cursor) -> Result<Option<u64>, Refusal> {
    match cursor.key.as_deref().map(str::parse) {
        None => Ok(None),
        Some(Ok(sequence)) => Ok(Some(sequence)),
        Some(Err(_)) => Err(Refusal::invalid("invalid cursor")),
    }
}

fn matches(machine: &MachineRecord, filter: &Filter, now: UnixMs) -> bool {
    let region = filter
        .region
        .as_ref()
        .is_none_or(|region| *region == machine.region);
    let state = filter.states.is_empty() || filter.states.contains(&machine.state);
    let metadata = filter
        .metadata
        .iter()
        .all(|(key, value)| machine.metadata.get(key) == Some(value));
    region && state && metadata && machine.is_visible(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::registry::machine::tests::machine_that_was;

    fn listing(count: u64, limit: usize) -> Listing {
        let machines = (0..count).map(|sequence| {
            let mut machine = machine_that_was(&["created", "started"]);
            machine.sequence = sequence;
            machine
                .metadata
                .insert("odd".into(), (sequence % 2).to_string());
            Arc::new(machine)
        });
        Listing {
            machines: machines.collect(),
            cursor: Cursor {
                begun_ms: 5,
                key: None,
            },
            limit,
        }
    }

    fn odd() -> Filter {
        Filter {
            metadata: vec![("odd".to_owned(), "1".to_owned())],
            ..Filter::default()
        }
    }

    #[test]
    fn a_page_ends_where_more_would_follow() {
        let (page, next) = listing(10, 3).kept(&odd(), 0);
        let sequences: Vec<u64> = page.iter().map(|m| m.sequence).collect();
        assert_eq!(sequences, [1, 3, 5]);
        let page = Page {
            limit: Some(3),
            cursor: next,
        };
        let resumed = Cursor::resume(&page, 6).expect("it is ours");
        assert_eq!(sequence(&resumed), Ok(Some(5)));
        assert_eq!(resumed.begun_ms, 5);
        let (page, next) = listing(6, 3).kept(&odd(), 0);
        assert_eq!((page.len(), next), (3, None));
    }

    #[test]
    fn filters_are_anded() {
        for (filter, expected) in [
            (Filter::default(), 4),
            (odd(), 2),
            (
                Filter {
                    region: Some("ams".into()),
                    ..odd()
                },
                0,
            ),
            (
                Filter {
                    states: vec!["started".into(), "stopped".into()],
                    ..odd()
                },
                2,
            ),
            (
                Filter {
                    states: vec!["stopped".into()],
                    ..odd()
                },
                0,
            ),
        ] {
            assert_eq!(
                listing(4, 9).kept(&filter, 0).0.len(),
                expected,
                "{filter:?}"
            );
        }
    }

    #[test]
    fn cursors_that_are_foreign_or_old_are_refused() {
        let page = |cursor: &str| Page {
            limit: Some(1),
            cursor: Some(cursor.to_owned()),
        };
        let fresh = Cursor {
            begun_ms: 0,
            key: None,
        };
        let ours = page(&fresh.next("7"));
        assert!(Cursor::resume(&ours, CURSOR_LIFE_MS).is_ok());
        assert!(Cursor::resume(&ours, CURSOR_LIFE_MS + 1).is_err());
        assert!(Cursor::resume(&page("nonsense"), 0).is_err());
        assert!(Cursor::resume(&page("%%%"), 0).is_err());
        let foreign = Cursor::resume(&page(&fresh.next("name")), 0).expect("well formed");
        assert!(sequence(&foreign).is_err());
    }
}
