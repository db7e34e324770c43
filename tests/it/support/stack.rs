//! A whole stack in this process: local Machines server, endpoint and workers on free ports, on
//! the Redis that all tests share, in a namespace of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cofferdam::config::{self, Runs};
use cofferdam::local;
use cofferdam::machines::{self, Client, Detail, ListFilter};
use cofferdam::shutdown::Shutdown;
use cofferdam::stage::spec::GuestUrls;
use cofferdam::stage::{Core, Deps};
use cofferdam::store::codec::View;
use cofferdam::{endpoint, sweeper, worker};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use url::Url;

use crate::support::parts;
use crate::support::raw::Raw;
use crate::support::until::{until, until_within};

/// The one app of every stack.
pub(crate) const APP: &str = "sandboxes";
const TOKEN: &str = "a-token-of-the-tests";

/// What a stack is to be.
pub(crate) struct Plan {
    pub(crate) redis: config::Redis,
    pub(crate) runs: Runs,
    pub(crate) guests: local::Guests,
    pub(crate) faults: Vec<String>,
    pub(crate) workers: usize,
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
        }
    }

    /// One worker, and real guests in sandboxes.
    pub(crate) fn sandboxed(folder: &std::path::Path) -> Self {
        let engine = local::engine::Settings::new(folder.to_owned());
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

    /// With this many workers.
    pub(crate) fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
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
    pub(crate) endpoint: Url,
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
            core: core.clone(),
            ring: parts::ring(),
        };
        front.spawn(endpoint::serve(listener, deps, front.clone()));

        let server = Shutdown::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let mut settings = local::Settings::new(TOKEN.to_owned(), folder.path().to_owned());
        settings.apps = vec![APP.to_owned()];
        settings.endpoint = Some(front_address.to_string());
        settings.guests = plan.guests;
        settings.bounds.machines = 100_000;
        settings.faults.rules = plan
            .faults
            .iter()
            .map(|rule| rule.parse().unwrap())
            .collect();
        settings.faults.control = true;
        let opened = local::Machines::open(settings, &server).await.unwrap();
        let report = opened.report().to_owned();
        server.spawn(opened.serve(listener));

        let mut stack = Self {
            raw: Raw::new(&plan.redis).await,
            machines: client(&base),
            endpoint: Url::parse(&format!("http://{front_address}")).unwrap(),
            core,
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
            apps: vec![APP.to_owned()],
            ring: parts::ring(),
            // Inside every local machine the endpoint is here.
            urls: GuestUrls::below(&Url::parse("http://127.0.0.1:8080").unwrap()),
            health: Arc::default(),
        }
    }

    /// Starts another worker.
    pub(crate) fn add_worker(&mut self) {
        let shutdown = Shutdown::new();
        let name = worker::unique_name();
        let crew = worker::start(self.deps(), &name, &shutdown);
        sweeper::start(crew, &name, &shutdown);
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
    pub(crate) async fn view(&self, id: &str) -> Option<View> {
        self.core.store.view(&id.parse().unwrap()).await.unwrap()
    }

    /// Waits until a run is in `state`, or past it.
    pub(crate) async fn reaches(&self, id: &str, state: &str) -> View {
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
        // A rule may make this call fail too.
        match self.machines.list(APP, &filter).await {
            Ok(list) => list
                .into_iter()
                .filter(|machine| !machine.state.is_gone())
                .map(|machine| machine.name)
                .collect(),
            Err(error) => vec![error.to_string()],
        }
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

fn client(base: &str) -> Client {
    let settings = machines::Settings::new(Url::parse(base).unwrap(), machines::Token::new(TOKEN));
    Client::new(settings).unwrap()
}
