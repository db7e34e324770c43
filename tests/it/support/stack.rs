//! A whole stack in this process: local Machines server, endpoint and workers on free ports, on
//! the Redis that all tests share, in a namespace of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cofferdam::clock::Clock;
use cofferdam::config::{self, Runs};
use cofferdam::local;
use cofferdam::machines::{self, Client, Detail, ListFilter};
use cofferdam::shutdown::Shutdown;
use cofferdam::stage::ready::Readiness;
use cofferdam::stage::spec::GuestSetup;
use cofferdam::stage::{Core, Deps};
use cofferdam::store::codec::RunRecord;
use cofferdam::token::fleet::Use;
use cofferdam::{assembly, endpoint, sweeper, worker};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use url::Url;

use crate::support::faults;
use crate::support::parts;
use crate::support::raw::Raw;
use crate::support::until::{until, until_within};

/// The one app of a stack, unless its plan has others.
pub(crate) const APP: &str = "sandboxes";
/// The token that its Machines server accepts.
pub(crate) const TOKEN: &str = "a-token-of-the-tests";

/// What a stack is to be.
pub(crate) struct Plan {
    pub(crate) redis: config::Redis,
    pub(crate) runs: Runs,
    pub(crate) guests: local::Guests,
    pub(crate) faults: Vec<String>,
    pub(crate) workers: usize,
    pub(crate) apps: Vec<String>,
    /// Regions that the Machines server has, unless it is to have its usual one.
    pub(crate) regions: Option<Vec<String>>,
    /// How long a call to the Machines API may take.
    pub(crate) call_timeout: Duration,
    /// Machines alive at the most; the server refuses more.
    pub(crate) machines: usize,
    /// Where guests reach the endpoint, if not directly.
    pub(crate) endpoint: Option<String>,
    /// The endpoint's clock.
    pub(crate) clock: Clock,
}

impl Plan {
    /// One worker, and guests that the server plays: each posts after `delay`.
    pub(crate) fn simulated(delay: Duration) -> Self {
        Self {
            redis: crate::support::redis::settings(),
            runs: parts::runs(),
            guests: local::Guests::Simulated(delay),
            faults: Vec::new(),
            workers: 1,
            apps: vec![APP.to_owned()],
            regions: None,
            call_timeout: Duration::from_secs(30),
            machines: 100_000,
            endpoint: None,
            clock: Clock::system(),
        }
    }

    /// One worker, and real guests in sandboxes.
    pub(crate) fn sandboxed(folder: &std::path::Path) -> Self {
        let mut engine = cofferdam_sandbox::Settings::new(folder.to_owned());
        engine.require_limits = false;
        Self {
            guests: local::Guests::Sandboxed(engine),
            ..Self::simulated(Duration::ZERO)
        }
    }

    /// With rules by which the Machines server misbehaves.
    pub(crate) fn faults(mut self, rules: &[&str]) -> Self {
        self.faults = rules.iter().map(|rule| (*rule).to_owned()).collect();
        self
    }

    /// With these apps.
    pub(crate) fn apps(mut self, apps: &[&str]) -> Self {
        self.apps = apps.iter().map(|app| (*app).to_owned()).collect();
        self
    }

    /// With a Machines server that has these regions.
    pub(crate) fn regions(mut self, regions: &[&str]) -> Self {
        self.regions = Some(regions.iter().map(|region| (*region).to_owned()).collect());
        self
    }

    /// With calls to the Machines API that last no longer than this.
    pub(crate) fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// With this many workers.
    pub(crate) fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// With a server that refuses more live machines than this.
    pub(crate) fn machines(mut self, most: usize) -> Self {
        self.machines = most;
        self
    }

    /// With other settings.
    pub(crate) fn runs(mut self, change: impl FnOnce(&mut Runs)) -> Self {
        change(&mut self.runs);
        self
    }

    pub(crate) async fn start(self) -> Stack {
        Stack::start(self).await
    }
}

/// One worker with its sweeper.
pub(crate) struct Worker {
    shutdown: Shutdown,
}

impl Worker {
    /// Ends it as `kill -9` would: every task is dropped where it stands.
    pub(crate) async fn kill(self) {
        self.shutdown.abort().cancel();
        self.shutdown.finish(Duration::ZERO).await;
    }

    /// Ends it as SIGTERM does; whether all it had in hand was done in time.
    pub(crate) async fn drain(self, drain: Duration) -> bool {
        self.shutdown.finish(drain).await
    }
}

