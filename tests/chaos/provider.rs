//! The Machines server's own account of itself: which machines live, how many faults befell calls.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::fleet::TOKEN;
use crate::plan::{TENANTS, tenant_name};

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the control route answers.
#[derive(Debug, Deserialize)]
struct Account {
    rules: Vec<Rule>,
    fired: u64,
    machines: Machines,
}

#[derive(Debug, Deserialize)]
struct Rule {
    rule: String,
    fired: u64,
}

/// The machines there are.
#[derive(Debug, Deserialize)]
struct Machines {
    names: Vec<String>,
    most: usize,
}

/// Asks the server, and remembers over its restarts.
#[derive(Debug)]
pub(crate) struct Provider {
    url: String,
    http: reqwest::Client,
    /// Faults of rules that were replaced, by what they do, and of those in force.
    past: BTreeMap<String, u64>,
    present: BTreeMap<String, u64>,
    /// The same in all, by the servers that were killed and by the one that is there.
    fired_before: u64,
    fired: u64,
    /// The most machines at once that it ever counted.
    pub(crate) most: usize,
    /// The most that one tenant was seen with.
    pub(crate) most_of_tenant: usize,
    /// How often it was asked and answered.
    pub(crate) looks: usize,
    /// The names of the machines when it was last asked.
    pub(crate) names: Vec<String>,
}

impl Provider {
    /// A provider that was not asked yet.
    pub(crate) fn new(machines_url: &str) -> Self {
        // Another test may have been faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            url: format!("{machines_url}/_faults"),
            http: reqwest::Client::new(),
            past: BTreeMap::new(),
            present: BTreeMap::new(),
            fired_before: 0,
            fired: 0,
            most: 0,
            most_of_tenant: 0,
            looks: 0,
            names: Vec::new(),
        }
    }

    /// Asks. Says whether there was an answer.
    pub(crate) async fn look(&mut self) -> bool {
        let request = self.http.get(&self.url);
        match ask(request).await {
            Some(account) => {
                self.note(account);
                true
            }
            None => false,
        }
    }

    /// Puts rules in place of those in force. Says whether it was done.
    pub(crate) async fn command(&mut self, rules: &[String]) -> bool {
        if !self.look().await {
            return false;
        }
        let request = self.http.put(&self.url).json(rules);
        let Some(account) = ask(request).await else {
            return false;
        };
        self.file_away();
        self.note(account);
        true
    }

    /// The server was killed, and what it counted is gone with it: what was last seen stands.
    pub(crate) fn begin_anew(&mut self) {
        self.file_away();
        self.fired_before += std::mem::take(&mut self.fired);
    }

    fn file_away(&mut self) {
        for (action, fired) in std::mem::take(&mut self.present) {
            *self.past.entry(action).or_default() += fired;
        }
    }

    fn note(&mut self, account: Account) {
        self.looks += 1;
        self.fired = account.fired;
        self.most = self.most.max(account.machines.most);
        self.names = account.machines.names;
        for tenant in 0..TENANTS {
            let start = format!("sandbox-{}-", tenant_name(tenant));
            let of_tenant = self.names.iter().filter(|name| name.starts_with(&start));
            self.most_of_tenant = self.most_of_tenant.max(of_tenant.count());
        }
        self.present.clear();
        for rule in account.rules {
            *self.present.entry(action(&rule.rule)).or_default() += rule.fired;
        }
    }

    /// How many faults befell calls.
    pub(crate) fn total(&self) -> u64 {
        self.fired_before + self.fired
    }

    /// How many calls each kind of fault befell, but for those just before rules were replaced.
    pub(crate) fn faults(&self) -> BTreeMap<String, u64> {
        let mut all = self.past.clone();
        for (action, fired) in &self.present {
            *all.entry(action.clone()).or_default() += fired;
        }
        all
    }
}

/// `create`, then what a rule does to it.
fn action(rule: &str) -> String {
    let call = rule.split_whitespace().next().unwrap_or_default();
    let act = rule.split_once(": ").map_or("", |(_, act)| act);
    let act: Vec<_> = act.split_whitespace().take(2).collect();
    format!("{call} {}", act.join(" "))
}

async fn ask(request: reqwest::RequestBuilder) -> Option<Account> {
    let request = request.bearer_auth(TOKEN).timeout(PATIENCE);
    let answer = request.send().await.ok()?;
    answer.error_for_status().ok()?.json().await.ok()
}
