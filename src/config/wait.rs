//! Which replicas are waited for: `replicas:milliseconds`.

use std::time::Duration;

/// Which replicas must have what decides a run's fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// How many.
    pub replicas: u32,
    /// How long they are waited for.
    pub timeout: Duration,
}

pub(super) fn parse(text: &str) -> Result<Wait, String> {
    let problem = || format!("{text:?} is not a number of replicas and of milliseconds, as 1:500");
    let (replicas, millis) = text.split_once(':').ok_or_else(problem)?;
    let wait = Wait {
        replicas: replicas.parse().map_err(|_| problem())?,
        timeout: Duration::from_millis(millis.parse().map_err(|_| problem())?),
    };
    // Longer than that no command may take.
    let is_sound = (1..=100).contains(&wait.replicas)
        && (Duration::from_millis(1)..=Duration::from_secs(4)).contains(&wait.timeout);
    match is_sound {
        true => Ok(wait),
        false => Err(format!("{text} is out of range, from 1:1 to 100:4000")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_waited_for_within_bounds() {
        assert_eq!(parse("2:500").unwrap().replicas, 2);
        for unsound in ["", "1", "0:5", "1:0", "1:5000", "one:5", "1:5:5"] {
            assert!(parse(unsound).is_err(), "{unsound}");
        }
    }
}