/// A running stack.
pub(crate) struct Stack {
    pub(crate) core: Core,
    pub(crate) raw: Raw,
    pub(crate) machines: Client,
    apps: Vec<String>,
    pub(crate) endpoint: Url,
    /// The Machines server's address.
    pub(crate) api: String,
    pub(crate) workers: Vec<Worker>,
    /// What keeps machines apart and limits them here.
    pub(crate) report: String,
    server: Shutdown,
    front: Shutdown,
    /// The Machines server's state, removed with the stack.
    folder: tempfile::TempDir,
    next: AtomicU32,
}

impl Stack {
    async fn start(plan: Plan) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let core = parts::core(&plan.redis, plan.runs).await;
        let front = Shutdown::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front_address = listener.local_addr().unwrap();
        let deps = endpoint::Deps {
            core: Core {
                clock: plan.clock,
                ..core.with(parts::results(&core.runs))
            },
            ring: parts::ring(),
            readiness: Readiness::new(core.store.clone(), None),
            artifacts: None,
        };
        front.spawn(endpoint::serve(listener, deps, front.clone()));

        let server = Shutdown::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let mut settings = local::ServerSettings::new(TOKEN.to_owned(), folder.path().to_owned());
        settings.apps.clone_from(&plan.apps);
        if let Some(regions) = plan.regions {
            settings.regions = regions;
        }
        let endpoint = plan.endpoint;
        settings.endpoint = Some(endpoint.unwrap_or_else(|| front_address.to_string()));
        settings.guests = plan.guests;
        settings.bounds.machines = plan.machines;
        settings.faults.rules = plan
            .faults
            .iter()
            .map(|rule| rule.parse().unwrap())
            .collect();
        settings.faults.control = true;
        let opened = local::LocalServer::open(settings, &server).await.unwrap();
        let report = opened.report().to_owned();
        server.spawn(opened.serve(listener));

