//! The commands for tenants, over a real Redis.

use cofferdam::run::day::Day;
use cofferdam::run::outcome::ReasonCode;
use serde_json::{Value, json};

use super::{Lab, id, request, tenant};
use crate::support::command::{Ended, cofferdam, ended};
use crate::support::redis;

/// A namespace with the commands beside it.
struct Desk {
    lab: Lab,
    redis: cofferdam::config::Redis,
}

impl Desk {
    async fn new() -> Self {
        let redis = redis::settings();
        Self {
            lab: Lab::on(&redis, |_| {}).await,
            redis,
        }
    }

    fn run(&self, args: &[&str]) -> Ended {
        let mut command = cofferdam(args);
        command.env("REDIS_URL", self.redis.url.expose().as_str());
        command.env("COFFERDAM_NAMESPACE", &self.redis.namespace);
        ended(command)
    }

    #[track_caller]
    fn refused(&self, args: &[&str], expected: &str) {
        let ended = self.run(args);
        assert_eq!(ended.status, 2, "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    }

    fn json(&self, args: &[&str]) -> Vec<Value> {
        self.run(args).json()
    }
}

#[tokio::test]
async fn what_is_set_for_a_tenant_is_shown_and_unset() {
    let desk = Desk::new().await;
    let set = [
        "tenants",
        "set",
        "acme",
        "--max-in-flight",
        "5",
        "--weight",
        "2.5",
        "--backlog-max",
        "none",
        "--budget-s",
        "3600",
    ];
    let shown = desk.run(&set).done();
    for line in [
        "acme",
        "2.5",
        "0, at most: 5",
        "0, at most: none",
        "budget: 3600 s",
    ] {
        assert!(shown.contains(line), "no {line} in\n{shown}");
    }
    let unset = ["tenants", "set", "acme", "--weight", "default", "--json"];
    let view = desk.json(&unset).remove(0);
    let expected = json!({"max_in_flight": 5, "weight": null, "paused": false,
        "backlog_max": 0, "budget_s": 3600, "results_bytes": null});
    assert_eq!(view["settings"], expected);
    assert_eq!(desk.json(&["tenants", "show", "acme", "--json"])[0], view);
    assert_eq!(desk.json(&["tenants", "list", "--json"]), [view]);
    assert!(desk.run(&["tenants", "list"]).done().contains("acme"));
}

#[tokio::test]
async fn what_cannot_be_set_is_named() {
    let desk = Desk::new().await;
    let set = |flag: &'static str, value: &'static str| ["tenants", "set", "acme", flag, value];
    desk.refused(
        &set("--weight", "0"),
        "--weight \"0\" is neither from 0.01 to 100",
    );
    desk.refused(
        &set("--max-in-flight", "0"),
        "--max-in-flight \"0\" is neither",
    );
    desk.refused(
        &set("--backlog-max", "many"),
        "--backlog-max \"many\" is neither",
    );
    desk.refused(&set("--budget-s", "0"), "--budget-s \"0\" is neither");
    desk.refused(&["tenants", "set", "acme"], "nothing to set");
    desk.refused(
        &["tenants", "set", "a b", "--weight", "2"],
        "\"a b\" is no tenant's name",
    );
    desk.refused(&["tenants", "pause"], "<TENANT>");
    desk.refused(&["tenants", "pause", "a", "--all"], "cannot be used with");
    desk.refused(
        &["usage", "--since", "monday"],
        "--since \"monday\" must be a day",
    );
    desk.refused(&["cancel"], "<RUN>");
    desk.refused(
        &["submit", "--not-before", "soon"],
        "--not-before \"soon\" is neither",
    );
    desk.refused(&["submit", "--priority", "10"], "priority: must be 0");
}

#[tokio::test]
async fn one_tenant_and_everything_are_paused_and_resumed() {
    let desk = Desk::new().await;
    let store = &desk.lab.core.store;
    assert_eq!(
        desk.run(&["tenants", "pause", "acme"]).done(),
        "acme is paused\n"
    );
    let acme = tenant("acme");
    let paused = async || store.tenant(&acme, 0).await.unwrap().settings.paused;
    assert!(paused().await);
    desk.run(&["tenants", "resume", "acme"]).done();
    assert!(!paused().await);
    desk.run(&["tenants", "pause", "--all"]).done();
    assert!(store.is_paused().await.unwrap());
    assert!(
        desk.run(&["tenants", "list"])
            .stderr
            .contains("everything is paused")
    );
    desk.run(&["tenants", "resume", "--all"]).done();
    assert!(!store.is_paused().await.unwrap());
}

#[tokio::test]
async fn use_is_printed_by_day_and_tenant() {
    let desk = Desk::new().await;
    let lab = &desk.lab;
    lab.submit(&[request("acme", 0), request("other", 0)]).await;
    for run in lab.claim(2).await {
        lab.advance(&run).await;
        lab.core.clock.shift(2_000);
        lab.finish(&run).await;
    }
    let today = Day::of(lab.now()).to_string();
    let yesterday = Day::of(lab.now() - 86_400_000).to_string();
    let since = [
        "usage", "--tenant", "acme", "--since", &yesterday, "--until", &today,
    ];
    let used = desk.json(&[&since[..], &["--json"]].concat());
    let seconds: f64 = used
        .iter()
        .map(|used| used["machine_s"].as_f64().unwrap())
        .sum();
    assert!((2.0..6.0).contains(&seconds), "{used:?}");
    assert_eq!(used[0]["runs"]["timed_out"], 1);
    assert!(used[0]["machine_s_by_size"]["shared:1:512"].is_f64());
    let table = desk.run(&["usage", "--until", &today]).done();
    for word in ["acme", "other", "shared:1:512", "1 timed_out"] {
        assert!(table.contains(word), "no {word} in\n{table}");
    }
    let none = desk.run(&["usage", "--tenant", "nobody"]);
    assert!(none.stderr.contains("nothing was used"), "{}", none.stderr);
}

#[tokio::test]
async fn show_tells_what_a_waiting_run_waits_for() {
    let desk = Desk::new().await;
    desk.lab.submit_many("acme", 3).await;
    desk.run(&["tenants", "pause", "acme"]).done();
    let shown = desk.run(&["show", "acme-2"]).done();
    for line in [
        "its tenant is paused",
        "no worker is running",
        "behind 2 runs of its tenant",
    ] {
        assert!(shown.contains(line), "no {line} in\n{shown}");
    }
    let json = desk.json(&["show", "acme-2", "--json"]).remove(0);
    assert_eq!(json["waiting"]["runs_before"], 2);
    assert_eq!(
        json["waiting"]["held_by"][0],
        json!({"by": "tenant_paused"})
    );
    desk.lab.end(&id("acme-2"), ReasonCode::Cancelled).await;
    let json = desk.json(&["show", "acme-2", "--json"]).remove(0);
    assert!(json.get("waiting").is_none(), "{json}");
}

#[tokio::test]
async fn several_runs_are_cancelled_and_what_has_ended_is_told() {
    let desk = Desk::new().await;
    let lab = &desk.lab;
    lab.submit_many("acme", 3).await;
    let done = lab.claim(1).await.remove(0);
    lab.finish(&done).await;
    let ended = desk.run(&["cancel", "acme-1", done.id.as_str(), "acme-2"]);
    assert_eq!(ended.status, 1);
    assert_eq!(ended.stdout, "acme-1 is cancelled\nacme-2 is cancelled\n");
    assert!(
        ended
            .stderr
            .contains("run acme-0 had ended already: timed_out"),
        "{}",
        ended.stderr
    );
    // A request that nobody has read yet.
    lab.raw
        .add("runs", &[("run", &request("acme", 7).to_string())])
        .await;
    let said = desk.run(&["cancel", "acme-7"]).done();
    assert!(
        said.contains("as soon as a worker has read its request"),
        "{said}"
    );
    assert_eq!(lab.raw.length("control").await, 1);
    let said = desk.run(&["cancel", "--tenant", "acme"]).done();
    assert!(said.contains("what acme has asked for"), "{said}");
    assert_eq!(lab.raw.length("control").await, 2);
}
