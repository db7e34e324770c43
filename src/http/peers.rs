//! Which peers hold the connections of a listener that strangers reach.
//!
//! A peer is refused a further connection when it holds as many as half of those that are free
//! (dynamic thresholds: Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory
//! Packet Switches", 1998). One peer alone gets a third of all, a proxy in front of all guests
//! included, and whatever it does, the next one finds connections free.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections that a peer may hold however few are free.
const PER_PEER_MIN: usize = 4;

/// The connections of one listener, by peer.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    most: usize,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_peer: HashMap<Ipv6Addr, usize>,
}

/// One connection of a peer; given back when dropped.
#[derive(Debug)]
pub(super) struct PeerSlot {
    peers: Peers,
    peer: Ipv6Addr,
}

impl Peers {
    /// Of a listener with at most `most` connections.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            counts: Arc::default(),
        }
    }

    /// A slot for `address`, unless its peer holds its share.
    pub(super) fn take(&self, address: IpAddr) -> Option<PeerSlot> {
        let peer = peer_of(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.by_peer.get(&peer).copied().unwrap_or(0);
        let free = self.most.saturating_sub(counts.all);
        if own >= PER_PEER_MIN && own >= free / 2 {
            return None;
        }
        counts.all += 1;
        counts.by_peer.insert(peer, own + 1);
        Some(PeerSlot {
            peers: self.clone(),
            peer,
        })
    }
}

impl Drop for PeerSlot {
    fn drop(&mut self) {
        let counts = &self.peers.counts;
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all = counts.all.saturating_sub(1);
        if let Some(own) = counts.by_peer.get_mut(&self.peer) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                counts.by_peer.remove(&self.peer);
            }
        }
    }
}

/// What counts as one peer: an IPv4 address, a /64 of IPv6, and of Fly's private network
/// (`fdaa::/16`) a /112, which is what one machine there has.
fn peer_of(address: IpAddr) -> Ipv6Addr {
    let address = match address.to_canonical() {
        IpAddr::V4(address) => return address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let is_fly = address.segments()[0] == 0xfdaa;
    let host_bits = if is_fly { 16 } else { 64 };
    Ipv6Addr::from_bits(address.to_bits() >> host_bits << host_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(peers: &Peers, address: &str) -> Vec<PeerSlot> {
        let address: IpAddr = address.parse().unwrap();
        std::iter::from_fn(|| peers.take(address)).collect()
    }

    #[test]
    fn one_peer_gets_a_third_and_the_next_one_finds_seats_free() {
        let peers = Peers::new(300);
        let first = fill(&peers, "10.0.0.1");
        assert_eq!(first.len(), 100);
        let second = fill(&peers, "10.0.0.2");
        assert!(second.len() > 60, "{}", second.len());
        drop(first);
        assert!(fill(&peers, "10.0.0.3").len() > 60);
    }

    #[test]
    fn fifty_greedy_peers_keep_nobody_out() {
        let peers = Peers::new(1000);
        let greedy: Vec<_> = (1..50)
            .map(|n| fill(&peers, &format!("10.0.0.{n}")))
            .collect();
        let victim = fill(&peers, "10.0.1.1");
        assert!(victim.len() >= PER_PEER_MIN, "{}", victim.len());
        drop((greedy, victim));
        assert_eq!(fill(&peers, "10.0.0.1").len(), 333);
    }

    #[test]
    fn a_peer_is_an_address_or_a_prefix() {
        let same = |a: &str, b: &str| peer_of(a.parse().unwrap()) == peer_of(b.parse().unwrap());
        assert!(same("10.0.0.1", "::ffff:10.0.0.1"));
        assert!(!same("10.0.0.1", "10.0.0.2"));
        assert!(same("2001:db8::1", "2001:db8::ffff:2"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same(
            "fdaa:0:18:a7b:7d:f066:1:2",
            "fdaa:0:18:a7b:7d:f066:1:3"
        ));
        assert!(!same(
            "fdaa:0:18:a7b:7d:f066:1:2",
            "fdaa:0:18:a7b:7d:f066:2:2"
        ));
    }
}
