//! What was tried and what came of it.

use serde_json::{Value, json};

/// Characters of a detail at the most.
const DETAIL_MAX: usize = 200;

/// The items so far.
pub(crate) struct Report {
    allowed: Vec<String>,
    items: Vec<Item>,
}

struct Item {
    group: &'static str,
    name: String,
    state: &'static str,
    detail: String,
}

impl Report {
    /// A report in which these items and groups, comma separated, may be open.
    pub(crate) fn new(allowed: &str) -> Self {
        let allowed = allowed.split(',').map(|word| word.trim().to_owned());
        Self {
            allowed: allowed.collect(),
            items: Vec::new(),
        }
    }

    /// Notes an attempt: `Ok` with what was reached, or `Err` with why it was not.
    pub(crate) fn note(
        &mut self,
        group: &'static str,
        name: impl Into<String>,
        reached: Result<String, String>,
    ) {
        let name = name.into();
        let is_allowed = self
            .allowed
            .iter()
            .any(|word| *word == name || word == group);
        let (state, detail) = match reached {
            Ok(detail) if is_allowed => ("allowed", detail),
            Ok(detail) => ("open", detail),
            Err(detail) => ("walled", detail),
        };
        self.items.push(Item {
            group,
            name,
            state,
            detail: detail.chars().take(DETAIL_MAX).collect(),
        });
    }

    pub(crate) fn is_walled(&self) -> bool {
        self.items.iter().all(|item| item.state != "open")
    }

    pub(crate) fn json(&self) -> String {
        let open = self.items.iter().filter(|item| item.state == "open");
        let open: Vec<&str> = open.map(|item| item.name.as_str()).collect();
        let items: Vec<Value> = self
            .items
            .iter()
            .map(|item| {
                json!({
                    "group": item.group,
                    "name": item.name,
                    "state": item.state,
                    "detail": item.detail,
                })
            })
            .collect();
        json!({"walled": self.is_walled(), "open": open, "items": items}).to_string()
    }
}

/// `Ok` with the list if there is anything in it.
pub(crate) fn any(found: Vec<String>, none: &str) -> Result<String, String> {
    if found.is_empty() {
        Err(none.to_owned())
    } else {
        Ok(found.join(", "))
    }
}
