//! The system call filter of every arch, assembled here instruction by instruction.
//!
//! A filter is a program of the classic packet filter that the kernel runs before each system
//! call. Calls by the numbers of another architecture, or of the x32 ABI (the same call with bit 30
//! set), end the process. Then come the calls that are decided by their arguments. All others are
//! decided by their number: [`allowed`] passes, what is refused in [`calls`] gets EPERM, and the
//! rest is answered as by a kernel that lacks it, so that programs fall back to what they know.
//! All comparisons of arguments look at the low 32 bits, as the kernel itself does for these.

mod allowed;
mod calls;

use allowed::ALLOWED;
use calls::{CLONE, DENIED, IGNORED, IOCTL, NEWEST, SECCOMP, SOCKET, SOCKETPAIR, WATCHING, number};

use crate::report::Files;

/// The architectures a filter can be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    /// The architecture this program was built for; `None` when there is no filter for it.
    pub(crate) fn here() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// What the kernel calls it in a filter's data (`AUDIT_ARCH_…`).
    fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::Aarch64 => 0xc000_00b7,
        }
    }
}

/// The filter as the kernel (and `bwrap --seccomp`) reads it.
pub(crate) fn filter(arch: Arch, files: Files) -> Vec<u8> {
    program(arch, files)
        .into_iter()
        .flat_map(Instruction::bytes)
        .collect()
}

/// One instruction: operation, jumps when a comparison is true or false, operand.
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    operand: u32,
}

impl Instruction {
    fn bytes(self) -> [u8; 8] {
        let [a, b] = self.code.to_le_bytes();
        let [w, x, y, z] = self.operand.to_le_bytes();
        [a, b, self.jump_true, self.jump_false, w, x, y, z]
    }
}

/// Loads a 32-bit word of the call's data (`BPF_LD | BPF_W | BPF_ABS`).
const LOAD: u16 = 0x20;
/// Compares, then jumps: equal, greater, greater or equal, any bit in common.
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const AND: u16 = 0x54;
/// Ends the filter with a verdict.
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const REFUSE: u32 = 0x0005_0000;
/// The answer 0, as if it had been done.
const SUCCESS: u32 = 0;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EPROTONOSUPPORT: u32 = 93;
const EAFNOSUPPORT: u32 = 97;

/// Where the call's number, the architecture and the arguments' low halves lie in the data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT_0: u32 = 16;
const ARGUMENT_1: u32 = 24;
const ARGUMENT_2: u32 = 32;

const X32_BIT: u32 = 0x4000_0000;
/// New mount, cgroup, uts, ipc, user, pid or network namespace.
const CLONE_NAMESPACES: u32 = 0x0002_0000 | 0x7e00_0000;
/// Types into the terminal as if its owner had.
const TIOCSTI: u32 = 0x5412;
/// The console's own such calls.
const TIOCLINUX: u32 = 0x541c;
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
/// A filter that asks another process about calls (`SECCOMP_FILTER_FLAG_NEW_LISTENER`).
const SECCOMP_NEW_LISTENER: u32 = 8;
const SOCK_RAW: u32 = 3;
const SOCK_PACKET: u32 = 10;
/// The type without the flags that may be or'ed to it.
const SOCK_TYPE_MASK: u32 = 0xf;

fn program(arch: Arch, files: Files) -> Vec<Instruction> {
    let mut program = vec![
        load(ARCHITECTURE),
        compare(JUMP_EQUAL, arch.audit(), 1, 0),
        verdict(KILL_PROCESS),
        load(NUMBER),
    ];
    if arch == Arch::X86_64 {
        program.extend([compare(JUMP_AT_LEAST, X32_BIT, 0, 1), verdict(KILL_PROCESS)]);
    }
    for (call, body) in [
        (CLONE, clone()),
        (IOCTL, ioctl()),
        (SOCKET, socket()),
        (SOCKETPAIR, socketpair()),
        (SECCOMP, seccomp()),
    ] {
        if let Some(number) = number(call, arch) {
            program.extend(on(number, &body));
        }
    }
    // Runs of numbers with the same verdict: the kernel works this out once for every number, not
    // at every call.
    let mut from = 0;
    while from <= NEWEST {
        let same = by_number(arch, files, from);
        let to = (from..=NEWEST)
            .take_while(|number| by_number(arch, files, *number) == same)
            .last()
            .unwrap_or(from);
        program.extend([compare(JUMP_GREATER, to, 1, 0), verdict(same)]);
        from = to + 1;
    }
    program.push(verdict(REFUSE | ENOSYS));
    program
}

