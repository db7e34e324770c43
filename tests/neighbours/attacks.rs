//! The attacks: what the hostile tenant's guests and producers do to what is shared.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::args::Args;
use crate::process::Process;
use crate::scene::Scene;

/// How long an attack goes on before the victim is timed.
const BEGIN: Duration = Duration::from_secs(2);
/// How long a hostile guest may run: longer than any measurement.
const TIMEOUT_S: u64 = 300;

/// One attack.
#[derive(Debug)]
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// What it does, for the table.
    pub(crate) what: &'static str,
    /// Hostile runs that are submitted.
    runs: usize,
    /// How many of them must have their machine before the victim is timed.
    running: usize,
    /// Bytes of each one's input.
    input_bytes: usize,
    by: By,
}

/// Who attacks.
#[derive(Debug)]
enum By {
    /// A guest that runs this Python program.
    Python(&'static str),
    /// A guest that runs this shell script.
    Shell(&'static str),
    /// A shell script that is run as a plain command, under the agent.
    Captured(&'static str),
    /// A producer whose requests break a rule.
    Rejected,
    /// An image maker, whose archives are imported on this host again and again.
    Import,
}

/// How a guest calls the endpoint, for the programs below.
const CALLS: &str = "
import os, socket, time
def call(first, headers='', body=b''):
    s = socket.create_connection(('127.0.0.1', 8080))
    token = os.environ['SANDBOX_RUN_TOKEN']
    s.sendall((first + ' HTTP/1.1\\r\\nhost: x\\r\\nauthorization: Bearer ' + token + '\\r\\n' + headers + '\\r\\n').encode() + body)
    return s
def hold(make, count, drip=None):
    held = []
    while True:
        while len(held) < count:
            try: held.append(make())
            except OSError: time.sleep(0.05); break
        for s in list(held):
            try:
                s.setblocking(False)
                if drip: s.send(drip)
                elif s.recv(1, socket.MSG_PEEK) == b'': raise OSError
            except BlockingIOError: pass
            except OSError: s.close(); held.remove(s)
        time.sleep(0.5)
";

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "unread-inputs",
        what: "a guest opens 32 `GET /input` of 15 MiB and reads nothing",
        runs: 1,
        running: 1,
        input_bytes: 15 << 20,
        by: By::Python("hold(lambda: call('GET /input'), 32)"),
    },
    Attack {
        name: "read-inputs",
        what: "three guests read an input of 15 MiB again and again",
        runs: 3,
        running: 3,
        input_bytes: 15 << 20,
        by: By::Python(
            "
while True:
    try:
        s = call('GET /input', 'connection: close\\r\\n')
        while s.recv(1 << 20): pass
    except OSError: time.sleep(0.05)",
        ),
    },
    Attack {
        name: "slow-bodies",
        what: "eight guests hold 32 chunked posts each, a byte every half second",
        runs: 8,
        running: 8,
        input_bytes: 0,
        by: By::Python(
            "hold(lambda: call('POST /results', 'transfer-encoding: chunked\\r\\n'), 32, b'1\\r\\n \\r\\n')",
        ),
    },
    Attack {
        name: "one-token",
        what: "a guest holds 257 posts of 1 MiB, one byte sent",
        runs: 1,
        running: 1,
        input_bytes: 0,
        by: By::Python(
            "hold(lambda: call('POST /results', 'content-length: 1048576\\r\\n', b'1'), 257)",
        ),
    },
    Attack {
        name: "spent-token",
        what: "guests post 1 MiB again and again after their result",
        runs: 40,
        running: 1,
        input_bytes: 0,
        by: By::Python(
            "
s = call('POST /results', 'content-length: 1\\r\\n', b'1'); s.recv(100)
while True:
    try:
        s = call('POST /results', 'content-length: 1000002\\r\\n', b'\"' + b'x' * 1000000 + b'\"')
        s.recv(100)
    except OSError: time.sleep(0.01)",
        ),
    },
    Attack {
        name: "large-results",
        what: "100 runs whose results have 1 MB each",
        runs: 100,
        running: 1,
        input_bytes: 0,
        by: By::Python(
            "call('POST /results', 'content-length: 1000002\\r\\n', b'\"' + b'x' * 1000000 + b'\"').recv(100)",
        ),
    },
    Attack {
        name: "connections",
        what: "a guest opens 4,000 connections to the endpoint",
        runs: 1,
        running: 1,
        input_bytes: 0,
        by: By::Python("hold(lambda: socket.create_connection(('127.0.0.1', 8080)), 4000)"),
    },
    Attack {
        name: "sleepers",
        what: "120 runs that sleep, in 50 slots",
        runs: 120,
        running: 30,
        input_bytes: 0,
        by: By::Shell("sleep 300"),
    },
    Attack {
        name: "backlog",
        what: "3,000 short runs wait",
        runs: 3000,
        running: 1,
        input_bytes: 0,
        by: By::Shell("exit 0"),
    },
    Attack {
        name: "rejected",
        what: "3,000 requests that break a rule",
        runs: 3000,
        running: 0,
        input_bytes: 0,
        by: By::Rejected,
    },
    Attack {
        name: "processor",
        what: "a guest keeps eight processes busy",
        runs: 1,
        running: 1,
        input_bytes: 0,
        by: By::Shell(
            "for n in 1 2 3 4 5 6 7; do (while :; do :; done) & done; while :; do :; done",
        ),
    },
    Attack {
        name: "processes",
        what: "a guest forks without end",
        runs: 1,
        running: 1,
        input_bytes: 0,
        by: By::Python(
            "
while True:
    try:
        if os.fork() == 0:
            time.sleep(1000)
    except OSError: time.sleep(0.01)",
        ),
    },
    Attack {
        name: "memory",
        what: "a guest takes all memory that it may have, again and again",
        runs: 1,
        running: 1,
        input_bytes: 0,
        by: By::Python(
            "
while True:
    if os.fork() == 0:
        held = []
        try:
            while True: held.append(bytearray(os.urandom(1 << 20)))
        except MemoryError: os._exit(0)
    try: os.wait()
    except OSError: time.sleep(0.01)",
        ),
    },
    Attack {
        name: "disk",
        what: "a guest fills its folders, again and again",
        runs: 1,
        running: 1,
        input_bytes: 0,
        by: By::Shell("while :; do cat /dev/zero >/tmp/full 2>/dev/null; rm -f /tmp/full; done"),
    },
    Attack {
        name: "output",
        what: "a guest writes to its output without end",
        runs: 1,
        running: 1,
        input_bytes: 0,
        by: By::Shell("exec yes"),
    },
    Attack {
        name: "captured-output",
        what: "two plain commands write to their output without end",
        runs: 2,
        running: 2,
        input_bytes: 0,
        by: By::Captured("exec yes"),
    },
    Attack {
        name: "killed-agents",
        what: "100 plain commands that kill their agent and stay",
        runs: 100,
        running: 1,
        input_bytes: 0,
        by: By::Captured("kill -9 $PPID; sleep 300"),
    },
    Attack {
        name: "log-posts",
        what: "two guests post 64 KiB of output again and again, over 32 connections each",
        runs: 2,
        running: 2,
        input_bytes: 0,
        by: By::Python(
            "
import threading
def post():
    while True:
        try:
            s = call('POST /log', 'content-length: 65536\\r\\n', b'x' * 65536)
            while s.recv(100): s.sendall(b'POST /log HTTP/1.1\\r\\nhost: x\\r\\nauthorization: Bearer ' + os.environ['SANDBOX_RUN_TOKEN'].encode() + b'\\r\\ncontent-length: 65536\\r\\n\\r\\n' + b'x' * 65536)
        except OSError: time.sleep(0.05)
for n in range(32): threading.Thread(target=post).start()",
        ),
    },
    Attack {
        name: "artifacts",
        what: "two guests put files of 1 and of 32 MiB again and again, over 8 connections each",
        runs: 2,
        running: 2,
        input_bytes: 0,
        by: By::Python(
            "
import threading
def put(n):
    size, count = (32 << 20, 1) if n == 0 else (1 << 20, 50)
    body, turn = bytes(size), 0
    while True:
        turn += 1
        try: call('PUT /artifacts/%d-%d' % (n, turn % count), 'connection: close\\r\\ncontent-length: %d\\r\\n' % size, body).recv(100)
        except OSError: time.sleep(0.05)
for n in range(8): threading.Thread(target=put, args=(n,)).start()",
        ),
    },
    Attack {
        name: "held-artifacts",
        what: "eight guests begin 16 puts of 256 MiB each, one byte sent",
        runs: 8,
        running: 8,
        input_bytes: 0,
        by: By::Python(
            "hold(lambda: call('PUT /artifacts/a', 'content-length: 268435456\\r\\n', b'1'), 16)",
        ),
    },
    Attack {
        name: "terminals",
        what: "a guest opens terminals until none is left, and floods them",
        runs: 1,
        running: 1,
        input_bytes: 0,
        by: By::Python(
            "
held = []
while len(held) < 4000:
    try: held.append(os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))
    except OSError: break
while True:
    for terminal in held[:8]:
        try: os.write(terminal, b'x' * 4096)
        except OSError: pass
    if not held: time.sleep(1)",
        ),
    },
    Attack {
        name: "import",
        what: "archives with 1,000 files and 1,000 opaque marks are imported",
        runs: 0,
        running: 0,
        input_bytes: 0,
        by: By::Import,
    },
];

