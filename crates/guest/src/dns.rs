//! Addresses of a host: literal, from `/etc/hosts`, or from the servers of `/etc/resolv.conf`.
//!
//! The C library's resolver is not used: in a static program it needs the very same C library in
//! the image, and that is a third of this program's size besides.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, TYPE};

/// How long one server may take to answer, and how often all are asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// The port of DNS.
const PORT: u16 = 53;

/// All addresses of `host`, those of IPv6 first: on Fly's private network there are no others.
pub(crate) fn resolve(host: &str) -> Result<Vec<IpAddr>, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse() {
        return Ok(vec![address]);
    }
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut found = in_hosts(&hosts, bare);
    if found.is_empty() && bare.eq_ignore_ascii_case("localhost") {
        found = vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
    }
    if found.is_empty() {
        let conf = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        found = ask_all(&servers(&conf), bare)?;
    }
    if found.is_empty() {
        return Err(format!("{host} has no address"));
    }
    Ok(found)
}

fn in_hosts(hosts: &str, host: &str) -> Vec<IpAddr> {
    let lines = hosts
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let found = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words
            .any(|name| name.eq_ignore_ascii_case(host))
            .then_some(address)
    });
    found.collect()
}

fn servers(conf: &str) -> Vec<IpAddr> {
    let lines = conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.trim().parse().ok()).collect()
}

fn ask_all(servers: &[IpAddr], host: &str) -> Result<Vec<IpAddr>, String> {
    let mut why = "/etc/resolv.conf names no server".to_owned();
    for _ in 0..ROUNDS {
        for server in servers {
            let answers = [TYPE::AAAA, TYPE::A].map(|kind| ask(*server, host, kind));
            if answers.iter().any(Result::is_ok) {
                return Ok(answers.into_iter().flatten().flatten().collect());
            }
            if let Some(Err(error)) = answers.into_iter().next() {
                why = error;
            }
        }
    }
    Err(format!("the address of {host}: {why}"))
}

/// Asks one server for one kind of address.
fn ask(server: IpAddr, host: &str, kind: TYPE) -> Result<Vec<IpAddr>, String> {
    let text = |error: &dyn std::fmt::Display| format!("{server}: {error}");
    let id = id();
    let mut query = Packet::new_query(id);
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(host).map_err(|error| text(&error))?;
    let (kind, class) = (QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN));
    query
        .questions
        .push(Question::new(name, kind, class, false));
    let query = query.build_bytes_vec().map_err(|error| text(&error))?;

    let from: SocketAddr = match server {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(from).map_err(|error| text(&error))?;
    // From now on only this server is heard.
    socket
        .connect((server, PORT))
        .map_err(|error| text(&error))?;
    socket
        .set_read_timeout(Some(ANSWER_TIMEOUT))
        .map_err(|error| text(&error))?;
    socket.send(&query).map_err(|error| text(&error))?;
    let mut buffer = [0; 4096];
    let read = socket.recv(&mut buffer).map_err(|error| text(&error))?;
    let answer = Packet::parse(buffer.get(..read).unwrap_or_default());
    let answer = answer.map_err(|error| text(&error))?;
    if answer.id() != id {
        return Err(text(&"an answer to another question"));
    }
    let addresses = answer
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::A(a) => Some(IpAddr::V4(a.address.into())),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.address.into())),
            _ => None,
        });
    Ok(addresses.collect())
}

/// A number that is hard to foresee, without a generator of our own: the standard library's hash keys.
fn id() -> u16 {
    use std::hash::{BuildHasher as _, RandomState};
    let [a, b, ..] = RandomState::new().hash_one(0).to_le_bytes();
    u16::from_le_bytes([a, b])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_servers_are_read_as_the_system_reads_them() {
        let hosts =
            "127.0.0.1 localhost # me\n::1 localhost ip6\n#9.9.9.9 other\nfoo bar\n10.0.0.7\ta B\n";
        assert_eq!(in_hosts(hosts, "localhost").len(), 2);
        assert_eq!(in_hosts(hosts, "b"), [IpAddr::from([10, 0, 0, 7])]);
        assert!(in_hosts(hosts, "other").is_empty());
        let conf = "search x\nnameserver fdaa::3\n nameserver 1.1.1.1\nnameserver nonsense\n";
        assert_eq!(servers(conf).len(), 2);
        assert_eq!(
            resolve("[::1]").unwrap(),
            [IpAddr::from(Ipv6Addr::LOCALHOST)]
        );
    }
}
