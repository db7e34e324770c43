//! Bytes as a guest may send them to the endpoint: each connection gets an answer or is closed,
//! nothing is accepted for a run that is not there, and the next caller is served.

#![no_main]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown as Half, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use cofferdam::clock::Clock;
use cofferdam::config;
use cofferdam::endpoint::{self, Deps};
use cofferdam::run::id::Attempt;
use cofferdam::shutdown::Shutdown;
use cofferdam::stage::Core;
use cofferdam::stage::ready::Readiness;
use cofferdam::store::Store;
use cofferdam::telemetry::Metrics;
use cofferdam::token::{Grant, KeyRing};
use libfuzzer_sys::fuzz_target;

/// Statuses of an endpoint that knows no run.
const STATUSES: [u16; 12] = [200, 400, 401, 404, 405, 408, 413, 414, 415, 431, 501, 505];

struct World {
    address: SocketAddr,
    token: String,
}

fuzz_target!(|bytes: &[u8]| {
    static WORLD: OnceLock<World> = OnceLock::new();
    let world = WORLD.get_or_init(start);
    let Some((how, rest)) = bytes.split_first() else {
        return;
    };
    let mut sent = match how % 4 {
        0 => Vec::new(),
        1 => format!(
            "POST /results HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
            world.token,
            rest.len()
        )
        .into_bytes(),
        2 => format!(
            "POST /results HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
            world.token
        )
        .into_bytes(),
        _ => format!("GET /input HTTP/1.1\r\nauthorization: Bearer {}\r\n", world.token).into_bytes(),
    };
    sent.extend(rest);
    let answer = call(world.address, &sent, Duration::from_millis(20));
    for status in statuses(&answer) {
        assert!(
            STATUSES.contains(&status),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    let next = call(
        world.address,
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        Duration::from_secs(10),
    );
    assert_eq!(statuses(&next).collect::<Vec<_>>(), [200]);
});

/// The statuses of the answers in what a connection brought. No answer has such a line in its body.
fn statuses(answer: &[u8]) -> impl Iterator<Item = u16> {
    let text = String::from_utf8_lossy(answer).into_owned();
    let lines: Vec<_> = text.split("HTTP/1.").skip(1).map(str::to_owned).collect();
    lines
        .into_iter()
        .filter_map(|line| line.get(2..5)?.parse().ok())
}

/// Sends it, waits a moment for an answer, ends its half, and reads to the end: the endpoint does not
/// answer a request whose sender has gone.
fn call(address: SocketAddr, sent: &[u8], moment: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let mut answer = Vec::new();
    // It may close before all is sent.
    let _ = stream.write_all(sent);
    for patience in [moment, Duration::from_secs(10)] {
        stream.set_read_timeout(Some(patience)).expect("a time");
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => return answer,
        }
        let _ = stream.shutdown(Half::Write);
    }
    panic!("neither answered nor closed")
}

/// An endpoint on a Redis of its own, which ends with this process.
fn start() -> World {
    let folder = tempfile::tempdir().expect("a folder").keep();
    let socket = folder.join("redis.sock");
    Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "redis-server",
            "--save",
            "",
            "--port",
            "0",
            "--dir",
        ])
        .arg(&folder)
        .arg("--unixsocket")
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server starts");
    for _ in 0..500 {
        if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let settings = config::Serve::parse(&|name| match name {
        "REDIS_URL" => Some(format!("unix://{}", socket.display())),
        "COFFERDAM_SIGNING_KEYS" => {
            Some("k1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".to_owned())
        }
        _ => None,
    });
    let settings = settings.expect("settings");
    let ring = KeyRing::new([("k1".to_owned(), [7; 32])]).expect("32 bytes are a key");
    let token = ring.sign(&Grant {
        run: "run".parse().expect("an id"),
        attempt: Attempt(1),
        expires_s: u64::from(u32::MAX),
        nonce: None,
    });
    let (tell, told) = std::sync::mpsc::channel();
    // libFuzzer's own thread stays without a runtime.
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let store = Store::connect(&settings.redis)
                .await
                .expect("redis answers");
            let core = Core {
                store: store.clone(),
                clock: Clock::system(),
                metrics: Arc::new(Metrics::new()),
                runs: Arc::new(settings.results),
            };
            let readiness = Readiness::new(store, None);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
                .await
                .expect("a port");
            tell.send(listener.local_addr().expect("an address"))
                .expect("waited for");
            endpoint::serve(
                listener,
                Deps {
                    core,
                    ring,
                    readiness,
                },
                Shutdown::new(),
            )
            .await;
        });
    });
    World {
        address: told.recv().expect("it listens"),
        token,
    }
}