impl Attack {
    /// Begins the attack, and returns when it is under way.
    pub(crate) async fn begin(&self, scene: &mut Scene, _: &Args) {
        let mut more = json!({"timeout_s": TIMEOUT_S});
        if self.input_bytes > 0 {
            more["input"] = "x".repeat(self.input_bytes).into();
        }
        let script = match self.by {
            By::Shell(script) => script.to_owned(),
            By::Captured(script) => {
                more["capture"] = true.into();
                script.to_owned()
            }
            By::Python(program) => format!("exec /usr/bin/python3 -c '{}'", quoted(program)),
            By::Rejected => {
                more["priority"] = 10.into();
                "true".to_owned()
            }
            By::Import => return import(scene),
        };
        for n in 0..self.runs {
            scene.submit(&id(n), "hostile", &script, &more).await;
        }
        for n in 0..self.running {
            scene.wait_running(&id(n)).await;
        }
        sleep(BEGIN).await;
    }
}

fn id(n: usize) -> String {
    format!("hostile-{n}")
}

/// A Python program as it may stand between single quotes of a shell.
fn quoted(program: &str) -> String {
    format!("{CALLS}{program}").replace('\'', "'\\''")
}

/// Imports an archive of many files and opaque marks in one folder, as long as the scene lasts.
fn import(scene: &mut Scene) {
    const ENTRIES: usize = 1000;
    let folder = scene.folder.path().join("layout");
    std::fs::create_dir(&folder).unwrap();
    let archive = folder.join("image.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&archive).unwrap());
    let mut layer = tar::Builder::new(Vec::new());
    for n in 0..ENTRIES {
        for name in [format!("a/{n}"), "a/.wh..wh..opq".to_owned()] {
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_mode(0o644);
            header.set_cksum();
            layer
                .append_data(&mut header, name, std::io::empty())
                .unwrap();
        }
    }
    let layer = layer.into_inner().unwrap();
    let config: Value = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": []}});
    let manifest =
        json!([{"Config": "config.json", "RepoTags": ["hostile:1"], "Layers": ["layer.tar"]}]);
    for (name, bytes) in [
        ("layer.tar", layer),
        ("config.json", config.to_string().into_bytes()),
        ("manifest.json", manifest.to_string().into_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    tar.finish().unwrap();
    let command = scene.command.display();
    let state = scene.folder.path().join("import");
    let script = format!(
        "while :; do {command} images import hostile:1 {} --state-dir {}; {command} images remove hostile:1 --state-dir {}; done",
        archive.display(),
        state.display(),
        state.display(),
    );
    let words = ["-c".to_owned(), script];
    let process = Process::new(
        "import",
        std::path::Path::new("sh"),
        &words,
        &[],
        scene.folder.path(),
    );
    scene.add(process);
}
