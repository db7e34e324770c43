//! Programs of the usual languages run under the system call filter as they do outside.
//!
//! Each does what its language's programs commonly do: threads, other processes, files, sockets,
//! timers. A compiler is run in the sandbox too. What is not installed here is skipped aloud.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::lab::{Lab, file, sh};

/// A compiler needs more than a small machine has.
const MEMORY_MB: u64 = 2048;
const CPUS: u32 = 2;
/// Java starts slowly where there is much else to do.
const END_MAX: Duration = Duration::from_secs(120);

const PYTHON: &str = r#"
import asyncio, fcntl, mmap, multiprocessing, os, random, select, signal, socket, sqlite3
import subprocess, sys, tempfile, threading, time, uuid

def double(n): return n * 2

async def echo():
    async def serve(reader, writer):
        writer.write(await reader.read(9)); await writer.drain(); writer.close()
    server = await asyncio.start_server(serve, '127.0.0.1', 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b'hi'); await writer.drain()
    assert await reader.read(2) == b'hi'
    writer.close(); server.close()
    child = await asyncio.create_subprocess_exec('echo', 'x', stdout=subprocess.PIPE)
    assert (await child.communicate())[0] == b'x\n'

if __name__ == '__main__':
    asyncio.run(echo())
    with multiprocessing.Pool(2) as pool: assert pool.map(double, [1, 2]) == [2, 4]
    thread = threading.Thread(target=time.sleep, args=(0.01,)); thread.start(); thread.join()
    assert subprocess.run(['sh', '-c', 'cat | tr a b'], input=b'a', capture_output=True).stdout == b'b'
    db = sqlite3.connect('a.db'); db.execute('create table t (a)'); db.execute('insert into t values (1)'); db.commit()
    with tempfile.NamedTemporaryFile() as f:
        f.write(b'x' * 5000); f.flush(); fcntl.flock(f, fcntl.LOCK_EX)
        assert mmap.mmap(f.fileno(), 0)[4999] == 120
    signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()
    one, two = socket.socketpair(); one.send(b'x'); assert select.select([two], [], [], 5)[0]
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    os.sched_getaffinity(0); os.urandom(8); uuid.uuid4(); os.sync(); random.random()
    print('ok')
"#;

const RUBY: &str = r#"
require 'socket'; require 'open3'; require 'tempfile'; require 'json'; require 'timeout'
server = TCPServer.new('127.0.0.1', 0)
thread = Thread.new { c = server.accept; c.write(c.gets); c.close }
client = TCPSocket.new('127.0.0.1', server.addr[1]); client.puts 'hi'
raise 'echo' unless client.gets == "hi\n"
thread.join
out, status = Open3.capture2('tr a b', stdin_data: 'a'); raise 'pipe' unless out == 'b' && status.success?
pid = fork { exit 3 }; Process.wait(pid); raise 'fork' unless $?.exitstatus == 3
Tempfile.create { |f| f.flock(File::LOCK_EX); f.write('x'); f.fsync }
Timeout.timeout(5) { sleep 0.01 }
puts JSON.parse('{"a":"ok"}')['a']
"#;

const NODE: &str = r#"
const { Worker, isMainThread, parentPort } = require('worker_threads');
const assert = require('assert'), fs = require('fs'), http = require('http');
const { execFileSync, spawn } = require('child_process'), zlib = require('zlib'), crypto = require('crypto');
if (!isMainThread) { parentPort.postMessage('up'); } else {
  fs.writeFileSync('a', 'x'); assert.equal(fs.readFileSync('a', 'utf8'), 'x');
  assert.equal(zlib.gunzipSync(zlib.gzipSync('x')).toString(), 'x'); crypto.randomBytes(8);
  assert.equal(execFileSync('echo', ['x']).toString(), 'x\n');
  const server = http.createServer((_, r) => r.end('hi')).listen(0, '127.0.0.1', () => {
    http.get({ port: server.address().port, host: '127.0.0.1', agent: false }, r => r.on('data', d => {
      assert.equal(d.toString(), 'hi'); server.close();
      new Worker(__filename).on('message', m => { assert.equal(m, 'up');
        fs.promises.readdir('/').then(() => spawn('true').on('exit', () => console.log('ok'))); });
    }));
  });
}
"#;

const GO: &str = r#"package main
import ("fmt"; "io"; "net"; "os"; "os/exec"; "os/signal"; "runtime"; "sync"; "syscall"; "time")
func must(err error) { if err != nil { panic(err) } }
func main() {
  l, err := net.Listen("tcp", "127.0.0.1:0"); must(err)
  go func() { c, err := l.Accept(); must(err); io.Copy(c, c); c.Close() }()
  c, err := net.Dial("tcp", l.Addr().String()); must(err)
  _, err = c.Write([]byte("hi")); must(err)
  b := make([]byte, 2); _, err = io.ReadFull(c, b); must(err)
  var w sync.WaitGroup
  for i := 0; i < 100; i++ { w.Add(1); go func() { defer w.Done(); time.Sleep(time.Millisecond); runtime.Gosched() }() }
  w.Wait()
  out, err := exec.Command("echo", "x").Output(); must(err)
  if string(out) != "x\n" { panic("pipe") }
  s := make(chan os.Signal, 1); signal.Notify(s, syscall.SIGUSR1); must(syscall.Kill(os.Getpid(), syscall.SIGUSR1)); <-s
  must(os.WriteFile("f", b, 0o600)); fmt.Println("ok")
}
"#;

