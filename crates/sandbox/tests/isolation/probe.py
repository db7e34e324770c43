# One attack after the other; each prints its name and what came of it: ok, or the error's name.
# Run in a machine, and outside as the same user as a control. Arguments: NAME=VALUE.
import ctypes, errno, os, signal, socket, struct, sys

given = dict(argument.split("=", 1) for argument in sys.argv[1:])
libc = ctypes.CDLL(None, use_errno=True)
machine = os.uname().machine
numbers = {
    "x86_64": dict(ptrace=101, process_vm_readv=310, mount=165, umount2=166, unshare=272, setns=308,
                   bpf=321, perf_event_open=298, userfaultfd=323, keyctl=250, getpid=39, ioctl=16,
                   chroot=161, pivot_root=155, syslog=103, open_by_handle_at=304, sethostname=170,
                   io_setup=206, seccomp=317, kexec_load=246, init_module=175, swapon=167, reboot=169, settimeofday=164),
    "aarch64": dict(ptrace=117, process_vm_readv=270, mount=40, umount2=39, unshare=97, setns=268,
                    bpf=280, perf_event_open=241, userfaultfd=282, keyctl=219, getpid=172, ioctl=29,
                    chroot=51, pivot_root=41, syslog=116, open_by_handle_at=265, sethostname=161,
                    io_setup=0, seccomp=277, kexec_load=104, init_module=105, swapon=224, reboot=142, settimeofday=170),
}[machine]
numbers.update(clone3=435, fsopen=430, open_tree=428, move_mount=429, io_uring_setup=425,
               pidfd_getfd=438, pidfd_open=434, cachestat=451, unknown=600)


def call(name, *arguments):
    longs = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    if libc.syscall(ctypes.c_long(numbers[name]), *longs) == -1:
        raise OSError(ctypes.get_errno(), name)


def attack(name, what):
    try:
        what()
        outcome = "ok"
    except OSError as error:
        outcome = errno.errorcode.get(error.errno, str(error.errno))
    print(f"{name} {outcome}", flush=True)


def in_child(what):
    """Runs what may end or change the process; its error, or the signal it died of, comes back."""
    child = os.fork()
    if child == 0:
        try:
            what()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise OSError(1000 + os.WTERMSIG(status), "killed")
    if os.WEXITSTATUS(status):
        raise OSError(os.WEXITSTATUS(status), "child")


def read(path):
    return lambda: open(path, "rb").read(1)


def write(path):
    return lambda: os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def connect(family, address, kind=socket.SOCK_STREAM):
    def attempt():
        with socket.socket(family, kind) as s:
            s.settimeout(5)
            s.connect(address)
    return attempt


def sock(family, kind, protocol=0):
    return lambda: socket.socket(family, kind, protocol).close()


def vm_read():
    buffer = ctypes.create_string_buffer(8)
    local = struct.pack("QQ", ctypes.addressof(buffer), 8)
    remote = struct.pack("QQ", int(given["address"], 0), 8)
    call("process_vm_readv", victim, local, 1, remote, 1, 0)


def take_descriptor():
    pidfd = os.pidfd_open(victim)
    call("pidfd_getfd", pidfd, 0, 0)


def inject(bits):
    """Types into a terminal of one's own, which is the same call as into another's."""
    def attempt():
        os.setsid()
        owner, terminal = os.openpty()
        import fcntl, termios
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        call("ioctl", terminal, 0x5412 | bits << 32, ctypes.c_char_p(b"x"))
    return lambda: in_child(attempt)


def decide_for_others():
    """A filter that has another process decide about calls: one line, which allows all."""
    libc.prctl(38, 1, 0, 0, 0)
    line = struct.pack("HBBI", 6, 0, 0, 0x7fff0000)
    lines = ctypes.create_string_buffer(line)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 1, ctypes.addressof(lines)))
    call("seccomp", 1, 8, program)


def machine_code(code):
    def attempt():
        import mmap
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        ctypes.CFUNCTYPE(ctypes.c_long)(address)()
    return lambda: in_child(attempt)


