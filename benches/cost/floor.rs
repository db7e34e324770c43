//! The floor: a run's HTTP exchanges and one script for each of its steps, and nothing else.
//!
//! Two processes, as there are two of cofferdam's. No tokens, limits, tenants, leases, retries or
//! counts: what is left is what any program would pay for the same talk on the wire.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use redis::Script;
use redis::aio::MultiplexedConnection;
use redis::streams::StreamReadReply;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::wire::{Connections, answer, body_of, serve, spawn};

const ADMIT: &str = "redis.call('HSET', KEYS[1], 'state', 'queued', 'request', ARGV[1])
redis.call('XACK', KEYS[2], 'floor', ARGV[2])
redis.call('XDEL', KEYS[2], ARGV[2])
return 1";
const CLAIM: &str = "redis.call('HSET', KEYS[1], 'state', 'booting')
return 1";
const ADVANCE: &str = "redis.call('HSET', KEYS[1], 'state', 'running', 'machine', ARGV[1])
return 1";
const SETTLE: &str = "local machine = redis.call('HGET', KEYS[1], 'machine')
redis.call('HSET', KEYS[1], 'state', 'settled')
redis.call('XADD', KEYS[2], '*', 'run_id', ARGV[1], 'outcome', 'completed', 'result', ARGV[2])
redis.call('RPUSH', KEYS[3], ARGV[1] .. ' ' .. (machine or ''))
return 1";
const CLOSE: &str = "redis.call('HSET', KEYS[1], 'state', 'closed')
redis.call('EXPIRE', KEYS[1], 86400)
return 1";

/// What is done at once, of boots and of tear-downs.
const AT_ONCE: usize = 32;
const BATCH: usize = 128;

#[derive(Deserialize)]
struct Request<'a> {
    id: &'a str,
}

#[derive(Deserialize)]
struct Machine<'a> {
    id: &'a str,
}

struct Worker {
    redis: MultiplexedConnection,
    api: Connections,
    endpoint: String,
    scripts: [Script; 4],
    at_once: Arc<Semaphore>,
    duties_at_once: Arc<Semaphore>,
}

/// `floor-worker REDIS API ENDPOINT`
pub(crate) async fn worker(redis: &str, api: &str, endpoint: &str) {
    let client = redis::Client::open(redis).unwrap();
    let worker = Arc::new(Worker {
        redis: client.get_multiplexed_async_connection().await.unwrap(),
        api: Connections::to(api),
        endpoint: endpoint.to_owned(),
        scripts: [ADMIT, CLAIM, ADVANCE, CLOSE].map(Script::new),
        at_once: Arc::new(Semaphore::new(AT_ONCE)),
        duties_at_once: Arc::new(Semaphore::new(AT_ONCE)),
    });
    let _: Result<String, _> = redis::cmd("XGROUP")
        .arg(&["CREATE", "cofferdam:runs", "floor", "0", "MKSTREAM"])
        .query_async(&mut worker.redis.clone())
        .await;
    spawn(worker.clone().duties(blocking(&client).await));
    worker.intake(blocking(&client).await).await;
}

async fn blocking(client: &redis::Client) -> MultiplexedConnection {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    connection.await.unwrap()
}

impl Worker {
    async fn intake(self: Arc<Self>, mut connection: MultiplexedConnection) {
        let mut command = redis::cmd("XREADGROUP");
        command.arg(&["GROUP", "floor", "one", "COUNT"]).arg(BATCH);
        command.arg(&["BLOCK", "1000", "STREAMS", "cofferdam:runs", ">"]);
        loop {
            let reply: Option<StreamReadReply> =
                command.query_async(&mut connection).await.unwrap();
            let streams = reply.map(|reply| reply.keys).unwrap_or_default();
            for entry in streams.into_iter().flat_map(|stream| stream.ids) {
                let permit = self.at_once.clone().acquire_owned().await.unwrap();
                let this = self.clone();
                let json: String = entry.get("run").unwrap();
                spawn(async move {
                    this.boot(&entry.id, &json).await;
                    drop(permit);
                });
            }
        }
    }

