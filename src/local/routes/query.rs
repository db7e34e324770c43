//! What stands after the question mark.

use std::str::FromStr;

use url::form_urlencoded;

use crate::local::refusal::Refusal;

/// The pairs of a query, in their order.
#[derive(Debug)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query; there is nothing that it cannot read.
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let query = query.unwrap_or_default().as_bytes();
        Self(form_urlencoded::parse(query).into_owned().collect())
    }

    /// The last value of `name`, unless it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().rev().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// The same, owned.
    pub(crate) fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// All values of `name`, each split at its commas, empty ones left out.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(key, _)| key == name)
            .flat_map(|(_, value)| value.split(','))
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .collect()
    }

    /// Whether `name` is switched on.
    ///
    /// # Errors
    /// 400 for what is no truth value in Go's notation.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.text(name) {
            None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some(other) => Err(invalid(name, other, "true or false")),
        }
    }

    /// The number `name`, within bounds.
    ///
    /// # Errors
    /// 400 for what is no number, or outside of them.
    pub(crate) fn number<N>(&self, name: &str, least: N, most: N) -> Result<Option<N>, Refusal>
    where
        N: FromStr + PartialOrd + std::fmt::Display,
    {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        match text.parse::<N>() {
            Ok(number) if number >= least && number <= most => Ok(Some(number)),
            _ => Err(invalid(name, text, &format!("between {least} and {most}"))),
        }
    }

    /// The pairs whose name is `prefix.` and something, without the prefix.
    pub(crate) fn under(&self, prefix: &str) -> Vec<(String, String)> {
        let key = |name: &str| Some(name.strip_prefix(prefix)?.strip_prefix('.')?.to_owned());
        self.0
            .iter()
            .filter_map(|(name, value)| Some((key(name)?, value.clone())))
            .collect()
    }
}

fn invalid(name: &str, value: &str, expected: &str) -> Refusal {
    let value: String = value.chars().take(64).collect();
    Refusal::invalid(format!("invalid {name} '{value}': must be {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_with_repeats_and_commas() {
        let query = Query::parse(Some(
            "state=stopped,destroyed&state=failed&metadata.a.b=1&metadata.=2&summary=true&x=",
        ));
        assert_eq!(query.list("state"), ["stopped", "destroyed", "failed"]);
        assert_eq!(
            query.under("metadata"),
            [
                ("a.b".to_owned(), "1".to_owned()),
                (String::new(), "2".to_owned())
            ]
        );
        assert_eq!(query.flag("summary"), Ok(true));
        assert_eq!(query.flag("force"), Ok(false));
        assert_eq!(query.text("x"), None);
    }

    #[test]
    fn values_out_of_bounds_are_named() {
        let query = Query::parse(Some("limit=0&force=maybe"));
        let limit = query.number("limit", 1, 1000).expect_err("it is too small");
        assert_eq!(
            limit.error,
            "invalid_argument: invalid limit '0': must be between 1 and 1000"
        );
        assert_eq!(query.flag("force").expect_err("no truth value").status, 400);
        assert_eq!(query.number("none", 1, 1000), Ok(None));
    }
}
