//! Where a machine may be placed.

use crate::config::{REGION_MAX_BYTES, is_region_code};
use crate::local::refusal::Refusal;

/// Names that stand for several regions. This server's regions have no geography, so each stands
/// for all of them.
const ALIASES: [&str; 6] = ["any", "us", "eu", "na", "sa", "apac"];
/// The region of a server that was not told its regions.
const HOME: &str = "local";

/// The regions of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Regions {
    /// In order of preference; never empty.
    own: Vec<String>,
    /// Whether other codes are refused. A host has one place, so any code can stand for it: clients
    /// of the real service send the codes that they know.
    only_own: bool,
}

impl Regions {
    /// Exactly these regions, or any when there are none.
    ///
    /// # Errors
    /// The code that cannot be one.
    pub(crate) fn new(codes: Vec<String>) -> Result<Self, String> {
        if let Some(code) = codes.iter().find(|code| !is_region_code(code)) {
            return Err(code.clone());
        }
        if codes.is_empty() {
            return Ok(Self {
                own: vec![HOME.to_owned()],
                only_own: false,
            });
        }
        Ok(Self {
            own: codes,
            only_own: true,
        })
    }

    /// The regions that this server names; never empty.
    pub(crate) fn own(&self) -> &[String] {
        &self.own
    }

    /// The regions that a request allows, in its order of preference; the first one of the server
    /// when it names none. Upper case and blanks make no difference.
    ///
    /// # Errors
    /// 400 for a region that the server does not have, or that no server can have.
    pub(crate) fn candidates(&self, asked: Option<&str>) -> Result<Vec<String>, Refusal> {
        let asked = asked.unwrap_or_default().to_ascii_lowercase();
        let mut found: Vec<String> = Vec::new();
        let mut add = |code: &str| {
            if found.iter().all(|known| known != code) {
                found.push(code.to_owned());
            }
        };
        let codes = asked.split(',').map(str::trim);
        for code in codes.filter(|code| !code.is_empty()) {
            if self.own.iter().any(|own| own == code) {
                add(code);
            } else if ALIASES.contains(&code) {
                self.own.iter().for_each(|own| add(own));
            } else if !self.only_own && is_region_code(code) {
                add(code);
            } else {
                return Err(self.refusal(code));
            }
        }
        if found.is_empty() {
            found.extend(self.own.first().cloned());
        }
        Ok(found)
    }

    fn refusal(&self, code: &str) -> Refusal {
        let code: String = code.chars().take(32).collect();
        Refusal::invalid(if self.only_own {
            format!(
                "unknown region '{code}': this server has {}",
                self.own.join(", ")
            )
        } else {
            format!(
                "'{code}' is no code of a region: it has letters and digits, {REGION_MAX_BYTES} at most"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(codes: &[&str]) -> Regions {
        Regions::new(codes.iter().map(|code| (*code).to_owned()).collect()).expect("sound")
    }

    fn check(regions: &Regions, asked: Option<&str>, expected: &str) {
        let found = regions.candidates(asked).expect("sound");
        assert_eq!(found.join(" "), expected, "{asked:?}");
    }

    #[test]
    fn regions_are_tried_in_the_order_asked_for() {
        let regions = regions(&["local", "ams", "fra"]);
        check(&regions, None, "local");
        check(&regions, Some(""), "local");
        check(&regions, Some("fra"), "fra");
        check(&regions, Some("FRA, ams,"), "fra ams");
        check(&regions, Some("any"), "local ams fra");
        check(&regions, Some("fra,eu"), "fra local ams");
        check(&regions, Some("ams,ams"), "ams");
        let refusal = regions.candidates(Some("ams,xyz")).expect_err("unknown");
        assert_eq!(
            refusal.error,
            "invalid_argument: unknown region 'xyz': this server has local, ams, fra"
        );
    }

    #[test]
    fn a_server_that_was_not_told_its_regions_takes_any_code() {
        let regions = regions(&[]);
        check(&regions, None, "local");
        check(&regions, Some("ams,eu"), "ams local");
        check(&regions, Some("IAD"), "iad");
        check(&regions, Some("any"), "local");
        for asked in [
            "a b",
            "../x",
            "ams;fra",
            "\u{1b}[2J",
            "seventeen-letters",
            "é",
        ] {
            assert!(regions.candidates(Some(asked)).is_err(), "{asked:?}");
        }
    }

    #[test]
    fn codes_that_cannot_be_are_named() {
        assert_eq!(
            Regions::new(vec!["ams".into(), "A!".into()]),
            Err("A!".into())
        );
        assert_eq!(Regions::new(vec![String::new()]), Err(String::new()));
    }
}