/// The verdict on a call whose arguments do not matter.
fn by_number(arch: Arch, files: Files, call: u32) -> u32 {
    let has = |list: &[calls::Call]| {
        list.iter()
            .any(|known| calls::number(*known, arch) == Some(call))
    };
    if files == Files::Shared && has(WATCHING) {
        REFUSE | ENOSYS
    } else if has(ALLOWED) {
        ALLOW
    } else if has(DENIED) {
        REFUSE | EPERM
    } else if has(IGNORED) {
        REFUSE | SUCCESS
    } else {
        REFUSE | ENOSYS
    }
}

/// A new process is fine, a new namespace is not.
fn clone() -> Vec<Instruction> {
    vec![
        load(ARGUMENT_0),
        compare(JUMP_ANY_BIT, CLONE_NAMESPACES, 0, 1),
        verdict(REFUSE | EPERM),
        verdict(ALLOW),
    ]
}

/// Terminals are allowed; injecting input into one is not.
fn ioctl() -> Vec<Instruction> {
    vec![
        load(ARGUMENT_1),
        compare(JUMP_EQUAL, TIOCSTI, 1, 0),
        compare(JUMP_EQUAL, TIOCLINUX, 0, 1),
        verdict(REFUSE | EPERM),
        verdict(ALLOW),
    ]
}

/// Only families that the sandbox's own network namespace holds in, and of the internet's only TCP
/// and UDP. A vsock, above all, belongs to no namespace and would reach the host of this host.
fn socket() -> Vec<Instruction> {
    let mut lines = vec![
        load(ARGUMENT_0),
        compare(JUMP_EQUAL, AF_UNIX, 7, 0),
        compare(JUMP_EQUAL, AF_INET, 2, 0),
        compare(JUMP_EQUAL, AF_INET6, 1, 0),
        verdict(REFUSE | EAFNOSUPPORT),
        load(ARGUMENT_2),
        compare(JUMP_EQUAL, 0, 2, 0),
        compare(JUMP_EQUAL, IPPROTO_TCP, 1, 0),
        compare(JUMP_EQUAL, IPPROTO_UDP, 0, 6),
    ];
    lines.extend(kind());
    lines.push(verdict(REFUSE | EPROTONOSUPPORT));
    lines
}

/// Between two processes of the sandbox.
fn socketpair() -> Vec<Instruction> {
    let mut lines = vec![
        load(ARGUMENT_0),
        compare(JUMP_EQUAL, AF_UNIX, 1, 0),
        verdict(REFUSE | EAFNOSUPPORT),
    ];
    lines.extend(kind());
    lines
}

/// No sockets below TCP and UDP.
fn kind() -> [Instruction; 6] {
    [
        load(ARGUMENT_1),
        Instruction {
            code: AND,
            jump_true: 0,
            jump_false: 0,
            operand: SOCK_TYPE_MASK,
        },
        compare(JUMP_EQUAL, SOCK_RAW, 1, 0),
        compare(JUMP_EQUAL, SOCK_PACKET, 0, 1),
        verdict(REFUSE | EPERM),
        verdict(ALLOW),
    ]
}

/// A program may restrict itself further, but not have its calls decided by another process.
fn seccomp() -> Vec<Instruction> {
    vec![
        load(ARGUMENT_1),
        compare(JUMP_ANY_BIT, SECCOMP_NEW_LISTENER, 0, 1),
        verdict(REFUSE | EPERM),
        verdict(ALLOW),
    ]
}

/// Runs `body`, which must end in verdicts, when the call has this number; else steps over it.
fn on(number: u32, body: &[Instruction]) -> Vec<Instruction> {
    let over = u8::try_from(body.len()).expect("every body above is a few lines long");
    let mut lines = vec![compare(JUMP_EQUAL, number, 0, over)];
    lines.extend(body);
    lines
}

fn load(offset: u32) -> Instruction {
    Instruction {
        code: LOAD,
        jump_true: 0,
        jump_false: 0,
        operand: offset,
    }
}

fn compare(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        operand,
    }
}

