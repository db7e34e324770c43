//! Where a machine may be placed.

use crate::local::refusal::Refusal;

/// Names that stand for several regions. This server's regions have no geography, so each stands
/// for all of them.
const ALIASES: [&str; 6] = ["any", "us", "eu", "na", "sa", "apac"];

/// The regions that a request allows, in its order of preference; the first one of the server when
/// it names none.
///
/// # Errors
/// 400 for a region that the server does not have.
pub(crate) fn candidates(asked: Option<&str>, regions: &[String]) -> Result<Vec<String>, Refusal> {
    let asked = asked.unwrap_or_default();
    let mut found: Vec<String> = Vec::new();
    for code in asked
        .split(',')
        .map(str::trim)
        .filter(|code| !code.is_empty())
    {
        if let Some(region) = regions.iter().find(|region| *region == code) {
            found.push(region.clone());
        } else if ALIASES.contains(&code) {
            found.extend(regions.iter().cloned());
        } else {
            let code: String = code.chars().take(32).collect();
            return Err(Refusal::invalid(format!(
                "unknown region '{code}': this server has {}",
                regions.join(", ")
            )));
        }
    }
    if found.is_empty() {
        found.extend(regions.first().cloned());
    }
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|region| seen.insert(region.clone()));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_tried_in_the_order_asked_for() {
        let regions = ["local", "ams", "fra"].map(str::to_owned);
        for (asked, expected) in [
            (None, "local"),
            (Some(""), "local"),
            (Some("fra"), "fra"),
            (Some("fra, ams"), "fra ams"),
            (Some("any"), "local ams fra"),
            (Some("fra,eu"), "fra local ams"),
            (Some("ams,ams"), "ams"),
        ] {
            let found = candidates(asked, &regions).expect("sound");
            assert_eq!(found.join(" "), expected, "{asked:?}");
        }
        let refusal = candidates(Some("ams,xyz"), &regions).expect_err("unknown");
        assert_eq!(
            refusal.error,
            "invalid_argument: unknown region 'xyz': this server has local, ams, fra"
        );
    }
}
