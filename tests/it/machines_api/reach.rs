//! What machines reach: the endpoint, byte for byte, and nothing when there is none.

use std::sync::Arc;

use cofferdam::local::Guests;
use cofferdam::shutdown::Shutdown;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::server::{sandboxed, sandboxed_with, shell_with, simulated};
use crate::support::until::until;

/// Answers every request with 201, and keeps what was sent.
struct Endpoint {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    tasks: Shutdown,
}

impl Endpoint {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (kept, tasks) = (Arc::clone(&requests), Shutdown::new());
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 64 * 1024];
                let mut length = 0;
                while let Ok(read) = stream.read(&mut request[length..]).await {
                    length += read;
                    let text = String::from_utf8_lossy(&request[..length]);
                    if read == 0 || text.ends_with('}') {
                        break;
                    }
                }
                kept.lock()
                    .await
                    .push(String::from_utf8_lossy(&request[..length]).into_owned());
                let answer =
                    "HTTP/1.1 201 Created\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK";
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self {
            address,
            requests,
            tasks,
        }
    }

    async fn received(&self) -> Vec<String> {
        until("a request to arrive", || async {
            let requests = self.requests.lock().await.clone();
            match requests.is_empty() {
                true => Err("nothing".to_owned()),
                false => Ok(requests),
            }
        })
        .await
    }
}

/// A POST in the words of bash, which needs no other program.
const POST: &str = "exec 3<>/dev/tcp/127.0.0.1/8080; \
    printf 'POST /results HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 7\\r\\n\\r\\n{\"a\":1}' >&3; ";

fn bash(line: &str) -> serde_json::Value {
    shell_with("", json!({"init": {"exec": ["/bin/bash", "-c", line]}}))
}

#[tokio::test]
async fn a_machine_reaches_the_endpoint_at_its_own_address() {
    let endpoint = Endpoint::open().await;
    let address = format!("http://{}", endpoint.address);
    let Some(server) = sandboxed_with(|settings| settings.endpoint = Some(address)).await else {
        return;
    };
    let id = server.create(bash(&format!("{POST} head -n 1 <&3"))).await;
    server.reach(&id, "stopped").await;
    let received = endpoint.received().await;
    assert!(
        received[0].starts_with("POST /results HTTP/1.1\r\n"),
        "{received:?}"
    );
    assert!(received[0].ends_with("\r\n\r\n{\"a\":1}"), "{received:?}");
    assert_eq!(server.log(&id).await[0].trim(), "HTTP/1.1 201 Created");
    server.end().await;
    endpoint.tasks.abort().cancel();
}

#[tokio::test]
async fn the_endpoint_is_where_the_guest_is_told_and_8080_is_its_own() {
    let endpoint = Endpoint::open().await;
    let address = format!("http://{}", endpoint.address);
    let Some(server) = sandboxed_with(|settings| settings.endpoint = Some(address)).await else {
        return;
    };
    let serve = "import os, socket\n\
        own = socket.create_server(('', 8080))\n\
        socket.create_connection(('localhost', 8080)).sendall(b'from itself')\n\
        print(own.accept()[0].recv(64).decode(), os.environ['HOME'], flush=True)";
    let post = POST.replace("8080", "4281");
    let line = format!("{post} head -n 1 <&3; exec python3 -c \"$SERVE\"");
    let config = json!({
        "init": {"exec": ["/bin/bash", "-c", line]},
        "env": {"SERVE": serve, "SANDBOX_RESULT_URL": "http://127.0.0.1:4281/results"},
    });
    let id = server.create(shell_with("", config)).await;
    server.reach(&id, "stopped").await;
    let log = server.log(&id).await;
    let log: Vec<_> = log.iter().map(|line| line.trim()).collect();
    assert_eq!(log, ["HTTP/1.1 201 Created", "from itself /workspace"]);
    assert_eq!(endpoint.received().await.len(), 1);
    server.end().await;
    endpoint.tasks.abort().cancel();
}

#[tokio::test]
async fn what_a_machine_sent_before_its_end_arrives() {
    let endpoint = Endpoint::open().await;
    let address = endpoint.address.clone();
    let Some(server) = sandboxed_with(|settings| settings.endpoint = Some(address)).await else {
        return;
    };
    let id = server.create(bash(&format!("{POST} exit 0"))).await;
    server.reach(&id, "stopped").await;
    assert_eq!(endpoint.received().await.len(), 1);
    server.end().await;
    endpoint.tasks.abort().cancel();
}

#[tokio::test]
async fn without_an_endpoint_a_machine_reaches_nothing() {
    let Some(server) = sandboxed().await else {
        return;
    };
    // For a moment the listener is there, and nobody takes what comes; then it is gone.
    let line = "while (exec 3<>/dev/tcp/127.0.0.1/8080); do sleep 0.05; done; echo refused";
    let id = server.create(bash(line)).await;
    server.logged(&id, "refused").await;
    server.end().await;
}

#[tokio::test]
async fn a_simulated_guest_posts_in_its_own_name() {
    let endpoint = Endpoint::open().await;
    let address = endpoint.address.clone();
    let server = simulated(|settings| {
        settings.endpoint = Some(address);
        settings.guests = Guests::Simulated(std::time::Duration::from_millis(5));
    })
    .await;
    assert_eq!(server.report, "isolation=none (simulated)");
    let env = json!({"env": {
        "SANDBOX_RESULT_URL": "http://127.0.0.1:8080/results", "SANDBOX_RUN_TOKEN": "cd1.t",
        "SANDBOX_RUN_ID": "r1"
    }});
    let id = server.create(shell_with("not run", env)).await;
    let stopped = server.reach(&id, "stopped").await;
    assert_eq!(
        stopped["events"][0]["request"]["exit_event"]["exit_code"],
        0
    );
    let received = endpoint.received().await;
    assert!(
        received[0].contains("Authorization: Bearer cd1.t\r\n"),
        "{received:?}"
    );
    assert!(
        received[0].ends_with(r#"{"run_id":"r1","simulated":true}"#),
        "{received:?}"
    );
    server.end().await;
    endpoint.tasks.abort().cancel();
}
