//! The one thing a machine can reach, and that it is the only one.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::lab::{Lab, python, sh, spec, until};

/// Connects to the endpoint, says a word, and prints the answer.
const SPEAK: &str = "import socket, sys\n\
    s = socket.create_connection(('127.0.0.1', 8080))\n\
    s.sendall(sys.argv[1].encode()); s.shutdown(socket.SHUT_WR)\n\
    print(s.makefile().read())";

fn speaker(word: &str) -> cofferdam_sandbox::Spec {
    let mut spec = python(SPEAK);
    spec.argv.push(word.to_owned());
    spec
}

#[tokio::test]
async fn every_port_but_the_listeners_is_the_guests() {
    let lab = Lab::open().await;
    let serve = "import socket\n\
        own = socket.create_server(('0.0.0.0', 8080))\n\
        there = socket.create_connection(('127.0.0.1', 4281)); there.sendall(b'there')\n\
        here = socket.create_connection(('localhost', 8080)); own.accept(); print('both')";
    let mut spec = python(serve);
    spec.port = 4281;
    let (mut running, output) = lab.start(spec).await;
    let listener = running.take_listener().unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert_eq!(running.wait().await.code, Some(0), "{}", output.stderr());
    assert_eq!(
        (said.as_str(), output.stdout().as_str()),
        ("there", "both\n")
    );

    let mut spec = python("");
    spec.port = 80;
    let refused = lab.refused(spec).await.to_string();
    assert!(refused.contains("port is below 1024"), "{refused}");
    lab.close().await;
}

#[tokio::test]
async fn the_listener_tells_which_machine_speaks() {
    let lab = Lab::open().await;
    let (mut one, first) = lab.start(speaker("from one")).await;
    let (mut two, second) = lab.start(speaker("from two")).await;
    for (running, word) in [(&mut two, "from two"), (&mut one, "from one")] {
        let listener = running.take_listener().unwrap();
        assert!(running.take_listener().is_none());
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, word);
        stream
            .write_all(format!("{word}: heard").as_bytes())
            .await
            .unwrap();
    }
    assert_eq!(one.wait().await.code, Some(0));
    assert_eq!(two.wait().await.code, Some(0));
    assert_eq!(first.stdout().trim(), "from one: heard");
    assert_eq!(second.stdout().trim(), "from two: heard");
    lab.close().await;
}

#[tokio::test]
async fn a_listener_that_nobody_takes_refuses() {
    let lab = Lab::open().await;
    let (mut running, output) = lab
        .start(python(
            "import socket, sys\n\
         sys.stdin, n = None, 0\n\
         open('/workspace/ready', 'w')\n\
         while n < 400:\n\
         \x20   n += 1\n\
         \x20   try: socket.create_connection(('127.0.0.1', 8080), 5).close()\n\
         \x20   except OSError as e: print(type(e).__name__); break\n\
         \x20   import time; time.sleep(0.01)",
        ))
        .await;
    drop(running.take_listener());
    running.wait().await;
    assert_eq!(output.stdout().trim(), "ConnectionRefusedError");
    lab.close().await;
}

/// Everything that one machine offers, another one looks for; and the way out of all.
#[tokio::test]
async fn neighbours_cannot_reach_each_other() {
    let lab = Lab::open().await;
    let serve = "import socket, time\n\
        t = socket.create_server(('0.0.0.0', 9000))\n\
        a = socket.socket(socket.AF_UNIX); a.bind('\\0neighbour'); a.listen()\n\
        f = socket.socket(socket.AF_UNIX); f.bind('/tmp/neighbour'); f.listen()\n\
        s = open('/dev/shm/neighbour', 'w')\n\
        print('serving', flush=True)\n\
        time.sleep(1000)";
    let look = "import os, socket\n\
        def reach(name, family, address):\n\
        \x20   try:\n\
        \x20       s = socket.socket(family); s.settimeout(5); s.connect(address); print(name, 'reached')\n\
        \x20   except OSError as e: print(name, type(e).__name__)\n\
        reach('tcp', socket.AF_INET, ('127.0.0.1', 9000))\n\
        reach('abstract', socket.AF_UNIX, '\\0neighbour')\n\
        reach('path', socket.AF_UNIX, '/tmp/neighbour')\n\
        print('shm', os.path.exists('/dev/shm/neighbour'))\n\
        print(open('/proc/net/dev').read().count(':'))";
    let (serving, output) = lab.start(python(serve)).await;
    output.says("serving").await;
    // The control: the same program finds all of it in the machine that has it.
    let env = vec![("PATH".to_owned(), "/usr/bin".to_owned())];
    let argv = ["/usr/bin/python3", "-I", "-S", "-c", look]
        .map(String::from)
        .to_vec();
    let handle = serving.handle();
    let own = handle.exec(argv, env, None, Vec::new(), Duration::from_secs(30));
    let own = own.await.unwrap();
    let all = "tcp reached\nabstract reached\npath reached\nshm True\n1\n";
    assert_eq!(own.stdout, all, "{}", own.stderr);
    let nothing = "tcp ConnectionRefusedError\nabstract ConnectionRefusedError\n\
        path FileNotFoundError\nshm False\n1";
    assert_eq!(lab.python(look).await, nothing);
    drop(serving);
    lab.close().await;
}

/// The listener's network lives as long as the listener; the machine does not.
#[tokio::test]
async fn a_listener_outlives_its_machine_harmlessly() {
    let lab = Lab::open().await;
    let (mut running, _) = lab.start(sh("exit 0")).await;
    let listener = running.take_listener().unwrap();
    assert_eq!(running.wait().await.code, Some(0));
    let nobody = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(nobody.is_err());
    lab.close().await;
}

#[tokio::test]
async fn the_listener_is_there_before_the_guests_first_instruction() {
    let lab = Lab::open().await;
    for _ in 0..20 {
        let mut running = lab.start(speaker("early")).await.0;
        let listener = running.take_listener().unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        drop(stream);
        assert_eq!(
            (heard.as_str(), running.wait().await.code),
            ("early", Some(0))
        );
    }
    let address = spec(&["sh", "-c", "cat /proc/net/tcp"]);
    let seen = lab.run(address).await.good();
    // Local address 127.0.0.1:8080, in state listening.
    assert!(seen.contains("0100007F:1F90 00000000:0000 0A"), "{seen}");
    lab.close().await;
}

#[tokio::test]
async fn a_guest_cannot_take_the_endpoints_place() {
    let lab = Lab::open().await;
    let take = "import socket\n\
        s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
        try: s.bind(('127.0.0.1', 8080)); print('bound')\n\
        except OSError as e: print(e.strerror)";
    let (mut running, output) = lab.start(python(take)).await;
    let _held = running.take_listener();
    running.wait().await;
    until(|| match output.stdout().trim() {
        "Address already in use" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
    lab.close().await;
}