const JAVA: &str = r#"
import java.io.*; import java.net.*; import java.nio.channels.*; import java.nio.file.*; import java.util.concurrent.*;
public class A { public static void main(String[] a) throws Exception {
  ServerSocket server = new ServerSocket(0, 5, InetAddress.getLoopbackAddress());
  ExecutorService pool = Executors.newFixedThreadPool(4);
  Future<Integer> read = pool.submit(() -> { try (Socket s = server.accept()) { return s.getInputStream().read(); } });
  try (Socket s = new Socket(server.getInetAddress(), server.getLocalPort())) { s.getOutputStream().write(7); }
  if (read.get() != 7) throw new Error("echo");
  Process p = new ProcessBuilder("sh", "-c", "exit 3").start();
  if (p.waitFor() != 3) throw new Error("process");
  Path f = Files.createTempFile("a", "b"); Files.writeString(f, "x");
  try (FileChannel c = FileChannel.open(f, StandardOpenOption.WRITE); FileLock l = c.lock()) { c.force(true); }
  Selector.open().close(); System.gc(); pool.shutdown(); System.out.println("ok");
} }
"#;

const C: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>
static void *up(void *n) { __atomic_add_fetch((int *)n, 1, __ATOMIC_SEQ_CST); return 0; }
int main(void) {
  pthread_t t[8]; int n = 0;
  for (int i = 0; i < 8; i++) if (pthread_create(&t[i], 0, up, &n)) return 1;
  for (int i = 0; i < 8; i++) pthread_join(t[i], 0);
  if (n != 8) return 2;
  int e = epoll_create1(0), v = eventfd(1, 0); struct epoll_event ev = { .events = EPOLLIN };
  if (epoll_ctl(e, EPOLL_CTL_ADD, v, &ev) || epoll_wait(e, &ev, 1, 1000) != 1) return 3;
  int f = timerfd_create(CLOCK_MONOTONIC, 0); struct itimerspec s = { .it_value = { 0, 1000 } }; long ticks;
  if (timerfd_settime(f, 0, &s, 0) || read(f, &ticks, 8) != 8) return 4;
  int m = memfd_create("m", 0); if (m < 0 || ftruncate(m, 4096)) return 5;
  if (mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, m, 0) == MAP_FAILED) return 6;
  pid_t p = fork(); if (p == 0) execlp("sh", "sh", "-c", "exit 3", (char *)0);
  int status; if (waitpid(p, &status, 0) != p || WEXITSTATUS(status) != 3) return 7;
  FILE *o = popen("tr a b", "w"); if (!o || pclose(o)) return 8;
  return system("true") || puts("ok") < 0;
}
"#;

/// Runs a script in a machine with a source file, where the programs it needs are installed.
async fn check(needs: &[&str], name: &str, source: &str, script: &str) {
    let folders = ["/usr/local/bin", "/usr/bin"];
    let is_here = |name: &&&str| folders.iter().any(|f| Path::new(f).join(**name).exists());
    if let Some(missing) = needs.iter().find(|name| !is_here(name)) {
        eprintln!("skipped: there is no {missing} in /usr here");
        return;
    }
    let lab = Lab::open().await;
    let mut spec = sh(&format!("{script} && echo end || {{ ulimit -a; exit 1; }}"));
    (spec.memory_mb, spec.cpus) = (MEMORY_MB, CPUS);
    spec.env.insert("TMPDIR".into(), "/workspace".into());
    spec.files = vec![file(&format!("/workspace/{name}"), source)];
    // Debian's Java keeps its own settings in /etc, where a machine has nothing of the host.
    if needs.contains(&"javac") {
        for (path, text) in settings_of_java() {
            spec.files.push(file(&path, &text));
        }
    }
    let ran = tokio::time::timeout(END_MAX, lab.run(spec)).await.unwrap();
    assert!(ran.stdout.ends_with("ok\nend\n"), "{ran:?}");
    lab.close().await;
}

fn settings_of_java() -> Vec<(String, String)> {
    let mut folders: Vec<_> = fs::read_dir("/etc")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("java-"))
        .collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                files.push((path.to_str().unwrap().to_owned(), text));
            }
        }
    }
    files
}

#[tokio::test]
async fn a_shell_and_its_tools_run() {
    let script = "seq 100 | sort -n | tail -n1 | grep -q 100 && mkfifo p && (echo x > p & cat p > o) \
        && (flock 9 && find . -type f | xargs -n1 -P4 wc -c > /dev/null) 9> lock \
        && timeout 5 tar cf t.tar o && gzip t.tar && dd if=/dev/zero of=z bs=1k count=9 conv=fsync 2> /dev/null \
        && sync && nice -n 1 date > /dev/null && kill -0 $$ && trap 'echo ok' USR1 && kill -USR1 $$";
    check(&["flock", "tar", "gzip"], "a", "", script).await;
}

#[tokio::test]
async fn python_runs() {
    check(&["python3"], "a.py", PYTHON, "python3 a.py").await;
}

#[tokio::test]
async fn ruby_runs() {
    check(&["ruby"], "a.rb", RUBY, "ruby a.rb").await;
}

#[tokio::test]
async fn node_runs() {
    check(&["node"], "a.js", NODE, "node a.js").await;
}

#[tokio::test]
async fn go_compiles_and_runs() {
    let script = "GOCACHE=/workspace/c GOFLAGS=-mod=mod go build -o a a.go && ./a";
    check(&["go"], "a.go", GO, script).await;
}

#[tokio::test]
async fn java_compiles_and_runs() {
    let script = "javac A.java && java A";
    check(&["javac", "java"], "A.java", JAVA, script).await;
}

#[tokio::test]
async fn c_compiles_and_runs() {
    check(
        &["gcc"],
        "a.c",
        C,
        "gcc -pthread -D_GNU_SOURCE a.c -o a && ./a",
    )
    .await;
}
