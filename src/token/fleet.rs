//! Whether the processes of a fleet sign and verify with the same keys.
//!
//! A worker whose key no endpoint has boots machines whose results are all refused, and nothing
//! but the deadline would tell. So each process publishes the fingerprints of its keys and reads those
//! of the others.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a process does with its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    /// A worker.
    Signs,
    /// An endpoint.
    Verifies,
    /// Worker and endpoint in one process.
    Both,
}

/// A process as its heartbeat tells of it: what it is, and its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its name; no other process has it.
    pub name: String,
    /// What it does with them.
    #[serde(rename = "use")]
    pub uses: Use,
    /// Ids and fingerprints, in the order of its settings: the first signs.
    pub keys: Vec<(String, String)>,
    /// Its version; empty for one that does not tell.
    #[serde(default)]
    pub version: String,
    /// Since when it runs, in Unix milliseconds; 0 for one that does not tell.
    #[serde(default)]
    pub since_ms: u64,
    /// Boots, tear-downs and answers to guests that it has in hand.
    #[serde(default)]
    pub in_hand: u64,
    /// It was told to take no more work, and takes none.
    #[serde(default)]
    pub is_quiet: bool,
    /// Machines without a run, as its last sweep saw them.
    #[serde(default)]
    pub orphans: u64,
    /// Machines named like ours that are not, as its last sweep saw them.
    #[serde(default)]
    pub foreign: u64,
    /// Apps and regions that do not answer it.
    #[serde(default)]
    pub closed_ways: u64,
    /// Apps in which the provider refuses it.
    #[serde(default)]
    pub refused_apps: u64,
}

impl Holder {
    /// A process with its keys, of which nothing else is told.
    #[must_use]
    pub fn new(name: String, uses: Use, keys: Vec<(String, String)>) -> Self {
        Self {
            name,
            uses,
            keys,
            version: String::new(),
            since_ms: 0,
            in_hand: 0,
            is_quiet: false,
            orphans: 0,
            foreign: 0,
            closed_ways: 0,
            refused_apps: 0,
        }
    }

    fn signs_with(&self) -> Option<(&str, &str)> {
        let (kid, fingerprint) = self.keys.first()?;
        (self.uses != Use::Verifies).then_some((kid, fingerprint))
    }

    fn fingerprint(&self, kid: &str) -> Option<&str> {
        let found = self.keys.iter().find(|(known, _)| known == kid);
        found.map(|(_, fingerprint)| fingerprint.as_str())
    }
}

/// A process signs what another refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The id of the key that signs.
    pub kid: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// The process that signs with it.
    pub signer: String,
    /// The process that refuses what is signed with it.
    pub verifier: String,
    /// What that has under the same id.
    pub other: Option<String>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} signs with key {} ({}), and {} has ",
            self.signer, self.kid, self.fingerprint, self.verifier
        )?;
        match &self.other {
            Some(other) => write!(f, "another one under that id ({other})"),
            None => write!(f, "none of that id"),
        }
    }
}

/// Each pair of processes of which one signs what the other refuses.
#[must_use]
pub fn mismatches(holders: &[Holder]) -> Vec<Mismatch> {
    let mut found = Vec::new();
    for signer in holders {
        let Some((kid, fingerprint)) = signer.signs_with() else {
            continue;
        };
        let verifiers = holders.iter().filter(|holder| holder.uses != Use::Signs);
        for verifier in verifiers {
            let other = verifier.fingerprint(kid);
            if other != Some(fingerprint) {
                found.push(Mismatch {
                    kid: kid.to_owned(),
                    fingerprint: fingerprint.to_owned(),
                    signer: signer.name.clone(),
                    verifier: verifier.name.clone(),
                    other: other.map(str::to_owned),
                });
            }
        }
    }
    found
}

/// What keeps a process from its work: a worker, that some endpoint refuses what it signs; an
/// endpoint, that it refuses what every worker signs. One worker with a wrong key does not make
/// the endpoints unready for all others.
#[must_use]
pub fn unready(name: &str, holders: &[Holder]) -> Option<Mismatch> {
    let found = mismatches(holders);
    if let Some(signs) = found.iter().find(|mismatch| mismatch.signer == name) {
        return Some(signs.clone());
    }
    let refused = found.iter().filter(|mismatch| mismatch.verifier == name);
    let signers = holders.iter().filter(|holder| holder.uses != Use::Verifies);
    if refused.clone().count() < signers.count() {
        return None;
    }
    refused.into_iter().next().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(name: &str, uses: Use, keys: &[(&str, &str)]) -> Holder {
        let keys = keys
            .iter()
            .map(|(kid, print)| ((*kid).to_owned(), (*print).to_owned()));
        Holder::new(name.to_owned(), uses, keys.collect())
    }

    #[test]
    fn what_an_endpoint_would_refuse_is_found() {
        let worker = holder("w", Use::Signs, &[("k1", "aa")]);
        let same = holder("s", Use::Verifies, &[("k0", "bb"), ("k1", "aa")]);
        let other = holder("o", Use::Verifies, &[("k1", "bb")]);
        let none = holder("n", Use::Verifies, &[("k0", "bb")]);
        assert_eq!(mismatches(&[worker.clone(), same.clone()]), []);
        let found = mismatches(&[worker, same, other, none]);
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "w signs with key k1 (aa), and o has another one under that id (bb)",
                "w signs with key k1 (aa), and n has none of that id",
            ]
        );
    }

    /// To rotate, a new key is appended everywhere, then moved to the front, then the old dropped.
    #[test]
    fn a_rotation_as_documented_is_no_mismatch() {
        let steps: [&[(&str, &str)]; 4] = [
            &[("a", "aa")],
            &[("a", "aa"), ("b", "bb")],
            &[("b", "bb"), ("a", "aa")],
            &[("b", "bb")],
        ];
        for pair in steps.windows(2) {
            let worker = |at: usize| holder("w", Use::Signs, pair[at]);
            let serve = |at: usize| holder("s", Use::Verifies, pair[at]);
            assert_eq!(mismatches(&[worker(0), serve(1)]), []);
            assert_eq!(mismatches(&[worker(1), serve(0)]), []);
        }
    }

    #[test]
    fn one_wrong_worker_does_not_make_the_endpoints_unready() {
        let good = holder("good", Use::Signs, &[("k1", "aa")]);
        let wrong = holder("wrong", Use::Signs, &[("k1", "bb")]);
        let serve = holder("serve", Use::Verifies, &[("k1", "aa")]);
        let all = [good, wrong.clone(), serve.clone()];
        assert!(unready("good", &all).is_none());
        assert!(unready("wrong", &all).is_some());
        assert!(unready("serve", &all).is_none());
        assert!(unready("serve", &[wrong, serve.clone()]).is_some());
        assert!(unready("serve", &[serve]).is_none());
    }
}