fn verdict(verdict: u32) -> Instruction {
    Instruction {
        code: RETURN,
        jump_true: 0,
        jump_false: 0,
        operand: verdict,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::Arch::{Aarch64, X86_64};
    use super::*;

    /// A system call as the kernel shows it to a filter.
    fn data(audit: u32, number: u32, arguments: &[u64]) -> Vec<u8> {
        let mut data = [number.to_le_bytes(), audit.to_le_bytes()].concat();
        data.extend([0; 8]);
        data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        data.resize(64, 0);
        data
    }

    /// The filter language, as far as it is used: runs the bytes that the kernel would get.
    fn run(filter: &[u8], data: &[u8]) -> u32 {
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let line: &[u8; 8] = filter[at * 8..][..8].try_into().unwrap();
            let operand = word(&line[4..]);
            let taken = match u16::from_le_bytes([line[0], line[1]]) {
                LOAD => {
                    let from = usize::try_from(operand).unwrap();
                    accumulator = word(&data[from..from + 4]);
                    0
                }
                AND => {
                    accumulator &= operand;
                    0
                }
                JUMP_EQUAL => line[2 + usize::from(accumulator != operand)],
                JUMP_GREATER => line[2 + usize::from(accumulator <= operand)],
                JUMP_AT_LEAST => line[2 + usize::from(accumulator < operand)],
                JUMP_ANY_BIT => line[2 + usize::from(accumulator & operand == 0)],
                RETURN => return operand,
                code => panic!("the kernel knows {code:#x}, this test does not"),
            };
            at += 1 + usize::from(taken);
        }
    }

    #[track_caller]
    fn check<const N: usize>(arch: Arch, number: u32, arguments: [u64; N], expected: u32) {
        static FILTERS: LazyLock<[Vec<u8>; 2]> =
            LazyLock::new(|| [X86_64, Aarch64].map(|arch| filter(arch, Files::Own)));
        let filter = &FILTERS[usize::from(arch == Aarch64)];
        let verdict = run(filter, &data(arch.audit(), number, &arguments));
        assert_eq!(
            verdict, expected,
            "call {number}, {arguments:x?} on {arch:?}"
        );
    }

    #[test]
    fn another_architecture_ends_the_process() {
        for audit in [0x4000_0003, 0x4000_0028, Aarch64.audit(), 0] {
            assert_eq!(
                run(&filter(X86_64, Files::Own), &data(audit, 0, &[0; 2])),
                KILL_PROCESS
            );
        }
        assert_eq!(
            run(
                &filter(Aarch64, Files::Own),
                &data(X86_64.audit(), 0, &[0; 2])
            ),
            KILL_PROCESS
        );
    }

    #[test]
    fn the_x32_bit_ends_the_process() {
        for denied in [101, 165, 272, 0, 39, 1 << 29] {
            check(X86_64, denied | X32_BIT, [0; 2], KILL_PROCESS);
        }
    }

    #[test]
    fn calls_newer_than_the_list_are_unknown() {
        for arch in [X86_64, Aarch64] {
            check(arch, NEWEST + 1, [0; 2], REFUSE | ENOSYS);
            check(arch, 520, [0; 2], REFUSE | ENOSYS);
        }
    }

    #[test]
    fn every_listed_call_is_refused_whatever_its_arguments() {
        for arch in [X86_64, Aarch64] {
            for denied in DENIED.iter().filter_map(|call| number(*call, arch)) {
                check(arch, denied, [0; 2], REFUSE | EPERM);
                check(arch, denied, [u64::MAX; 2], REFUSE | EPERM);
            }
        }
    }

    #[test]
    fn calls_that_are_on_no_list_are_unknown() {
        let special = [CLONE, IOCTL, SOCKET, SOCKETPAIR, SECCOMP];
        for arch in [X86_64, Aarch64] {
            let numbers = |list: &[calls::Call]| -> Vec<_> {
                list.iter().filter_map(|call| number(*call, arch)).collect()
            };
            let (allowed, denied) = (numbers(ALLOWED), numbers(DENIED));
            let (ignored, special) = (numbers(IGNORED), numbers(&special));
            for number in (0..=NEWEST).filter(|number| !special.contains(number)) {
                let expected = if allowed.contains(&number) {
                    ALLOW
                } else if denied.contains(&number) {
                    REFUSE | EPERM
                } else if ignored.contains(&number) {
                    REFUSE
                } else {
                    REFUSE | ENOSYS
                };
                check(arch, number, [u64::MAX; 3], expected);
            }
        }
        // Asynchronous input and output, and whether a file is in the page cache.
        for (x86_64, aarch64) in [(206, 0), (209, 2), (451, 451)] {
            check(X86_64, x86_64, [0; 2], REFUSE | ENOSYS);
            check(Aarch64, aarch64, [0; 2], REFUSE | ENOSYS);
        }
    }

    #[test]
    fn clone_makes_processes_and_threads_but_no_namespaces() {
        for (arch, clone) in [(X86_64, 56), (Aarch64, 220)] {
            // As fork, vfork and pthread_create call it.
            for flags in [0x0120_0011, 0x4111, 0x003d_0f00] {
                check(arch, clone, [flags, 0], ALLOW);
            }
            for bit in [17, 25, 26, 27, 28, 29, 30] {
                check(arch, clone, [17 | 1 << bit, 0], REFUSE | EPERM);
            }
            check(arch, 435, [0; 2], REFUSE | ENOSYS);
        }
    }

    #[test]
    fn ioctl_requests_are_compared_without_their_high_half() {
        for (arch, ioctl) in [(X86_64, 16), (Aarch64, 29)] {
            for request in [0x5412, 0x541c, 0x5412 | 1 << 32, 0x541c | 0xffff_ffff << 32] {
                check(arch, ioctl, [0, request], REFUSE | EPERM);
            }
            // TCGETS, TIOCGWINSZ, FIONREAD.
            for request in [0x5401, 0x5413, 0x541b] {
                check(arch, ioctl, [0, request], ALLOW);
            }
        }
    }

    #[test]
    fn only_sockets_that_the_network_namespace_holds() {
        for (arch, socket) in [(X86_64, 41), (Aarch64, 198)] {
            for family in [1, 2, 10, 1 << 32 | 2] {
                check(arch, socket, [family, 1], ALLOW);
                check(arch, socket, [family, 2 | 0o2_004_000], ALLOW);
                for kind in [3, 10, 3 | 0o2_000_000] {
                    check(arch, socket, [family, kind], REFUSE | EPERM);
                }
            }
            // Unspecified, netlink, packet, vsock, algorithms, bluetooth.
            for family in [0, 16, 17, 40, 38, 31, 1 << 32 | 40] {
                check(arch, socket, [family, 1], REFUSE | EAFNOSUPPORT);
            }
        }
    }

    #[test]
    fn of_the_internets_protocols_only_tcp_and_udp() {
        for (arch, socket) in [(X86_64, 41), (Aarch64, 198)] {
            for family in [2, 10] {
                for protocol in [0, 6, 17] {
                    check(arch, socket, [family, 1, protocol], ALLOW);
                    check(arch, socket, [family, 3, protocol], REFUSE | EPERM);
                }
                // ICMP, DCCP, SCTP, UDP-Lite, MPTCP.
                for protocol in [1, 33, 132, 136, 262] {
                    check(
                        arch,
                        socket,
                        [family, 1, protocol],
                        REFUSE | EPROTONOSUPPORT,
                    );
                }
            }
        }
    }

    #[test]
    fn pairs_of_sockets_are_of_the_unix_family_only() {
        for (arch, pair) in [(X86_64, 53), (Aarch64, 199)] {
            check(arch, pair, [1, 1], ALLOW);
            check(arch, pair, [1, 3], REFUSE | EPERM);
            for family in [0, 2, 16, 30, 40] {
                check(arch, pair, [family, 1], REFUSE | EAFNOSUPPORT);
            }
        }
    }

    #[test]
    fn no_filter_may_ask_another_process() {
        for (arch, seccomp) in [(X86_64, 317), (Aarch64, 277)] {
            check(arch, seccomp, [1, 0], ALLOW);
            check(arch, seccomp, [1, 8], REFUSE | EPERM);
            check(arch, seccomp, [1, 8 | 1], REFUSE | EPERM);
        }
    }

    #[test]
    fn files_that_are_shared_cannot_be_watched() {
        for (arch, calls) in [(X86_64, [253, 294].as_slice()), (Aarch64, &[26])] {
            for call in calls {
                check(arch, *call, [0], ALLOW);
                let data = data(arch.audit(), *call, &[0]);
                let verdict = run(&filter(arch, Files::Shared), &data);
                assert_eq!(verdict, REFUSE | ENOSYS, "{call} on {arch:?}");
            }
        }
    }

    #[test]
    fn the_kernel_takes_programs_of_this_length() {
        for arch in [X86_64, Aarch64] {
            assert!(program(arch, Files::Own).len() <= 4096);
        }
    }
}