victim = int(given["victim"])
attack("shadow", read("/etc/shadow"))
attack("file-of-same-user", read(given["secret"]))
attack("public-file", read(given["public"]))
attack("victim-visible", lambda: os.stat(f"/proc/{victim}"))
attack("victim-environ", read(f"/proc/{victim}/environ"))
attack("victim-signal", lambda: os.kill(victim, 0))
attack("victim-ptrace", lambda: in_child(lambda: call("ptrace", 0x4206, victim, 0, 0)))
attack("victim-memory", vm_read)
attack("victim-descriptor", take_descriptor)
attack("ptrace-self", lambda: in_child(lambda: call("ptrace", 0, 0, 0, 0)))
attack("mount", lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, 0))
attack("umount", lambda: call("umount2", b"/proc", 2))
attack("fsopen", lambda: call("fsopen", b"tmpfs", 0))
attack("open-tree", lambda: call("open_tree", -100, b"/", 1))
attack("chroot", lambda: in_child(lambda: call("chroot", b"/")))
attack("user-namespace", lambda: in_child(lambda: call("unshare", 0x10000000)))
attack("net-namespace", lambda: in_child(lambda: call("unshare", 0x50000000)))
attack("clone3", lambda: call("clone3", 0, 0))
attack("unknown-call", lambda: call("unknown", 0))
attack("raw-socket", sock(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
attack("packet-socket", sock(socket.AF_PACKET, socket.SOCK_RAW))
attack("netlink", sock(socket.AF_NETLINK, socket.SOCK_RAW))
attack("vsock", sock(40, socket.SOCK_STREAM))
attack("crypto-socket", sock(38, socket.SOCK_SEQPACKET))
attack("host-loopback", connect(socket.AF_INET, ("127.0.0.1", int(given["port"]))))
attack("abstract-socket", connect(socket.AF_UNIX, "\0" + given["abstract"]))
attack("path-socket", connect(socket.AF_UNIX, given["path"]))
attack("mptcp", sock(socket.AF_INET, socket.SOCK_STREAM, 262))
attack("udp-lite", sock(socket.AF_INET, socket.SOCK_DGRAM, 136))
attack("icmp-socket", sock(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP))
attack("tipc-pair", lambda: socket.socketpair(30, socket.SOCK_STREAM))
attack("asynchronous-io", lambda: call("io_setup", 1, ctypes.byref(ctypes.c_ulong(0))))
attack("decide-for-others", lambda: in_child(decide_for_others))
attack("page-cache", lambda: call("cachestat", 0, 0, 0, 0))
attack("way-out", connect(socket.AF_INET, ("192.0.2.1", 9), socket.SOCK_DGRAM))
attack("way-out-6", connect(socket.AF_INET6, ("2001:db8::1", 9), socket.SOCK_DGRAM))
attack("terminal", lambda: os.close(os.openpty()[0]))
attack("type-into-pipe", lambda: call("ioctl", 1, 0x5412, ctypes.c_char_p(b"x")))
attack("type-into-terminal", inject(0))
attack("type-into-terminal-masked", inject(1))
attack("keyring", lambda: call("keyctl", 0, -3, 0))
attack("io-uring", lambda: call("io_uring_setup", 0, 0))
attack("userfaultfd", lambda: call("userfaultfd", 1))
attack("bpf", lambda: call("bpf", 0, 0, 0))
attack("perf", lambda: call("perf_event_open", 0, 0, -1, -1, 0))
attack("syslog", lambda: call("syslog", 3, 0, 0))
attack("file-handle", lambda: call("open_by_handle_at", -100, 0, 0))
attack("hostname", lambda: call("sethostname", b"x", 1))
attack("module", lambda: call("init_module", 0, 0, 0))
attack("kexec", lambda: call("kexec_load", 0, 0, 0, 0))
attack("swap", lambda: call("swapon", b"/x", 0))
attack("reboot", lambda: call("reboot", 0, 0, 0, 0))
attack("clock", lambda: call("settimeofday", 0, 0))
attack("kvm", lambda: os.stat("/dev/kvm"))
attack("memory-device", lambda: os.stat("/dev/mem"))
attack("device-node", lambda: os.mknod("/tmp/device", 0o20666, os.makedev(1, 1)))
attack("write-usr", write("/usr/cofferdam-test"))
attack("write-root", write("/cofferdam-test"))
attack("write-dev", write("/dev/cofferdam-test"))
attack("write-etc", write("/etc/cofferdam-test"))
attack("write-sysctl", lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
attack("write-sysrq", lambda: os.open("/proc/sysrq-trigger", os.O_WRONLY))
attack("kernel-symbols", read("/proc/kallsyms"))
attack("kernel-command-line", read("/proc/cmdline"))
attack("kernel-configuration", read("/proc/config.gz"))
attack("disks", read("/proc/diskstats"))
attack("kernel-memory", read("/proc/kcore"))
attack("engine-control", lambda: os.open("/proc/1/fd/0", os.O_RDWR))
if machine == "x86_64":
    numbers["x32"] = 0x40000000 | 39
    attack("x32-call", lambda: in_child(lambda: call("x32")))
    # mov eax, 20 (getpid); int 0x80; ret
    attack("i386-call", machine_code(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"))