    async fn boot(&self, entry: &str, json: &str) {
        let run: Request<'_> = serde_json::from_str(json).unwrap();
        let key = format!("cofferdam:run:{}", run.id);
        let [admit, claim, advance, _] = &self.scripts;
        let mut script = admit.prepare_invoke();
        script.key(&key).key("cofferdam:runs").arg(json).arg(entry);
        self.invoke(&script).await;
        self.invoke(claim.prepare_invoke().key(&key)).await;
        let body = format!(
            r#"{{"name":"sandbox-{id}","config":{{"image":"busybox","env":{{"SANDBOX_RUN_ID":"{id}","SANDBOX_RUN_TOKEN":"{id}","SANDBOX_RESULT_URL":"http://{endpoint}/results"}}}}}}"#,
            id = run.id,
            endpoint = self.endpoint,
        );
        let request = self
            .api
            .request(Method::POST, "/v1/apps/floor/machines", body.into());
        let (_, made) = self.api.send(request).await;
        let made: Machine<'_> = serde_json::from_slice(&made).unwrap();
        self.invoke(advance.prepare_invoke().key(&key).arg(made.id))
            .await;
    }

    async fn duties(self: Arc<Self>, mut connection: MultiplexedConnection) {
        let mut command = redis::cmd("BLMPOP");
        command
            .arg(&["0", "1", "cofferdam:duties", "LEFT", "COUNT"])
            .arg(AT_ONCE);
        loop {
            let (_, duties): (String, Vec<String>) =
                command.query_async(&mut connection).await.unwrap();
            for duty in duties {
                let permit = self.duties_at_once.clone().acquire_owned().await.unwrap();
                let this = self.clone();
                spawn(async move {
                    this.tear_down(&duty).await;
                    drop(permit);
                });
            }
        }
    }

    async fn tear_down(&self, duty: &str) {
        let (run, machine) = duty.split_once(' ').unwrap();
        let key = format!("cofferdam:run:{run}");
        let mut machine = machine.to_owned();
        // The guest was faster than the answer of the create call.
        while machine.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let mut command = redis::cmd("HGET");
            let mut redis = self.redis.clone();
            let known = command.arg(&[&key, "machine"]).query_async(&mut redis);
            machine = known.await.unwrap_or_default();
        }
        let path = format!("/v1/apps/floor/machines/{machine}");
        let wait = self.api.request(
            Method::GET,
            &format!("{path}/wait?state=stopped&timeout=5"),
            Bytes::new(),
        );
        self.api.send(wait).await;
        let delete = self.api.request(Method::DELETE, &path, Bytes::new());
        self.api.send(delete).await;
        self.invoke(self.scripts[3].prepare_invoke().key(key)).await;
    }

    async fn invoke(&self, script: &redis::ScriptInvocation<'_>) {
        let _: u8 = script.invoke_async(&mut self.redis.clone()).await.unwrap();
    }
}

/// `floor-endpoint REDIS PORT`
pub(crate) async fn endpoint(redis: &str, port: &str) {
    let client = redis::Client::open(redis).unwrap();
    let redis = client.get_multiplexed_async_connection().await.unwrap();
    let settle = Arc::new(Script::new(SETTLE));
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .unwrap();
    let handler = move |request: hyper::Request<hyper::body::Incoming>| {
        let (mut redis, settle) = (redis.clone(), settle.clone());
        async move {
            let header = request.headers().get("authorization").unwrap();
            let run = header.to_str().unwrap().strip_prefix("Bearer ").unwrap();
            let run = run.to_owned();
            let body = body_of(request).await;
            let mut script = settle.prepare_invoke();
            script
                .key(format!("cofferdam:run:{run}"))
                .key("cofferdam:results")
                .key("cofferdam:duties");
            script.arg(&run).arg(&body[..]);
            let _: u8 = script.invoke_async(&mut redis).await.unwrap();
            answer(201, r#"{"status":"OK"}"#)
        }
    };
    serve(listener, handler).await;
}

/// `bare PORT`: what hyper does for a post when nothing is done with it.
pub(crate) async fn bare(port: &str) {
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .unwrap();
    let handler = |request: hyper::Request<hyper::body::Incoming>| async move {
        body_of(request).await;
        answer(201, r#"{"status":"OK"}"#)
    };
    serve(listener, handler).await;
}
