//! Variables that look like settings and are none: mostly a slip of the pen, which would otherwise
//! leave a default in force without a word.

use crate::config::table::SETTINGS;

/// How our variables begin.
const PREFIX: &str = "COFFERDAM_";

/// Variables of our tests and of machines, which begin like settings.
const OTHERS: [&str; 3] = ["COFFERDAM_TEST_", "COFFERDAM_ENGINE", "COFFERDAM_MACHINE"];

/// Changes of one letter that a slip may have.
const SLIPS_MAX: usize = 4;

/// Longest name that is looked at, in bytes.
const NAME_MAX_BYTES: usize = 100;

/// A variable that no command reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Its name.
    pub name: String,
    /// The setting whose name is most like it, if one is.
    pub nearest: Option<&'static str>,
}

/// Those of `names` that begin like a setting and are none.
pub fn unknown(names: impl IntoIterator<Item = String>) -> Vec<Unknown> {
    let looks_like_ours = |name: &String| {
        name.starts_with(PREFIX)
            && name.len() <= NAME_MAX_BYTES
            && !OTHERS
                .iter()
                .any(|other| name == other || (other.ends_with('_') && name.starts_with(other)))
            && !SETTINGS.iter().any(|setting| setting.name == name)
    };
    let mut unknown: Vec<Unknown> = names
        .into_iter()
        .filter(looks_like_ours)
        .map(|name| Unknown {
            nearest: nearest(&name),
            name,
        })
        .collect();
    unknown.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    unknown
}

fn nearest(name: &str) -> Option<&'static str> {
    let names = SETTINGS.iter().map(|setting| setting.name);
    let near = names.map(|known| (distance(name, known), known)).min()?;
    (near.0 <= SLIPS_MAX).then_some(near.1)
}

/// Letters to change, add or leave out to make one of the other (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.chars().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_told_with_what_was_meant() {
        for (written, meant) in [
            ("COFFERDAM_MAX_INFLIGHT", Some("COFFERDAM_MAX_IN_FLIGHT")),
            ("COFFERDAM_LEASE", Some("COFFERDAM_LEASE_S")),
            ("COFFERDAM_SINGING_KEYS", Some("COFFERDAM_SIGNING_KEYS")),
            ("COFFERDAM_GUEST_URI", Some("COFFERDAM_GUEST_URL")),
            ("COFFERDAM_PORT_8080_TCP_ADDR", None),
        ] {
            let found = unknown([written.to_owned()]);
            assert_eq!(found.len(), 1, "{written}");
            assert_eq!(found[0].nearest, meant, "{written}");
        }
    }

    #[test]
    fn settings_and_what_is_not_ours_are_no_slips() {
        let known = SETTINGS.iter().map(|setting| setting.name.to_owned());
        assert_eq!(unknown(known), []);
        let others = [
            "PATH",
            "COFFERDAM",
            "COFFERDAM_TEST_FLY_APP",
            "COFFERDAM_ENGINE",
        ];
        assert_eq!(unknown(others.map(str::to_owned)), []);
        assert_eq!(unknown([format!("COFFERDAM_{}", "X".repeat(10_000))]), []);
    }

    #[test]
    fn distances_are_counted_in_letters() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