        let mut stack = Self {
            raw: Raw::new(&plan.redis).await,
            machines: client(&base, plan.call_timeout),
            apps: plan.apps,
            endpoint: Url::parse(&format!("http://{front_address}")).unwrap(),
            core,
            api: base,
            workers: Vec::new(),
            report,
            server,
            front,
            folder,
            next: AtomicU32::new(0),
        };
        for _ in 0..plan.workers {
            stack.add_worker();
        }
        stack
    }

    /// The Machines server's state folder.
    pub(crate) fn state_dir(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// What a worker of this stack needs.
    pub(crate) fn deps(&self) -> Deps {
        Deps {
            core: self.core.clone(),
            machines: self.machines.clone(),
            apps: self.apps.clone(),
            ring: parts::ring(),
            // Inside every local machine the endpoint is here.
            guests: GuestSetup::new(&Url::parse("http://127.0.0.1:8080").unwrap(), None, false),
            health: Arc::default(),
            artifacts: None,
            traces: None,
        }
    }

    /// Starts another worker.
    pub(crate) fn add_worker(&mut self) {
        self.add_worker_of(self.deps());
    }

    /// Starts another worker, with these parts.
    pub(crate) fn add_worker_of(&mut self, deps: Deps) {
        let shutdown = Shutdown::new();
        let name = worker::unique_name();
        let keys = assembly::keys(&name, Use::Signs, &deps.ring, deps.core.clock.now_ms());
        let tasks = worker::start(deps, &name, keys, &shutdown);
        sweeper::start(tasks, &name, &shutdown);
        self.workers.push(Worker { shutdown });
    }

    /// Appends a request, with an id of its own unless it has one.
    pub(crate) async fn submit(&self, mut request: Value) -> String {
        if request["id"].is_null() {
            request["id"] = json!(format!("run-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        }
        self.raw.add("runs", &[("run", &request.to_string())]).await;
        request["id"].as_str().unwrap().to_owned()
    }

    /// A run as Redis tells it.
    pub(crate) async fn view(&self, id: &str) -> Option<RunRecord> {
        self.core.store.record(&id.parse().unwrap()).await.unwrap()
    }

    /// Waits until a run is in `state`, or past it.
    pub(crate) async fn reaches(&self, id: &str, state: &str) -> RunRecord {
        let order = ["queued", "booting", "running", "settled", "closed"];
        let rank = |state: &str| order.iter().position(|known| *known == state);
        until(&format!("{id} to be {state}"), || async {
            match self.view(id).await {
                Some(view) if rank(view.state) >= rank(state) => Ok(view),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// All results so far.
    pub(crate) async fn results(&self) -> Vec<Value> {
        let published = self.core.store.newest_results(1_000_000).await.unwrap();
        published
            .iter()
            .map(|result| serde_json::from_str(&result.result).unwrap())
            .collect()
    }

    /// Waits for the one result of a run.
    pub(crate) async fn result(&self, id: &str) -> Value {
        let mut of_run = until(&format!("the result of {id}"), || async {
            let mut results = self.results().await;
            results.retain(|result| result["run_id"] == id);
            if results.is_empty() {
                Err(format!("{:?}", self.view(id).await))
            } else {
                Ok(results)
            }
        })
        .await;
        assert_eq!(of_run.len(), 1, "{id} has more than one result: {of_run:?}");
        of_run.remove(0)
    }

    /// Waits until every run is closed, then holds the stack to the promises: one result for each
    /// of `ids`, no machine, nothing pending, no run key without a time to live.
    pub(crate) async fn settles(&self, ids: &[String], bound: Duration) {
        until_within(bound, "every run to be closed", || async {
            let now = self.core.clock.now_ms();
            let census = self.core.store.census(now).await.unwrap();
            let results = self.raw.length("results").await;
            let open = census.queued + census.in_flight + census.unread;
            if open == 0 && results >= ids.len() {
                Ok(())
            } else {
                Err(format!("{census:?}, {results} results of {}", ids.len()))
            }
        })
        .await;
        let mut told: Vec<String> = self
            .results()
            .await
            .iter()
            .map(|result| result["run_id"].as_str().unwrap().to_owned())
            .collect();
        told.sort_unstable();
        let mut asked = ids.to_vec();
        asked.sort_unstable();
        assert_eq!(told, asked, "each run has one result");
        self.no_machine().await;
        assert_eq!(self.raw.length("runs").await, 0, "requests are left");
        for key in ["tenants", "due", "delayed"] {
            assert!(!self.raw.exists(key).await, "{key} is left");
        }
        if !ids.is_empty() {
            self.raw.check_times_to_live("at the end").await;
        }
    }

    /// The Machines server behaves from now on.
    pub(crate) async fn mend_faults(&self) {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let call = http.delete(format!("{}/_faults", self.api));
        let answer = call.bearer_auth(TOKEN).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
    }

    /// The Machines server misbehaves by these rules from now on.
    pub(crate) async fn put_faults(&self, rules: &[&str]) {
        faults::put(&self.api, TOKEN, rules).await;
    }

    /// How often each rule was met.
    pub(crate) async fn faults(&self) -> Value {
        faults::counts(&self.api, TOKEN).await
    }

    /// Waits until this gauge shows something, or nothing.
    pub(crate) async fn gauge(&self, what: &str, gauge: &prometheus::IntGauge, shows: bool) {
        until(what, || async {
            let number = gauge.get();
            ((number > 0) == shows)
                .then_some(())
                .ok_or_else(|| number.to_string())
        })
        .await;
    }

    /// Waits until the provider lists no machine.
    pub(crate) async fn no_machine(&self) {
        until("no machine to be left", || async {
            let left = self.live_machines().await;
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        })
        .await;
    }

    /// Names of the machines that the provider lists.
    pub(crate) async fn live_machines(&self) -> Vec<String> {
        let filter = ListFilter {
            detail: Detail::Summary,
            ..ListFilter::default()
        };
        let mut names = Vec::new();
        for app in &self.apps {
            // A rule may make this call fail too.
            match self.machines.list(app, &filter).await {
                Ok(list) => names.extend(
                    list.into_iter()
                        .filter(|machine| !machine.state.is_gone())
                        .map(|machine| machine.name),
                ),
                Err(error) => names.push(error.to_string()),
            }
        }
        names
    }

    /// Ends everything where it stands: for calls that hang longer than anybody waits.
    pub(crate) async fn abandon(self) {
        for worker in self.workers {
            worker.kill().await;
        }
        self.server.finish(Duration::ZERO).await;
        self.front.finish(Duration::from_secs(20)).await;
    }

    /// Ends everything.
    pub(crate) async fn end(self) {
        for worker in self.workers {
            worker.drain(Duration::from_secs(20)).await;
        }
        assert!(
            self.server.finish(Duration::from_secs(20)).await,
            "the server did not end"
        );
        assert!(
            self.front.finish(Duration::from_secs(20)).await,
            "the endpoint did not end"
        );
    }
}

fn client(base: &str, timeout: Duration) -> Client {
    let mut settings =
        machines::ClientSettings::new(Url::parse(base).unwrap(), machines::Token::new(TOKEN));
    settings.timeout = timeout;
    Client::new(settings).unwrap()
}
