//! What a guest and an endpoint may send each other through the relay: it arrives unchanged, and both
//! ends are told of the other's end.

#![no_main]

// The crate keeps it to itself. These are the names that it uses of the crate.
#[path = "../../src/local/relay.rs"]
#[allow(dead_code, reason = "the address of the endpoint is known here")]
mod relay;
use cofferdam::shutdown;
mod descriptors {
    pub(crate) fn for_connections() -> usize {
        1024
    }
}

use std::io::{Read as _, Write as _};
use std::net::{Shutdown as Half, SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use relay::{Bounds, Relay};
use shutdown::Shutdown;
use tokio_util::sync::CancellationToken;

struct World {
    /// Where the machine's program connects.
    machine: SocketAddr,
    endpoint: TcpListener,
}

fuzz_target!(|sides: (&[u8], &[u8], u8)| {
    static WORLD: OnceLock<World> = OnceLock::new();
    let world = WORLD.get_or_init(start);
    let (asked, answered, pieces) = sides;
    let guest = TcpStream::connect(world.machine).expect("it listens");
    let (endpoint, _) = world.endpoint.accept().expect("the relay connects");
    thread::scope(|scope| {
        let there = scope.spawn(|| side(&endpoint, answered, pieces));
        assert_eq!(side(&guest, asked, pieces), answered);
        assert_eq!(there.join().expect("it ended"), asked);
    });
});

/// Sends all in pieces, ends its half, and reads the other's to the end.
fn side(mut stream: &TcpStream, sent: &[u8], pieces: u8) -> Vec<u8> {
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).expect("a time");
    for piece in sent.chunks(sent.len() / (usize::from(pieces) + 1) + 1) {
        stream.write_all(piece).expect("taken");
    }
    stream.shutdown(Half::Write).expect("it is open");
    let mut read = Vec::new();
    stream.read_to_end(&mut read).expect("the other's end is told");
    read
}

fn start() -> World {
    let endpoint = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = endpoint.local_addr().expect("an address").to_string();
    let machine = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = machine.local_addr().expect("an address");
    machine.set_nonblocking(true).expect("it can");
    // libFuzzer's own thread stays without a runtime.
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let relay = Relay::new(&address, Bounds::default(), Shutdown::new());
            let listener = tokio::net::TcpListener::from_std(machine).expect("it listens");
            relay.serve(listener, CancellationToken::new()).await;
        });
    });
    World { machine: at, endpoint }
}
